"""Every registered reader keeps the contract of `medvision.sources.base.Source`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medvision.core.errors import MedvisionError, UnreadableSourceError
from medvision.core.geometry import Box
from medvision.sources import open_guarded, open_source
from medvision.sources.base import READERS, Source
from medvision.sources.facts import ALLOWED
from medvision.sources.opening import _load_readers

SHAPE = (210, 330)


def picture() -> np.ndarray:
    coarse = np.random.default_rng(5).integers(0, 256, (24, 36, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(SHAPE[::-1], Image.Resampling.BICUBIC))


def write_tiff(path: Path, **options: object) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for index in range(3):
            tiff.write(
                picture()[:: 2**index, :: 2**index], tile=(64, 64), photometric="rgb", subfiletype=int(index > 0),
                resolution=(20_000 / 2**index,) * 2, resolutionunit="CENTIMETER", metadata=None, **options,
            )  # fmt: skip


# One file for every reader that is registered. A new reader fails `test_every_reader_is_covered` until it has one.
SAMPLES: dict[str, Callable[[Path], None]] = {
    "tiff": lambda path: write_tiff(path, compression="deflate"),
    "openslide": lambda path: write_tiff(path, compression="deflate"),  # it reads plain tiled TIFFs too
    "image": lambda path: Image.fromarray(picture()).save(path, format="PNG"),
}

_load_readers()


def test_every_reader_is_covered():
    assert set(READERS) == set(SAMPLES)


@pytest.fixture(params=sorted(SAMPLES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def for_openslide_alone(path: Path) -> None:
    """A TIFF that our own reader declines: its samples are said to be of no type (tag 339 in the place of 284)."""
    write_tiff(path, compression="deflate")
    data = path.read_bytes()
    planar, untyped = struct.pack("<HHIHH", 284, 3, 1, 1, 0), struct.pack("<HHIHH", 339, 3, 1, 4, 0)
    assert data.count(planar) == 3
    path.write_bytes(data.replace(planar, untyped))


@pytest.fixture(params=[False, True], ids=["here", "guarded"])
def source(name: str, tmp_path: Path, request: pytest.FixtureRequest):
    path = tmp_path / "ß sample.bin"
    if request.param:
        (for_openslide_alone if name == "openslide" else SAMPLES[name])(path)
        opened = open_guarded(path)
    else:
        SAMPLES[name](path)
        opened = READERS[name](path)
    yield opened
    opened.close()


def test_says_what_it_is(source: Source, name: str):
    assert source.reader == name
    assert source.why
    assert source.vendor
    assert source.axes == "yx"
    assert (source.channels, source.fill) == (3, 255)
    assert set(source.metadata) <= set(ALLOWED)
    assert all(isinstance(value, str) for value in source.metadata.values())
    assert len(source.id) == 64
    assert source.id == source.id


def test_level_geometry(source: Source):
    assert source.levels[0].shape == SHAPE
    assert source.levels[0].downsample == (1, 1)
    for finer, coarser in zip(source.levels, source.levels[1:], strict=False):
        assert all(a > b for a, b in zip(finer.shape, coarser.shape, strict=True))
        assert all(a < b for a, b in zip(finer.downsample, coarser.downsample, strict=True))
    for level in source.levels:
        for full, size, side in zip(SHAPE, level.shape, level.downsample, strict=True):
            assert abs(full / side - size) < 1


def test_reads_any_box_with_white_outside(source: Source):
    for index, level in enumerate(source.levels):
        stored = picture()[:: 2**index, :: 2**index]
        margin = 40
        around = np.pad(stored, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
        rng = np.random.default_rng(index)
        boxes = [
            Box((0, 0), level.shape),
            Box((-margin, -margin), (level.shape[0] + margin, level.shape[1] + margin)),
            Box((5, 5), (5, 9)),
            Box.at((level.shape[0] + 3, 2), (8, 8)),
        ]
        for _ in range(10):
            start = tuple(int(rng.integers(-margin, n)) for n in level.shape)
            stop = tuple(int(rng.integers(a, n + margin)) for a, n in zip(start, level.shape, strict=True))
            boxes.append(Box(start, stop))
        for box in boxes:
            pixels = source.read(box, index)
            assert pixels.dtype == np.uint8
            expected = around[box.shift((margin, margin)).slices()].astype(int)
            # OpenSlide interpolates where a level's ratio is not whole, by 1/256 pixel at most as it is asked.
            assert np.abs(pixels - expected).max(initial=0) <= (1 if index else 0)


def test_windows_belong_to_the_caller(source: Source):
    source.read(Box((0, 0), (64, 64)))[:] = 7
    np.testing.assert_array_equal(source.read(Box((0, 0), (64, 64))), picture()[:64, :64])


def test_threads_read_the_same(source: Source):
    boxes = [Box.at((r, c), (50, 60)) for r in range(-20, 200, 30) for c in range(-20, 320, 40)] * 2
    alone = [source.read(box) for box in boxes]
    with ThreadPoolExecutor(4) as pool:
        for pixels, expected in zip(pool.map(source.read, boxes), alone, strict=True):
            np.testing.assert_array_equal(pixels, expected)


def test_closing_twice_and_reading_after(source: Source):
    source.close()
    source.close()
    with pytest.raises(MedvisionError, match="closed"):
        source.read(Box((0, 0), (4, 4)))


def test_damaged_and_foreign_files_are_refused(name: str, tmp_path: Path):
    path = tmp_path / "damaged"
    SAMPLES[name](path)
    whole = path.read_bytes()
    for data in (whole[:20], whole[: len(whole) // 40], b"\0" * 500, b"plain text"):
        path.write_bytes(data)
        with pytest.raises(UnreadableSourceError):
            READERS[name](path)
        with pytest.raises(UnreadableSourceError, match="damaged"):
            open_source(path)
