"""A batch of images as one Prefect flow, one task per image; what it shares with other batches is `flows.rounds`."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State

from flows.rounds import TASK, attempt_one, run_all
from medvision.pipelines.batch_config import BatchRequest
from medvision.pipelines.batch_plan import BatchItem
from medvision.pipelines.work import IMAGES


@task(task_run_name="image {number}", **TASK)
def classify_one(
    number: int, item: BatchItem, request: BatchRequest, run_id: str, code: str, tries: int
) -> dict[str, Any]:
    """Classify one image of a run; returns its outcome as JSON values."""
    return attempt_one(number, item, request, run_id, code, tries)


@flow(name="classify", persist_result=False, validate_parameters=True)
def classify(request: BatchRequest) -> State[None]:
    """Classify every image of `request`. See `flows.rounds.run_all`."""
    return run_all(request, IMAGES, classify_one)
