"""Overlap of two masks, with a defined value where both are empty."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError


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


def _counts(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> tuple[int, int, int]:
    p, r = np.asarray(prediction, dtype=bool), np.asarray(reference, dtype=bool)
    if p.shape != r.shape:
        raise UsageError(f"masks of shapes {p.shape} and {r.shape} cannot overlap")
    return int(np.count_nonzero(p & r)), int(np.count_nonzero(p)), int(np.count_nonzero(r))
