"""Streaming writers of pyramidal TIFF: slides, label masks and probability rasters.

A slide or mask is never held whole. It is asked for in blocks of four by four tiles; each block is encoded at three
resolutions where it was made (in a worker thread), and only its eightfold reduction is kept, which feeds the next three
levels in the same way. So memory grows with the width of an eightfold smaller image, not with the slide.

Every file appears under its name only when it is whole: it is written beside it under a temporary name, synchronised
to disk and renamed. The bytes depend on the arguments alone: no time stamp, host or program version goes into a file.
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
from typing import IO, Any, Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt

from medvision.core.errors import StoreError, UnreadableSourceError, UsageError
from medvision.core.geometry import Box, Spacing
from medvision.core.results import Raster

Pixels = npt.NDArray[np.uint8]
ReadBlock = Callable[[Box], Pixels]
"""Gives the pixels of a level-0 box that lies inside the image. Called from several threads."""

Subsampling = Literal["444", "422", "420"]

_TILES_PER_BLOCK = 4
_LEVELS_PER_STAGE = 3  # a block of 4 tiles is 2 tiles one level up and 1 tile two levels up
_CLASSIC_TIFF_BYTES = 3_900_000_000


def write_slide(
    path: Path,
    shape: tuple[int, int],
    read: ReadBlock,
    spacing_um: float,
    *,
    tile: int = 256,
    quality: int = 85,
    subsampling: Subsampling = "420",
    threads: int = 2,
) -> Path:
    """Write an RGB slide as a tiled JPEG pyramid that OpenSlide opens, spacing included, as a generic tiled TIFF.

    Args:
        path: File to make; replaced whole if it exists.
        shape: Rows and columns of level 0.
        read: Gives uint8 `(rows, columns, 3)` of a box of level 0; called once for each block of `4 * tile` pixels.
        spacing_um: Side of a level-0 pixel.
        tile: Side of a tile; a multiple of 16.
        quality: JPEG quality, 1 to 100.
        subsampling: Chroma subsampling; "420" is what scanners write.
        threads: Number of blocks read and encoded at a time.

    Levels follow each other by a factor of two down to one that fits a tile; each is the exact 2 x 2 mean (rounded) of
    the one before. BigTIFF where a classic TIFF could overflow.

    Raises:
        UsageError: if shape, spacing, tile or quality cannot mean anything.
        StoreError: if the file could not be written whole; nothing is left under its name then.
    """
    if not 1 <= quality <= 100:
        raise UsageError(f"JPEG quality {quality} is not between 1 and 100")
    from imagecodecs import jpeg8_encode

    def encode(pixels: Pixels) -> bytes:
        return bytes(
            jpeg8_encode(
                pixels, level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling=subsampling
            )
        )

    sampling = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}[subsampling]
    tags = {"photometric": "ycbcr", "subsampling": sampling, "compression": "jpeg"}
    _write_pyramid(path, (*shape, 3), read, spacing_um, tile, threads, encode, _mean_of_four, tags)
    return path


def write_mask(
    path: Path,
    shape: tuple[int, int],
    read: ReadBlock,
    spacing_um: float,
    *,
    tile: int = 512,
    threads: int = 2,
) -> Path:
    """Write a uint8 label mask `(rows, columns)` as a tiled, deflated pyramid.

    A reduced pixel takes the largest of the four labels below it: a tumour cell cluster of a few pixels must stay
    visible at every level, because evaluation reads masks at low resolution, and an average or nearest pick would lose
    it. Areas are therefore to be measured at level 0.

    Arguments, levels and errors as in `write_slide`; `read` gives `(rows, columns)`.
    """
    from imagecodecs import zlib_encode

    def encode(pixels: Pixels) -> bytes:
        return bytes(zlib_encode(pixels, level=6))

    tags = {"photometric": "minisblack", "compression": "zlib"}
    _write_pyramid(path, shape, read, spacing_um, tile, threads, encode, _largest_of_four, tags)
    return path


def write_raster(path: Path, raster: Raster, *, tile: int = 256) -> Path:
    """Write a raster as a pyramidal OME-TIFF of float32 (deflate), NaN kept, one plane per channel.

    The pyramid lies in SubIFDs, as Bio-Formats and QuPath expect; a reduced cell is the mean of the cells below it that
    hold values, NaN where none does. Spacing, offset and channel names stand in the OME-XML, in the exact form that
    `read_raster` needs to give the same raster back.

    Raises:
        UsageError: if the raster has no cell, or more or fewer than two or three spatial axes.
        StoreError: if the file could not be written whole.
    """
    import tifffile

    planes = _planes(raster)
    if raster.values.size == 0:
        raise UsageError(f"a raster of shape {raster.values.shape} holds no cell to write to {path}")
    depth = _pyramid_depth((planes.shape[1], planes.shape[2]), tile)
    description: str | None = _ome_xml(raster, planes.shape)
    per_cm = [(1e4 if raster.spacing.unit == "um" else 10.0) / v for v in raster.spacing.values[-2:]]
    common: dict[str, Any] = {
        "photometric": "minisblack",
        "tile": (tile, tile),
        "compression": "zlib",
        "compressionargs": {"level": 6},
        "predictor": False,
        "metadata": None,
        "software": False,
        "maxworkers": 1,
    }
    bigtiff = planes.nbytes * 4 / 3 > _CLASSIC_TIFF_BYTES
    with _whole_file(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=bigtiff, ome=False) as tif:
        for plane in planes:
            for level in range(depth):
                resolution = (per_cm[1] / 2**level, per_cm[0] / 2**level)
                extra: dict[str, Any] = {"subfiletype": 1} if level else {"subifds": depth - 1}
                if description is not None:
                    extra["description"], description = description, None
                tif.write(plane, resolution=resolution, resolutionunit="CENTIMETER", **extra, **common)
                plane = _mean_of_present(plane)
    return path


def read_raster(path: Path) -> Raster:
    """The raster that `write_raster` wrote, exactly.

    Raises:
        UnreadableSourceError: if the file is absent, is no TIFF, or was not written by `write_raster`.
    """
    import tifffile
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        with tifffile.TiffFile(path) as tif:
            description = tif.pages.first.description
            values = np.stack([page.asarray(maxworkers=1) for page in tif.pages])
        root = fromstring(description)
    except (OSError, ValueError, tifffile.TiffFileError, ParseError) as error:
        raise UnreadableSourceError(f"{path} cannot be read as a raster: {error}") from error
    space = {"ome": _OME}
    facts = {
        entry.get("K"): entry.text or ""
        for entry in root.iterfind(".//ome:MapAnnotation/ome:Value/ome:M", space)
    }
    channels = tuple(c.get("Name", "") for c in root.iterfind(".//ome:Channel", space))
    if "medvision.spacing" not in facts:
        raise UnreadableSourceError(f"{path} is an OME-TIFF that was not written as a raster by this package")
    spacing_values = _floats(facts["medvision.spacing"])
    unit: Literal["um", "mm"] = "mm" if facts["medvision.unit"] == "mm" else "um"
    origin: Literal["file", "supplied"] = "supplied" if facts["medvision.origin"] == "supplied" else "file"
    extent = _floats(facts["medvision.extent"]) if facts.get("medvision.extent") else None
    volume = len(spacing_values) == 3
    values = values.reshape((len(channels), -1, *values.shape[1:])) if volume else values
    return Raster(
        values=np.ascontiguousarray(np.moveaxis(values, 0, -1)),
        spacing=Spacing(spacing_values, unit, origin),
        channels=channels,
        offset=_floats(facts["medvision.offset"]),
        extent=extent,
    )


# --- the streamed pyramid -------------------------------------------------------------------------------------------


@dataclass
class _Stage:
    """Three levels of the pyramid, fed with blocks in row-major order; reduces each by eight for the next stage."""

    first: int
    shape: tuple[int, ...]
    tile: int
    pending: Pixels | None = None
    """One row of blocks of this stage's first level, filled by the stage below. None for the first stage."""
    filled: int = 0


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


