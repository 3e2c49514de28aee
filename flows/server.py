"""Prefect's server on this machine alone, with its state in one folder.

It answers on 127.0.0.1, reports to nobody, and has one automation from the start: a run that has given no sign of life
for a while, as its process was killed or its machine went off, is marked as crashed rather than shown as running for
ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from flows.home import HEARTBEAT_S, ServerError, info_file, prepare, read_info, set_environment
from medvision.core.errors import UsageError
from medvision.store.files import atomic_write

HOST = "127.0.0.1"
PORT = 4200
CRASHED_AFTER_S = 90
"""Seconds without a sign of life after which a run counts as crashed: three heartbeats."""

AUTOMATION = "medvision: runs without a sign of life have crashed"
_START_TIMEOUT_S = 120.0


def start(
    home: Path,
    on_ready: Callable[[str], None],
    *,
    host: str = HOST,
    port: int = PORT,
    database: str | None = None,
    crashed_after_s: int = CRASHED_AFTER_S,
) -> None:
    """Run the server of `home` until SIGINT or SIGTERM; `on_ready` is told its API's address once it answers.

    `database` is a URL such as postgresql+asyncpg://user:password@host/name; without one it is an SQLite file below
    `home`. It is handed to Prefect, and neither printed nor stored.

    At any `host` but a loopback address, clients must know PREFECT_SERVER_API_AUTH_STRING, as PREFECT_API_AUTH_STRING.

    Raises:
        UsageError: if it would be open to a network without that, if another server works on `home`, the port is taken,
            the database cannot be reached, or `crashed_after_s` would call every run crashed.
        ServerError: if it does not start, or not within two minutes.
    """
    if crashed_after_s <= HEARTBEAT_S:
        raise UsageError(
            f"--crashed-after {crashed_after_s}: expected more than {HEARTBEAT_S}, as a run gives a sign of life every "
            f"{HEARTBEAT_S} seconds"
        )
    require_password(host)
    home = prepare(home)
    with _only_one(home), _listening(host, port) as listener:
        if database is not None:
            check_database(database)
        url = database or f"sqlite+aiosqlite:///{home / 'prefect' / 'prefect.db'}"
        set_environment(home, PREFECT_SERVER_DATABASE_CONNECTION_URL=url, PREFECT__SERVER_FINAL="1")
        # The server's own services work beside it in this process, not through another server.
        os.environ.pop("PREFECT_API_URL", None)
        _run(home, listener, on_ready, crashed_after_s)


def require_password(host: str) -> None:
    """Refuse to open the server to a network without a password: whoever reaches it can have any code run.

    Raises:
        UsageError: naming what to set.
    """
    if host == "localhost" or host.startswith("127."):
        return
    secret = os.environ.get("PREFECT_SERVER_API_AUTH_STRING", "")
    if not all(secret.partition(":")):
        raise UsageError(
            f"--host {host}: whoever reaches Prefect's server can have any code run. Set "
            "PREFECT_SERVER_API_AUTH_STRING=USER:PASSWORD for the server, and the same as PREFECT_API_AUTH_STRING for "
            "those who use it; or leave it at 127.0.0.1"
        )
    os.environ.setdefault("PREFECT_API_AUTH_STRING", secret)


def check_database(url: str) -> None:
    """Connect once, so that a wrong URL is one sentence instead of the server's traceback.

    Raises:
        UsageError: if it is no PostgreSQL or SQLite URL that Prefect can work with, or no connection can be had. The
            password is in no message.
    """
    from sqlalchemy import text
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError
    from sqlalchemy.ext.asyncio import create_async_engine

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The URL is not shown: where it cannot be parsed, nobody knows which part is the password.
        raise UsageError(
            "--database is no database URL; expected postgresql+asyncpg://USER:PASSWORD@HOST/NAME"
        ) from None
    shown = parsed.render_as_string(hide_password=True)
    if parsed.drivername not in ("postgresql+asyncpg", "sqlite+aiosqlite"):
        raise UsageError(
            f"--database {shown}: Prefect works with postgresql+asyncpg and sqlite+aiosqlite, "
            f"not {parsed.drivername}"
        )

    async def connect() -> None:
        engine = create_async_engine(parsed)
        try:
            async with asyncio.timeout(20), engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        finally:
            await engine.dispose()

    try:
        asyncio.run(connect())
    except (SQLAlchemyError, OSError, _postgres_error()) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if parsed.password:
            reason = reason.replace(str(parsed.password), "***")
        raise UsageError(f"database {shown} cannot be reached: {reason}") from None


def _postgres_error() -> type[Exception]:
    """What a PostgreSQL server's refusal is raised as, where its driver is installed."""
    from importlib import import_module

    error: type[Exception] = import_module("asyncpg").PostgresError
    return error


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    lock = FileLock(home / "server.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        info = read_info(home)
        where = f" at {info.url}, process {info.pid}" if info else ""
        raise UsageError(
            f"a server already works on {home}{where}; stop it, or name another --home"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """The server's socket, had before anything is started: nobody can take the port meanwhile."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"port {port} of {host} cannot be had ({reason}); name another --port or --host"
            ) from error
        listener.listen(128)
        yield listener


def _run(home: Path, listener: socket.socket, on_ready: Callable[[str], None], crashed_after_s: int) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    host, port = listener.getsockname()
    reached_at = HOST if host == "0.0.0.0" else host
    app = create_app(final=True)
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    problems: list[Exception] = []
    info_file(home).unlink(missing_ok=True)  # of a server that was killed

    def attend() -> None:
        """What can only be done once the server answers, beside the thread that it occupies."""
        try:
            _attend(home, f"http://{reached_at}:{port}/api", server, on_ready, crashed_after_s)
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            problems.append(error)
            server.should_exit = True

    attendant = threading.Thread(target=attend, name="attend", daemon=True)
    with _signals_left_to_uvicorn():
        attendant.start()
        try:
            server.run(sockets=[listener])
        except SystemExit as error:  # a failed start, which uvicorn has explained on stderr
            raise ServerError("Prefect's server could not start; its own message stands above") from error
        finally:
            server.should_exit = True
            attendant.join()
            info_file(home).unlink(missing_ok=True)
    if problems:
        raise problems[0]


def _attend(
    home: Path,
    url: str,
    server: object,
    on_ready: Callable[[str], None],
    crashed_after_s: int,
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.home import health_problem

    deadline = time.monotonic() + _START_TIMEOUT_S
    with temporary_settings({PREFECT_API_URL: url}):
        while True:
            if getattr(server, "should_exit", False):
                return
            problem = health_problem() if getattr(server, "started", False) else "it is still starting"
            if not problem:
                break
            if time.monotonic() > deadline:
                raise ServerError(f"Prefect's server did not answer within {_START_TIMEOUT_S:g} s: {problem}")
            time.sleep(0.1)
        ensure_automation(crashed_after_s)
    atomic_write(info_file(home), json.dumps({"url": url, "pid": os.getpid()}).encode())
    on_ready(url)


@contextlib.contextmanager
def _signals_left_to_uvicorn() -> Iterator[None]:
    """uvicorn stops at SIGINT and SIGTERM, then raises them again for whoever handled them before: nobody, here."""
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(_number: int, _frame: object) -> None:
    pass


def ensure_automation(crashed_after_s: int = CRASHED_AFTER_S) -> None:
    """Make the automation that marks silent runs as crashed, or bring it up to date: there is one, however often."""
    from datetime import timedelta

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    sign, ends = "prefect.flow-run.heartbeat", ("Completed", "Failed", "Cancelled", "Crashed")
    wanted = AutomationCore(
        name=AUTOMATION,
        description=f"No {sign} for {crashed_after_s} s: the process was killed, or its machine is off.",
        trigger=EventTrigger(
            # A process may be killed before its first sign; that it began is the server's own knowledge.
            after={sign, "prefect.flow-run.Running"},
            expect={sign, *(f"prefect.flow-run.{state}" for state in ends)},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=crashed_after_s),
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                force=False,
                message=f"no sign of life for {crashed_after_s} s; its process is gone",
            )
        ],
    )
    with get_client(sync_client=True) as client:
        there = client.read_automations_by_name(AUTOMATION)
        for double in there[1:]:
            client.delete_automation(double.id)
        if there:
            client.update_automation(there[0].id, wanted)
        else:
            client.create_automation(wanted)
