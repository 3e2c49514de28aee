"""A batch as a Prefect flow: the slides of a request through the `analyze` flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.analyze import analyze
from flows.limits import require_limits
from medvision.pipelines.batch_config import BatchRequest
from medvision.store.cohort import read_cohort


@flow(name="batch", persist_result=False)
def batch(request: BatchRequest) -> State[Any]:
    """Analyse the slides of a request."""
    require_limits()
    return analyze(_slides(request), request.out, request.analyze, return_state=True)


def _slides(request: BatchRequest) -> list[Path]:
    if request.slides.is_dir():
        patterns = request.options.pattern
        return sorted({path for p in patterns for path in request.slides.rglob(p)})
    return [slide.path for slide in read_cohort(request.slides).slides]
