"""From an opened slide to a probability raster: overview, tissue, plan, engine."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError, WindowUnreadableError
from medvision.core.geometry import Spacing
from medvision.core.results import Raster
from medvision.engine.backends import Runner
from medvision.engine.contract import PatchModel
from medvision.engine.engine import PatchEngine, RunStats
from medvision.engine.plan import TilePlan, grid
from medvision.engine.sinks import RasterSink
from medvision.ops.tissue import Tissue, box_share, find_tissue
from medvision.sources.base import Pixels, Source
from medvision.sources.resample import extent_at, overview, read_at
from medvision.sources.spacing import require_spacing

OVERVIEW_UM = 8.0
"""Spacing of the overview in which tissue is sought, unless the slide is too large for it."""

OVERVIEW_LIMIT = 4096
"""Longest side of the overview in pixels, which bounds its memory whatever the slide."""


@dataclass(frozen=True, eq=False)
class Overview:
    """The slide at low resolution, RGB, and the spacing it was read at.

    `unread` is the share that could not be decoded, `missing` the share that the file never held.
    """

    image: Pixels
    spacing_um: float
    unread: float = 0.0
    missing: float = 0.0


def read_overview(source: Source) -> Overview:
    """The whole slide at about 8 µm/px, in bounded memory. A block that cannot be decoded stays white: it is no tissue.

    Raises:
        SpacingError: where the slide's spacing is missing or absurd.
    """
    base = require_spacing(source)
    sides_um = [n * s for n, s in zip(source.levels[0].shape, base.values, strict=True)]
    # A small region deserves a finer look: at 8 µm it would be a postage stamp.
    fine = max(base.mean, min(OVERVIEW_UM, min(sides_um) / 512))
    spacing_um = max(fine, max(sides_um) / OVERVIEW_LIMIT)
    whole = overview(source, spacing_um)
    return Overview(whole.pixels, spacing_um, float(whole.damaged.mean()), float(whole.missing.mean()))


def locate_tissue(overview: Overview) -> Tissue:
    """The tissue mask of an overview."""
    return find_tissue(overview.image, overview.spacing_um)


def plan_heatmap(
    source: Source,
    model: PatchModel,
    tissue: Tissue,
    overview: Overview,
    stride: int | None = None,
    minimum_tissue: float = 0.1,
) -> TilePlan:
    """Windows of the model's size at its spacing, one cell per `stride` pixels (see `stride_px`), where tissue lies.

    A cell is kept when at least `minimum_tissue` of it is tissue.

    Raises:
        UsageError: for a stride that does not fit the model, or a model that states no spacing.
    """
    step = stride_px(model, stride)
    spacing_um = spacing_of(model)
    extent = extent_at(source, spacing_um)
    supplied = source.spacing.origin if source.spacing is not None else "file"
    spacing = Spacing((spacing_um, spacing_um), "um", supplied)
    plan = grid(source.id, extent, model.window, (step, step), spacing)
    share = box_share(tissue.mask, overview.spacing_um, plan.cores, spacing_um)
    return plan.keep(share >= minimum_tissue)


def stride_px(model: PatchModel, stride: int | None) -> int:
    """Pixels at the model's spacing from one cell to the next: `stride`, or what the model says, or half its window.

    Raises:
        UsageError: for a stride that is not positive or larger than the window.
    """
    own = getattr(model.net, "stride_px", None)
    usual = own if isinstance(own, int) else model.window[0] // 2
    step = usual if stride is None else stride
    if not 1 <= step <= min(model.window):
        raise UsageError(f"stride {step} must lie between 1 and the model's window, {min(model.window)} px")
    return step


def spacing_of(model: PatchModel) -> float:
    """µm/px at which the model looks.

    Raises:
        UsageError: where its contract does not say.
    """
    if model.spacing is None:
        raise UsageError(f"model {model.name!r} states no spacing; pass --spacing, the µm/px it looks at")
    return model.spacing.mean


def compute_heatmap(
    engine: PatchEngine, source: Source, plan: TilePlan, runner: Runner, checkpoint: Path | None = None
) -> tuple[Raster, RunStats]:
    """Probabilities of every class per cell; NaN where there is no tissue or the window could not be read."""
    return engine.run(source, plan, runner, RasterSink(plan, runner.model.columns), checkpoint)


def sample_windows(
    source: Source, tissue: Tissue, overview: Overview, spacing_um: float, side_px: int = 256, count: int = 48
) -> npt.NDArray[np.uint8]:
    """Up to `count` windows spread evenly over the tissue, for measures of sharpness: `(n, side, side, channels)`."""
    extent = extent_at(source, spacing_um)
    plan = grid(source.id, extent, (side_px, side_px), spacing=Spacing((spacing_um, spacing_um)))
    share = box_share(tissue.mask, overview.spacing_um, plan.cores, spacing_um)
    full = np.flatnonzero(share >= min(0.9, float(share.max(initial=0.0))))
    full = full[share[full] > 0]
    chosen = full[np.unique(np.linspace(0, len(full) - 1, min(count, len(full))).round().astype(int))]
    windows = []
    for index in chosen:
        with suppress(WindowUnreadableError):  # counted where it matters, in the heatmap
            windows.append(read_at(source, plan.box(int(index)), spacing_um))
    return np.stack(windows) if windows else np.empty((0, side_px, side_px, source.channels), np.uint8)
