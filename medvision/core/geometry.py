"""Boxes and physical spacing. Array order (row, column) or (plane, row, column) always; half-open; float64 inside.

A pixel `i` at spacing `s` covers the physical interval `[i*s, (i+1)*s)` from the source's origin, so its centre lies at
`(i + 0.5) * s`. `docs/coordinates.md` has the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Unit = Literal["um", "mm"]
"""Physical unit: micrometres for slides and photographs of them, millimetres for volumes."""

SpacingOrigin = Literal["file", "supplied"]


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box of pixels, `start <= index < stop` along each axis, in array order."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop):
            raise ValueError(f"box start {self.start} and stop {self.stop} differ in number of axes")
        if any(a > b for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"box start {self.start} lies beyond its stop {self.stop}")

    @classmethod
    def at(cls, start: tuple[int, ...], shape: tuple[int, ...]) -> Box:
        """The box of the given shape whose first pixel is `start`."""
        return cls(tuple(start), tuple(a + n for a, n in zip(start, shape, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of pixels along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of pixels in the box."""
        return math.prod(self.shape)

    def intersect(self, other: Box) -> Box:
        """The common part; of zero size where the boxes do not meet."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Box(start, tuple(max(a, b) for a, b in zip(start, stop, strict=True)))

    def shift(self, offset: tuple[int, ...]) -> Box:
        """The same box moved by `offset` pixels."""
        return Box(
            tuple(a + o for a, o in zip(self.start, offset, strict=True)),
            tuple(b + o for b, o in zip(self.stop, offset, strict=True)),
        )

    def slices(self) -> tuple[slice, ...]:
        """Index expression that cuts the box out of an array."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True, slots=True)
class Spacing:
    """Distance between pixel centres along each axis, in array order, with its unit.

    `origin` records whether the file stated it or a person supplied it.
    """

    values: tuple[float, ...]
    unit: Unit = "um"
    origin: SpacingOrigin = "file"

    def __post_init__(self) -> None:
        if not self.values or not all(math.isfinite(v) and v > 0 for v in self.values):
            raise ValueError(f"spacing {self.values} {self.unit} is not positive and finite")

    @property
    def mean(self) -> float:
        """Geometric mean over the axes; for a square pixel, its side."""
        return math.prod(self.values) ** (1 / len(self.values))

    def scaled(self, factors: tuple[float, ...]) -> Spacing:
        """Spacing of a grid whose pixels are `factors` times as long."""
        values = tuple(v * f for v, f in zip(self.values, factors, strict=True))
        return Spacing(values, self.unit, self.origin)

    def __str__(self) -> str:
        unit = "µm" if self.unit == "um" else "mm"
        distinct = sorted({round(v, 4) for v in self.values})
        return " × ".join(f"{v:g}" for v in (distinct if len(distinct) == 1 else self.values)) + f" {unit}/px"
