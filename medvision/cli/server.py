"""`medvision server`: Prefect's server, which schedules and shows batches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from medvision.cli.console import console, errors, print_made, print_note

app = App(
    name="server",
    help=(
        "Prefect's server, which schedules batches and shows them in a browser. "
        "Example: medvision server start --home ./medvision-home"
    ),
)

DEFAULT_HOME = Path("medvision-home")
Home = Annotated[Path, Parameter(env_var="MEDVISION_HOME")]


@app.command
def start(
    *,
    home: Home = DEFAULT_HOME,
    host: str = "127.0.0.1",
    port: int = 4200,
    database: Annotated[str | None, Parameter(env_var="MEDVISION_DATABASE", show_env_var=True)] = None,
    crashed_after: int = 90,
) -> int:
    """Run the server on this machine until Ctrl-C or SIGTERM.

    It answers on 127.0.0.1 only, unless told otherwise. Runs that give no sign of life are marked as crashed.
    Example: medvision server start --home ./medvision-home

    Parameters
    ----------
    home
        Folder of all its state; made when absent.
    host
        Address to answer at. Any other than this machine's own demands a password in PREFECT_SERVER_API_AUTH_STRING.
    port
        Port of its API and its pages.
    database
        PostgreSQL instead of an SQLite file below the home: postgresql+asyncpg://USER:PASSWORD@HOST/NAME. Better given
        by the environment, as other users of the machine can read a command line. It is neither printed nor stored.
    crashed_after
        Seconds without a sign of life after which a run counts as crashed; signs come every 30 seconds.
    """
    from flows.server import start as start_server

    def ready(url: str) -> None:
        print_note(f"server: {url}  (pages: {url.removesuffix('/api')})")
        print_made("home", home.absolute())

    start_server(home, ready, host=host, port=port, database=database, crashed_after_s=crashed_after)
    print_note("server stopped")
    return 0


@app.command
def status(*, home: Home = DEFAULT_HOME) -> int:
    """Say where the server is and whether it answers; status 1 if it does not.

    Example: medvision server status --home ./medvision-home

    Parameters
    ----------
    home
        The server's folder.
    """
    from flows.home import connected, is_alive, read_info
    from medvision.core.errors import UsageError

    info = read_info(home)
    try:
        with connected(home) as url:
            process = f", process {info.pid}" if info and info.url == url else ""
            console.print(f"server: {url} answers{process}", soft_wrap=True, markup=False)
            return 0
    except UsageError as error:
        gone = " (its process is gone)" if info and not is_alive(info.pid) and not _elsewhere() else ""
        errors.print(f"server: {error}{gone}", soft_wrap=True, markup=False)
        return 1


def _elsewhere() -> bool:
    return bool(os.environ.get("PREFECT_API_URL"))
