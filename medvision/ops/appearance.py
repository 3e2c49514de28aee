"""What an image looks like as a whole, in a few figures: size, brightness, colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

GREY_BELOW = 3.0
"""Mean difference between an image's channels, of 255, below which it has no colour: compression leaves as much."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """`shape` is (rows, columns), `brightness` the mean of all pixels, 0 to 1.

    `colour` is the mean over the pixels of the difference between the largest and the smallest channel, 0 to 255.
    """

    shape: tuple[int, int]
    brightness: float
    colour: float

    @property
    def grey(self) -> bool:
        """Whether it has no colour: one channel, or three that are the same but for compression."""
        return self.colour < GREY_BELOW

    @property
    def aspect(self) -> float:
        """Columns over rows."""
        return self.shape[1] / self.shape[0]


def appearance_of(pixels: npt.NDArray[np.uint8]) -> Appearance:
    """The figures of an image, uint8 grey `(rows, columns)` or RGB `(rows, columns, 3)`."""
    colour = 0.0
    if pixels.ndim == 3:
        colour = float(np.mean(pixels.max(axis=-1) - pixels.min(axis=-1)))
    rows, columns = pixels.shape[:2]
    return Appearance((rows, columns), float(pixels.mean()) / 255, colour)
