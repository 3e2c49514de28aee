"""Nodule networks run over one scan: candidates of a detector, and the probability of each by a reduction.

Both go through the patch engine. Candidates are in voxels of the source, array order (plane, row, column), whatever the
spacing of the network that found them; `source.frame.to_world` gives their place in the patient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UnreadableSourceError, UsageError
from medvision.core.geometry import Box, Spacing
from medvision.engine.backends import Runner
from medvision.engine.contract import PatchModel
from medvision.engine.engine import PatchEngine, RunStats
from medvision.engine.plan import TilePlan, around, grid
from medvision.engine.sinks import ObjectSink, TableSink
from medvision.models.nodules.slices import SLICES
from medvision.models.turns import with_turns
from medvision.ops.candidates import Candidates, merge_boxes, merge_slices
from medvision.ops.lungs import lung_mask
from medvision.sources.base import Values, VolumeSource
from medvision.sources.resample import extent_at, read_at
from medvision.sources.spacing import require_spacing

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LUNG_SPACING_MM = 2.0
HALO_MM = 32.0
"""By which windows overlap on each side of their cores, in the plane: more than a nodule's diameter."""
_COARSE = Spacing((LUNG_SPACING_MM,) * 3, "mm", "supplied")


@dataclass(frozen=True, eq=False)
class Lungs:
    """Where candidates may lie: `mask` (planes, rows, columns) of cubes of `LUNG_SPACING_MM`, from the source's corner.

    `inside` are the lungs themselves, without a margin. Without any the mask is true everywhere.
    """

    mask: Mask
    inside: Mask

    @property
    def found(self) -> bool:
        """Whether there are lungs at all."""
        return bool(self.inside.any())

    def holds(self, points_mm: Floats) -> Mask:
        """Whether points `(n, 3)`, in mm from the source's corner in array order, lie inside: bool `(n,)`."""
        last = np.array(self.mask.shape) - 1
        at = np.clip(np.floor(points_mm / LUNG_SPACING_MM).astype(np.int64), 0, last)
        return np.asarray(self.mask[tuple(at.T)], np.bool_)


@dataclass(frozen=True, eq=False)
class Detection:
    """What a detector found in one scan. `candidates` are in voxels of the source; `unread` counts lost windows."""

    candidates: Candidates
    lungs: Lungs
    stats: RunStats

    @property
    def unread(self) -> int:
        """Windows that could not be decoded: what lies in their cores was not looked for."""
        return len(self.stats.unread)


def find_lungs(source: VolumeSource, margin_mm: float | None = 6.0) -> Lungs:
    """The lungs of a scan in Hounsfield units, and what lies within `margin_mm` of them; None takes the whole scan.

    Raises:
        SpacingError: if the source has no spacing fit to measure with.
        WindowUnreadableError: if a part of the scan cannot be decoded.
    """
    if margin_mm is None:
        extent = extent_at(source, _COARSE)
        return Lungs(np.ones(extent, np.bool_), np.zeros(extent, np.bool_))
    return lungs_in(read_coarse(source), margin_mm)


def read_coarse(source: VolumeSource) -> Values:
    """The whole scan in cubes of `LUNG_SPACING_MM`: `(planes, rows, columns)`.

    Raises:
        SpacingError: if the source has no spacing fit to measure with.
        WindowUnreadableError: if a part of the scan cannot be decoded.
        UnreadableSourceError: if a part of it holds no numbers.
    """
    coarse = read_at(source, Box((0, 0, 0), extent_at(source, _COARSE)), _COARSE)[..., 0]
    if not np.isfinite(coarse).all():
        ratio = LUNG_SPACING_MM / np.array(require_spacing(source, "mm").values)
        first = ((np.argwhere(~np.isfinite(coarse))[0] + 0.5) * ratio).astype(np.int64)
        at = ", ".join(str(k) for k in np.minimum(first, np.array(source.levels[0].shape) - 1).tolist())
        raise UnreadableSourceError(
            f"{source.path}: holds voxels that are no numbers (NaN or infinity), the first about plane, row, column "
            f"{at}; give them a value, such as -1000 to what lies outside the patient"
        )
    return coarse


def lungs_in(coarse: Values, margin_mm: float | None = 6.0) -> Lungs:
    """`find_lungs` in what `read_coarse` gave."""
    lungs = lung_mask(coarse, _COARSE.values)
    if margin_mm is None or not lungs.any():
        return Lungs(np.ones(lungs.shape, np.bool_), lungs)
    from scipy import ndimage

    apart_mm = ndimage.distance_transform_edt(~lungs, sampling=_COARSE.values)
    return Lungs(np.asarray(apart_mm <= margin_mm, np.bool_), lungs)


def plan_detection(source: VolumeSource, model: PatchModel, lungs: Lungs) -> TilePlan:
    """The windows of a detector over the box around the lungs, of which those stay whose cores meet them.

    A detector of slices has one window for each slice of its spacing, or several that overlap by `HALO_MM` on each side
    where the lungs are wider than its window; one in space overlaps by a sixth of its window on each side.
    """
    assert model.spacing is not None, "a nodule network states its spacing"
    extent = extent_at(source, model.spacing)
    start, stop = _around(lungs, model.spacing, extent)
    stride = tuple(
        _step(side, last - first, step, slices=axis == 0 and model.window[0] == SLICES)
        for axis, (side, first, last, step) in enumerate(
            zip(model.window, start, stop, model.spacing.values, strict=True)
        )
    )
    inner = tuple(last - first for first, last in zip(start, stop, strict=True))
    cells = grid(source.id, inner, model.window, stride, model.spacing)
    corner = np.array(start, np.int64)
    plan = TilePlan(
        source.id, model.spacing, extent, model.window, cells.boxes + corner, cells.cores + corner
    )
    return plan.keep(_meets(plan, lungs))


