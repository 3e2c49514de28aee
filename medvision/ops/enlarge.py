"""Maps on one grid read on another: linear between the centres of pixels, slab by slab."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_AT_ONCE = 1 << 24
"""Values of a slab, which bounds memory."""


def linear_slabs(
    values: Floats, shape: tuple[int, ...], step: tuple[float, ...]
) -> Iterator[tuple[int, Floats]]:
    """`values` `(channels, *grid)` at the centres of `shape` pixels, in slabs along the first axis with their start.

    Both grids begin at one corner; `step` is the side of a wanted pixel in pixels of `values`. Beyond the outermost
    centres values stay as they are there. Probabilities stay probabilities.
    """
    each = len(values) * int(np.prod(shape[1:])) or 1
    slab = max(1, _AT_ONCE // each)
    for start in range(0, shape[0], slab):
        stop = min(start + slab, shape[0])
        part: npt.NDArray[Any] = values
        # The first axis first: the rest is then done for what is wanted alone.
        for axis, (a, b, by) in enumerate(
            zip((start, *(0 for _ in shape[1:])), (stop, *shape[1:]), step, strict=True), start=1
        ):
            part = _along(part, axis, np.asarray((np.arange(a, b) + 0.5) * by - 0.5, np.float64))
        yield start, np.asarray(part, np.float32)


def _along(values: npt.NDArray[Any], axis: int, at: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    last = values.shape[axis] - 1
    at = np.clip(at, 0, last)
    low = np.floor(at).astype(np.int64)
    share = (at - low).astype(np.float32)
    first = np.take(values, low, axis=axis)
    if not share.any():
        return first
    shape = [1] * values.ndim
    shape[axis] = len(at)
    second = np.take(values, np.minimum(low + 1, last), axis=axis)
    return np.asarray(first + (second - first) * share.reshape(shape), np.float32)
