"""What a segmentation is, whatever made it: a label image, and the probabilities behind it where there are any.

A **label image** has the image's shape `(*shape)`, of two or three axes, in uint8 or int32; 0 is background. Its values
are classes, or, where a method tells objects apart, the numbers of objects from 1.

**Class probabilities** are float32 `(*shape, classes)` in 0..1, the background's first, and sum to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError

Labels = npt.NDArray[np.uint8] | npt.NDArray[np.int32]
Probabilities = npt.NDArray[np.float32]

_SUM_TOLERANCE = 1e-3
_UINT8_MOST = 255


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels, and the probabilities they are the most probable class of; None where no probabilities are known.

    With `objects`, the labels number objects and not classes.
    """

    labels: Labels
    probabilities: Probabilities | None = None
    objects: bool = False

    def __post_init__(self) -> None:
        as_labels(self.labels)
        if self.probabilities is not None:
            as_probabilities(self.probabilities, self.labels.shape)
            if self.objects:
                raise UsageError("probabilities are of classes: numbered objects have none")

    @classmethod
    def of(cls, probabilities: npt.NDArray[Any]) -> Segmentation:
        """The most probable class everywhere, of `(*shape, classes)`."""
        checked = as_probabilities(probabilities)
        return cls(most_probable(checked), checked)


def as_labels(values: npt.NDArray[Any], shape: tuple[int, ...] | None = None) -> Labels:
    """`values` as a label image: uint8 or int32 as they are; other whole types, and bool, the smaller that holds them.

    Args:
        values: of two or three axes, 0 or above.
        shape: which they must have.

    Raises:
        UsageError: for fractions, negative numbers, numbers beyond int32, or another shape.

    >>> as_labels(np.array([[True, False]])).dtype
    dtype('uint8')
    """
    if values.dtype != bool and not np.issubdtype(values.dtype, np.integer):
        raise UsageError(f"a label image holds whole numbers, not {values.dtype}")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise UsageError(f"a label image has two or three axes, none of them empty, not shape {values.shape}")
    if shape is not None and values.shape != shape:
        raise UsageError(f"labels of shape {values.shape} do not fit an image of shape {shape}")
    if values.dtype == np.uint8:
        return values
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > np.iinfo(np.int32).max:
        raise UsageError(f"labels from {least} to {most}: 0 is background and int32 the largest type")
    if values.dtype == np.int32:
        return values
    return values.astype(np.uint8) if most <= _UINT8_MOST else values.astype(np.int32)


def as_probabilities(values: npt.NDArray[Any], shape: tuple[int, ...] | None = None) -> Probabilities:
    """`values` as class probabilities in float32.

    Args:
        values: `(*shape, classes)` of two or three axes and at least two classes; they sum to 1 within 0.001.
        shape: without the classes, which they must have.

    Raises:
        UsageError: for another shape, a value outside 0..1 or NaN, or sums that are not 1.
    """
    if values.ndim not in (3, 4) or 0 in values.shape or values.shape[-1] < 2:
        raise UsageError(f"class probabilities have shape (*shape, two classes or more), not {values.shape}")
    if shape is not None and values.shape[:-1] != shape:
        raise UsageError(f"probabilities of shape {values.shape} do not fit an image of shape {shape}")
    found = values.astype(np.float32, copy=False)
    if not (np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1):
        raise UsageError("class probabilities must lie in 0..1, without NaN")
    off = float(np.abs(found.sum(axis=-1) - 1).max())
    if off > _SUM_TOLERANCE:
        raise UsageError(f"class probabilities must sum to 1 over the classes; one sum is off by {off:.3g}")
    return found


def most_probable(probabilities: Probabilities) -> Labels:
    """The most probable class of each pixel, the first of equal ones."""
    return as_labels(np.argmax(probabilities, axis=-1))


def certain_labels(labels: Labels, classes: int, certainty: float) -> Probabilities:
    """Class probabilities `(*shape, classes)` that give each pixel's class `certainty` and share the rest evenly.

    Raises:
        UsageError: for labels beyond `classes`, fewer than two classes, or a certainty outside 1/classes..1.
    """
    if classes < 2 or int(labels.max()) >= classes:
        raise UsageError(
            f"labels up to {int(labels.max())} need more than {classes} classes, and at least two"
        )
    if not 1 / classes <= certainty <= 1:
        raise UsageError(f"certainty {certainty:g} of {classes} classes must lie in {1 / classes:.3g}..1")
    table = np.full((classes, classes), (1 - certainty) / (classes - 1), np.float32)
    np.fill_diagonal(table, certainty)
    found: Probabilities = table[labels]
    return found
