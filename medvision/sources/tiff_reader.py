"""TIFF slides and pictures: pyramidal or flat, BigTIFF, OME-TIFF, QPTIFF and Aperio SVS.

tifffile reads the tags; tiles are fetched with `os.pread` and decoded by `tiff_codec`, once each, through a cache
that all threads share. Whatever is not understood for certain is declined, so that OpenSlide may open it.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from medvision.core.digest import digest_file
from medvision.core.errors import UnreadableSourceError
from medvision.core.geometry import Box, Spacing
from medvision.sources.base import READERS, Level, Pixels
from medvision.sources.faults import DeclinedError, declining, read_twice
from medvision.sources.levels import pyramid
from medvision.sources.tiff_codec import decode_tile
from medvision.sources.tiff_tags import Page, parse
from medvision.sources.tile_cache import TileCache

# tifffile reports damaged tags through logging; what matters of it arrives as our errors.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


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
    reader: str = "tiff"
    cache: TileCache = field(default_factory=TileCache)

    def __post_init__(self) -> None:
        self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._file)
        shapes = [page.shape[::-1] if self.orientation >= 5 else page.shape for page in self.pages]
        self.levels: tuple[Level, ...] = pyramid(shapes)

    @cached_property
    def id(self) -> str:
        """SHA-256 of the file."""
        return digest_file(self.path)

    def read(self, box: Box, level: int = 0) -> Pixels:
        """Pixels of `box` in `level`; white outside the image. See `Source.read`."""
        page = self.pages[level]
        if self.orientation == 1:
            return self._read_stored(box, level)
        stored = _unturned(box, page.shape, self.orientation)
        return np.ascontiguousarray(_turned(self._read_stored(stored, level), self.orientation))

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
                    self._tile(index, row, column)
            except DeclinedError as error:
                raise DeclinedError(
                    f"tile ({row}, {column}) of level {index}: {error}", recognised=True
                ) from error

    def _read_stored(self, box: Box, level: int) -> Pixels:
        if not self._close.alive:
            raise UnreadableSourceError(f"{self.path} is closed")
        page = self.pages[level]
        inside = box.intersect(Box((0, 0), page.shape))
        pixels = np.empty((*box.shape, 3), np.uint8)
        if inside != box:
            pixels.fill(self.fill)
        if not inside.size:
            return pixels
        (top, left), (bottom, right) = inside.start, inside.stop
        rows, columns = page.form.tile
        for i in range(top // rows, (bottom - 1) // rows + 1):
            for j in range(left // columns, (right - 1) // columns + 1):
                tile = self._tile_or_fault(level, i, j, box)
                y, x = i * rows, j * columns
                y0, y1, x0, x1 = max(y, top), min(y + rows, bottom), max(x, left), min(x + columns, right)
                target = pixels[y0 - box.start[0] : y1 - box.start[0], x0 - box.start[1] : x1 - box.start[1]]
                target[:] = tile[y0 - y : y1 - y, x0 - x : x1 - x]
        return pixels

    def _tile_or_fault(self, level: int, i: int, j: int, box: Box) -> Pixels:
        def again() -> Pixels:
            self._reopen()
            return self._tile(level, i, j)

        return read_twice(self.path, box, level, lambda: self._tile(level, i, j), again)

    def _tile(self, level: int, i: int, j: int) -> Pixels:
        return self.cache.get((level, i, j), lambda: self._decode(self.pages[level], i, j))

    def _decode(self, page: Page, i: int, j: int) -> Pixels:
        form = page.form
        rows = form.tile[0] if page.tiled else min(form.tile[0], page.shape[0] - i * form.tile[0])
        first = i * page.grid[1] + j
        count = page.grid[0] * page.grid[1]
        planes = range(form.samples) if form.planar else range(1)
        return decode_tile(form, [self._segment(page, first + plane * count) for plane in planes], rows)

    def _segment(self, page: Page, index: int) -> bytes:
        offset, size = int(page.offsets[index]), int(page.sizes[index])
        if size == 0 or offset == 0:
            # Some scanners leave such tiles where scanning failed. OpenSlide paints them transparent, so black.
            raise ValueError(f"tile {index} is empty (zero bytes)")
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise ValueError(f"tile {index} lies beyond the end of the file (truncated)")
        return data

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


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels as they are to be seen: mirrored, turned or transposed by tag 274."""
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    return pixels
