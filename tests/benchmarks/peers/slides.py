"""The slide of the comparison: the benchmark's own, with every second level only, as many scanners store it."""

from __future__ import annotations

import struct
from pathlib import Path

import tifffile

from medvision.pipelines.benchmark_slide import write_benchmark_slide


def write_peers_slide(path: Path, side: int) -> Path:
    """The benchmark's slide of `side` px at 0.25 µm/px without its level at 0.5 µm/px.

    With that level, a tool that reads the nearest level would read 224 px where another reads 448 px.
    """
    write_benchmark_slide(path, side)
    skip_every_second_level(path)
    return path


def skip_every_second_level(path: Path) -> None:
    """Link each kept directory of a TIFF to the next but one. The pixels of the skipped levels stay in the file."""
    with tifffile.TiffFile(path) as tif:
        pages = [(page.offset, len(page.tags)) for page in tif.pages]
        big, order = tif.is_bigtiff, tif.byteorder
    head, entry, link = (8, 20, order + "Q") if big else (2, 12, order + "I")
    with path.open("r+b") as file:
        for index in range(0, len(pages), 2):
            offset, tags = pages[index]
            file.seek(offset + head + tags * entry)
            file.write(struct.pack(link, pages[index + 2][0] if index + 2 < len(pages) else 0))
