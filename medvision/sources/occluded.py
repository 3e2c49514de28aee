"""One image with a square of it hidden, at many places: each copy is a window of one source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medvision.core.geometry import Box, Spacing
from medvision.sources.base import UINT8, Level, Pixels


@dataclass(eq=False)
class OccludedSource:
    """Copies of `image` uint8 `(side, side, channels)`, one below the other, each with a square of `colour` in it.

    Copy k covers the rows from `k * side`; its square of `square` pixels begins at `places[k]` (row, column). A copy is
    made when it is read. Only whole copies can be read: see `boxes`.
    """

    image: Pixels
    square: int
    colour: tuple[int, ...]
    places: tuple[tuple[int, int], ...]
    axes: str = "yx"
    spacing: Spacing | None = None
    fill: int = 0
    path: Path = Path("<occluded>")
    metadata: Mapping[str, str] = field(default_factory=dict)
    reader: str = "occluded"
    why: str = "copies of an image with a square hidden"
    vendor: str = "array"
    dtype: np.dtype[Any] = UINT8

    @property
    def channels(self) -> int:
        """Of the image."""
        return int(self.image.shape[-1])

    @property
    def levels(self) -> tuple[Level, ...]:
        """All copies below each other."""
        rows, columns = self.image.shape[:2]
        return (Level((rows * len(self.places), columns), (1.0, 1.0)),)

    @cached_property
    def id(self) -> str:
        """SHA-256 of the image and of what hides it."""
        head = f"{self.image.shape} {self.square} {self.colour} {self.places}\n".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.image).tobytes()).hexdigest()

    @property
    def boxes(self) -> list[Box]:
        """The box of each copy, in the order of `places`."""
        rows, columns = self.image.shape[:2]
        return [Box.at((rows * k, 0), (rows, columns)) for k in range(len(self.places))]

    def read(self, box: Box, level: int = 0) -> Pixels:
        """The copy that `box` covers.

        Raises:
            ValueError: for a box that is not one of `boxes`.
        """
        rows, columns = self.image.shape[:2]
        number, rest = divmod(box.start[0], rows)
        known = level == 0 and rest == 0 and 0 <= number < len(self.places)
        if not known or box != Box.at((rows * number, 0), (rows, columns)):
            raise ValueError(f"{box} at level {level} is not one of the {len(self.places)} copies")
        row, column = self.places[number]
        pixels = self.image.copy()
        pixels[row : row + self.square, column : column + self.square] = self.colour
        return pixels

    def close(self) -> None:
        """Nothing to release."""
