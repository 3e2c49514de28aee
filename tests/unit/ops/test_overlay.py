"""Fixed colours, transparency, round scale bars."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvision.core.errors import UnknownNameError, UsageError
from medvision.ops.overlay import (
    CLEAR_BELOW,
    OPAQUE_FROM,
    blend,
    cells_to_pixels,
    colour_table,
    colourise,
    scale_bar,
)


def test_a_probability_has_one_colour_whatever_surrounds_it() -> None:
    alone = colourise(np.array([[0.7]], dtype=np.float32))
    among = colourise(np.array([[0.7, 0.1, 1.0]], dtype=np.float32))
    assert alone[0, 0].tolist() == among[0, 0].tolist()


def test_unread_and_benign_cells_are_transparent_and_hot_ones_are_not() -> None:
    values = np.array([[math.nan, 0.0, CLEAR_BELOW, OPAQUE_FROM, 1.0]], dtype=np.float32)
    assert colourise(values)[0, :, 3].tolist() == pytest.approx([0, 0, 0, 255, 255], abs=3)
    assert colourise(values)[0, 0].tolist() == [0, 0, 0, 0]


def test_lightness_is_monotone_so_that_it_reads_in_grey_print() -> None:
    light = colour_table()[:, :3] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light) >= -1).all() or (np.diff(light) <= 1).all()


def test_an_unknown_colour_map_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"hotpink.*viridis"):
        colourise(np.zeros((1, 1), dtype=np.float32), "hotpink")


def test_the_table_cannot_be_changed_by_a_caller() -> None:
    with pytest.raises(ValueError, match="read-only"):
        colour_table()[0] = 0


def test_cells_fall_on_the_pixels_whose_centre_they_cover() -> None:
    cells = np.array([[1, 2]], dtype=np.float32)
    pixels = cells_to_pixels(cells, (3, 6), (2.0, 2.0), (0.0, 1.0))
    expected = [math.nan, 1, 1, 2, 2, math.nan]
    np.testing.assert_array_equal(pixels, [expected, expected, [math.nan] * 6])


def test_blend_by_hand() -> None:
    base = np.full((1, 2, 3), 200, dtype=np.uint8)
    rgba = np.array([[[0, 100, 200, 255], [0, 0, 0, 0]]], dtype=np.uint8)
    assert blend(base, rgba, 0.5).tolist() == [[[100, 150, 200], [200, 200, 200]]]


def test_blend_refuses_shapes_and_opacities_that_do_not_fit() -> None:
    base = np.zeros((2, 2, 3), dtype=np.uint8)
    with pytest.raises(UsageError, match="shape"):
        blend(base, np.zeros((2, 3, 4), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"1\.5"):
        blend(base, np.zeros((2, 2, 4), dtype=np.uint8), 1.5)


@given(st.floats(1e-4, 100), st.floats(20, 2000))
def test_scale_bar_is_round_fits_and_is_not_tiny(pixels_per_um: float, width_px: float) -> None:
    length, label = scale_bar(pixels_per_um, width_px)
    bar = length * pixels_per_um
    assert width_px / 2.6 < bar <= width_px * (1 + 1e-6)
    mantissa = length / 10 ** math.floor(math.log10(length) + 1e-9)
    assert min(abs(mantissa - step) for step in (1, 2, 5)) < 1e-6
    number, unit = label.split(" ")
    assert float(number) * {"µm": 1, "mm": 1000}[unit] == pytest.approx(length)


def test_scale_bar_refuses_nothing() -> None:
    with pytest.raises(UsageError, match="scale bar"):
        scale_bar(0, 100)