def detect_candidates(
    model: PatchModel | Runner,
    source: VolumeSource,
    engine: PatchEngine,
    margin_mm: float | None = 6.0,
    checkpoint: Path | None = None,
    lungs: Lungs | None = None,
    on_plan: Callable[[int], None] | None = None,
) -> Detection:
    """Candidates of one scan, the most certain first.

    Args:
        model: a detector as the engine runs it (`NoduleModel.patch_model`), prepared or not.
        source: a CT in Hounsfield units, with its spacing.
        engine: runs it.
        margin_mm: candidates lie in the lungs or this near to them; None searches the whole scan. A scan in which no
            lungs are found, such as a crop, is searched whole, too.
        checkpoint: file of the engine's progress, as in `PatchEngine.run`.
        lungs: where to look, if that is known already; `margin_mm` then plays no part.
        on_plan: told the number of windows before the first is read.

    Raises:
        UsageError: if the model finds no objects.
        SpacingError: if the source has no spacing fit to measure with.
    """
    plain = model.model if isinstance(model, Runner) else model
    if plain.output != "objects" or plain.spacing is None or len(plain.window) != 3:
        raise UsageError(f"model {plain.name!r} finds no objects in volumes")
    lungs = find_lungs(source, margin_mm) if lungs is None else lungs
    plan = plan_detection(source, plain, lungs)
    if on_plan is not None:
        on_plan(len(plan))
    found, stats = engine.run(source, plan, model, ObjectSink(plan), checkpoint)
    z, y, x = plain.spacing.values
    merge: Any = merge_slices if plain.window[0] == SLICES else merge_boxes
    merged: Candidates = merge(found.boxes, found.scores, (z, y, x))
    inside = merged.take(lungs.holds(merged.centres * np.array(plain.spacing.values)))
    ratio = np.array(plain.spacing.values) / np.array(require_spacing(source, "mm").values)
    # The last voxels of the network's grid may reach beyond the scan, by less than half of their side.
    centres = np.minimum(inside.centres * ratio, source.levels[0].shape)
    native = replace(inside, centres=centres, boxes=inside.boxes * ratio)
    return Detection(native, lungs, stats)


def rescore(
    model: PatchModel | Runner,
    source: VolumeSource,
    centres: Floats,
    engine: PatchEngine,
    turns: int = 1,
    checkpoint: Path | None = None,
) -> Floats:
    """Probability `(n,)` that each candidate is a nodule; NaN where its cube could not be read.

    Args:
        model: a reduction of false positives as the engine runs it. One that is prepared has its turns already.
        source: the scan.
        centres: `(n, 3)` of the candidates, in voxels of the source.
        engine: runs it.
        turns: orientations of each cube over which probabilities are averaged: 1, 4, 8 or 16.
        checkpoint: file of the engine's progress, as in `PatchEngine.run`.

    Raises:
        UsageError: if the model gives no probabilities of cubes, or for another number of turns.
        SpacingError: if the source has no spacing fit to measure with.
    """
    plain = model.model if isinstance(model, Runner) else model
    if plain.output != "scores" or plain.spacing is None or len(plain.window) != 3:
        raise UsageError(f"model {plain.name!r} gives no probabilities of cubes")
    if turns != 1:
        if isinstance(model, Runner):
            raise UsageError(f"model {plain.name!r} is prepared: choose its turns before")
        model = plain = with_turns(plain, turns)
    assert plain.spacing is not None
    places = np.asarray(centres, np.float64).reshape(-1, 3)
    if len(places) == 0:
        return np.empty(0)
    ratio = np.array(require_spacing(source, "mm").values) / np.array(plain.spacing.values)
    extent = extent_at(source, plain.spacing)
    plan = around(source.id, extent, places * ratio, plain.window, plain.spacing)
    table, _ = engine.run(source, plan, model, TableSink(plan, plain.columns), checkpoint)
    return np.asarray(table.columns[plain.positive or plain.classes[-1]], np.float64)


def _step(side: int, whole: int, millimetres: float, slices: bool) -> int:
    """From one window to the next along an axis."""
    if slices:
        return 1
    if whole <= side:
        return whole
    halo = min(round(HALO_MM / millimetres), side // 6)
    return side - 2 * halo


def _around(lungs: Lungs, spacing: Spacing, extent: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """First voxels of a grid that the lungs reach into, and those after the last, along each axis."""
    start, stop = [], []
    for axis, (whole, millimetres) in enumerate(zip(extent, spacing.values, strict=True)):
        others = tuple(k for k in range(3) if k != axis)
        held = np.flatnonzero(lungs.mask.any(axis=others)) * LUNG_SPACING_MM / millimetres
        start.append(min(int(held[0]), whole - 1))
        end = whole if lungs.mask.all() else held[-1] + LUNG_SPACING_MM / millimetres
        stop.append(min(int(np.ceil(end)), whole))
    return start, stop


def _meets(plan: TilePlan, lungs: Lungs) -> Mask:
    """Whether the core of each window meets the lungs."""
    assert plan.spacing is not None
    scale = np.array(plan.spacing.values) / LUNG_SPACING_MM
    shape = np.array(lungs.mask.shape)
    start = np.clip(np.floor(plan.cores[:, 0] * scale).astype(np.int64), 0, shape - 1)
    stop = np.clip(np.ceil(plan.cores[:, 1] * scale).astype(np.int64), start + 1, shape)
    return np.array(
        [
            bool(lungs.mask[a[0] : b[0], a[1] : b[1], a[2] : b[2]].any())
            for a, b in zip(start, stop, strict=True)
        ],
        np.bool_,
    )
