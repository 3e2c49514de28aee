"""Images of any size as the square input of a classifier, and maps of that square over the images again."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

Resize = Literal["squash", "crop", "pad"]
"""How an oblong image becomes a square: stretched, its middle cut out, or set on black."""


def fit_square(pixels: Pixels, side: int, how: Resize = "squash") -> Pixels:
    """RGB uint8 `(side, side, 3)` from grey `(rows, columns)` or RGB `(rows, columns, 3)`.

    Shrinking averages over areas, as fine texture else turns into patterns that were never there; enlarging is
    bilinear.
    """
    rows, columns = pixels.shape[:2]
    if how == "crop":
        short = min(rows, columns)
        top, left = (rows - short) // 2, (columns - short) // 2
        pixels = pixels[top : top + short, left : left + short]
    elif how == "pad" and rows != columns:
        extra = abs(rows - columns)
        first, last = extra // 2, extra - extra // 2
        up, down, left, right = (first, last, 0, 0) if rows < columns else (0, 0, first, last)
        pixels = np.asarray(
            cv2.copyMakeBorder(pixels, up, down, left, right, cv2.BORDER_CONSTANT, value=0), np.uint8
        )
    rows, columns = pixels.shape[:2]
    if (rows, columns) != (side, side):
        way = cv2.INTER_AREA if min(rows, columns) > side else cv2.INTER_LINEAR
        pixels = np.asarray(
            cv2.resize(np.ascontiguousarray(pixels), (side, side), interpolation=way), np.uint8
        )
    return np.ascontiguousarray(np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels)


def over_image(
    values: npt.NDArray[np.float32], shape: tuple[int, int], how: Resize = "squash"
) -> npt.NDArray[np.float32]:
    """A map of the square that `fit_square` made, laid over an image of `shape` (rows, columns) again.

    `values` float32 `(n, m)` cover the square evenly; between them is interpolated linearly. What the square did not
    show (with "crop") is NaN.
    """
    rows, columns = shape
    enlarged = values.astype(np.float32)
    if how == "crop":
        short = min(rows, columns)
        placed = np.full(shape, np.nan, np.float32)
        top, left = (rows - short) // 2, (columns - short) // 2
        placed[top : top + short, left : left + short] = _resized(enlarged, (short, short))
        return placed
    if how == "pad":
        long = max(rows, columns)
        top, left = (long - rows) // 2, (long - columns) // 2
        return _resized(enlarged, (long, long))[top : top + rows, left : left + columns]
    return _resized(enlarged, shape)


def _resized(values: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
