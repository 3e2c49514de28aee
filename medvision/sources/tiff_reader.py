"""TIFF slides and pictures: pyramidal or flat, BigTIFF, OME-TIFF, QPTIFF and Aperio SVS.

tifffile reads the tags; tiles are fetched with `os.pread` and decoded by `tiff_codec`, once each, through a cache
that all threads share. Whatever is not understood for certain is declined, so that OpenSlide may open it.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medvision.core.digest import digest_file
from medvision.core.errors import UnreadableSourceError
from medvision.core.geometry import Box, Spacing
from medvision.sources.base import READERS, UINT8, Level, Pixels
from medvision.sources.faults import DeclinedError, TileMissingError, declining, read_twice
from medvision.sources.levels import pyramid
from medvision.sources.shrink import shrink_into
from medvision.sources.tiff_codec import Empty, decode_tile, fresh, turned
from medvision.sources.tiff_tags import Page, parse
from medvision.sources.tile_cache import TileCache, cache_bytes
from medvision.sources.tile_memory import MEMORY

_CAN_ASK = hasattr(os, "posix_fadvise")  # not on macOS nor on Windows


@READERS.register("tiff")
def open_tiff(path: Path) -> TiffSource:
    """Open a TIFF whose encoding is understood for certain."""
    with declining(), path.open("rb") as stream:
        head = stream.read(132)
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or head[128:] == b"DICM":
        raise DeclinedError("not a TIFF file")  # a DICOM file may pose as a TIFF as well
    import tifffile

    with declining((tifffile.TiffFileError,)), tifffile.TiffFile(path) as tiff:
        layout = parse(tiff)
    source = TiffSource(
        path=path,
        pages=layout.pages,
        orientation=layout.orientation,
        spacing=layout.spacing,
        vendor=layout.vendor,
        metadata=layout.metadata,
        why=layout.why,
    )
    try:
        source.probe()
    except BaseException:
        source.close()
        raise
    return source


@dataclass(eq=False)
class TiffSource:
    """An open TIFF. `orientation` is the tag 274: levels and reads are of the picture as it is to be seen."""

    path: Path
    pages: tuple[Page, ...]
    orientation: int
    spacing: Spacing | None
    vendor: str
    metadata: Mapping[str, str]
    why: str
    axes: str = "yx"
    channels: int = 3
    fill: int = 255
    dtype: np.dtype[Any] = UINT8
    reader: str = "tiff"

    def __post_init__(self) -> None:
        self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._file)
        largest = max(3 * page.form.tile[0] * page.form.tile[1] for page in self.pages)
        self.cache = TileCache(cache_bytes(largest))
        shapes = [page.shape[::-1] if self.orientation >= 5 else page.shape for page in self.pages]
        self.levels: tuple[Level, ...] = pyramid(shapes)
        self._asked = [np.zeros(len(page.offsets), np.bool_) for page in self.pages]

    @cached_property
    def id(self) -> str:
        """SHA-256 of the file."""
        return digest_file(self.path)

    def read(self, box: Box, level: int = 0) -> Pixels:
        """Pixels of `box` in `level`; white outside the image. See `Source.read`."""
        pixels = np.empty((*box.shape, 3), np.uint8)
        self.read_into(pixels, box, level)
        return pixels

    def read_into(self, out: Pixels, box: Box, level: int = 0) -> None:
        """`read`, into `out`. See `DirectSource`."""
        if self.orientation == 1:
            self._copy(out, box, level, 1)
            return
        stored = _unturned(box, self.pages[level].shape, self.orientation)
        pixels = np.empty((*stored.shape, 3), np.uint8)
        self._copy(pixels, stored, level, 1)
        out[:] = turned(pixels, self.orientation)

    def shrinks(self, level: int, factor: int) -> bool:
        """Whether tiles of `level` hold whole blocks of `factor` x `factor` pixels. See `TiledSource`."""
        page = self.pages[level]
        rows, columns = page.form.tile
        return self.orientation == 1 and page.tiled and rows % factor == 0 and columns % factor == 0

    def shrunk_into(self, out: Pixels, box: Box, level: int, factor: int) -> None:
        """Means of whole pixels, each tile reduced once. See `TiledSource`."""
        self._copy(out, box, level, factor)

    def tile_shape(self, level: int) -> tuple[int, int]:
        """Rows and columns of a stored tile (a strip is one) of `level`."""
        return self.pages[level].form.tile

    def decode(self, level: int, row: int, column: int) -> Pixels:
        """Fetch and decode one stored tile, past the cache."""
        return self._decode(self.pages[level], row, column, fresh)

    def fetch_ahead(self, box: Box, level: int = 0) -> None:
        """Ask the system for the tiles under `box`, each once. See `AheadSource`."""
        if not _CAN_ASK or not self._close.alive:
            return
        page, asked = self.pages[level], self._asked[level]
        stored = box if self.orientation == 1 else _unturned(box, page.shape, self.orientation)
        inside = stored.intersect(Box((0, 0), page.shape))
        if 0 in inside.shape:
            return
        (rows, columns), count = page.form.tile, page.grid[0] * page.grid[1]
        for i in range(inside.start[0] // rows, (inside.stop[0] - 1) // rows + 1):
            for j in range(inside.start[1] // columns, (inside.stop[1] - 1) // columns + 1):
                for index in range(i * page.grid[1] + j, len(asked), count):  # one for each plane
                    if not asked[index]:
                        asked[index] = True
                        self._ask(int(page.offsets[index]), int(page.sizes[index]))

    def close(self) -> None:
        """Close the file and drop the tiles held."""
        self._close()
        self.cache.clear()

    def probe(self) -> None:
        """Decode one tile near the middle of each level; decline the file where that fails."""
        for index, page in enumerate(self.pages):
            tiles = page.grid[0] * page.grid[1]
            held = np.flatnonzero(page.sizes[:tiles])
            if not held.size:
                continue
            middle = (page.grid[0] // 2) * page.grid[1] + page.grid[1] // 2
            row, column = divmod(int(held[np.abs(held - middle).argmin()]), page.grid[1])
            try:
                with declining():
                    self._tile(index, row, column, 1)
            except DeclinedError as error:
                raise DeclinedError(
                    f"tile ({row}, {column}) of level {index}: {error}", recognised=True
                ) from error

    def _copy(self, out: Pixels, box: Box, level: int, factor: int) -> None:
        """Write stored pixels of `box` into `out`; with a `factor`, `box` counts in blocks of that many pixels."""
        if not self._close.alive:
            raise UnreadableSourceError(f"{self.path} is closed")
        page = self.pages[level]
        (start_row, start_column), (stop_row, stop_column) = box.start, box.stop
        top, left = max(start_row, 0), max(start_column, 0)
        bottom = min(stop_row, -(-page.shape[0] // factor))
        right = min(stop_column, -(-page.shape[1] // factor))
        if (top, left, bottom, right) != (start_row, start_column, stop_row, stop_column):
            out.fill(self.fill)
        if top >= bottom or left >= right:
            return
        rows, columns = page.form.tile[0] // factor, page.form.tile[1] // factor
        for i in range(top // rows, (bottom - 1) // rows + 1):
            y = i * rows
            y0, y1 = max(y, top), min(y + rows, bottom)
            for j in range(left // columns, (right - 1) // columns + 1):
                tile = self.cache.find((level, factor, i, j))
                if tile is None:
                    tile = self._tile_or_fault(level, i, j, factor, box)
                x = j * columns
                x0, x1 = max(x, left), min(x + columns, right)
                out[y0 - start_row : y1 - start_row, x0 - start_column : x1 - start_column] = tile[
                    y0 - y : y1 - y, x0 - x : x1 - x
                ]

    def _tile_or_fault(self, level: int, i: int, j: int, factor: int, box: Box) -> Pixels:
        def again() -> Pixels:
            self._reopen()
            return self._tile(level, i, j, factor)

        native = Box(
            (box.start[0] * factor, box.start[1] * factor), (box.stop[0] * factor, box.stop[1] * factor)
        )
        return read_twice(self.path, native, level, lambda: self._tile(level, i, j, factor), again)

    def _tile(self, level: int, i: int, j: int, factor: int) -> Pixels:
        page = self.pages[level]
        if factor == 1:
            return self.cache.get((level, 1, i, j), lambda: self._decode(page, i, j, MEMORY.empty))
        return self.cache.get((level, factor, i, j), lambda: self._shrunk(page, i, j, factor))

    def _shrunk(self, page: Page, i: int, j: int, factor: int) -> Pixels:
        tile = self._decode(
            page, i, j, fresh
        )  # gone at once, so that the next one finds it still in the CPU's cache
        rows, columns = (n - k * side for n, k, side in zip(page.shape, (i, j), page.form.tile, strict=True))
        if rows < tile.shape[0] or columns < tile.shape[1]:
            tile = tile.copy()  # what lies beyond the image is not what an encoder completed the tile with
            tile[max(rows, 0) :] = self.fill
            tile[:, max(columns, 0) :] = self.fill
        out = MEMORY.empty((tile.shape[0] // factor, tile.shape[1] // factor, 3))
        shrink_into(out, tile)
        return out

    def _decode(self, page: Page, i: int, j: int, empty: Empty) -> Pixels:
        form = page.form
        rows = form.tile[0] if page.tiled else min(form.tile[0], page.shape[0] - i * form.tile[0])
        first = i * page.grid[1] + j
        count = page.grid[0] * page.grid[1]
        planes = range(form.samples) if form.planar else range(1)
        return decode_tile(
            form, [self._segment(page, first + plane * count) for plane in planes], rows, empty
        )

    def _segment(self, page: Page, index: int) -> bytes:
        offset, size = int(page.offsets[index]), int(page.sizes[index])
        if size == 0 or offset == 0:
            # Some scanners leave such tiles where scanning failed. OpenSlide paints them transparent, so black.
            raise TileMissingError(f"tile {index} is empty (zero bytes)")
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise ValueError(f"tile {index} lies beyond the end of the file (truncated)")
        return data

    def _ask(self, offset: int, size: int) -> None:
        if size > 0:  # to the system, 0 would mean all that follows
            with contextlib.suppress(OSError):  # reading itself will say what is wrong
                os.posix_fadvise(self._file, offset, size, os.POSIX_FADV_WILLNEED)

    def _reopen(self) -> None:
        # dup2 swaps what the descriptor refers to in one step, so that other threads' reads never meet a closed one.
        fresh = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.dup2(fresh, self._file, inheritable=False)
        finally:
            os.close(fresh)


def _unturned(box: Box, stored: tuple[int, int], orientation: int) -> Box:
    """The box of the stored array that holds `box` of the picture as seen."""
    (r0, c0), (r1, c1) = box.start, box.stop
    if orientation >= 5:
        (r0, c0), (r1, c1) = (c0, r0), (c1, r1)
    if orientation in (3, 4, 6, 7):
        r0, r1 = stored[0] - r1, stored[0] - r0
    if orientation in (2, 3, 7, 8):
        c0, c1 = stored[1] - c1, stored[1] - c0
    return Box((r0, c0), (r1, c1))
