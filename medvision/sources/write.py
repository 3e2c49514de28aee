"""Streaming writers of pyramidal TIFF: slides, label masks and, from `raster_file`, probability rasters.

Every file appears under its name only when it is whole. The bytes depend on the arguments alone: no time stamp, host or
program version goes into a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medvision.core.errors import UsageError
from medvision.sources.pyramid import Pixels, ReadBlock, largest_of_four, mean_of_four, write_pyramid
from medvision.sources.raster_file import read_raster, write_raster

__all__ = ["ReadBlock", "read_raster", "write_mask", "write_raster", "write_slide"]

Subsampling = Literal["444", "422", "420"]


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
    write_pyramid(path, (*shape, 3), read, spacing_um, tile, threads, encode, mean_of_four, tags)
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
        return bytes(zlib_encode(pixels.tobytes(), level=6))

    tags = {"photometric": "minisblack", "compression": "zlib"}
    write_pyramid(path, shape, read, spacing_um, tile, threads, encode, largest_of_four, tags)
    return path
