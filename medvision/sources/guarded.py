"""Untrusted slides: `open_guarded` is `open_source` with all that touches the file in a process of its own.

That process has limits of memory and time, cannot write files, and may die. What it dies of is an error here, with the
file's name and the reason; the other windows stay readable.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medvision.core.errors import UsageError, WindowUnreadableError
from medvision.core.geometry import Box
from medvision.sources.base import Pixels, Source, Values
from medvision.sources.faults import MAX_SIDE
from medvision.sources.guarded_child import AHEAD, DECODE, MOST_WINDOWS, READ, SHRINK, SHRINKS, packed
from medvision.sources.guarded_keeper import Keeper, Place
from medvision.sources.guarded_process import Limits
from medvision.sources.spacing import supplied, volume_spacing_refused
from medvision.sources.volume import Placed

_MOST_ROOM = 1 << 24
"""Bytes of pixels that one request for several windows may ask for."""

__all__ = ["GuardedSource", "Limits", "open_guarded"]


def open_guarded(
    path: str | Path, spacing_um: float | tuple[float, float] | None = None, limits: Limits | None = None
) -> Source:
    """`open_source` in a process of its own, with `limits`. The same pixels, the same errors, and these besides.

    Only readers that are modules of `medvision.sources` take part, and only on Linux.

    Raises:
        UnreadableSourceError: also where two processes in a row died, took too long or wanted too much memory over the
            file. Its reads raise `WindowUnreadableError` for the same reasons.
        SourceTooLargeError: as `open_source`.
        UsageError: if `spacing_um` is not positive, or the system is not Linux.
    """
    if not hasattr(os, "memfd_create"):
        raise UsageError("reading in a guarded process needs Linux; open the slide without it")
    path = Path(path)
    given = None if spacing_um is None else supplied(spacing_um)
    keeper = Keeper(path, limits or Limits())
    if keeper.facts.volume is not None:
        if given is not None:
            keeper.close()
            raise volume_spacing_refused(path, spacing_um)
        return GuardedVolume(path, keeper)
    source = (GuardedTiledSource if keeper.facts.tiles else GuardedSource)(path, keeper)
    if given is not None:
        source.spacing = given
    return source


class GuardedSource:
    """A source that is read in another process. See `Source` and `DirectSource`."""

    def __init__(self, path: Path, keeper: Keeper) -> None:
        found = keeper.facts
        self._keeper = keeper
        self._id: str | None = None
        self._asked: set[tuple[int, int, int]] = set()
        self.path = path
        self.axes, self.channels, self.fill = found.axes, found.channels, found.fill
        self.levels, self.spacing, self.metadata = found.levels, found.spacing, found.metadata
        self.reader, self.why, self.vendor = found.reader, found.why, found.vendor
        self.dtype = found.dtype

    @property
    def id(self) -> str:
        """SHA-256 of the content, made in the other process."""
        if self._id is None:
            self._id = self._keeper.digest()
        return self._id

    def read(self, box: Box, level: int = 0) -> Values:
        """See `Source.read`."""
        pixels = np.empty((*box.shape, self.channels), self.dtype)
        self.read_into(pixels, box, level)
        return pixels

    def read_into(self, out: Values, box: Box, level: int = 0) -> None:
        """See `DirectSource`."""
        self._fill(out, READ, box, level, 1)

    def read_many(
        self, out: Values, boxes: Sequence[Box], level: int, factor: int
    ) -> list[WindowUnreadableError | None]:
        """See `ManySource`. To ask the other process costs the same for one window as for several."""
        errors: list[WindowUnreadableError | None] = []
        size = max(1, min(MOST_WINDOWS, _MOST_ROOM * len(out) // max(1, out.nbytes)))
        what = READ if factor == 1 else SHRINK
        for first in range(0, len(boxes), size):
            errors += self._some(out[first : first + size], boxes[first : first + size], what, level, factor)
        return errors

    def _some(
        self, out: Values, boxes: Sequence[Box], what: int, level: int, factor: int
    ) -> list[WindowUnreadableError | None]:
        self._keeper.check_open()
        if len(boxes) > 1 and out.size:
            request = b"".join(packed(what, level, factor, box) for box in boxes)
            wrong = self._keeper.ask_once(lambda process: process.windows(request, out))
            if wrong is not None and all(isinstance(e, WindowUnreadableError) for e in wrong.values()):
                return [wrong.get(index) for index in range(len(boxes))]  # type: ignore[misc]
        errors: list[WindowUnreadableError | None] = []
        for box, pixels in zip(boxes, out, strict=True):  # one by one, to find the one that is to blame
            try:
                self._fill(pixels, what, box, level, factor)
                errors.append(None)
            except WindowUnreadableError as error:
                errors.append(error)
        return errors

    def fetch_ahead(self, box: Box, level: int = 0) -> None:
        """See `AheadSource`. Nothing comes of it where the reader cannot."""
        found = self._keeper.facts
        if not found.ahead:
            return
        rows, columns = found.tiles[level] if found.tiles else (MAX_SIDE, MAX_SIDE)
        inside = box.intersect(Box((0, 0), self.levels[level].shape))
        if 0 in inside.shape:
            return
        wanted = {
            (level, i, j)
            for i in range(inside.start[0] // rows, (inside.stop[0] - 1) // rows + 1)
            for j in range(inside.start[1] // columns, (inside.stop[1] - 1) // columns + 1)
        }
        if not wanted <= self._asked:  # a message costs as much as the reading of a small window
            self._asked |= wanted
            self._keeper.tell(packed(AHEAD, level, 1, box))

    def close(self) -> None:
        """End the process. Twice is allowed."""
        self._keeper.close()

    def _fill(self, out: Values, what: int, box: Box, level: int, factor: int) -> None:
        self._keeper.check_open()
        native = Box(tuple(n * factor for n in box.start), tuple(n * factor for n in box.stop))
        _ = self.levels[level]  # an index that is out of range is the caller's mistake, as with any reader
        if out.size:
            request = packed(what, level, factor, box)
            self._keeper.ask(lambda process: process.pixels(request, out), Place(native, level))


class GuardedVolume(Placed, GuardedSource):
    """A volume that is read in another process. See `VolumeSource`."""

    def __init__(self, path: Path, keeper: Keeper) -> None:
        found = keeper.facts.volume
        assert found is not None, "asked before"
        Placed.__init__(self, found.frame, keeper.facts.spacing)
        GuardedSource.__init__(self, path, keeper)
        self.quantity, self.notes = found.quantity, found.notes


class GuardedTiledSource(GuardedSource):
    """One whose reader decodes tiles. See `TiledSource`."""

    def tile_shape(self, level: int) -> tuple[int, int]:
        """See `TiledSource`."""
        return self._keeper.facts.tiles[level]

    def shrinks(self, level: int, factor: int) -> bool:
        """See `TiledSource`."""
        self._keeper.check_open()
        request = packed(SHRINKS, level, factor)
        place = Place(Box((0, 0), self.levels[level].shape), level)
        return bool(self._keeper.ask(lambda process: process.ask(request), place)[0])

    def shrunk_into(self, out: Pixels, box: Box, level: int, factor: int) -> None:
        """See `TiledSource`."""
        self._fill(out, SHRINK, box, level, factor)

    def decode(self, level: int, row: int, column: int) -> Pixels:
        """See `TiledSource`."""
        self._keeper.check_open()
        rows, columns = self.tile_shape(level)
        place = Place(Box.at((row * rows, column * columns), (rows, columns)), level)
        request = packed(DECODE, level, 1, Box((row, column), (row, column)))
        most = (rows, columns, self.channels)
        return self._keeper.ask(lambda process: process.tile(request, most), place)
