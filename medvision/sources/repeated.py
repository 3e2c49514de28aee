"""A large slide in seconds: one piece of tissue repeated over a disc, each distinct tile reduced and encoded once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.sources.pyramid import (
    CLASSIC_TIFF_BYTES,
    Pixels,
    mean_of_four,
    pyramid_depth,
    whole_file,
)

_TILE = 256
_GLASS = 243


def write_repeated_slide(
    path: Path, side: int, piece: Pixels, share: float, spacing_um: float, quality: int = 85
) -> Path:
    """Write a square slide of `side` pixels: `piece` repeated over a disc of `share` of its area, glass around.

    `piece` is RGB, uint8 `(n, n, 3)`, n a power of two from 256 on. Tiles of 256 px, JPEG 4:2:0, levels by factors of
    two, each the mean of the one before except along the disc's edge, which every level has sharp. Only tiles that
    the edge crosses are encoded one by one, so time and memory hardly depend on `side`.

    Raises:
        UsageError: for another shape of piece, or a disc that is larger than the slide.
        StoreError: if the file could not be written whole.
    """
    import tifffile

    n = piece.shape[0]
    if piece.shape != (n, n, 3) or piece.dtype != np.uint8 or n < _TILE or n & (n - 1):
        raise UsageError(
            f"a piece of {piece.dtype} {piece.shape} is not uint8 (n, n, 3), n a power of two from 256"
        )
    if not 0 < share <= math.pi / 4 or side < 1:
        raise UsageError(f"a disc over {share:g} of a slide of {side} px does not fit")
    depth = pyramid_depth((side, side), _TILE)
    per_cm = 1e4 / spacing_um
    bigtiff = side * side * 1.5 * 4 / 3 > CLASSIC_TIFF_BYTES
    with whole_file(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=bigtiff) as tif:
        for level in range(depth):
            extent = math.ceil(side / 2**level)
            tif.write(
                _tiles(piece, extent, side * math.sqrt(share / math.pi), side / 2, 2**level, quality),
                shape=(extent, extent, 3),
                dtype=np.uint8,
                tile=(_TILE, _TILE),
                resolution=(per_cm / 2**level, per_cm / 2**level),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                metadata=None,
                software=False,
            )
            piece = mean_of_four(piece) if len(piece) > 1 else piece
    return path


def _tiles(
    piece: Pixels, extent: int, radius: float, centre: float, scale: int, quality: int
) -> Iterator[bytes]:
    """Encoded tiles of a level in which a pixel spans `scale` pixels of level 0, row by row."""
    from imagecodecs import jpeg8_encode

    n = len(piece)
    repeats = -(-_TILE // n) + 1
    tissue = np.tile(piece, (repeats, repeats, 1)) if n < 2 * _TILE else piece
    known: dict[tuple[int, int] | None, bytes] = {}

    def encode(pixels: Pixels) -> bytes:
        made = jpeg8_encode(
            np.ascontiguousarray(pixels),
            level=quality,
            colorspace="RGB",
            outcolorspace="YCBCR",
            subsampling="420",
        )
        return bytes(made)

    for top in range(0, extent, _TILE):
        rows = np.asarray((np.arange(top, top + _TILE) + 0.5) * scale - centre)
        for left in range(0, extent, _TILE):
            columns = np.asarray((np.arange(left, left + _TILE) + 0.5) * scale - centre)
            far = math.hypot(*(max(abs(axis[0]), abs(axis[-1])) for axis in (rows, columns)))
            near = math.hypot(*(_nearest(axis) for axis in (rows, columns)))
            at = (top % n, left % n) if far <= radius else None
            crossed = near <= radius < far
            if not crossed and at in known:
                yield known[at]
                continue
            i, j = top % n, left % n
            pixels = tissue[i : i + _TILE, j : j + _TILE]
            if far > radius:
                outside = rows[:, None] ** 2 + columns**2 > radius**2
                pixels = np.where(outside[..., None], np.uint8(_GLASS), pixels)
            data = encode(pixels)
            if not crossed:
                known[at] = data
            yield data


def _nearest(axis: npt.NDArray[np.float64]) -> float:
    """Distance from 0 of the nearest point of a run of pixel centres."""
    return 0.0 if axis[0] <= 0 <= axis[-1] else float(min(abs(axis[0]), abs(axis[-1])))
