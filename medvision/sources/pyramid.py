"""Write an image pyramid as a stream.

An image is never held whole. It is asked for in blocks of four by four tiles; each block is encoded at three
resolutions where it was made (in a worker thread), and only its eightfold reduction is kept, which feeds the next three
levels in the same way. So memory grows with the width of an eightfold smaller image, not with the image.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import MedvisionError, StoreError, UsageError
from medvision.core.geometry import Box

Pixels = npt.NDArray[np.uint8]
ReadBlock = Callable[[Box], Pixels]
"""Gives the pixels of a level-0 box that lies inside the image. Called from several threads."""

CLASSIC_TIFF_BYTES = 3_900_000_000
"""Size from which a file is written as BigTIFF."""

_TILES_PER_BLOCK = 4
_LEVELS_PER_STAGE = 3  # a block of 4 tiles is 2 tiles one level up and 1 tile two levels up

Encode = Callable[[Pixels], bytes]
Reduce = Callable[[Pixels], Pixels]
Tile = tuple[tuple[int, int], bytes]
"""Row and column of a tile, and its encoded bytes."""
Block = tuple[list[list[Tile]], Pixels]
"""Encoded tiles of each of a stage's levels, and the eightfold reduction."""


def write_pyramid(
    path: Path,
    shape: tuple[int, ...],
    read: ReadBlock,
    spacing_um: float,
    tile: int,
    threads: int,
    encode: Encode,
    reduce: Reduce,
    tags: dict[str, Any],
) -> None:
    """Write level 0, given by `read` in blocks, and every level that `reduce` (2 x 2 to 1) makes of it.

    `encode` makes the bytes of one tile, `tags` tells tifffile what they are. Levels are in file order, flagged as
    reduced images, each with its own resolution.

    Raises:
        UsageError: if shape, spacing or tile cannot mean anything, or `read` gives something else than asked.
        StoreError: if the file could not be written whole.
    """
    import tifffile

    rows, columns = shape[:2]
    if rows < 1 or columns < 1:
        raise UsageError(f"a slide of {rows} x {columns} pixels cannot be written to {path}")
    if not (np.isfinite(spacing_um) and spacing_um > 0):
        raise UsageError(f"spacing {spacing_um} um is not positive and finite")
    if tile < 16 or tile % 16:
        raise UsageError(f"tile side {tile} is not a multiple of 16")
    depth = pyramid_depth((rows, columns), tile)
    shapes = [(ceil(rows / 2**k), ceil(columns / 2**k), *shape[2:]) for k in range(depth)]
    per_cm = 1e4 / spacing_um
    # 1.5 bytes a pixel is more than JPEG at quality 100 needs for noise, or deflate for any mask.
    bigtiff = rows * columns * 1.5 * 4 / 3 > CLASSIC_TIFF_BYTES
    common = {"tile": (tile, tile), "dtype": np.uint8, "metadata": None, "software": False, **tags}
    with (
        whole_file(path) as temporary,
        tempfile.TemporaryFile(dir=path.parent, prefix=".pyramid-") as scratch,
        tifffile.TiffWriter(temporary, bigtiff=bigtiff) as tif,
    ):
        spills = [_Spill(scratch) for _ in range(depth)]
        pyramid = _Pyramid(shapes, tile, read, threads, _Encoder(encode), reduce, spills)
        for level, level_shape in enumerate(shapes):
            tiles = pyramid.stream() if level == 0 else spills[level].in_order()
            tif.write(
                tiles,
                shape=level_shape,
                resolution=(per_cm / 2**level, per_cm / 2**level),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                **common,
            )


@dataclass
class _Stage:
    """Three levels of the pyramid, fed with blocks in row-major order; reduces each by eight for the next stage."""

    first: int
    shape: tuple[int, ...]
    pending: Pixels | None = None
    """One row of blocks of this stage's first level, filled by the stage below. None for the first stage."""


@dataclass
class _Spill:
    """Encoded tiles of one level that wait in a scratch file until the level below has been written."""

    scratch: IO[bytes]
    tiles: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def put(self, at: tuple[int, int], data: bytes) -> None:
        offset = self.scratch.seek(0, os.SEEK_END)
        self.scratch.write(data)
        self.tiles[at] = (offset, len(data))

    def in_order(self) -> Iterator[bytes]:
        for at in sorted(self.tiles):
            offset, size = self.tiles[at]
            self.scratch.seek(offset)
            yield self.scratch.read(size)


