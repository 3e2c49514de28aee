"""The contract of a source: what a reader must offer so that everything else can use its format.

A reader is one small file: a class with these attributes, and a function registered in `READERS` that opens a path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from medvision.core.errors import WindowUnreadableError
from medvision.core.geometry import Box, Spacing
from medvision.core.registry import Registry
from medvision.core.world import WorldFrame

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]
"""What a source's `read` gives, of the source's `dtype`."""

UINT8 = np.dtype(np.uint8)
DTYPES = (UINT8, np.dtype(np.int16), np.dtype(np.float32))
"""What values a source may have: bytes of pictures and labels, Hounsfield units, and all else."""


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a source.

    `shape` in pixels, array order. `downsample` is the length of this level's pixel in level-0 pixels, per axis; it is
    what the file's geometry says, not a rounded power of two.
    """

    shape: tuple[int, ...]
    downsample: tuple[float, ...]


class Source(Protocol):
    """An image to analyse, opened. Reads are safe from several threads at once."""

    path: Path
    axes: str
    """Array order of the spatial axes: "yx" for slides and photographs, "zyx" for volumes, "tyx" for clips."""
    spacing: Spacing | None
    """Spacing of level 0, or None where neither the file nor a person gave one."""
    fill: int
    """Value of what lies outside the image or behind transparency: 255 for bright-field slides, -1000 (air) for CT."""
    reader: str
    """Name of the reader that opened it, and `why` that one was chosen, in words for a person."""
    why: str
    vendor: str
    metadata: Mapping[str, str]
    """Allow-listed facts of the acquisition. Never names, numbers, dates or labels that could identify a patient."""

    @property
    def channels(self) -> int:
        """Values of a pixel."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a value, one of `DTYPES`: uint8 for slides and pictures; see `VolumeSource` for volumes."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid, the largest level first."""

    @property
    def id(self) -> str:
        """SHA-256 of the content (of all files where a slide has several). Computed at first use, then kept."""

    def read(self, box: Box, level: int = 0) -> Values:
        """Pixels of `box`, given in pixels of `level`, as `(*box.shape, channels)` of `dtype`.

        The box may leave the image: what lies outside has the value `fill`, and so has what is transparent.

        Raises:
            WindowUnreadableError: if any part inside the image cannot be decoded. The reader has then already reopened
                the file and tried once more; other windows stay readable.
        """

    def close(self) -> None:
        """Release the file. Closing twice is allowed."""


class VolumeSource(Source, Protocol):
    """A volume: axes "zyx", one channel, one level, spacing in millimetres.

    Planes, rows and columns are those of `frame.letters` "SPL" as nearly as the file's grid allows without touching a
    voxel: planes go up, rows to the back, columns to the left. `dtype` is int16 where that holds every value that the
    file's type and scale can give, and for CT always; uint8 for unscaled bytes; else float32.
    """

    quantity: str
    """"HU" where values are Hounsfield units; empty where nothing says what they are."""
    notes: tuple[str, ...]
    """What was repaired or taken for granted when the file was opened, in sentences."""

    @property
    def frame(self) -> WorldFrame | None:
        """Where the voxels lie in the patient; None where the file states no spacing and nobody supplied one."""


class DirectSource(Protocol):
    """What a reader may offer beyond `Source`, so that pixels are written once, where they are wanted.

    It is recognised by its method.
    """

    def read_into(self, out: Pixels, box: Box, level: int = 0) -> None:
        """`read`, into `out`: uint8 `(*box.shape, channels)`, a view of a larger array or not. All of it is written."""


class ManySource(Protocol):
    """A reader to which it makes a difference to be asked for several windows at once. Recognised by its method."""

    def read_many(
        self, out: Pixels, boxes: Sequence[Box], level: int, factor: int
    ) -> list[WindowUnreadableError | None]:
        """`read_into`, or with a factor above 1 `shrunk_into`, for boxes of one shape: into `out[0]`, `out[1]`, ...

        For each, what `read` would raise, or None. What a window that cannot be read then holds is not said.
        """


class AheadSource(Protocol):
    """A reader that has the system fetch what will be read soon, so that a slow disk or network need not be waited for.

    It is recognised by its method.
    """

    def fetch_ahead(self, box: Box, level: int = 0) -> None:
        """Ask for the bytes under `box`, given in pixels of `level`; returns at once, and nothing may come of it."""


class TiledSource(DirectSource, Protocol):
    """A reader that decodes tiles: what reading can cost at best, and means over whole pixels made once per tile.

    It is recognised by its methods: `tile_shape` and `decode`, `shrinks` and `shrunk_into`.
    """

    def tile_shape(self, level: int) -> tuple[int, int]:
        """Rows and columns of the tiles in which `level` is stored; tile (0, 0) begins at pixel (0, 0)."""

    def decode(self, level: int, row: int, column: int) -> Pixels:
        """Fetch and decode one tile, past every cache; uint8 `(rows, columns, channels)`. It may exceed the image."""

    def shrinks(self, level: int, factor: int) -> bool:
        """Whether `shrunk_into` can be asked for this level and factor."""

    def shrunk_into(self, out: Pixels, box: Box, level: int, factor: int) -> None:
        """Means of `factor` x `factor` whole pixels of `level`, into `out` of the shape of `box`.

        `box` counts in such blocks. The values are those of `medvision.sources.shrink` on what `read` gives.
        """


Opener = Callable[[Path], Source]
"""Opens a path, or raises `UnreadableSourceError`. Registered openers are tried by `medvision.sources.open_source`."""

READERS: Registry[Opener] = Registry("reader")

VOLUMES: Registry[Opener] = Registry("volume reader")
"""The same for volumes, whose openers give a `VolumeSource`. They know their kinds at once, and are asked first."""
