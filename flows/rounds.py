"""What the flows over slides and over images share: rounds of workers, their kinds, retries, and how a flow ends.

Prefect schedules, retries and shows. What was done, and whether it is whole, is the ledger's and the result store's
business: a flow's state says how many items failed, and losing Prefect's server in the middle loses none.
Tasks are named by an item's number: file names can name a patient, and Prefect keeps what it is told.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

from prefect import tags
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.cluster import Watch, check_reach, dask_runner
from flows.limits import require_limits
from medvision.core.errors import MedvisionError, UsageError
from medvision.pipelines.batch import BatchRun, attempt_item
from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.batch_plan import BatchItem
from medvision.pipelines.device import devices_of
from medvision.pipelines.work import Work
from medvision.store.provenance import code_digest
from medvision.store.records import SlideOutcome

RETRY_DELAYS_S = [5.0, 30.0]
_IN_VAIN = 4
"""How often in a row workers may be lost before any has begun an item: longer than a scheduler takes to restart."""


class ItemFailed(Exception):
    """Raised in a task to have Prefect show the item as failed; the outcome has the reason."""

    def __init__(self, outcome: SlideOutcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome

    def __str__(self) -> str:
        return "it failed; its outcome has the reason"


def is_worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a task failed by what may pass, such as a file server that did not answer; never for a corrupt file."""
    return isinstance(state.data, ItemFailed) and state.data.outcome.transient


def attempt_one(
    number: int,  # noqa: ARG001 - names the task
    item: BatchItem,
    request: BatchRequest,
    run_id: str,
    code: str,
    tries: int,
) -> dict[str, Any]:
    """Do the work on one item of a run; returns its outcome as JSON values. What a flow's task calls."""
    if request.options.runner == "dask":
        share_cores(request.options.workers)
    outcome = attempt_item(item, request, run_id, code, tries)
    if outcome.status == "failed":
        raise ItemFailed(outcome)
    return outcome.model_dump(mode="json")


TASK: dict[str, Any] = {
    "retry_delay_seconds": RETRY_DELAYS_S,
    "retry_condition_fn": is_worth_retrying,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}
"""Options of a flow's task."""


def run_all(request: BatchRequest, work: Work[Any], attempt: Task[..., Any]) -> State[None]:
    """Do `attempt` on every item of `request`; the state is Failed if any item failed, after all were tried.

    Raises:
        MedvisionError: before the first item, if the request is of another kind of work, the items cannot be listed,
            the model cannot be had, or the output not be written.
    """
    if request.work is not work:
        raise UsageError(
            f"a request of {request.work.items} is for the flow {request.work.flow!r}, not for {work.flow!r}"
        )
    limits = require_limits()
    check_reach(request.options)
    with BatchRun(request) as run, tags(*limits):
        _all_rounds(run, attempt)
    outcomes = [run.outcomes[item.number] for item in run.items]
    with contextlib.suppress(Exception):
        create_table_artifact(_table(outcomes, work), key=work.flow, description=f"Run {run.run_id}")
    # No outcomes in the state: Prefect prints and keeps what it is given.
    failed = sum(not outcome.ok for outcome in outcomes)
    if failed:
        return Failed(message=f"{failed} of {work.plural(len(outcomes))} failed")
    return Completed(message=f"{work.plural(len(outcomes))} {work.done}")


def _all_rounds(run: BatchRun, attempt: Task[..., Any]) -> None:
    """Set workers on the items until each has ended, anew where workers were lost."""
    in_vain, error = 0, ""
    while in_vain < _IN_VAIN:
        items, one_by_one = run.next_round()
        if not items:
            return
        time.sleep(5.0 * in_vain)
        begun = run.begun
        error = _one_round(run, attempt, items, one_by_one)
        run.look()
        in_vain = 0 if run.begun > begun else in_vain + 1
    for item in run.waiting():
        run.failed(item, UsageError(f"no worker could begin it: {error}"))


def _one_round(run: BatchRun, attempt: Task[..., Any], items: list[BatchItem], one_by_one: bool) -> str:
    """Set workers on items, until all are over or the workers are lost; returns the last error."""
    options = run.request.options
    if one_by_one:
        options = options.model_copy(update={"workers": 1})

    def may_pass(error: BaseException) -> bool:
        # A cluster that is lost may be back for the next round.
        ours = isinstance(error, MedvisionError)
        return options.runner == "dask" and isinstance(error, Exception) and not ours

    try:
        with _runner(options, run.request.config.device) as workers:
            try:
                return _work(run, attempt, items, workers)
            except BaseException as error:
                if not may_pass(error):
                    run.stop()
                raise
    except Exception as error:
        if not may_pass(error):
            raise
        return _said(error)


def _work(run: BatchRun, attempt: Task[..., Any], items: list[BatchItem], workers: TaskRunner[Any]) -> str:
    one = attempt.with_options(retries=run.request.options.attempts - 1)
    futures: list[PrefectFuture[Any]] = []
    for item in items:
        parameters = {"number": item.number, "item": item, "request": run.request}
        parameters |= {"run_id": run.run_id, "code": code_digest(), "tries": run.last_try(item)}
        futures.append(workers.submit(one, parameters))
    watch = Watch.of(workers) if run.request.options.runner == "dask" else None
    last = ""
    futures.reverse()  # each is dropped once it is over, with all that Prefect keeps of it
    for item in items:
        last = _await(run, item, futures.pop(), watch) or last
    return last


def _await(run: BatchRun, item: BatchItem, future: PrefectFuture[Any], watch: Watch | None) -> str:
    """Wait for an item's task; returns what went wrong with the task, rather than with the item."""
    try:
        result = future.result(raise_on_failure=False) if watch is None else watch.result(future)
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever lost a worker looks like; the journal knows what it had begun
        result = error
    if isinstance(result, MedvisionError):
        run.failed(item, result)
    if isinstance(result, BaseException) and not isinstance(result, ItemFailed):
        return _said(result)
    return ""


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _runner(options: BatchOptions, device: str) -> TaskRunner[Any]:
    if options.runner == "thread":
        # For each device, one item that computes and one that is opened or written meanwhile.
        return ThreadPoolTaskRunner(max_workers=2 * len(devices_of(device)))
    if options.runner == "process":
        return ProcessPoolTaskRunner(
            max_workers=options.workers, initializer=begin_worker, initargs=(options.workers, os.getpid())
        )
    return dask_runner(options)


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
        # The item in progress sees for itself that nobody keeps the run, and saves; then there is nothing to do.
        time.sleep(20.0)
        os._exit(1)

    threading.Thread(target=watch, name="medvision-parent", daemon=True).start()


def _table(outcomes: list[SlideOutcome], work: Work[Any]) -> list[dict[str, Any]]:
    return [
        {work.item: number, **outcome.model_dump(mode="json", include=set(work.shown))}
        for number, outcome in enumerate(outcomes, start=1)
    ]
