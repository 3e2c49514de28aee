"""The circles of a structured report: in pixels of the images that a ball meets, round in the patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvision.report import dicom_sr
from medvision.report.dicom_sr import circle_of, sections_of
from medvision.sources.dicom_origin import SeriesOrigin
from medvision.sources.dicom_series import Slice
from medvision.sources.write_volume import uid_of
from medvision.store.scan_records import Finding


def plane(height: float, spacing: tuple[float, float] = (0.5, 0.5)) -> Slice:
    """An image at a height, columns to the left and rows to the back, whose first pixel lies at (10, 20)."""
    return Slice(
        Path("a"), (10.0, 20.0, height), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), spacing, (64, 64), 1, 0,
        np.dtype("i2"), 16, f"1.{height}",
    )  # fmt: skip


def test_a_point_is_counted_from_the_corner_of_the_first_pixel() -> None:
    kind, points = circle_of(plane(0), np.array([10.0, 20.0, 0.0]), 1.0)
    assert kind == "CIRCLE" and points.tolist() == [[0.5, 0.5], [2.5, 0.5]]
    _, points = circle_of(plane(0), np.array([12.0, 25.0, 7.0]), 2.0)
    assert points.tolist() == [[4.5, 10.5], [8.5, 10.5]]


@pytest.mark.parametrize("spacing", [(1.0, 0.5), (0.5, 1.0)])
def test_where_pixels_are_not_square_a_circle_is_an_ellipse(spacing: tuple[float, float]) -> None:
    kind, points = circle_of(plane(0, spacing), np.array([14.0, 26.0, 0.0]), 3.0)
    assert kind == "ELLIPSE"
    row, column = spacing
    places = np.stack([10 + (points[:, 0] - 0.5) * column, 20 + (points[:, 1] - 0.5) * row], axis=1)
    assert np.linalg.norm(places - (14, 26), axis=1) == pytest.approx([3] * 4)
    lengths = np.linalg.norm(points[1::2] - points[::2], axis=1)
    assert lengths[0] == 2 * lengths[1], "the longer axis comes first"


def test_a_ball_is_cut_by_the_images_it_meets_or_shown_on_the_nearest() -> None:
    slices = tuple(plane(2.0 * k) for k in range(10))
    met = sections_of(slices, np.array([0.0, 0.0, 8.0]), 10.0)
    assert [one.position[2] for one, _ in met] == [4, 6, 8, 10, 12]
    assert [radius for _, radius in met] == pytest.approx([3, 21**0.5, 5, 21**0.5, 3])
    ((one, radius),) = sections_of(slices, np.array([0.0, 0.0, 6.9]), 1.0)
    assert (one.position[2], radius) == (6, 0.5)


@pytest.mark.parametrize(("diameter_mm", "template"), [(9.0, "1411"), (1.0, "1410")])
def test_a_finding_on_a_single_image_is_a_planar_region(diameter_mm: float, template: str) -> None:
    pytest.importorskip("highdicom", reason="highdicom is not installed", exc_type=ImportError)
    finding = Finding(
        id=1, world=(14.0, 26.0, 9.1), voxel=(4.5, 12.5, 8.5), side=None, score=0.75, detector_score=0.5,
        detector_mm=diameter_mm, size_from="detector", diameter_mm=diameter_mm, long_mm=None, short_mm=None,
        volume_mm3=None, mean_hu=None, size_band="",
    )  # fmt: skip
    origin = SeriesOrigin({}, "1.2.840.10008.5.1.4.1.1.2", "1.2", tuple(plane(2.0 * k) for k in range(10)))
    group = dicom_sr._group(finding, origin, None, lambda what: uid_of(what))
    assert group[0].ContentTemplateSequence[0].TemplateIdentifier == template
    told = {one.name.meaning: one.value for one in group.get_measurements()}
    assert told == {"Diameter": diameter_mm, "Certainty of Finding": 75.0}, "what is not known is left out"
    assert group.finding_sites[0].laterality is None
