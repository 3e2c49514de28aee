"""A batch of slides as one Prefect flow, one task per slide; what it shares with other batches is `flows.rounds`."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State

from flows.rounds import TASK, attempt_one, run_all
from medvision.pipelines.batch_config import BatchRequest
from medvision.pipelines.batch_plan import BatchItem
from medvision.pipelines.work import SLIDES


@task(task_run_name="slide {number}", **TASK)
def analyze_one(
    number: int, item: BatchItem, request: BatchRequest, run_id: str, code: str, tries: int
) -> dict[str, Any]:
    """Analyse one slide of a run; returns its outcome as JSON values."""
    return attempt_one(number, item, request, run_id, code, tries)


@flow(name="batch", persist_result=False, validate_parameters=True)
def batch(request: BatchRequest) -> State[None]:
    """Analyse every slide of `request`. See `flows.rounds.run_all`."""
    return run_all(request, SLIDES, analyze_one)
