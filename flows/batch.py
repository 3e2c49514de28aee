"""A batch of slides as one Prefect flow, one task per slide.

Prefect schedules, retries and shows. What was done, and whether it is whole, is the ledger's and the result store's
business: the flow's state says how many slides failed, and losing Prefect's server in the middle loses no slide.
Tasks are named by a slide's number: file names can name a patient, and Prefect keeps what it is told.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from prefect import flow, tags, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Failed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.limits import require_limits
from medvision.core.errors import MedvisionError, UsageError
from medvision.pipelines.batch import BatchRun, Stopped, attempt_slide
from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.batch_plan import BatchSlide
from medvision.pipelines.device import devices_of
from medvision.store.provenance import code_digest
from medvision.store.records import SlideOutcome

RETRY_DELAYS_S = [5.0, 30.0]
_IN_VAIN = 4
"""How often in a row workers may be lost before any has begun a slide: longer than a scheduler takes to restart."""


class SlideFailed(Exception):
    """Raised in a task to have Prefect show the slide as failed; the outcome has the reason."""

    def __init__(self, outcome: SlideOutcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome

    def __str__(self) -> str:
        return "the slide failed; its outcome has the reason"


def is_worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a task failed by what may pass, such as a file server that did not answer; never for a corrupt slide."""
    return isinstance(state.data, SlideFailed) and state.data.outcome.transient


@task(
    task_run_name="slide {number}",
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=is_worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def analyze_one(
    number: int,  # noqa: ARG001 - names the task
    slide: BatchSlide,
    request: BatchRequest,
    run_id: str,
    code: str,
) -> dict[str, Any]:
    """Analyse one slide of a run; returns its outcome as JSON values."""
    if request.options.runner == "dask":
        share_cores(request.options.workers)
    outcome = attempt_slide(slide, request, run_id, code)
    if outcome.status == "failed":
        raise SlideFailed(outcome)
    return outcome.model_dump(mode="json")


@flow(name="batch", persist_result=False, validate_parameters=True)
def batch(request: BatchRequest) -> State[None]:
    """Analyse every slide of `request`; the flow ends as Failed if any slide failed, after all were tried.

    Raises:
        MedvisionError: before the first slide, if the slides cannot be listed, the model cannot be had, or the output
            not be written.
    """
    limits = require_limits()
    check_reach(request.options)
    with BatchRun(request) as run, tags(*limits):
        _all_rounds(run)
    outcomes = [run.outcomes[slide.number] for slide in run.slides]
    with contextlib.suppress(Exception):
        create_table_artifact(_table(outcomes), key="batch", description=f"Run {run.run_id}")
    # No outcomes in the state: Prefect prints and keeps what it is given.
    failed = sum(not outcome.ok for outcome in outcomes)
    if failed:
        return Failed(message=f"{failed} of {len(outcomes)} slides failed")
    return Completed(message=f"{len(outcomes)} slides analysed")


def _all_rounds(run: BatchRun) -> None:
    """Set workers on the slides until each has ended, anew where workers were lost."""
    in_vain, error = 0, ""
    while (waiting := run.waiting()) and in_vain < _IN_VAIN:
        time.sleep(5.0 * in_vain)
        begun = run.begun
        error = _one_round(run, waiting)
        in_vain = 0 if run.begun > begun else in_vain + 1
    for slide in run.waiting():
        run.failed(slide, UsageError(f"no worker could begin it: {error}"))


def check_reach(options: BatchOptions) -> None:
    """Refuse workers on other hosts that could not reach Prefect's server, without which no task begins.

    Raises:
        UsageError: if the scheduler is on another host and the server answers on this one alone.
    """
    if options.address is None or _is_here(options.address):
        return
    server = str(PREFECT_API_URL.value())
    if _is_here(server):
        raise UsageError(
            f"--address {options.address} is another host, whose workers cannot reach Prefect's server at {server}: "
            "set PREFECT_API_URL to a server that they can reach (`medvision server start --host`)"
        )


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _one_round(run: BatchRun, waiting: list[BatchSlide]) -> str:
    """Set workers on the slides that wait, until all are over or the workers are lost; returns the last error."""
    request = run.request
    one = analyze_one.with_options(retries=request.options.attempts - 1)
    with _workers(request.options, request.analyze.device) as workers:
        futures: list[tuple[BatchSlide, PrefectFuture[Any]]] = []
        last = ""
        try:
            for slide in waiting:
                parameters = {"number": slide.number, "slide": slide, "request": request}
                parameters |= {"run_id": run.run_id, "code": code_digest()}
                futures.append((slide, workers.submit(one, parameters)))
            for slide, future in futures:
                last = _await(run, slide, future) or last
        except BaseException:
            run.stop()
            raise
    return last


def _await(run: BatchRun, slide: BatchSlide, future: PrefectFuture[Any]) -> str:
    """Wait for a slide's task; returns what went wrong with the task, rather than with the slide."""
    try:
        result: object = future.result(raise_on_failure=False)
    except Exception as error:  # noqa: BLE001 - whatever lost a worker looks like; the journal knows what it had begun
        result = error
    if isinstance(result, MedvisionError):
        run.failed(slide, result)
    if isinstance(result, BaseException) and not isinstance(result, SlideFailed):
        return f"{type(result).__name__}: {result}"
    return ""


@contextlib.contextmanager
def _workers(options: BatchOptions, device: str) -> Iterator[TaskRunner[Any]]:
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(_runner(options, device))


def _runner(options: BatchOptions, device: str) -> TaskRunner[Any]:
    if options.runner == "thread":
        # For each device, one slide that computes and one that is opened or written meanwhile.
        return ThreadPoolTaskRunner(max_workers=2 * len(devices_of(device)))
    if options.runner == "process":
        return ProcessPoolTaskRunner(
            max_workers=options.workers, initializer=begin_worker, initargs=(options.workers, os.getpid())
        )
    return _dask(options)


def _dask(options: BatchOptions) -> TaskRunner[Any]:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise UsageError("--runner dask needs Dask: pip install 'medvision[dask]'") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if options.address is not None:
        return DaskTaskRunner(address=options.address)
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": options.workers,
            "threads_per_worker": 1,
            "processes": True,
            "dashboard_address": None,
            "host": "127.0.0.1",
            "silence_logs": logging.CRITICAL,
        }
    )


def share_cores(workers: int) -> None:
    """Compute on a share of this machine's cores, as so many workers do."""
    import torch

    share = max(1, len(os.sched_getaffinity(0)) // workers)
    if torch.get_num_threads() > share:
        torch.set_num_threads(share)


def begin_worker(workers: int, parent: int) -> None:
    """In a worker process: take a share of the cores, and end when the process that set it to work is gone."""
    share_cores(workers)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        # The slide in progress sees for itself that nobody keeps the run, and saves; then there is nothing to do.
        time.sleep(20.0)
        os._exit(1)

    threading.Thread(target=watch, name="medvision-parent", daemon=True).start()


def _table(outcomes: list[SlideOutcome]) -> list[dict[str, Any]]:
    columns = ("status", "label", "probability", "regions", "windows", "unread", "seconds")
    return [
        {"slide": number, **outcome.model_dump(mode="json", include=set(columns))}
        for number, outcome in enumerate(outcomes, start=1)
    ]


__all__ = ["Stopped", "analyze_one", "batch", "begin_worker"]