Encode = Callable[[Pixels], bytes]
Reduce = Callable[[Pixels], Pixels]
Block = tuple[list[list[tuple[tuple[int, int], bytes]]], Pixels]
"""Encoded tiles of each of a stage's levels with their places, and the eightfold reduction."""


def _write_pyramid(
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
    import tifffile

    rows, columns = shape[:2]
    if rows < 1 or columns < 1:
        raise UsageError(f"a slide of {rows} x {columns} pixels cannot be written to {path}")
    if not (np.isfinite(spacing_um) and spacing_um > 0):
        raise UsageError(f"spacing {spacing_um} um is not positive and finite")
    if tile < 16 or tile % 16:
        raise UsageError(f"tile side {tile} is not a multiple of 16")
    depth = _pyramid_depth((rows, columns), tile)
    shapes = [tuple([ceil(rows / 2**k), ceil(columns / 2**k), *shape[2:]]) for k in range(depth)]
    per_cm = 1e4 / spacing_um
    # 1.5 bytes a pixel is more than JPEG at quality 100 needs for noise, or deflate for any mask.
    bigtiff = rows * columns * 1.5 * 4 / 3 > _CLASSIC_TIFF_BYTES
    common = {"tile": (tile, tile), "dtype": np.uint8, "metadata": None, "software": False, **tags}
    with (
        _whole_file(path) as temporary,
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
        self.stages = [_Stage(k, shapes[k], tile) for k in range(0, len(shapes), _LEVELS_PER_STAGE)]
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


def _pyramid_depth(shape: tuple[int, int], tile: int) -> int:
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


def _quarters(pixels: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    return [pixels[0::2, 0::2], pixels[0::2, 1::2], pixels[1::2, 0::2], pixels[1::2, 1::2]]


def _mean_of_four(pixels: Pixels) -> Pixels:
    a, b, c, d = _quarters(pixels)
    total = a.astype(np.uint16)
    for part in (b, c, d):
        total += part
    total += 2
    total >>= 2
    return total.astype(np.uint8)


def _largest_of_four(pixels: Pixels) -> Pixels:
    a, b, c, d = _quarters(pixels)
    return np.maximum(np.maximum(a, b), np.maximum(c, d))


def _mean_of_present(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """2 x 2 mean over the cells that are not NaN; an odd last row or column stands alone."""
    odd = [(0, n % 2) for n in plane.shape]
    parts = np.stack(_quarters(np.pad(plane, odd, constant_values=np.nan)))
    present = ~np.isnan(parts)
    count = present.sum(axis=0)
    total = np.where(present, parts, 0).sum(axis=0, dtype=np.float64)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean.astype(np.float32)


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
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
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- OME-XML of a raster --------------------------------------------------------------------------------------------

_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def _planes(raster: Raster) -> npt.NDArray[np.float32]:
    """All planes `(channels * depth, rows, columns)`, depth running fastest."""
    if raster.values.ndim not in (3, 4):
        raise UsageError(
            f"a raster of shape {raster.values.shape} is neither an image nor a volume with channels"
        )
    channels_first = np.moveaxis(raster.values, -1, 0)
    return np.ascontiguousarray(channels_first.reshape((-1, *channels_first.shape[-2:])), dtype=np.float32)


def _ome_xml(raster: Raster, planes: tuple[int, ...]) -> str:
    """OME-XML in ASCII. Lengths are in micrometres, the schema's default, or in millimetres where the raster says so."""
    unit = "&#181;m" if raster.spacing.unit == "um" else "mm"
    names = ("Z", "Y", "X")[-len(raster.spacing.values) :]
    sizes = " ".join(
        f'PhysicalSize{n}="{v!r}" PhysicalSize{n}Unit="{unit}"'
        for n, v in zip(names, raster.spacing.values, strict=True)
    )
    channel_count = len(raster.channels)
    depth = planes[0] // channel_count
    channels = "".join(
        f'<Channel ID="Channel:0:{k}" Name={quoteattr(name)} SamplesPerPixel="1"/>'
        for k, name in enumerate(raster.channels)
    )
    position = " ".join(
        f'Position{n}="{v!r}" Position{n}Unit="{unit}"' for n, v in zip(names, raster.offset, strict=True)
    )
    data = "".join(
        f'<TiffData IFD="{c * depth + z}" FirstC="{c}" FirstZ="{z}" FirstT="0" PlaneCount="1"/>'
        for c in range(channel_count)
        for z in range(depth)
    )
    where = "".join(
        f'<Plane TheC="{c}" TheZ="{z}" TheT="0" {position}/>'
        for c in range(channel_count)
        for z in range(depth)
    )
    facts = {
        "medvision.spacing": _words(raster.spacing.values),
        "medvision.unit": raster.spacing.unit,
        "medvision.origin": raster.spacing.origin,
        "medvision.offset": _words(raster.offset),
        "medvision.extent": _words(raster.extent) if raster.extent is not None else "",
    }
    pairs = "".join(f'<M K="{key}">{escape(value)}</M>' for key, value in facts.items())
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{_OME}" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_OME} {_OME}/ome.xsd">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="float" '
        f'SizeX="{planes[2]}" SizeY="{planes[1]}" SizeZ="{depth}" SizeC="{channel_count}" SizeT="1" {sizes}>'
        f'{channels}{data}{where}</Pixels><AnnotationRef ID="Annotation:0"/></Image>'
        '<StructuredAnnotations><MapAnnotation ID="Annotation:0" Namespace="medvision/raster">'
        f"<Value>{pairs}</Value></MapAnnotation></StructuredAnnotations></OME>"
    )
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _words(values: tuple[float, ...]) -> str:
    return " ".join(repr(float(v)) for v in values)


def _floats(words: str) -> tuple[float, ...]:
    return tuple(float(word) for word in words.split())
