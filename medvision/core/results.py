"""What an analysis yields, whatever made it: a raster, a table, found objects."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from medvision.core.geometry import Spacing

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Raster:
    """Values on a regular grid over a source.

    `values` has shape `(rows, columns, channels)` (or one more leading axis for volumes), float32. A cell that was not
    read, or was left out because it holds no tissue, is NaN in every channel, never 0. `spacing` is the size of a cell;
    `offset` the physical position of the grid's corner from the source's corner, in the spacing's unit. `extent` is the
    physical size of what the grid covers, which may end inside the last row or column of cells.
    """

    values: FloatArray
    spacing: Spacing
    channels: tuple[str, ...]
    offset: tuple[float, ...] = (0.0, 0.0)
    extent: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.values.shape[-1] != len(self.channels):
            raise ValueError(f"{len(self.channels)} channels named for values of shape {self.values.shape}")

    @property
    def coverage(self) -> npt.NDArray[np.bool_]:
        """True where the cell holds values."""
        return np.logical_not(np.isnan(self.values).any(axis=-1))

    def channel(self, name: str) -> FloatArray:
        """Values of one channel, without the channel axis."""
        if name not in self.channels:
            raise ValueError(f"no channel {name!r}; known: {', '.join(self.channels)}")
        return self.values[..., self.channels.index(name)]


@dataclass(frozen=True, eq=False)
class Table:
    """One row per window: `index` of the window in its plan, its core's level-0 box, and named float columns."""

    index: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int64]
    columns: dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Found:
    """Objects found in a source: `boxes` (n, 2, axes) start and stop in plan pixels as floats, `scores`, `labels`."""

    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    extra: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """A figure of merit with its 95% interval (None where it was not estimated) and the protocol that defines it."""

    name: str
    value: float
    interval: tuple[float, float] | None
    protocol: str
    cases: int
