"""Reading against OpenSlide, format by format: windows of 256 px, unaligned, of level 0, from a slide freshly opened.

    python tests/benchmarks/bench_formats.py [SLIDE...] [--rounds N]

Writes one slide of 3,000 px per encoding, and takes every slide given that both open. Prints a Markdown table: median
of the rounds' ratios, by wall time and by CPU time (which other work on the machine disturbs less), and their spread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openslide
import tifffile

from medvision.core.errors import MedvisionError
from medvision.core.geometry import Box
from medvision.pipelines.benchmark_slide import write_benchmark_slide
from medvision.sources import open_source

SIDE, WINDOW = 3000, 256

JP2 = {
    "compressionargs": {"level": 80, "codecformat": "j2k"},
    "description": "Aperio Image Library v12.0\r\n3000x3000 (256x256) J2K Q=80|AppMag = 40|MPP = 0.25",
}
ENCODINGS: dict[str, dict[str, object]] = {
    "JPEG, 240 px tiles": {"compression": "jpeg", "tile": (240, 240)},
    "JPEG, 512 px tiles": {"compression": "jpeg", "tile": (512, 512)},
    "JPEG, RGB": {"compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}},
    "Aperio JPEG 2000, 33005": {"compression": "aperio_jp2000_rgb", **JP2},
    "Aperio JPEG 2000, 33003": {"compression": "aperio_jp2000_ycbc", **JP2},
    "deflate, predictor": {"compression": "deflate", "predictor": 2},
    "deflate": {"compression": "deflate"},
    "LZW, predictor": {"compression": "lzw", "predictor": 2},
    "zstd, predictor": {"compression": "zstd", "predictor": 2},
    "PackBits": {"compression": "packbits"},
    "none": {},
    "OME-TIFF, deflate": {"compression": "deflate", "ome": True},
}


def write_all(folder: Path) -> Iterator[tuple[str, Path]]:
    """A small slide in each encoding, with the texture of the benchmark's slide."""
    sample = write_benchmark_slide(folder / "sample.tif", SIDE)
    source = open_source(sample)
    pixels = source.read(Box((0, 0), (SIDE, SIDE)))
    source.close()
    for number, (name, options) in enumerate(ENCODINGS.items()):
        settings = {"tile": (256, 256), "photometric": "rgb"} | options
        ome = bool(settings.pop("ome", False))
        path = folder / f"{number}{'.ome' if ome else ''}.tif"
        with tifffile.TiffWriter(path, ome=ome) as tiff:
            kind = {} if ome else {"metadata": None}
            tiff.write(pixels, resolution=(40_000, 40_000), resolutionunit="CENTIMETER", **kind, **settings)
        yield name, path


def boxes(shape: tuple[int, ...], most: int = 100) -> list[Box]:
    """Windows side by side from an odd corner, row by row, in the middle of the rows there are."""
    rows, columns = (max(1, (n - 100) // WINDOW) for n in shape)
    rows_taken = min(rows, max(1, most // columns))
    first = 37 + (rows - rows_taken) // 2 * WINDOW
    return [
        Box.at((first + i * WINDOW, 61 + j * WINDOW), (WINDOW, WINDOW))
        for i in range(rows_taken)
        for j in range(columns)
    ][:most]


def ours(path: Path, wanted: list[Box]) -> tuple[float, float]:
    """Wall and CPU seconds for all windows by this package, into memory that is there, as the engine reads."""
    source = open_source(path)
    cache = getattr(source, "cache", None)
    if cache is not None:
        cache.clear()  # opening decodes a tile of each level
    out = np.empty((WINDOW, WINDOW, 3), np.uint8)

    def work() -> None:
        for box in wanted:
            source.read_into(out, box)

    found = timed(work)
    source.close()
    return found


def theirs(path: Path, wanted: list[Box]) -> tuple[float, float]:
    """The same by OpenSlide, to RGB arrays as its users make them."""
    slide = openslide.OpenSlide(path)

    def work() -> None:
        for box in wanted:
            np.asarray(slide.read_region(box.start[::-1], 0, (WINDOW, WINDOW)).convert("RGB"))

    found = timed(work)
    slide.close()
    return found


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def row(name: str, path: Path, rounds: int) -> str | None:
    """A line of the table, or None where one of the two does not open the file."""
    try:
        source = open_source(path)
        openslide.OpenSlide(path).close()
    except (MedvisionError, openslide.OpenSlideError):
        return None
    wanted, reader = boxes(source.levels[0].shape), source.reader
    source.close()
    try:
        ours(path, wanted)
        theirs(path, wanted)
    except (MedvisionError, openslide.OpenSlideError) as error:
        return f"| {name} | {reader} | {len(wanted)} | not readable: {type(error).__name__} | | | |"
    pairs = [(ours(path, wanted), theirs(path, wanted)) for _ in range(rounds)]
    wall, cpu = ([their[k] / our[k] for our, their in pairs] for k in (0, 1))
    rate = len(wanted) / statistics.median(our[0] for our, _ in pairs)
    return (
        f"| {name} | {reader} | {len(wanted)} | {rate:.0f} | {statistics.median(wall):.2f} | "
        f"{statistics.median(cpu):.2f} | {min(cpu):.2f}-{max(cpu):.2f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    print(
        "| file | reader | windows | windows/s | times OpenSlide, wall | times OpenSlide, CPU | spread |\n"
        "|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(prefix="medvision-formats-") as folder:
        made = [] if given.slides else list(write_all(Path(folder)))
        for name, path in [*made, *((slide.name, slide) for slide in given.slides)]:
            line = row(name, path, given.rounds)
            print(line or f"| {name} | not opened by both | | | | | |", flush=True)


if __name__ == "__main__":
    main()
