"""Run a flow on this machine alone, on a Prefect server that lives as long as the run.

Prefect reads its settings when it is imported and makes its home folder there and then. Everything that imports it is
therefore imported late, once the environment says where that home is and that nothing is to be reported to anyone.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from medvision.pipelines.batch import LISTENER, Progress
from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.config import AnalyzeConfig
from medvision.store.files import atomic_write, make_output
from medvision.store.provenance import new_run_id
from medvision.store.records import SlideOutcome
from medvision.store.store import CONTROL


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


def run_batch(
    request: BatchRequest, listener: Callable[[Progress], None] | None = None
) -> list[SlideOutcome]:
    """Run the `batch` flow here; returns how each slide ended, in the order of the slides.

    Uses the server that `PREFECT_API_URL` names, if that is set, else one of its own, whose database lies below the
    output folder. A server that is lost on the way loses no slide.

    Raises:
        MedvisionError: before the first slide, if the slides cannot be listed, the model cannot be had, or the output
            not be written.
    """
    control = make_output(make_output(request.out) / CONTROL)
    token = LISTENER.set(listener)
    try:
        with _home(control / "prefect") as home, prefect_settings(home):
            from flows.batch import batch

            state = batch(request, return_state=True)
            result = state.result(raise_on_failure=False)
    finally:
        LISTENER.reset(token)
    if isinstance(result, BaseException):
        raise result
    return [SlideOutcome.model_validate(row) for row in result]


@contextlib.contextmanager
def prefect_settings(home: Path) -> Iterator[None]:
    """Prefect at work below `home` and nowhere else: no telemetry, no heartbeats, little talk, its own server.

    The server answers on 127.0.0.1 only and ends with the context. Where `PREFECT_API_URL` is set none is started.
    """
    quiet = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # a failed slide is told by its own outcome
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    os.environ["DO_NOT_TRACK"] = "1"
    if "prefect" not in sys.modules:
        os.environ.update({name: value for name, value in quiet.items() if name not in os.environ})

    from prefect import settings
    from prefect.server.api.server import SubprocessASGIServer

    changes = {getattr(settings, name): value for name, value in quiet.items()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(settings.temporary_settings(changes))
        if not settings.PREFECT_API_URL.value():
            server = stack.enter_context(SubprocessASGIServer())
            stack.enter_context(settings.temporary_settings({settings.PREFECT_API_URL: server.api_url}))
        yield


@contextlib.contextmanager
def _home(wanted: Path) -> Iterator[Path]:
    """A home folder for one server: `wanted`, or a temporary one while another run is using that."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(f"{wanted}.lock", timeout=0))
        except Timeout:
            wanted = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medvision-prefect-")))
        yield wanted
