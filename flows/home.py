"""The folder that holds the state of a server and its schedules, and Prefect's settings there.

Prefect reads its settings when it is imported and makes its home folder there and then, so that nothing here imports it
before the environment says where that home is. See `flows.local` for runs that need no server.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from medvision.core.errors import MedvisionError, UsageError
from medvision.store.files import make_output
from medvision.store.records import Record

HEARTBEAT_S = 30
"""Seconds between the signs of life of a flow run; Prefect sends none more often."""

_LOCAL = ("127.0.0.1", "localhost")


class ServerError(MedvisionError, RuntimeError):
    """Prefect's server could not be started, or did not do what it was asked."""


class ServerInfo(Record):
    """What a running server says of itself, in `HOME/server.json`."""

    url: str
    pid: int


def prepare(home: Path) -> Path:
    """Make the folder `home` where it is absent; returns its absolute path.

    Raises:
        UsageError: if nothing can be written there.
    """
    return make_output(home.absolute())


def info_file(home: Path) -> Path:
    """Where the server of `home` says who and where it is, while it runs."""
    return home / "server.json"


def read_info(home: Path) -> ServerInfo | None:
    """The server that was last started on `home` and not stopped; whether it still lives is another question."""
    try:
        return ServerInfo.model_validate_json(info_file(home).read_bytes())
    except (OSError, ValidationError):
        return None


def api_url(home: Path) -> str:
    """Address of Prefect's API: `PREFECT_API_URL` where that is set, else that of the server of `home`.

    Raises:
        UsageError: if there is neither.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    if info := read_info(home):
        return info.url
    raise UsageError(
        f"no server runs on {home}: start one with 'medvision server start --home {home}', "
        "or set PREFECT_API_URL to the address of another"
    )


def settings(home: Path) -> dict[str, str]:
    """Prefect's settings for everything that works on `home`: local, silent to the world, alive every 30 seconds.

    Logs do not go to the server: a line may hold a file name, and a file name may name a patient.
    """
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "prefect" / "ui"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
    }


def set_environment(home: Path, **more: str) -> None:
    """Have Prefect, and every process started from here, work with the settings of `home`.

    What a person has set in the environment stays, but for the folders and what `more` says.
    """
    os.environ["DO_NOT_TRACK"] = "1"
    for name, value in (settings(home) | more).items():
        if name in more or name.endswith(("_HOME", "_DIRECTORY")):
            os.environ[name] = value
        else:
            os.environ.setdefault(name, value)
    # A proxy between this machine and itself would answer in the server's place.
    spared = os.environ.get("NO_PROXY", "").split(",")
    os.environ["NO_PROXY"] = ",".join(
        [*filter(None, spared), *(host for host in _LOCAL if host not in spared)]
    )


@contextlib.contextmanager
def connected(home: Path) -> Iterator[str]:
    """Prefect's clients at work with the server of `home`, or that of `PREFECT_API_URL`; yields its address.

    Raises:
        UsageError: if there is none, or it does not answer.
    """
    url = api_url(home)
    set_environment(home)

    import prefect.settings

    values = {name: os.environ[name] for name in settings(home)} | {"PREFECT_API_URL": url}
    changes = {getattr(prefect.settings, name): value for name, value in values.items()}
    with prefect.settings.temporary_settings(changes):
        if problem := health_problem():
            raise UsageError(
                f"no Prefect server answers at {url} ({problem}); start one with "
                f"'medvision server start --home {home}', or set PREFECT_API_URL to the address of another"
            )
        yield url


def server_answers(home: Path) -> bool:
    """Whether a server can be worked with now."""
    try:
        with connected(home):
            return True
    except UsageError:
        return False


def health_problem() -> str:
    """Why the server that the clients work with does not answer; empty if it does."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    return "" if error is None else str(error) or type(error).__name__


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
