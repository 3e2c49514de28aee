"""Agreement of two gradings over an ordered list of classes: confusion table and weighted kappa."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError


def confusion(
    reference: Sequence[str], predicted: Sequence[str], classes: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Counts (classes, classes): row by the reference's class, column by the predicted one.

    Raises:
        UsageError: if the lengths differ or a label is none of `classes`.
    """
    if len(reference) != len(predicted):
        raise UsageError(f"{len(reference)} reference labels for {len(predicted)} predicted ones")
    index = {name: i for i, name in enumerate(classes)}
    if strangers := sorted({*reference, *predicted} - index.keys()):
        raise UsageError(f"unknown classes {', '.join(strangers)}; known: {', '.join(classes)}")
    rows = np.array([index[name] for name in reference], dtype=np.int64)
    columns = np.array([index[name] for name in predicted], dtype=np.int64)
    return confusion_counts(rows, columns, (len(classes), len(classes)))


def confusion_counts(
    reference: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], shape: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """Counts of `shape` (rows, columns) of places (n,): row by the reference, column by what was predicted.

    There may be more columns than rows, for answers that are no class, such as "undecided".
    """
    places = np.ravel_multi_index((reference, predicted), shape)
    return np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)


def quadratic_kappa(table: npt.NDArray[np.integer]) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968) of a confusion table (classes, classes).

    kappa = 1 - sum(w observed) / sum(w expected), with w = (i - j)^2 and `expected` the product of the margins over the
    number of cases. 1 is full agreement, 0 what chance gives, below 0 worse than chance.

    Raises:
        UsageError: if the table is empty, or both gradings know one and the same class only, where kappa is 0 / 0.

    >>> quadratic_kappa(np.array([[2, 0], [1, 1]]))
    0.5
    """
    counts = np.asarray(table, dtype=np.float64)
    total = counts.sum()
    if total == 0:
        raise UsageError("kappa needs at least one case")
    places = np.arange(len(counts))
    weights = (places[:, None] - places) ** 2
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / total
    disagreement = float((weights * expected).sum())
    if disagreement == 0:
        raise UsageError(f"kappa is undefined: all {total:.0f} cases are of one class in both gradings")
    return 1 - float((weights * counts).sum()) / disagreement
