"""Cells parted by thin membranes, as electron micrographs show them: Rand, information and warping scores.

What counts is whether the cells are parted rightly, not where exactly a membrane runs. Masks are 2-D and true in
cells. Cells are 4-connected and membranes 8-connected; what lies beyond the image counts as membrane.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medvision.core.errors import UsageError
from medvision.metrics.overlap import Floats, Labels, label_pairs

Cells = npt.NDArray[np.bool_]
# Neighbours of a pixel, as (row, column) steps; a neighbour's place is its bit in a pattern.
_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True, slots=True)
class PartitionScores:
    """How well predicted segments part the pixels that the reference assigns to a cell (foreground-restricted).

    With p_ij the share of pixels in reference segment i and predicted segment j, t_i and s_j the sums of its rows and
    columns (Arganda-Carreras et al. 2015):

    - `v_rand_split` sum p_ij^2 / sum t_i^2, `v_rand_merge` sum p_ij^2 / sum s_j^2, `v_rand` their F-score;
    - `v_info_split` I / H(S), `v_info_merge` I / H(T), `v_info` 2 I / (H(S) + H(T)), I the mutual information;
    - `rand_error` 1 - F-score of the same sums over pairs of two different pixels: ISBI 2012's Rand error, also called
      the adapted Rand error;
    - `rand_index_error` share of all such pairs on which the two partitions disagree (Rand 1971).

    Scores are in [0, 1]; for `v_*` 1 is best, for errors 0. Where both know one segment only, the information scores
    are 1. All are NaN where the reference has no cell.
    """

    rand_index_error: float
    rand_error: float
    v_rand: float
    v_rand_split: float
    v_rand_merge: float
    v_info: float
    v_info_split: float
    v_info_merge: float


def segments(cells: Cells) -> npt.NDArray[np.int32]:
    """The 4-connected parts of a mask (rows, columns) of cells, numbered from 1; membranes are 0."""
    labels, _ = ndimage.label(_plane(cells))
    return np.asarray(labels, dtype=np.int32)


def thinned(labels: Labels) -> Labels:
    """Segments grown over the membranes until they meet: each pixel of 0 takes the label of the nearest segment.

    Predicted membranes are thicker than drawn ones, and pixels that are lost to them would count as errors.
    """
    if not labels.any() or labels.all():
        return labels
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return np.asarray(labels[tuple(nearest)])


def partition_scores(reference: Labels, predicted: Labels) -> PartitionScores:
    """Compare two partitions, label images of one shape in which 0 is membrane.

    Pixels that are 0 in the reference do not count. Each that is 0 in the prediction alone is a segment by itself.

    Raises:
        UsageError: if the shapes differ.
    """
    if reference.shape != predicted.shape:
        raise UsageError(f"segments of shapes {predicted.shape} and {reference.shape} cannot be compared")
    inside = reference != 0
    pixels = int(np.count_nonzero(inside))
    if not pixels:
        return PartitionScores(*[np.nan] * 8)
    pairs = label_pairs(reference[inside], predicted[inside])
    t = np.bincount(pairs.rows, pairs.counts, len(pairs.reference)).astype(np.float64)
    alone = pairs.predicted[pairs.columns] == 0
    singles = float(pairs.counts[alone].sum())
    both = pairs.counts[~alone].astype(np.float64)
    s = np.bincount(pairs.columns[~alone], both, len(pairs.predicted)).astype(np.float64)
    squares = [float((part**2).sum()) for part in (both, t, s)]
    squares[0] += singles
    squares[2] += singles
    pp, tt, ss = squares
    # Of pairs of different pixels: n (n - 1) instead of n^2; singletons then have none.
    same, same_t, same_s = (value - pixels for value in squares)
    all_pairs = pixels * (pixels - 1)
    h_t, h_s, h_both = (
        _entropy(parts, pixels, ones) for parts, ones in ((t, 0.0), (s, singles), (both, singles))
    )
    information = max(0.0, h_t + h_s - h_both)
    return PartitionScores(
        rand_index_error=(same_t + same_s - 2 * same) / all_pairs if all_pairs else 0.0,
        rand_error=1 - 2 * same / (same_t + same_s) if same_t + same_s else 0.0,
        v_rand=2 * pp / (tt + ss),
        v_rand_split=pp / tt,
        v_rand_merge=pp / ss,
        v_info=_or_one(2 * information, h_s + h_t),
        v_info_split=_or_one(information, h_s),
        v_info_merge=_or_one(information, h_t),
    )


def warped(reference: Cells, target: Cells) -> Cells:
    """`reference` brought as near to `target` as it comes without a change of its topology (Jain et al. 2010).

    Pixels in which the two differ are flipped as long as one of them is simple: that is, as flipping it neither joins,
    parts, makes nor loses a cell or a membrane. Pixels of one parity of row and column are flipped at once, as they
    are no neighbours. As in the authors' own descent only pixels that are wrong are flipped, so that the least number
    possible may be lower: a membrane that is moved farther than it is thick is not reached.

    Raises:
        UsageError: if the shapes differ or are not (rows, columns).
    """
    if reference.shape != target.shape:
        raise UsageError(f"masks of shapes {target.shape} and {reference.shape} cannot be warped")
    now, goal = np.pad(_plane(reference), 1), np.pad(_plane(target), 1)
    width = now.shape[1]
    flat, wanted, simple = now.ravel(), goal.ravel(), _simple()
    steps = np.array([row * width + column for row, column in _AROUND])
    left = np.flatnonzero(flat != wanted)
    while True:
        before = len(left)
        for parity in range(4):
            here = left[(left // width % 2 * 2 + left % width % 2) == parity]
            patterns = (flat[here[:, None] + steps] << np.arange(8)).sum(axis=1)
            flips = here[simple[patterns]]
            flat[flips] = wanted[flips]
        left = left[flat[left] != wanted[left]]
        if len(left) == before:
            return now[1:-1, 1:-1].copy()


def warping_error(reference: Cells, predicted: Cells) -> float:
    """Share of pixels in which the prediction differs from the reference warped to it; in [0, 1], 0 is best.

    Raises:
        UsageError: as `warped`.
    """
    return float(np.mean(warped(reference, predicted) != np.asarray(predicted, dtype=bool)))


@cache
def _simple() -> Cells:
    """For each pattern of the 8 neighbours, bit set where one is a cell: whether the pixel between them is simple.

    It is where just one 4-connected part of the cells around touches it at a side, and the membranes around are one
    8-connected part (Bertrand and Malandain 1994), whatever the pixel itself is.
    """
    table = np.zeros(256, dtype=bool)
    for pattern in range(256):
        around = np.zeros((3, 3), dtype=bool)
        for bit, (row, column) in enumerate(_AROUND):
            around[1 + row, 1 + column] = pattern >> bit & 1
        outside = ~around
        outside[1, 1] = False
        parts, _ = ndimage.label(around)
        touching = {int(parts[1 + r, 1 + c]) for r, c in _AROUND if r == 0 or c == 0} - {0}
        membranes = ndimage.label(outside, structure=np.ones((3, 3)))[1]
        table[pattern] = len(touching) == 1 and membranes == 1
    return table


def _entropy(sizes: Floats, pixels: int, singles: float) -> float:
    """In bits, of segments of these sizes in pixels and of `singles` further ones of one pixel each."""
    p = sizes[sizes > 0] / pixels
    return float(-(p * np.log2(p)).sum() + singles / pixels * np.log2(pixels))


def _or_one(above: float, below: float) -> float:
    return min(1.0, above / below) if below > 1e-12 else 1.0


def _plane(mask: npt.NDArray[np.generic]) -> Cells:
    if mask.ndim != 2:
        raise UsageError(f"a mask of cells is (rows, columns); got {mask.shape}")
    return mask.astype(bool)
