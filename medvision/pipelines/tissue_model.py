"""Tissue by a segmentation network, in place of the thresholds of `medvision.ops.tissue`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from medvision.core.errors import UsageError
from medvision.core.geometry import Spacing
from medvision.engine.blend import BlendSink, Canvas
from medvision.engine.engine import PatchEngine
from medvision.models.segmentation.tiling import choose_tiling
from medvision.ops.enlarge import linear_slabs
from medvision.ops.tissue import Tissue
from medvision.pipelines.configured_segment import ReadySegment, ready_segment
from medvision.pipelines.device import compute
from medvision.pipelines.heatmap import Overview, locate_tissue
from medvision.pipelines.segment_config import SegmentConfig
from medvision.sources.base import Source
from medvision.sources.resample import extent_at

AT = 0.5
"""Probability of anything but the background from which on a pixel is tissue."""
MOST_PIXELS = 1 << 26


def tissue_model(path: Path, device: str) -> ReadySegment:
    """The network that tells tissue, whose every class but the first is tissue.

    Raises:
        UsageError: for a network of volumes, of other than three channels, without a spacing, or with a range of values
            from each source.
        WeightsError: if it cannot be read.
    """
    ready = ready_segment(SegmentConfig(model=path, device=device))
    contract = ready.model.contract
    if contract.axes != "yx" or contract.channels != 3 or contract.spacing is None:
        raise UsageError(f"{path}: tissue is told by a network of colour images that states its spacing")
    if contract.intensity == "source":
        raise UsageError(f"{path}: tissue is told by a network with a fixed range of values")
    return ready


def tissue_by_model(source: Source, overview: Overview, ready: ReadySegment, engine: PatchEngine) -> Tissue:
    """Where the network finds tissue, on the grid of the overview.

    Raises:
        UsageError: if the network looks so closely that its answers for the whole slide would not fit in memory.
    """
    contract = ready.model.contract
    assert contract.spacing is not None, "checked when it was made ready"
    grid = Spacing(contract.spacing, contract.unit, "supplied")
    extent = extent_at(source, grid)
    if math.prod(extent) > MOST_PIXELS:
        raise UsageError(
            f"tissue model {ready.model.name!r} looks at {grid}: {math.prod(extent):,} pixels of this slide; a mask of "
            f"tissue takes {MOST_PIXELS:,} at most, so train one at a coarser spacing, such as 8 µm"
        )
    tiling = choose_tiling(contract, extent)
    plan = tiling.plan(source.id, extent, grid)
    canvas = Canvas.of(plan, len(contract.classes))

    def run() -> None:
        runner = ready.runner(tiling.window, contract.range)
        quiet = PatchEngine(engine.settings, stop=engine.stop)
        quiet.run(source, plan, runner, BlendSink(plan, tiling.margin, tiling.blend, canvas))

    compute(str(engine.device), engine.stop, run)
    rows, columns = overview.image.shape[:2]
    steps = tuple(overview.spacing_um / side for side in grid.values)
    slabs = [slab for _, slab in linear_slabs(1 - canvas.values[:1], (rows, columns), steps)]
    mask = np.concatenate(slabs, axis=1)[0] >= AT  # what could not be read is no number, and no tissue
    # Ink, borders and the colour of glass are no question to the network: they stay those of the thresholds.
    usual = locate_tissue(overview)
    glass = {name: value for name, value in usual.thresholds.items() if name.startswith("glass_")}
    return Tissue(
        mask=np.asarray(mask & ~usual.pen_mask & ~usual.border_mask, np.bool_),
        pen_mask=usual.pen_mask,
        border_mask=usual.border_mask,
        thresholds={"probability": AT, "spacing_um": grid.mean, **glass},
        method=f"segmentation network {ready.model.name}, weights {ready.digest[:12]}",
    )
