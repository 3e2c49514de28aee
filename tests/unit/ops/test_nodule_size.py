"""Sizes of balls of known diameter, with what clings to them in a lung."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from medvision.core.errors import UsageError
from medvision.ops.nodule_size import LARGEST_BAND, measure_nodule, size_band

SIDE_MM = 0.6


def cube(diameter_mm: float, hu: float = 30.0, vessel_mm: float = 0.0, wall: bool = False) -> np.ndarray:
    """A blurred ball in the middle of noisy lung, with a vessel through it or a wall that it sits on."""
    count = 61
    places = (np.arange(count) + 0.5 - count / 2) * SIDE_MM
    z, y, x = np.ix_(places, places, places)
    values = np.full((count,) * 3, -850.0)
    values[z**2 + y**2 + x**2 <= (diameter_mm / 2) ** 2] = hu
    if vessel_mm:
        values[np.broadcast_to((z**2 + y**2 < (vessel_mm / 2) ** 2) & (x > 0), values.shape)] = hu
    if wall:
        values[np.broadcast_to(x > diameter_mm / 2 - 1, values.shape)] = 40
    noise = np.random.default_rng(0).normal(0, 20, values.shape)
    return ndimage.gaussian_filter(values, 0.5 / SIDE_MM) + noise


@pytest.mark.parametrize("diameter_mm", [4.0, 6.0, 8.0, 14.0, 20.0])
@pytest.mark.parametrize("hu", [30.0, -600.0])
@pytest.mark.parametrize("guess", [0.8, 1.0, 1.3])
def test_balls_have_their_diameter_and_volume_whatever_is_expected(
    diameter_mm: float, hu: float, guess: float
) -> None:
    found = measure_nodule(cube(diameter_mm, hu), SIDE_MM, guess * diameter_mm)
    assert found is not None
    assert found.diameter_mm == pytest.approx(diameter_mm, abs=SIDE_MM)
    assert found.volume_mm3 == pytest.approx(math.pi / 6 * diameter_mm**3, rel=0.15)
    assert found.short_mm <= found.long_mm


@pytest.mark.parametrize("diameter_mm", [8.0, 14.0, 20.0])
def test_a_thin_vessel_is_taken_off(diameter_mm: float) -> None:
    found = measure_nodule(cube(diameter_mm, vessel_mm=2), SIDE_MM, diameter_mm)
    assert found is not None and found.diameter_mm == pytest.approx(diameter_mm, abs=2 * SIDE_MM)


def test_two_axes_of_an_ellipsoid() -> None:
    values = np.full((61,) * 3, -850.0)
    places = (np.arange(61) + 0.5 - 30.5) * SIDE_MM
    z, y, x = np.ix_(places, places, places)
    values[(z / 4) ** 2 + (y / 4) ** 2 + (x / 7) ** 2 <= 1] = 20
    found = measure_nodule(values, SIDE_MM, 11)
    assert found is not None
    assert found.long_mm == pytest.approx(14, abs=SIDE_MM) and found.short_mm == pytest.approx(
        8, abs=1.5 * SIDE_MM
    )
    assert found.mean_hu == pytest.approx(20)


@pytest.mark.parametrize(
    "values",
    [cube(8, wall=True), np.full((61,) * 3, -850.0), np.full((61,) * 3, 40.0), cube(8, hu=-800)],
    ids=["at the wall", "nothing", "no lung", "no contrast"],
)
def test_what_cannot_be_told_from_its_surroundings_has_no_size(values: np.ndarray) -> None:
    assert measure_nodule(values, SIDE_MM, 8) is None


def test_a_ball_beside_the_middle_is_not_the_candidate() -> None:
    assert measure_nodule(np.roll(cube(6), 14, axis=1), SIDE_MM, 6) is None


def test_bands_begin_at_their_lower_end_after_rounding() -> None:
    assert [size_band(v) for v in (5.94, 5.96, 7.9, 8.0, 14.9, 15.0)] == [
        "below 6 mm",
        "6 to below 8 mm",
        "6 to below 8 mm",
        "8 to below 15 mm",
        "8 to below 15 mm",
        LARGEST_BAND,
    ]


def test_what_is_no_cube_is_refused() -> None:
    with pytest.raises(UsageError, match="are no cube"):
        measure_nodule(np.zeros((3, 4, 5)), SIDE_MM, 8)
    with pytest.raises(UsageError, match="are no cube"):
        measure_nodule(np.zeros((3, 3, 3)), SIDE_MM, 0)


def test_a_large_finding_takes_little_memory() -> None:
    """Of a plane of 7,000 pixels all pairs would take 2 GB."""
    count = 141
    places = (np.arange(count) + 0.5 - count / 2) * SIDE_MM
    z, y, x = np.ix_(places, places, places)
    values = np.where(z**2 + y**2 + x**2 <= 28**2, 30, -850).astype(np.int16)
    tracemalloc.start()
    found = measure_nodule(values, SIDE_MM, 48)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None and found.diameter_mm == pytest.approx(56, abs=2 * SIDE_MM)
    assert most < 200 * values.size, f"{most / 1e6:.0f} MB"
