"""Images of any size as the square input of a classifier."""

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
