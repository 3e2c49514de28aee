"""Planes of a volume: proportion, side and letters."""

from __future__ import annotations

import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.core.geometry import Spacing
from medvision.core.world import WorldFrame
from medvision.report.planes import lettered, plane_of, three_planes
from medvision.sources.array_source import ArraySource

SPACING = (4.0, 1.0, 2.0)


class Scan(ArraySource):
    quantity, notes = "HU", ()
    frame = WorldFrame((0.0, 0.0, 0.0), SPACING, ((0, 0, 1), (0, 1, 0), (1, 0, 0)))


@pytest.fixture
def scan() -> Scan:
    """Dark, with one bright voxel: near the top, at the front, at the patient's left."""
    array = np.full((10, 40, 30, 1), -1000, np.int16)
    array[8, 5, 25] = 400
    return Scan(array, "zyx", Spacing(SPACING, "mm"), fill=-1000)


@pytest.mark.parametrize(
    ("view", "size", "letters", "bright"),
    [
        ("axial", (40, 60), "RLAP", (5.5 / 40, 25.5 / 30)),
        ("coronal", (40, 60), "RLSI", (1.5 / 10, 25.5 / 30)),
        ("sagittal", (40, 40), "APSI", (1.5 / 10, 5.5 / 40)),
    ],
)
def test_proportion_side_and_letters(scan, view, size, letters, bright):
    plane = plane_of(scan, view, at=(8.5, 5.5, 25.5), longest=max(size))
    assert plane.pixels.shape == size
    assert plane.side_mm == 1
    assert plane.left + plane.right + plane.top + plane.bottom == letters
    row, column = np.unravel_index(plane.pixels.argmax(), size)
    assert abs(row + 0.5 - bright[0] * size[0]) <= 2
    assert abs(column + 0.5 - bright[1] * size[1]) <= 2
    assert plane.pixels.max() > 150
    assert plane.mark == pytest.approx(bright), "the point itself, for a cross"


def test_a_crop_is_a_square_of_millimetres_also_across_the_edge(scan):
    plane = plane_of(scan, "axial", at=(8.5, 5.5, 25.5), half_mm=10, longest=64)
    assert plane.pixels.shape == (64, 64)
    row, column = np.unravel_index(plane.pixels.argmax(), plane.pixels.shape)
    assert (abs(row - 32) < 4) and (abs(column - 32) < 5)


def test_one_sheet_of_three(scan):
    sheet = three_planes(scan, height=200)
    assert sheet.mode == "RGB"
    assert sheet.size == (2 * 300 + 200 + 12, 200)  # to one scale: 60, 60 and 40 mm wide, 40 mm high
    assert np.asarray(lettered(plane_of(scan, "axial"))).max() == 255  # letters are light


def test_a_point_outside_is_refused(scan):
    with pytest.raises(UsageError, match="no plane at"):
        plane_of(scan, "axial", at=(99, 0, 0))


def test_values_of_unknown_kind_are_shown_by_percentiles(scan):
    scan.quantity = ""
    scan.array[..., 0] = np.arange(40)[None, :, None]
    plane = plane_of(scan, "axial")
    assert plane.pixels.min() < 5 and plane.pixels.max() > 250
