"""Objects of a label image against those of another: nuclei, cells. 0 is background, every other number an object.

Objects are matched by intersection over union (IoU). Above 0.5 an object can match one other at most, so that no
matching has to be searched for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medvision.core.errors import UsageError
from medvision.metrics.overlap import Counts, Floats, Labels, label_pairs

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""0.5, 0.55, ..., 0.95: the IoUs over which the mean average precision is taken."""


@dataclass(frozen=True, eq=False)
class InstanceOverlap:
    """Sizes in pixels of the reference's (n,) and the predicted (m,) objects, and the pairs that share pixels.

    `common[k]` pixels are of reference object `rows[k]` and of predicted object `columns[k]`, counted from 0 in the
    order of their labels; `iou[k]` is their intersection over union.
    """

    reference_sizes: Counts
    predicted_sizes: Counts
    rows: Counts
    columns: Counts
    common: Counts
    iou: Floats


@dataclass(frozen=True, slots=True)
class Matches:
    """Objects matched at one IoU: `tp` pairs, `fp` predicted objects and `fn` reference objects without a partner.

    `iou_sum` is that of the pairs. Matches of several images add up.
    """

    tp: int
    fp: int
    fn: int
    iou_sum: float

    def __add__(self, other: Matches) -> Matches:
        return Matches(
            self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.iou_sum + other.iou_sum
        )

    @property
    def precision(self) -> float:
        """TP / (TP + FP + FN), the average precision at one IoU of the 2018 Data Science Bowl; NaN without objects."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), the recognition quality; NaN without objects."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def segmentation_quality(self) -> float:
        """Mean IoU of the pairs; NaN without any."""
        return _ratio(self.iou_sum, self.tp)

    @property
    def panoptic_quality(self) -> float:
        """Sum of the pairs' IoU / (TP + FP / 2 + FN / 2) (Kirillov et al. 2019); NaN without objects."""
        return _ratio(2 * self.iou_sum, 2 * self.tp + self.fp + self.fn)


def instance_overlap(reference: Labels, predicted: Labels) -> InstanceOverlap:
    """How the objects of two label images of one shape, 2-D or 3-D, overlap.

    Raises:
        UsageError: if the shapes differ.
    """
    pairs = label_pairs(reference, predicted)
    sizes = np.bincount(pairs.rows, pairs.counts, len(pairs.reference)).astype(np.int64)
    others = np.bincount(pairs.columns, pairs.counts, len(pairs.predicted)).astype(np.int64)
    known, given = pairs.reference != 0, pairs.predicted != 0
    both = known[pairs.rows] & given[pairs.columns]
    rows, columns, common = pairs.rows[both], pairs.columns[both], pairs.counts[both]
    union = sizes[rows] + others[columns] - common
    place, other_place = np.cumsum(known) - 1, np.cumsum(given) - 1
    return InstanceOverlap(
        sizes[known], others[given], place[rows], other_place[columns], common, common / union
    )


def match(overlap: InstanceOverlap, threshold: float = 0.5) -> Matches:
    """Pairs of an IoU above `threshold`, and what is left.

    Raises:
        UsageError: if the threshold is below 0.5, where an object may have several partners, or not below 1.

    >>> reference, predicted = np.array([1, 1, 1, 0, 2, 2]), np.array([1, 1, 0, 0, 0, 2])
    >>> match(instance_overlap(reference, predicted))
    Matches(tp=1, fp=1, fn=1, iou_sum=0.6666666666666666)
    """
    if not 0.5 <= threshold < 1:
        raise UsageError(f"objects are matched above an IoU of 0.5 to under 1; got {threshold:g}")
    found = overlap.iou > threshold
    tp = int(np.count_nonzero(found))
    fp, fn = len(overlap.predicted_sizes) - tp, len(overlap.reference_sizes) - tp
    return Matches(tp, fp, fn, float(overlap.iou[found].sum()))


def aggregated_jaccard(overlap: InstanceOverlap) -> float:
    """Aggregated Jaccard index (AJI, Kumar et al. 2017), in [0, 1]; NaN without objects.

    Each reference object takes the predicted one of the highest IoU, which several may take; their intersections are
    summed above the line and their unions below it. Objects without any are added below, as are predicted objects that
    nobody took.
    """
    above, below = aggregated_jaccard_sums(overlap)
    return _ratio(above, below)


def aggregated_jaccard_sums(overlap: InstanceOverlap) -> tuple[int, int]:
    """What `aggregated_jaccard` has above and below its line, in pixels: these add up over images."""
    # The last pair of each row in this order is its best; of equal ones that with the lower label.
    order = np.lexsort((-overlap.columns, overlap.iou, overlap.rows))
    rows = overlap.rows[order]
    best = order[np.append(np.flatnonzero(np.diff(rows)), len(rows) - 1)] if len(rows) else order
    columns, common = overlap.columns[best], overlap.common[best]
    unions = overlap.reference_sizes.copy()
    unions[overlap.rows[best]] += overlap.predicted_sizes[columns] - common
    left = np.ones(len(overlap.predicted_sizes), dtype=bool)
    left[columns] = False
    return int(common.sum()), int(unions.sum() + overlap.predicted_sizes[left].sum())


def tracking_jaccards(overlap: InstanceOverlap) -> Floats:
    """Of each reference object (n,), its Jaccard index in the SEG measure of the Cell Tracking Challenge.

    It is that with the predicted object which covers more than half of it, and 0 if none does (Maška et al. 2014). SEG
    is the mean over the reference objects of all images.
    """
    scores = np.zeros(len(overlap.reference_sizes))
    most = 2 * overlap.common > overlap.reference_sizes[overlap.rows]
    scores[overlap.rows[most]] = overlap.iou[most]
    return scores


def parts_of(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """A mask's connected parts as objects from 1: pixels that touch at a side or a corner are of one part."""
    labels, _ = ndimage.label(mask, structure=ndimage.generate_binary_structure(mask.ndim, mask.ndim))
    return np.asarray(labels, dtype=np.int32)


def _ratio(above: float, below: float) -> float:
    return above / below if below else np.nan
