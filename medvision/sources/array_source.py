"""An array in memory as a source: for pictures made by a program, for crops, and wherever a file would be a detour."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medvision.core.geometry import Box, Spacing
from medvision.sources.base import DTYPES, UINT8, Level, Values


@dataclass(eq=False)
class ArraySource:
    """`array` `(*shape, channels)` of uint8, int16 or float32, one level."""

    array: Values
    axes: str = "yx"
    spacing: Spacing | None = None
    fill: int = 255
    path: Path = Path("<array>")
    metadata: Mapping[str, str] = field(default_factory=dict)
    reader: str = "array"
    why: str = "given as an array"
    vendor: str = "array"

    def __post_init__(self) -> None:
        if self.array.dtype not in DTYPES or self.array.ndim != len(self.axes) + 1:
            raise ValueError(
                f"axes {self.axes!r} want an array of uint8, int16 or float32 with one more axis, "
                f"got {self.array.dtype} {self.array.shape}"
            )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the array."""
        return self.array.dtype

    @property
    def channels(self) -> int:
        """Size of the last axis."""
        return int(self.array.shape[-1])

    @property
    def levels(self) -> tuple[Level, ...]:
        """The array itself."""
        return (Level(self.array.shape[:-1], (1.0,) * len(self.axes)),)

    @cached_property
    def id(self) -> str:
        """SHA-256 of shape and values."""
        kind = "" if self.dtype == UINT8 else f" {self.dtype.name}"
        head = f"{self.axes} {self.array.shape}{kind}\n".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.array).tobytes()).hexdigest()

    def read(self, box: Box, level: int = 0) -> Values:
        """Pixels of `box`; `fill` outside the array."""
        if level != 0:
            raise ValueError(f"an array has level 0 only, not {level}")
        shape = self.array.shape[:-1]
        inside = box.intersect(Box((0,) * len(shape), shape))
        if inside == box:
            return self.array[box.slices()]
        pixels = np.full((*box.shape, self.channels), self.fill, self.dtype)
        if inside.size:
            pixels[inside.shift(tuple(-a for a in box.start)).slices()] = self.array[inside.slices()]
        return pixels

    def close(self) -> None:
        """Nothing to release."""
