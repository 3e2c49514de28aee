"""Voxels that lie one after the other in a file, x fastest, plain or compressed: NIfTI, MetaImage and NRRD.

Plain voxels are fetched window by window with `os.pread`, so that a scan needs no memory of its own; a file that is cut
off behind our back is an error of that window, where a memory map would end the process. Compressed ones are
unpacked once, into an array of exactly the size that the header states, and nothing beyond it is ever made.
"""

from __future__ import annotations

import bz2
import math
import os
import stat
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from medvision.core.digest import digest_file, digest_files
from medvision.core.errors import SourceTooLargeError, UnreadableSourceError
from medvision.core.geometry import Box
from medvision.sources.base import DTYPES, UINT8, Values
from medvision.sources.faults import LIBRARY_ERRORS, MAX_SIDE, read_twice, reason_of
from medvision.sources.separable import as_type

Packing = Literal["plain", "deflate", "bzip2"]

MAX_VOXELS = 2**32
"""Most voxels of a volume: 2,048 planes of 1,448 x 1,448."""
MAX_UNPACKED_BYTES = 2**34
"""Most bytes of a compressed volume, which is held in memory."""
_MOST_DEFLATED = 1032
"""A byte of a deflate stream cannot become more than this; what claims more is not there."""
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the voxels are: `path` from byte `offset`, `shape` slowest axis first, of the file's `dtype`.

    `slope` and `intercept` make values of them. `files` are all of the volume, for its digest. `skip` bytes come before
    the voxels within the unpacked stream.
    """

    path: Path
    offset: int
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    packing: Packing = "plain"
    skip: int = 0
    slope: float = 1.0
    intercept: float = 0.0
    files: tuple[Path, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.shape) * self.dtype.itemsize


class FlatVoxels:
    """See `medvision.sources.volume.Voxels`."""

    def __init__(self, layout: Layout) -> None:
        """Open the file, and unpack it where it is compressed.

        Raises:
            UnreadableSourceError: if the file is absent or shorter than its header says, or cannot be unpacked.
            SourceTooLargeError: if the header claims more than the limits, or more than the file can hold.
        """
        check_voxels(layout.shape)
        self.shape = layout.shape
        self.dtype = held_in(layout.dtype, layout.slope, layout.intercept)
        self._layout = layout
        self._digest: str | None = None
        self._array: Values | None = None
        self._closed = False
        self._file = _File(layout.path)
        size = self._file.size()
        if layout.packing == "plain":
            if size < layout.offset + layout.bytes:
                raise UnreadableSourceError(
                    f"truncated: {layout.path.name} holds {max(0, size - layout.offset):,} of {layout.bytes:,} bytes "
                    "of voxels"
                )
            return
        if layout.bytes > MAX_UNPACKED_BYTES:
            raise SourceTooLargeError(
                f"claims {layout.bytes:,} bytes of voxels, compressed; the limit is {MAX_UNPACKED_BYTES:,}. "
                "Save it uncompressed"
            )
        if layout.packing == "deflate" and layout.bytes > size * _MOST_DEFLATED:
            raise SourceTooLargeError(
                f"claims {layout.bytes:,} bytes of voxels, which {size:,} compressed bytes cannot hold"
            )
        try:
            self._array = _unpacked(layout)
        except MemoryError as error:
            raise SourceTooLargeError(f"{layout.bytes:,} bytes of voxels do not fit in memory") from error
        finally:
            self._file.close()

    def read(self, box: Box) -> Values:
        """See `Voxels.read`."""
        if self._closed:
            raise UnreadableSourceError(f"{self._layout.path} is closed")
        if self._array is not None:
            return self._scaled(self._array[box.slices()])
        path = self._layout.path
        stored = read_twice(path, box, 0, lambda: self._fetch(box), lambda: self._fetch_again(box))
        return self._scaled(stored)

    def digest(self) -> str:
        """See `Voxels.digest`."""
        if self._digest is None:
            files = self._layout.files or (self._layout.path,)
            self._digest = digest_file(files[0]) if len(files) == 1 else digest_files(files)
        return self._digest

    def close(self) -> None:
        """See `Voxels.close`."""
        self._closed = True
        self._array = None
        self._file.close()

    def _fetch_again(self, box: Box) -> Values:
        self._file.close()
        self._file = _File(self._layout.path)
        return self._fetch(box)

    def _fetch(self, box: Box) -> Values:
        """Whole rows of the box, as few reads as the file's order allows."""
        layout = self._layout
        _, rows, columns = layout.shape
        out = np.empty(box.shape, layout.dtype)
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        whole = (y0, y1) == (0, rows)
        # Several planes in one read where they follow one another, up to a mebibyte; else the rows of one plane.
        run = max(1, _PIECE // (rows * columns * layout.dtype.itemsize)) if whole else 1
        # One piece of memory for all reads, which so stays in the processor's cache.
        piece = np.empty((min(run, z1 - z0), y1 - y0, columns), layout.dtype)
        for z in range(z0, z1, run):
            part = piece[: z1 - z]
            at = layout.offset + ((z * rows + y0) * columns) * layout.dtype.itemsize
            self._file.read_into(at, part.reshape(-1).view(np.uint8).data)
            out[z - z0 : z - z0 + len(part)] = part[:, :, x0:x1]
        return out

    def _scaled(self, stored: Values) -> Values:
        return scaled(stored, self._layout.slope, self._layout.intercept, self.dtype)


def held_in(stored: np.dtype[Any], slope: float, intercept: float) -> np.dtype[Any]:
    """The type of `DTYPES` for all values that `stored` can give: bytes, 16 bits where they hold each, else float32."""
    if stored == UINT8 and (slope, intercept) == (1, 0):
        return UINT8
    if stored.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer():
        ends = [int(end) * slope + intercept for end in (np.iinfo(stored).min, np.iinfo(stored).max)]
        if min(ends) >= -(2**15) and max(ends) < 2**15:
            return DTYPES[1]
    return DTYPES[2]


def scaled(stored: Values, slope: float, intercept: float, dtype: np.dtype[Any]) -> Values:
    """`stored * slope + intercept` as `dtype`: computed in double precision, rounded and cut where that is whole."""
    if (slope, intercept) == (1, 0):
        return stored.astype(dtype, copy=False)
    return as_type(stored.astype(np.float64) * slope + intercept, dtype)


def check_voxels(shape: tuple[int, ...]) -> None:
    """Refuse a volume without voxels or with more than the limits.

    Raises:
        UnreadableSourceError: for a side below 1.
        SourceTooLargeError: for a side above `MAX_SIDE`, or more than `MAX_VOXELS`.
    """
    claim = " x ".join(f"{n:,}" for n in shape)
    if any(n < 1 for n in shape):
        raise UnreadableSourceError(f"claims {claim} voxels: an empty volume")
    if any(n > MAX_SIDE for n in shape) or math.prod(shape) > MAX_VOXELS:
        raise SourceTooLargeError(f"claims {claim} voxels; the limit is {MAX_VOXELS:,}")


def data_file(header: Path, named: str) -> Path:
    """The file beside `header` that it names for its voxels.

    A header is data from elsewhere: one that names a file outside its own folder could have any file read as an image.

    Raises:
        UnreadableSourceError: if the name is absolute, leads outside the folder, also through a link, or to no file.
    """
    if not named or "\0" in named:
        raise UnreadableSourceError(f"names no usable data file: {named[:80]!r}")
    folder = header.parent.resolve()
    path = header.parent / named
    if Path(named).is_absolute() or ".." in Path(named).parts:
        raise UnreadableSourceError(f"its data file {named[:80]!r} lies outside its folder, which is refused")
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise UnreadableSourceError(f"its data file {named[:200]!r} is not there") from error
    if not real.is_relative_to(folder):
        raise UnreadableSourceError(
            f"its data file {named[:80]!r} is a link to outside its folder, which is refused"
        )
    if not real.is_file():
        raise UnreadableSourceError(f"its data file {named[:80]!r} is not a regular file")
    return real


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file, unpacked where it is a gzip file; what there is of a damaged one."""
    with path.open("rb") as stream:
        head = stream.read(count)
        if head[:2] != b"\x1f\x8b":
            return head
        stream.seek(0)
        found = bytearray()
        try:
            for piece in _deflated(stream):
                found += piece[: count - len(found)]
                if len(found) >= count:
                    break
        except LIBRARY_ERRORS:
            pass  # whoever reads on will say what is wrong
        return bytes(found)


class _File:
    """An open file, read by position from any number of threads."""

    def __init__(self, path: Path) -> None:
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UnreadableSourceError(f"{path.name}: {reason_of(error)}") from error
        self._end = weakref.finalize(self, os.close, self._handle)

    def size(self) -> int:
        found = os.fstat(self._handle)
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def read_into(self, at: int, room: memoryview) -> None:
        """Fill `room` with the bytes from `at`; fewer are an error."""
        done = 0
        while done < len(room):
            got = os.preadv(self._handle, [room[done:]], at + done)
            if not got:
                raise EOFError(f"the file ends {len(room) - done:,} bytes too early")
            done += got

    def close(self) -> None:
        self._end()


def _unpacked(layout: Layout) -> Values:
    array = np.empty(layout.shape, layout.dtype)
    room = array.reshape(-1).view(np.uint8).data
    skip, done = layout.skip, 0
    try:
        with layout.path.open("rb") as stream:
            stream.seek(layout.offset)
            pieces = _deflated(stream) if layout.packing == "deflate" else _bunzipped(stream)
            for piece in pieces:
                used = piece[min(skip, len(piece)) :][: len(room) - done]
                skip -= min(skip, len(piece))
                room[done : done + len(used)] = used
                done += len(used)
                if done == len(room):
                    return array
    except LIBRARY_ERRORS as error:
        raise UnreadableSourceError(
            f"{layout.path.name} cannot be unpacked after {done:,} bytes: {reason_of(error)}"
        ) from error
    raise UnreadableSourceError(
        f"truncated: {layout.path.name} unpacks to {done:,} of {len(room):,} bytes of voxels"
    )


def _deflated(stream: BinaryIO) -> Iterator[bytes]:
    """Pieces of at most a mebibyte of a gzip or zlib stream, whichever it is; gzip members follow one another."""
    data = stream.read(_PIECE)
    while data:
        engine = zlib.decompressobj(zlib.MAX_WBITS | 32)
        while not engine.eof:
            yield engine.decompress(data, _PIECE)
            data = engine.unconsumed_tail or (b"" if engine.eof else stream.read(_PIECE))
            if not data and not engine.eof:
                raise EOFError("the compressed data end too early")
        data = (engine.unused_data or stream.read(_PIECE)).lstrip(b"\0")  # gzip files may be padded


def _bunzipped(stream: BinaryIO) -> Iterator[bytes]:
    with bz2.BZ2File(stream) as unpacked:
        while piece := unpacked.read(_PIECE):
            yield piece
