"""A batch as a Prefect flow: the slides of a request through the `analyze` flow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.analyze import analyze
from flows.limits import require_limits
from medvision.pipelines.batch_config import BatchRequest
from medvision.store.cohort import read_cohort
from medvision.store.files import atomic_write, make_output
from medvision.store.provenance import new_run_id
from medvision.store.store import CONTROL


@flow(name="batch", persist_result=False)
def batch(request: BatchRequest) -> State[Any]:
    """Analyse the slides of a request."""
    require_limits()
    manifest = make_output(request.out / CONTROL) / f"slides-{new_run_id()}.json"
    atomic_write(manifest, json.dumps([str(slide) for slide in _slides(request)]).encode())
    try:
        state: State[Any] = analyze(manifest, request.out, request.analyze, return_state=True)
    finally:
        manifest.unlink()
    return state


def _slides(request: BatchRequest) -> list[Path]:
    if request.slides.is_dir():
        patterns = request.options.pattern
        return sorted({path for p in patterns for path in request.slides.rglob(p)})
    return [slide.path for slide in read_cohort(request.slides).slides]
