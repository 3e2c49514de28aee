"""A heatmap by dense evaluation: blocks instead of windows, and what that changed, measured on the slide itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from medvision.core.errors import UsageError
from medvision.core.results import FloatArray, Raster
from medvision.engine.backends import Runner, prepare
from medvision.engine.contract import PatchModel
from medvision.engine.engine import PatchEngine, RunStats
from medvision.engine.plan import Int64Array, TilePlan, grid
from medvision.engine.sinks import BlockSink, RasterSink
from medvision.models.dense import DenseView, dense_model, dense_view
from medvision.sources.base import Source

Dense = Literal["off", "fast", "exact"]

SAMPLE = 64
"""Windows of each slide that are scored both ways."""

_FEW = 8
"""Of these, windows per batch: a whole batch beside what a block leaves behind would be the peak of the memory."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Dense against patch-wise scores of the positive class on a sample of windows of one slide.

    `correlation` is Pearson's, None where one of the two does not vary; `mean` and `largest` are of the absolute
    difference; `changed` is the share of windows on another side of the threshold.
    """

    windows: int
    correlation: float | None
    mean: float
    largest: float
    changed: float

    def sentence(self) -> str:
        """For the report."""
        related = "" if self.correlation is None else f"correlation {self.correlation:.3f}, "
        return (
            f"The heatmap was computed densely; on {self.windows} windows of this slide that were also scored one by "
            f"one: {related}mean difference {self.mean:.2g}, largest {self.largest:.2g}, {self.changed:.1%} of them "
            "on the other side of the threshold."
        )


@dataclass(frozen=True, eq=False)
class DensePlan:
    """A dense run: `model` takes the windows of `blocks`, each of which holds many of the windows of `cells`."""

    view: DenseView
    model: PatchModel
    blocks: TilePlan
    cells: TilePlan
    sample: Int64Array
    gain: float
    """Times fewer multiplications than window by window, blocks without tissue left out of both."""

    @property
    def units(self) -> int:
        """Blocks and windows that the engine will report as done."""
        return len(self.blocks) + len(self.sample)


def check_dense(model: PatchModel, stride: int, mode: Dense) -> DenseView | None:
    """The dense view that `mode` asks for, None where it is "off".

    Raises:
        UsageError: where the model has none, has no exact one, or is no cheaper that way at this stride.
    """
    if mode == "off":
        return None
    view = dense_view(model)
    if mode == "exact" and not view.exact:
        raise UsageError(
            f"model {model.name!r} has no exact dense evaluation: {'; '.join(view.obstacles)}; use --dense fast, which "
            "reports how far it is from patch-wise scores, or --dense off"
        )
    phases = view.phases(stride)
    if view.gain(stride, view.cells(stride, (1 << 16, 1 << 16))) < 1:
        near = [math.gcd(view.stride, stride), view.stride * max(1, round(stride / view.stride))]
        raise UsageError(
            f"stride {stride} takes {phases} x {phases} shifted passes of {model.name!r}, whose own stride is "
            f"{view.stride}, and is then no cheaper than patch-wise; use --dense off, or a stride such as "
            f"{' or '.join(str(n) for n in sorted(set(near)))}"
        )
    return view


def dense_backend(backend: str) -> str:
    """The backend that a dense run has where `backend` is asked for: its trunk is folded already, so "auto" is eager.

    Raises:
        UsageError: for another one: what it gains on windows it was not measured to gain on blocks.
    """
    if backend not in ("auto", "eager"):
        raise UsageError(
            f"--backend {backend} computes windows, not blocks; pass --backend auto or --dense off"
        )
    return "eager"


def plan_dense(model: PatchModel, cells: TilePlan, mode: Dense) -> DensePlan | None:
    """Blocks that hold the windows of the grid plan `cells`; None where `mode` is "off" or there are no windows.

    Raises:
        UsageError: as `check_dense`.
    """
    if cells.lattice is None:
        raise UsageError("only a grid plan can be evaluated densely")
    stride = cells.lattice.cell[0]
    view = check_dense(model, stride, mode)
    if view is None or not len(cells):
        return None
    side = view.cells(stride, cells.lattice.shape)
    blocks = grid(
        cells.source_id,
        cells.extent,
        view.block(stride, side),
        (side[0] * stride, side[1] * stride),
        cells.spacing,
    )
    sink = BlockSink(blocks, cells, RasterSink(cells, model.classes))
    held = [len(sink.cells_of(np.array([index]))) for index in range(len(blocks))]
    blocks = blocks.keep(np.array(held) > 0)
    sample = np.unique(np.linspace(0, len(cells) - 1, min(SAMPLE, len(cells))).round().astype(np.int64))
    gain = view.gain(stride, side) * len(cells) / (len(blocks) * math.prod(side))
    return DensePlan(view, dense_model(view, stride, side), blocks, cells, sample, gain)


def compute_dense(
    engine: PatchEngine, source: Source, plan: DensePlan, threshold: float, checkpoint: Path | None = None
) -> tuple[Raster, RunStats, Agreement | None]:
    """Probabilities of every class per cell, as window by window: the same cells, NaN in the same places.

    Blocks in which something cannot be decoded are done window by window. The figures count windows, not blocks. The
    agreement is None where no window of the sample could be read.
    """
    model, cells = plan.view.model, plan.cells
    budget = engine.settings.batch_size * math.prod(model.window)
    of_blocks = engine.with_batch_size(max(1, budget // math.prod(plan.model.window)))
    sink = BlockSink(plan.blocks, cells, RasterSink(cells, model.classes))
    backend, precision = dense_backend(engine.settings.backend), engine.settings.precision
    runner = prepare(plan.model, engine.device, backend, precision)
    raster, stats = of_blocks.run(source, plan.blocks, runner, sink, checkpoint)
    # Computed alike, so that the comparison shows what the blocks change and nothing else.
    alone = prepare(model, engine.device, backend, precision)
    unread: list[int] = []
    seconds = stats.seconds
    if stats.unread:
        again = sink.cells_of(np.array(stats.unread))
        part, of_part = _patch_wise(engine, source, cells, again, alone)
        raster = replace(raster, values=np.where(part.coverage[..., None], part.values, raster.values))
        unread = [int(again[index]) for index in of_part.unread]
        seconds += of_part.seconds
    by_few = engine.with_batch_size(min(_FEW, engine.settings.batch_size))
    sampled, of_sample = _patch_wise(by_few, source, cells, plan.sample, alone)
    positive = model.positive or model.classes[-1]
    agreement = compare(raster.channel(positive), sampled.channel(positive), threshold)
    whole = replace(
        stats,
        windows=len(cells),
        unread=tuple(unread),
        resumed=round(stats.resumed * len(cells) / len(plan.blocks)),
        seconds=seconds + of_sample.seconds,
    )
    return raster, whole, agreement


def compare(dense: FloatArray, patch_wise: FloatArray, threshold: float) -> Agreement | None:
    """How two rasters of probabilities `(rows, columns)` agree where both have a value; None where none has."""
    both = ~np.isnan(dense) & ~np.isnan(patch_wise)
    if not both.any():
        return None
    a, b = dense[both].astype(np.float64), patch_wise[both].astype(np.float64)
    varies = len(a) > 1 and min(a.std(), b.std()) > 1e-9
    difference = np.abs(a - b)
    return Agreement(
        windows=len(a),
        correlation=float(np.corrcoef(a, b)[0, 1]) if varies else None,
        mean=float(difference.mean()),
        largest=float(difference.max()),
        changed=float(((a >= threshold) != (b >= threshold)).mean()),
    )


def _patch_wise(
    engine: PatchEngine, source: Source, cells: TilePlan, indices: Int64Array, runner: Runner
) -> tuple[Raster, RunStats]:
    """Some windows of `cells`, one by one."""
    chosen = np.zeros(len(cells), bool)
    chosen[indices] = True
    part = cells.keep(chosen)
    return engine.run(source, part, runner, RasterSink(part, runner.model.classes))
