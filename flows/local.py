"""Run a flow on this machine alone, on a Prefect server that lives as long as the run.

Prefect reads its settings when it is imported and makes its home folder there and then. Everything that imports it is
therefore imported late, once the environment says where that home is and that nothing is to be reported to anyone.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from flows.home import HEARTBEAT_S
from medvision.core.errors import MedvisionError, StoreError
from medvision.pipelines.batch import FOLLOWER, Follower, Progress, RunEndError
from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.config import AnalyzeConfig
from medvision.store.files import atomic_write, make_output
from medvision.store.provenance import new_run_id
from medvision.store.records import SlideOutcome
from medvision.store.store import CONTROL

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

SERVER_PID = "medvision-server.pid"
_DATABASE_BYTES = 6_000_000
"""What a new database takes on the disk, before the first run."""
_DRAIN_S = 10.0
"""How long the last events may take to reach the server."""


def run_analyze(slides: Sequence[Path], out: Path, config: AnalyzeConfig) -> list[SlideOutcome]:
    """Analyse slides through the `batch` flow; the same files as a plain run, and the same outcomes.

    Raises:
        MedvisionError: before the first slide, if `out` cannot be written to or the model cannot be had.
    """
    control = make_output(make_output(out) / CONTROL)
    listed = control / f"slides-{new_run_id()}.json"
    atomic_write(listed, json.dumps([str(slide.absolute()) for slide in slides]).encode())
    options = BatchOptions(trust=True)
    try:
        outcomes = run_batch(BatchRequest(slides=listed, out=out, analyze=config, options=options))
    finally:
        listed.unlink(missing_ok=True)
    return [outcome.model_copy(update={"slide": str(s)}) for outcome, s in zip(outcomes, slides, strict=True)]


def run_batch(request: BatchRequest, tell: Callable[[Progress], None] | None = None) -> list[SlideOutcome]:
    """Run the flow of a request here; returns how each slide or image ended, in their order.

    Uses the server that `PREFECT_API_URL` names, if that is set, else one of its own, whose database lies below the
    output folder. A server that is lost on the way loses none of them.

    Raises:
        RunEndError: after the last one, if the page or the ledger could not be written; the next run makes up for it.
        MedvisionError: before the first one, if they cannot be listed, the model cannot be had, or the output not be
            written.
    """
    control = make_output(make_output(request.out) / CONTROL)
    follower = Follower(tell or (lambda _: None))
    token = FOLLOWER.set(follower)
    try:
        with _home(control / "prefect") as home, prefect_settings(home):
            from flows.by_work import flow_for

            result = flow_for(request)(request, return_state=True).result(raise_on_failure=False)
            if isinstance(result, MedvisionError):
                raise result
    except MedvisionError as error:
        if follower.begun:
            raise RunEndError(f"{error}; what has ended is kept, and the next run lists it") from error
        raise
    except Exception as error:
        if follower.outcomes is None:
            raise
        logging.getLogger(__name__).warning(
            "everything has ended, but Prefect could not be told: %s", type(error).__name__
        )
    finally:
        FOLLOWER.reset(token)
    if follower.outcomes is None:
        cause = result if isinstance(result, BaseException) else None
        raise RuntimeError("the flow ended before its run did") from cause
    return follower.outcomes


@contextlib.contextmanager
def prefect_settings(home: Path) -> Iterator[None]:
    """Prefect at work below `home` and nowhere else: no telemetry, no heartbeats, little talk, its own server.

    The server answers on 127.0.0.1 only and ends with the context. Where `PREFECT_API_URL` is set none is started.
    """
    quiet = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what failed is told by its own outcome
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    os.environ["DO_NOT_TRACK"] = "1"
    if "prefect" not in sys.modules:
        os.environ.update({name: value for name, value in quiet.items() if name not in os.environ})

    from prefect import settings
    from prefect.events.worker import EventsWorker

    changes = {getattr(settings, name): value for name, value in quiet.items()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(settings.temporary_settings(changes))
        if settings.PREFECT_API_URL.value():
            # A server that outlives the run takes it for crashed when it gives no sign of life.
            beat = {settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: HEARTBEAT_S}
            stack.enter_context(settings.temporary_settings(beat))
        else:
            end_orphan(home)
            server = _started(stack, home)
            stack.enter_context(_kept_running(server, home / SERVER_PID))
            stack.enter_context(settings.temporary_settings({settings.PREFECT_API_URL: server.api_url}))
        # What tells the server of events goes on telling the one it began with: it must end before that server does.
        stack.callback(EventsWorker.drain_all, timeout=_DRAIN_S, at_exit=False)
        yield


def _started(stack: contextlib.ExitStack, home: Path) -> SubprocessASGIServer:
    """A server that works below `home` and ends with `stack`."""
    from prefect.server.api.server import SubprocessASGIServer

    def free() -> int:
        return shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free

    if free() < _DATABASE_BYTES:
        raise StoreError(
            f"{home}: Prefect's database needs {_DATABASE_BYTES / 1e6:.0f} MB, and {free() / 1e6:.1f} MB are free there"
        )
    try:
        return stack.enter_context(SubprocessASGIServer())
    except RuntimeError as error:
        raise StoreError(
            f"{home}: Prefect's server, whose database lies there, did not start; {free() / 1e6:,.0f} MB are free "
            f"({error})"
        ) from error


@contextlib.contextmanager
def _kept_running(server: SubprocessASGIServer, note: Path) -> Iterator[None]:
    """Start the server again, at the same address and on the same database, should it die during the context."""
    over = threading.Event()

    def watch() -> None:
        noted = None
        while not over.wait(1.0):
            process = server.server_process
            if process is not None and process.poll() is not None:
                server.running = False
                # A server that does not come back costs Prefect's own records, no slide: try again in a second.
                with contextlib.suppress(Exception):
                    server.start()
            elif process is not None and process.pid != noted:
                note.write_text(str(process.pid))
                noted = process.pid

    # The settings that name the server's home are Prefect's context variables, which a new thread has not.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(watch,), name="medvision-server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def end_orphan(home: Path) -> None:
    """End the server that a run left behind when it was killed: it works below `home`, and nobody talks to it."""
    note = home / SERVER_PID
    with contextlib.suppress(OSError, ValueError):
        pid = int(note.read_text())
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if b"PREFECT_HOME=" + os.fsencode(home) in environment:
            os.kill(pid, signal.SIGTERM)
    note.unlink(missing_ok=True)


@contextlib.contextmanager
def _home(wanted: Path) -> Iterator[Path]:
    """A home folder for one server: `wanted`, or a temporary one while another run is using that."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(f"{wanted}.lock", timeout=0))
        except Timeout:
            wanted = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medvision-prefect-")))
        yield wanted
