"""Overlap of masks and of label images: Dice, IoU, and the pixel scores of semantic segmentation.

Label images hold whole numbers and have any one shape: (rows, columns) or (planes, rows, columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.metrics.agreement import confusion_counts

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Labels = npt.NDArray[np.integer]


def dice(prediction: npt.ArrayLike, reference: npt.ArrayLike, empty: float = 1.0) -> float:
    """Dice coefficient 2 |P and R| / (|P| + |R|) of two masks of any one shape, in [0, 1] (Dice 1945).

    `empty` is the value where both masks are empty: 1 (they agree) unless a protocol says otherwise.

    Raises:
        UsageError: if the shapes differ.

    >>> dice([1, 1, 0, 0], [1, 0, 0, 0])
    0.6666666666666666
    """
    common, p, r = _counts(prediction, reference)
    return 2 * common / (p + r) if p + r else empty


def iou(prediction: npt.ArrayLike, reference: npt.ArrayLike, empty: float = 1.0) -> float:
    """Intersection over union |P and R| / |P or R|, in [0, 1] (Jaccard 1901); `empty` and errors as `dice`.

    >>> iou([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    """
    common, p, r = _counts(prediction, reference)
    return common / (p + r - common) if p + r else empty


@dataclass(frozen=True, eq=False)
class PixelScores:
    """Scores of a confusion table, as Long et al. 2015 define them ("Fully convolutional networks").

    With n_ij pixels of class i that were called j, and t_i = sum_j n_ij:

    - `pixel_accuracy`: sum_i n_ii / sum_i t_i
    - `mean_accuracy`: mean over classes of n_ii / t_i
    - `mean_iu`: mean over classes of n_ii / (t_i + sum_j n_ji - n_ii)
    - `frequency_weighted_iu`: sum_i t_i IU_i / sum_i t_i

    `accuracy`, `iu` and `dice` are those of each class, (classes,). A class without a reference pixel has no accuracy,
    and one without any pixel on either side no IU and no Dice: NaN, left out of the means. All is NaN without pixels.
    """

    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    accuracy: Floats
    iu: Floats
    dice: Floats


def pixel_scores(table: npt.NDArray[np.integer]) -> PixelScores:
    """The scores of a confusion table (classes, classes): row by the reference, column by the prediction.

    >>> round(pixel_scores(np.array([[3, 1], [0, 4]])).mean_iu, 3)
    0.775
    """
    counts = np.asarray(table, dtype=np.float64)
    right, truth, called = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    accuracy, each = _ratio(right, truth), _ratio(right, truth + called - right)
    total = truth.sum()
    return PixelScores(
        pixel_accuracy=float(right.sum() / total) if total else np.nan,
        mean_accuracy=float(nan_mean(accuracy)),
        mean_iu=float(nan_mean(each)),
        frequency_weighted_iu=float(np.nansum(truth * each) / total) if total else np.nan,
        accuracy=accuracy,
        iu=each,
        dice=_ratio(2 * right, truth + called),
    )


def label_confusion(
    reference: Labels,
    predicted: Labels,
    labels: Sequence[int],
    counted: npt.NDArray[np.bool_] | None = None,
) -> Counts:
    """Confusion table (labels, labels) of two label images: row by the reference, column by the prediction.

    Args:
        reference: any shape.
        predicted: of the same shape.
        labels: the distinct labels, in the order of the table.
        counted: of the same shape, where pixels count; all do if not given.

    Raises:
        UsageError: if shapes differ, or a counted pixel holds none of `labels`.
    """
    _same_shape(reference, predicted)
    chosen = (...,) if counted is None else (counted,)
    known = np.asarray(labels)
    order = np.argsort(known)
    places = []
    for image in (reference, predicted):
        values = np.asarray(image)[chosen].ravel()
        at = np.searchsorted(known, values, sorter=order)
        found = order[np.minimum(at, len(known) - 1)]
        if (strange := known[found] != values).any():
            raise UsageError(
                f"labels {sorted(set(values[strange].tolist()))[:5]} are none of {list(map(int, labels))[:20]}"
            )
        places.append(found)
    return confusion_counts(places[0], places[1], (len(known), len(known)))


@dataclass(frozen=True, eq=False)
class LabelPairs:
    """How often each label of one image lies on each of another: `counts[k]` pixels hold `reference[rows[k]]` in one
    and `predicted[columns[k]]` in the other. Labels rise; pairs that never occur are not listed.
    """

    reference: Counts
    predicted: Counts
    rows: Counts
    columns: Counts
    counts: Counts


def label_pairs(reference: Labels, predicted: Labels) -> LabelPairs:
    """The pairs of labels of two label images of one shape, 0 being a label like any other.

    Raises:
        UsageError: if the shapes differ.
    """
    _same_shape(reference, predicted)
    known, row = np.unique(np.asarray(reference).ravel(), return_inverse=True)
    given, column = np.unique(np.asarray(predicted).ravel(), return_inverse=True)
    codes, counts = np.unique(row * len(given) + column, return_counts=True)
    rows, columns = np.divmod(codes, max(len(given), 1))
    return LabelPairs(known.astype(np.int64), given.astype(np.int64), rows, columns, counts.astype(np.int64))


def nan_mean(values: npt.NDArray[np.floating], axis: int | None = None) -> Floats:
    """Mean of the values that are not NaN, without a warning where there are none: NaN then."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis))


def _ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Floats:
    """`above / below`, NaN where `below` is 0."""
    numerator, denominator = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    out: Floats = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def _same_shape(reference: npt.NDArray[np.generic], predicted: npt.NDArray[np.generic]) -> None:
    if np.shape(reference) != np.shape(predicted):
        raise UsageError(f"labels of shapes {np.shape(predicted)} and {np.shape(reference)} cannot overlap")


def _counts(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> tuple[int, int, int]:
    p, r = np.asarray(prediction, dtype=bool), np.asarray(reference, dtype=bool)
    if p.shape != r.shape:
        raise UsageError(f"masks of shapes {p.shape} and {r.shape} cannot overlap")
    return int(np.count_nonzero(p & r)), int(np.count_nonzero(p)), int(np.count_nonzero(r))
