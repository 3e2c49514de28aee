"""A batch of segmentations as one Prefect flow, one task per case; what it shares with others is `flows.rounds`."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State

from flows.rounds import TASK, attempt_one, run_all
from medvision.pipelines.batch_config import BatchRequest
from medvision.pipelines.batch_plan import BatchItem
from medvision.pipelines.work import CASES


@task(task_run_name="case {number}", **TASK)
def segment_one(
    number: int, item: BatchItem, request: BatchRequest, run_id: str, code: str, tries: int
) -> dict[str, Any]:
    """Segment one image, slide or volume of a run; returns its outcome as JSON values."""
    return attempt_one(number, item, request, run_id, code, tries)


@flow(name="segment", persist_result=False, validate_parameters=True)
def segment(request: BatchRequest) -> State[None]:
    """Segment every case of `request`. See `flows.rounds.run_all`."""
    return run_all(request, CASES, segment_one)
