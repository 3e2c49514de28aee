"""From an opened slide to a probability raster, for any model.

The steps are those of `medvision.engine.heatmap`. This is the one place that knows which models are not simply run
window by window: of an NCRF each embedding is computed once (`medvision.pipelines.ncrf`).
"""

from __future__ import annotations

from pathlib import Path

from medvision.core.results import Raster
from medvision.engine import heatmap
from medvision.engine.backends import Runner
from medvision.engine.contract import PatchModel
from medvision.engine.engine import PatchEngine, RunStats
from medvision.engine.heatmap import (
    Overview,
    locate_tissue,
    plan_heatmap,
    read_overview,
    sample_windows,
    spacing_of,
)
from medvision.engine.plan import TilePlan
from medvision.pipelines.ncrf import check_stride, compute_lattice, plan_lattice
from medvision.sources.base import Source

__all__ = [
    "Overview",
    "compute_heatmap",
    "gain_of",
    "locate_tissue",
    "plan_heatmap",
    "read_overview",
    "sample_windows",
    "spacing_of",
    "stride_px",
    "units_of",
]


def stride_px(model: PatchModel, stride: int | None) -> int:
    """Pixels at the model's spacing from one cell to the next: `stride`, or the model's usual one.

    Raises:
        UsageError: for a stride that is not positive or larger than the window, or that the model cannot be run at.
    """
    step = heatmap.stride_px(model, stride)
    check_stride(model, step)
    return step


def compute_heatmap(
    engine: PatchEngine, source: Source, plan: TilePlan, runner: Runner, checkpoint: Path | None = None
) -> tuple[Raster, RunStats]:
    """Probabilities of every class per cell; NaN where there is no tissue or the window could not be read."""
    lattice = plan_lattice(runner.model, plan)
    if lattice is not None:
        return compute_lattice(engine, source, lattice, runner, checkpoint)
    return heatmap.compute_heatmap(engine, source, plan, runner, checkpoint)


def units_of(model: PatchModel, plan: TilePlan) -> int:
    """Windows that the engine will report as done in `compute_heatmap`."""
    lattice = plan_lattice(model, plan)
    return len(plan) if lattice is None else lattice.units


def gain_of(model: PatchModel, plan: TilePlan) -> float:
    """How many times less the model computes in `compute_heatmap` than window by window."""
    lattice = plan_lattice(model, plan)
    return 1.0 if lattice is None else lattice.gain
