"""Boxes in slices, or in space, to candidates in space: where a nodule may be, how large it is and how certain.

Positions are in voxels of the volume, array order (slice, row, column); voxel k covers `[k, k + 1)`, so the middle of
slice k lies at k + 0.5. Sizes are in millimetres.

A detector of slices finds a nodule once in each slice that cuts it. These boxes are linked from slice to slice, one to
one: a box has at most one successor and one predecessor, so that two nodules side by side stay two, and a candidate
never holds two boxes of one slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Candidates, the most certain first; of equal ones in the order of their centres.

    `centres` (n, 3) in voxels, `diameters_mm` (n,), `scores` (n,), `boxes` (n, 2, 3) start and stop in voxels around
    all that was linked, and `slices` (n,), the number of boxes that were.
    """

    centres: Floats
    diameters_mm: Floats
    scores: Floats
    boxes: Floats
    slices: Ints

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.scores)

    def take(self, which: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Candidates:
        """Those of these indices, or of this mask."""
        return Candidates(
            self.centres[which],
            self.diameters_mm[which],
            self.scores[which],
            self.boxes[which],
            self.slices[which],
        )


def merge_slices(
    boxes: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    spacing_mm: Triple,
    *,
    gap: int = 1,
    min_iou: float = 0.2,
    reach_mm: float = 1.5,
    score: Literal["max", "mean"] = "max",
) -> Candidates:
    """Boxes found in slices, linked to candidates.

    Two boxes may be linked that lie at most `gap` slices apart and either overlap by `min_iou` or have centres, in the
    plane, no farther apart than `reach_mm`. Neighbouring slices go first, then the larger overlap, then the nearer
    centres. The centre of a candidate is the mean of its boxes' centres weighted by score times area; its diameter is
    the mean side of its largest box. A candidate whose centre lies within a more certain one is dropped
    (`suppress`). The order of the boxes makes no difference.

    Args:
        boxes: `(k, 2, 3)` start and stop in voxels; a box belongs to the slice that its centre lies in.
        scores: `(k,)` in 0..1.
        spacing_mm: of the voxels (slice, row, column).
        gap: slices from a box to the next; 2 bridges one slice in which the nodule was missed.
        min_iou: of the two boxes in the plane, in 0..1; 0 links whatever touches.
        reach_mm: for boxes of few voxels, whose overlap says little.
        score: of a candidate: the largest or the mean of its boxes' scores.

    Raises:
        UsageError: for arrays of other shapes, values that are not finite, or parameters out of range.
    """
    held, certain, size = _checked(boxes, scores, spacing_mm)
    if gap < 1 or not 0 <= min_iou <= 1 or reach_mm < 0 or score not in ("max", "mean"):
        raise UsageError(
            f"gap {gap} must be at least 1, min_iou {min_iou} in 0..1, reach_mm {reach_mm} at least 0, and score "
            f"{score!r} 'max' or 'mean'"
        )
    layer = np.floor(held[:, :, 0].mean(axis=1)).astype(np.int64)
    flat = held.reshape(len(held), 6)
    order = np.lexsort((*flat.T[::-1], -certain, layer))
    held, certain, layer = held[order], certain[order], layer[order]
    chains = _chains(_links(held, layer, size, gap, min_iou, reach_mm))
    sides_mm = (held[:, 1, 1:] - held[:, 0, 1:]) * size[1:]
    weights = certain * sides_mm.prod(axis=1)
    centres = held.mean(axis=1)
    merged = Candidates(
        centres=_rows([_weighted(centres[chain], weights[chain]) for chain in chains], (3,)),
        diameters_mm=_rows([sides_mm[chain].mean(axis=1).max() for chain in chains], ()),
        scores=_rows([certain[c].max() if score == "max" else certain[c].mean() for c in chains], ()),
        boxes=_rows([_around(held[chain]) for chain in chains], (2, 3)),
        slices=np.array([len(chain) for chain in chains], np.int64),
    )
    return suppress(merged, spacing_mm)


def merge_boxes(
    boxes: npt.NDArray[np.floating], scores: npt.NDArray[np.floating], spacing_mm: Triple
) -> Candidates:
    """Boxes found in space as candidates: their centres, the mean of their sides in the plane, duplicates dropped.

    Args:
        boxes: `(k, 2, 3)` start and stop in voxels.
        scores: `(k,)` in 0..1.
        spacing_mm: of the voxels (slice, row, column).

    Raises:
        UsageError: for arrays of other shapes, or values that are not finite.
    """
    held, certain, size = _checked(boxes, scores, spacing_mm)
    sides_mm = (held[:, 1, 1:] - held[:, 0, 1:]) * size[1:]
    found = Candidates(held.mean(axis=1), sides_mm.mean(axis=1), certain, held, np.ones(len(held), np.int64))
    return suppress(found, spacing_mm)


def suppress(candidates: Candidates, spacing_mm: Triple) -> Candidates:
    """Candidates in order of certainty, without those whose centre lies within a more certain one that stays.

    Within is: nearer to its centre than half its diameter, in millimetres, as a hit is counted by LUNA16.
    """
    order = np.lexsort((*candidates.centres.T[::-1], -candidates.scores))
    ranked = candidates.take(order)
    places = ranked.centres * np.array(spacing_mm, np.float64)
    stays = np.ones(len(ranked), bool)
    for index in range(len(ranked)):
        if stays[index]:
            later = np.flatnonzero(stays[index + 1 :]) + index + 1
            squares = ((places[later] - places[index]) ** 2).sum(axis=1)
            stays[later[squares < (ranked.diameters_mm[index] / 2) ** 2]] = False
    return ranked.take(stays)


def ball_sections(
    centres: npt.NDArray[np.floating], diameters_mm: npt.NDArray[np.floating], layer: int, spacing_mm: Triple
) -> tuple[Floats, Ints]:
    """Boxes `(k, 2, 3)` in voxels of the circles that the middle of a slice cuts out of balls, and their balls `(k,)`.

    What a detector of slices is to find of nodules that are known by centre and diameter.

    Args:
        centres: `(n, 3)` in voxels.
        diameters_mm: `(n,)`.
        layer: index of the slice.
        spacing_mm: of the voxels (slice, row, column).
    """
    size = np.array(spacing_mm, np.float64)
    middles = np.asarray(centres, np.float64).reshape(-1, 3)
    height_mm = (layer + 0.5 - middles[:, 0]) * size[0]
    squares = (np.asarray(diameters_mm, np.float64) / 2) ** 2 - height_mm**2
    owners = np.flatnonzero(squares > 0)
    radii = np.sqrt(squares[owners])[:, None] / size[1:]
    boxes = np.empty((len(owners), 2, 3))
    boxes[:, :, 0] = (layer, layer + 1)
    boxes[:, 0, 1:], boxes[:, 1, 1:] = middles[owners, 1:] - radii, middles[owners, 1:] + radii
    return boxes, owners.astype(np.int64)


def _checked(
    boxes: npt.NDArray[np.floating], scores: npt.NDArray[np.floating], spacing_mm: Triple
) -> tuple[Floats, Floats, Floats]:
    held, certain = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
    size = np.asarray(spacing_mm, np.float64)
    if held.shape != (len(held), 2, 3) or certain.shape != (len(held),):
        raise UsageError(f"boxes {held.shape} and scores {certain.shape} must have shapes (k, 2, 3) and (k,)")
    if size.shape != (3,) or not np.isfinite(size).all() or (size <= 0).any():
        raise UsageError(f"a spacing of voxels is three lengths above 0 mm, not {spacing_mm}")
    if not (np.isfinite(held).all() and np.isfinite(certain).all()):
        raise UsageError("boxes and scores must be finite")
    if (held[:, 1] < held[:, 0]).any() or (certain < 0).any():
        raise UsageError("boxes must not stop before they start, and no score be below 0")
    return held, certain, size


def _links(boxes: Floats, layer: Ints, size: Floats, gap: int, min_iou: float, reach_mm: float) -> Ints:
    """The successor of each box, or -1. Boxes are sorted by slice."""
    after, has_before = np.full(len(boxes), -1, np.int64), np.zeros(len(boxes), bool)
    for step in range(1, gap + 1):
        for this in np.unique(layer):
            lower = np.arange(*np.searchsorted(layer, (this, this + 1)))
            upper = np.arange(*np.searchsorted(layer, (this + step, this + step + 1)))
            lower, upper = lower[after[lower] < 0], upper[~has_before[upper]]
            iou, distance_mm = _affinity(boxes[lower, :, 1:], boxes[upper, :, 1:], size[1:])
            rows, columns = np.nonzero(((iou >= min_iou) & (iou > 0)) | (distance_mm <= reach_mm))
            best = np.lexsort((columns, rows, distance_mm[rows, columns], -iou[rows, columns]))
            for first, second in zip(lower[rows[best]], upper[columns[best]], strict=True):
                if after[first] < 0 and not has_before[second]:
                    after[first], has_before[second] = second, True
    return after


def _affinity(first: Floats, second: Floats, size: Floats) -> tuple[Floats, Floats]:
    """Intersection over union, and distance of centres in mm, of each of `(n, 2, 2)` with each of `(m, 2, 2)`."""
    start = np.maximum(first[:, None, 0], second[None, :, 0])
    stop = np.minimum(first[:, None, 1], second[None, :, 1])
    common = np.clip(stop - start, 0, None).prod(axis=2)
    areas = [(box[:, 1] - box[:, 0]).prod(axis=1) for box in (first, second)]
    union = areas[0][:, None] + areas[1][None] - common
    iou = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    apart = (first.mean(axis=1)[:, None] - second.mean(axis=1)[None]) * size
    return iou, np.sqrt((apart**2).sum(axis=2))


def _chains(after: Ints) -> list[Ints]:
    """Indices of the boxes of each candidate, from the first slice to the last."""
    starts = np.setdiff1d(np.arange(len(after)), after)
    found = []
    for start in starts.tolist():
        chain = [start]
        while (following := int(after[chain[-1]])) >= 0:
            chain.append(following)
        found.append(np.array(chain, np.int64))
    return found


def _weighted(centres: Floats, weights: Floats) -> Floats:
    """Weighted mean of `(k, 3)`; the plain one where nothing has weight."""
    return np.asarray(np.average(centres, axis=0, weights=weights if weights.sum() > 0 else None), np.float64)


def _around(boxes: Floats) -> Floats:
    return np.stack([boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)])


def _rows(values: list[Floats] | list[np.floating], shape: tuple[int, ...]) -> Floats:
    """A stack that keeps its shape when it is empty."""
    return np.array(values, np.float64).reshape(len(values), *shape)