class _Encoder:
    """Encodes tiles, and remembers the last few: most of a slide is the same empty background."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._known: deque[tuple[Pixels, bytes]] = deque(maxlen=4)

    def __call__(self, pixels: Pixels) -> bytes:
        corner = pixels[0, 0].tobytes(), pixels[-1, -1].tobytes()
        for known, data in tuple(self._known):
            same = (known[0, 0].tobytes(), known[-1, -1].tobytes()) == corner
            if same and np.array_equal(known, pixels):
                return data
        data = self._encode(np.ascontiguousarray(pixels))
        self._known.append((pixels.copy(), data))
        return data


class _Pyramid:
    """Makes level-0 tiles in storage order and leaves those of the other levels in their spills."""

    def __init__(
        self,
        shapes: list[tuple[int, ...]],
        tile: int,
        read: ReadBlock,
        threads: int,
        encode: _Encoder,
        reduce: Reduce,
        spills: list[_Spill],
    ) -> None:
        self.tile, self.read, self.threads = tile, read, max(1, threads)
        self.encode, self.reduce, self.spills = encode, reduce, spills
        self.side = tile * _TILES_PER_BLOCK
        self.stages = [_Stage(k, shapes[k]) for k in range(0, len(shapes), _LEVELS_PER_STAGE)]
        self.shapes = shapes

    def stream(self) -> Iterator[bytes]:
        """Encoded tiles of level 0, row by row of tiles."""
        rows, columns = self.shapes[0][:2]
        boxes = [
            [
                Box((r, c), (min(r + self.side, rows), min(c + self.side, columns)))
                for c in range(0, columns, self.side)
            ]
            for r in range(0, rows, self.side)
        ]
        ahead = (box for line in boxes for box in line)
        with ThreadPoolExecutor(self.threads) as pool:
            queue: deque[Future[Block]] = deque()

            def submit() -> None:
                box = next(ahead, None)
                if box is not None:
                    queue.append(pool.submit(self._first, box))

            for _ in range(2 * self.threads):
                submit()
            try:
                for line in boxes:
                    strip: list[tuple[tuple[int, int], bytes]] = []
                    for box in line:
                        tiles, reduced = queue.popleft().result()
                        submit()
                        strip += tiles[0]
                        self._keep(0, tiles, box.start, reduced)
                    yield from (data for _, data in sorted(strip))
            finally:
                for future in queue:
                    future.cancel()

    def _first(self, box: Box) -> Block:
        pixels = self.read(box)
        expected = (*box.shape, *self.shapes[0][2:])
        if pixels.shape != expected or pixels.dtype != np.uint8:
            raise UsageError(
                f"the block at {box.start} is {pixels.dtype} {pixels.shape}, not uint8 {expected}"
            )
        return self._encode_block(0, box.start, pixels)

    def _encode_block(self, stage: int, start: tuple[int, ...], pixels: Pixels) -> Block:
        """Tiles of a block, at the level given by the stage and the two above, and its eightfold reduction."""
        pixels = _fill_to(pixels, (self.side, self.side))
        found: list[list[tuple[tuple[int, int], bytes]]] = []
        first = self.stages[stage].first
        for step in range(_LEVELS_PER_STAGE):
            tiles: list[tuple[tuple[int, int], bytes]] = []
            if first + step < len(self.shapes):
                rows, columns = self.shapes[first + step][:2]
                top, left = start[0] >> step, start[1] >> step
                for r in range(0, pixels.shape[0], self.tile):
                    for c in range(0, pixels.shape[1], self.tile):
                        if top + r < rows and left + c < columns:
                            at = ((top + r) // self.tile, (left + c) // self.tile)
                            tiles.append((at, self.encode(pixels[r : r + self.tile, c : c + self.tile])))
            found.append(tiles)
            pixels = self.reduce(pixels)
        return found, pixels

    def _keep(self, stage: int, tiles: list[Any], start: tuple[int, ...], reduced: Pixels) -> None:
        """Spill a block's tiles (those of level 0 excepted) and hand its reduction to the next stage."""
        first = self.stages[stage].first
        for step, found in enumerate(tiles):
            if first + step > 0:
                for at, data in found:
                    self.spills[first + step].put(at, data)
        if stage + 1 < len(self.stages):
            self._feed(stage + 1, (start[0] >> _LEVELS_PER_STAGE, start[1] >> _LEVELS_PER_STAGE), reduced)

    def _feed(self, number: int, start: tuple[int, int], pixels: Pixels) -> None:
        """Place a reduced block; when its row of blocks is complete, encode that row."""
        stage = self.stages[number]
        rows, columns = stage.shape[:2]
        if stage.pending is None:
            stage.pending = np.empty(
                (self.side, ceil(columns / self.side) * self.side, *stage.shape[2:]), np.uint8
            )
        row, column = start[0] % self.side, start[1]
        height, width = min(pixels.shape[0], rows - start[0]), min(pixels.shape[1], columns - column)
        stage.pending[row : row + height, column : column + width] = pixels[:height, :width]
        ends_row = column + width == columns
        if ends_row and (start[0] + height == rows or row + height == self.side):
            top, used = start[0] - row, row + height
            for left in range(0, columns, self.side):
                block = stage.pending[:used, left : min(left + self.side, columns)]
                tiles, reduced = self._encode_block(number, (top, left), block)
                self._keep(number, tiles, (top, left), reduced)


def pyramid_depth(shape: tuple[int, int], tile: int) -> int:
    """Number of levels until one fits a single tile."""
    depth = 1
    while ceil(max(shape) / 2 ** (depth - 1)) > tile:
        depth += 1
    return depth


def _fill_to(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    """Repeat the last row and column up to `shape`, so that means at the edge stay means of real pixels."""
    missing = [(0, n - have) for n, have in zip(shape, pixels.shape[:2], strict=True)]
    if not any(after for _, after in missing):
        return pixels
    return np.pad(pixels, missing + [(0, 0)] * (pixels.ndim - 2), mode="edge")


def quarters(pixels: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The four pixels of each 2 x 2 square, as four images of half the size."""
    return [pixels[0::2, 0::2], pixels[0::2, 1::2], pixels[1::2, 0::2], pixels[1::2, 1::2]]


def mean_of_four(pixels: Pixels) -> Pixels:
    """Mean of each 2 x 2 square, rounded half up."""
    a, b, c, d = quarters(pixels)
    total = a.astype(np.uint16)
    for part in (b, c, d):
        total += part
    total += 2
    total >>= 2
    return total.astype(np.uint8)


def largest_of_four(pixels: Pixels) -> Pixels:
    """Largest value of each 2 x 2 square."""
    a, b, c, d = quarters(pixels)
    return np.asarray(np.maximum(np.maximum(a, b), np.maximum(c, d)), dtype=np.uint8)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the body ends well, and vanishes when it does not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except MedvisionError:
        raise  # what could not be read is not a failure to write
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
