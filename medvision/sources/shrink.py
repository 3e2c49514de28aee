"""The mean of whole pixels: one function, so that a window and a tile are reduced to the same values."""

from __future__ import annotations

from medvision.sources.base import Pixels


def shrink_into(out: Pixels, pixels: Pixels) -> None:
    """Means of the blocks of `pixels` that make the shape of `out`, rounded to the nearest, halves up.

    The sides of `pixels` are whole multiples of those of `out`. Each value depends on its own block alone.
    """
    import cv2

    shape = out.shape[1::-1]
    made = cv2.resize(pixels, shape, dst=out, interpolation=cv2.INTER_AREA)
    if made is not out:  # a layout that OpenCV does not write to
        out[:] = made
