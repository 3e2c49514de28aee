"""A batch of scans as one Prefect flow, one task per scan; what it shares with other batches is `flows.rounds`."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State

from flows.rounds import TASK, attempt_one, run_all
from medvision.pipelines.batch_config import BatchRequest
from medvision.pipelines.batch_plan import BatchItem
from medvision.pipelines.work import SCANS


@task(task_run_name="scan {number}", **TASK)
def search_one(
    number: int, item: BatchItem, request: BatchRequest, run_id: str, code: str, tries: int
) -> dict[str, Any]:
    """Search one scan of a run for nodules; returns its outcome as JSON values."""
    return attempt_one(number, item, request, run_id, code, tries)


@flow(name="nodules", persist_result=False, validate_parameters=True)
def nodules(request: BatchRequest) -> State[None]:
    """Search every scan of `request`. See `flows.rounds.run_all`."""
    return run_all(request, SCANS, search_one)
