from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from medvision.core.errors import SpacingError, UsageError
from medvision.core.geometry import Box, Spacing
from medvision.sources import extent_at, open_source, overview, read_at
from medvision.sources.array_source import ArraySource
from medvision.sources.levels import pixel_length
from medvision.sources.resample import choose_level

SPACING = 0.5
PERIOD = np.array([61.0, 83.0])  # micrometres, rows and columns


def wave(start: np.ndarray, side: float, axis: int) -> np.ndarray:
    """Mean of sin over [start, start + side), in micrometres, exactly."""
    w = 2 * np.pi / PERIOD[axis]
    return (np.cos(w * start) - np.cos(w * (start + side))) / (w * side)


def analytic(box: Box, side: float) -> np.ndarray:
    """What an ideal scanner would record in `box` of a grid of pixels of `side` um: float (rows, columns)."""
    rows = wave(np.arange(box.start[0], box.stop[0]) * side, side, 0)
    columns = wave(np.arange(box.start[1], box.stop[1]) * side, side, 1)
    return 127.5 + 100 * rows[:, None] * columns[None, :]


@pytest.fixture(scope="module")
def wavy(tmp_path_factory) -> Path:
    """The wave as a slide of three levels, each exact."""
    path = tmp_path_factory.mktemp("wave") / "wave.tif"
    with tifffile.TiffWriter(path) as tiff:
        for k in (1, 4, 16):
            grey = np.rint(analytic(Box((0, 0), (1201 // k, 1501 // k)), SPACING * k)).astype(np.uint8)
            tiff.write(
                np.repeat(grey[..., None], 3, axis=-1),
                tile=(128, 128),
                photometric="rgb",
                subfiletype=int(k > 1),
                resolution=(1e4 / SPACING / k,) * 2,
                resolutionunit="CENTIMETER",
            )
    return path


@pytest.fixture
def source(wavy):
    opened = open_source(wavy)
    yield opened
    opened.close()


# Steepest change of the wave in grey levels per micrometre, which half a native pixel of displacement multiplies.
STEEPEST = 100 * 2 * np.pi / PERIOD.min() * np.sqrt(2)


@pytest.mark.parametrize(
    "spacing", [0.2, 0.4, 0.499, 0.5, 0.502, 0.6, 0.77, 1.0, 1.003, 1.5, 1.9, 2.0, 2.5, 4.0, 7.3, 8.0, 11.1]
)
@pytest.mark.parametrize("at", [(0.0, 0.0), (101.3, 77.7), (440.1, 613.9)])
def test_matches_the_ideal_scanner_at_any_spacing_and_offset(source, spacing, at):
    box = Box.at((int(at[0] / spacing), int(at[1] / spacing)), (37, 41))
    inside = box.intersect(Box((0, 0), extent_at(source, spacing)))
    inside = Box(inside.start, (inside.stop[0] - 1, inside.stop[1] - 1))  # the last pixel may leave the image
    found = read_at(source, inside, spacing).astype(float)
    _, factors = choose_level(source, spacing)
    whole = abs(factors[0] / max(1, round(factors[0])) - 1)
    native = spacing / factors[0]
    # Whole pixels are off by half a native pixel at most; a share of a pixel stands at its centre: an eighth at most.
    moved = 0.0 if whole < 1e-9 else STEEPEST * native / (2 if whole <= 0.01 else 8)
    curved = 0.3 if factors[0] < 0.99 else 0.0  # bilinear cuts the tops of the wave
    assert np.abs(found - analytic(inside, spacing)[..., None]).max() <= 1.01 + moved + curved


def test_levels_agree_to_half_a_pixel_of_the_coarser(source):
    """The same place read at a spacing just served by level 1, then forced from level 0, without a shift."""
    box = Box.at((31, 42), (64, 64))
    from_level_1 = read_at(source, box, 2.0).astype(float)
    source.levels = source.levels[:1]
    from_level_0 = read_at(source, box, 2.0).astype(float)
    assert np.abs(from_level_1 - from_level_0).max() <= 1.01


@pytest.mark.parametrize("spacing", [0.5, 0.499, 0.503, 1.0, 1.004, 2.0, 1.37, 3.1, 0.3])
def test_a_window_does_not_depend_on_its_neighbours(source, spacing):
    large = Box.at((13, 17), (90, 110))
    whole = read_at(source, large, spacing).astype(int)
    for start, shape in (((13, 17), (20, 30)), ((40, 61), (33, 27)), ((80, 100), (23, 27))):
        box = Box.at(start, shape)
        cut = whole[box.shift((-13, -17)).slices()]
        assert np.abs(read_at(source, box, spacing) - cut).max() <= (
            0 if spacing in (0.5, 1.0, 2.0, 0.499, 0.503) else 1
        )


def test_large_reads_in_parts_equal_one_piece(monkeypatch, source):
    box = Box.at((3, 5), (200, 250))
    whole = [read_at(source, box, s) for s in (1.0, 1.3)]
    monkeypatch.setattr("medvision.sources.resample._NATIVE_SIDE", 100)
    for spacing, expected in zip((1.0, 1.3), whole, strict=True):
        np.testing.assert_array_equal(read_at(source, box, spacing), expected)


def test_no_drift_over_a_hundred_thousand_pixels():
    """0.4990 served as 0.5: at the far end of a 100k px row the native pixel read is the one under the plan pixel."""
    ramp = (np.arange(100_000) % 251).astype(np.uint8)
    source = ArraySource(np.repeat(ramp[None, :, None], 3, axis=-1), spacing=Spacing((0.4990, 0.4990)))
    columns = extent_at(source, 0.5)[1]
    assert columns == round(100_000 * 0.4990 / 0.5)
    last = read_at(source, Box((0, columns - 256), (1, columns)), 0.5)[0, :, 0]
    centres = (np.arange(columns - 256, columns) + 0.5) * 0.5 / 0.4990
    np.testing.assert_array_equal(last, np.floor(centres).astype(int) % 251)


def test_chooses_the_coarsest_level_that_is_fine_enough(source):
    levels = {s: choose_level(source, s)[0] for s in (0.3, 0.5, 1.0, 1.98, 1.9, 2.0, 7.9, 7.93, 8.0, 30.0)}
    assert levels == {0.3: 0, 0.5: 0, 1.0: 0, 1.98: 1, 1.9: 0, 2.0: 1, 7.9: 1, 7.93: 2, 8.0: 2, 30.0: 2}


@pytest.mark.parametrize("spacing", [0.5, 1.0, 1.3, 0.3])
def test_outside_is_fill(source, spacing):
    rows, columns = extent_at(source, spacing)
    far = read_at(source, Box.at((rows + 9, columns + 9), (5, 6)), spacing)
    before = read_at(source, Box.at((-30, -30), (29, 29)), spacing)
    assert (far == 255).all()
    assert (before == 255).all()
    edge = read_at(source, Box.at((-3, -4), (8, 8)), spacing)
    assert (edge[:3] == 255).all()
    assert (edge[:, :4] == 255).all()
    np.testing.assert_array_equal(edge[3:, 4:], read_at(source, Box((0, 0), (5, 4)), spacing))
    assert read_at(source, Box((5, 5), (5, 9)), spacing).shape == (0, 4, 3)


def test_extent_covers_the_image(source):
    assert extent_at(source, 0.5) == (1201, 1501)
    assert extent_at(source, 1.0) == (600, 750)
    assert extent_at(source, 1e4) == (1, 1)


def test_reading_wants_a_spacing():
    bare = ArraySource(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(SpacingError, match=r"--slide-spacing 0\.5"):
        read_at(bare, Box((0, 0), (4, 4)), 0.5)
    bare.spacing = Spacing((0.5, 0.5))
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="positive"):
            extent_at(bare, wrong)


def test_pixel_length_prefers_whole_blocks_over_the_ratio_of_rounded_shapes():
    assert pixel_length((3567, 4443), (1783, 2221)) == (2.0, 2.0)
    assert pixel_length((250, 300), (31, 37)) == (8.0, 8.0)
    assert pixel_length((1000, 1000), (300, 300)) == (10 / 3, 10 / 3)


def test_overview_marks_what_it_could_not_read(write_pyramid):
    path = write_pyramid([np.full((1024, 1024, 3), 90, np.uint8)], compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    source = open_source(path)
    whole = overview(source, 1.0, block=256)
    assert whole.pixels.shape == (512, 512, 3)
    damaged = np.argwhere(whole.damaged)
    assert damaged.min() == 0
    assert 0 < len(damaged) <= 128 * 128  # the tile of 256 native pixels, and no more than itself
    assert not whole.missing.any()
    assert (whole.pixels[whole.damaged] == 255).all()
    assert (whole.pixels[~whole.damaged] == 90).all()
