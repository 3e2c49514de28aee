"""Regions and the slide score, by hand-computed maps."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import measure

from medvision.core.errors import UsageError
from medvision.ops.components import find_regions, slide_score

NAN = math.nan


def smooth_map(seed: int, shape: tuple[int, int] = (60, 80)) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    coarse = rng.random((shape[0] // 4, shape[1] // 4))
    values = np.kron(coarse, np.ones((4, 4))).astype(np.float32)
    values[rng.random(shape) < 0.1] = NAN
    return values


def test_one_region_by_hand() -> None:
    values = np.zeros((5, 6), dtype=np.float32)
    values[1, 1:4] = (0.6, 0.9, 0.6)
    values[2, 2] = 0.7
    (region,) = find_regions(values, 0.5, cell_um=10)
    assert (region.label, region.cells, region.area_um2) == (1, 4, 400)
    assert region.bbox == ((1, 1), (3, 4))
    assert region.peak == (1.5, 2.5)
    assert region.centroid == pytest.approx((1.75, 2.5))
    assert region.maximum == pytest.approx(0.9)
    assert region.mean == pytest.approx(0.7)
    assert region.score == pytest.approx(2.8 / 9)  # the 3 x 3 cells around (1, 2) hold all four
    assert sum(polygon.area for polygon in region.outline) == 4


def test_cells_joined_at_a_corner_are_one_region_of_two_polygons() -> None:
    (region,) = find_regions(np.eye(2, dtype=np.float32), 0.5, cell_um=1)
    assert [polygon.area for polygon in region.outline] == [1, 1]


def test_the_threshold_belongs_to_the_region() -> None:
    assert len(find_regions(np.full((1, 1), 0.5, dtype=np.float32), 0.5, cell_um=1)) == 1


def test_an_unread_cell_belongs_to_no_region_even_at_threshold_zero() -> None:
    values = np.array([[0.0, NAN, 0.0]], dtype=np.float32)
    regions = find_regions(values, 0.0, cell_um=1)
    assert [region.cells for region in regions] == [1, 1]


def test_a_hot_area_ranks_before_a_hotter_lone_cell() -> None:
    values = np.zeros((9, 12), dtype=np.float32)
    values[2:5, 2:5] = 0.8
    values[7, 10] = 1.0
    regions = find_regions(values, 0.5, cell_um=1)
    assert [region.cells for region in regions] == [9, 1]
    assert [region.label for region in regions] == [1, 2]


def test_ties_go_by_area_then_by_position() -> None:
    values = np.zeros((3, 14), dtype=np.float32)
    values[:, 0:3] = values[:, 5:9] = values[:, 11:14] = 1
    regions = find_regions(values, 0.5, cell_um=1)
    assert [region.bbox[0][1] for region in regions] == [5, 0, 11]


def test_small_and_weak_regions_are_left_out() -> None:
    values = np.zeros((3, 9), dtype=np.float32)
    values[0:2, 0:2] = 0.6
    values[0, 5:8] = 0.9
    assert [r.cells for r in find_regions(values, 0.5, 10, minimum_area_um2=400)] == [4]
    assert [r.cells for r in find_regions(values, 0.5, 10, minimum_peak=0.8)] == [3]
    assert find_regions(values, 0.5, 10, minimum_area_um2=401, minimum_peak=0.8) == ()


def test_measures_agree_with_scikit_image() -> None:
    values = smooth_map(1)
    labels = measure.label(np.nan_to_num(values, nan=-1) >= 0.6, connectivity=2)
    expected = {
        (region.bbox, region.area): region for region in measure.regionprops(labels, intensity_image=values)
    }
    regions = find_regions(values, 0.6, cell_um=2)
    assert len(regions) == len(expected)
    for region in regions:
        (top, left), (bottom, right) = region.bbox
        other = expected[(top, left, bottom, right), region.cells]
        # scikit-image takes a cell as a point; a unit square adds 1/12 to the second moment
        assert region.major_axis_um == pytest.approx(
            2 * math.hypot(other.axis_major_length, 4 / math.sqrt(12))
        )
        assert np.array(region.centroid) - 0.5 == pytest.approx(np.array(other.centroid))
        assert region.mean == pytest.approx(float(other.intensity_mean))
        assert region.maximum == pytest.approx(float(other.intensity_max))


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, (7, 8), elements=st.sampled_from([0.0, 0.3, 0.5, 0.9, NAN])))
def test_regions_cover_the_cells_above_the_threshold(values: npt.NDArray[np.float32]) -> None:
    regions = find_regions(values, 0.5, cell_um=3)
    hot = int((np.nan_to_num(values, nan=-1) >= 0.5).sum())
    assert sum(region.cells for region in regions) == hot
    assert sum(polygon.area for region in regions for polygon in region.outline) == hot
    assert all(a.score >= b.score for a, b in pairwise(regions))
    for region in regions:
        row, column = (math.floor(value) for value in region.peak)
        assert values[row, column] == pytest.approx(region.maximum)


@pytest.mark.parametrize(
    ("values", "threshold", "cell_um", "message"),
    [
        (np.zeros((2, 2, 1), dtype=np.float32), 0.5, 1.0, r"\(2, 2, 1\)"),
        (np.zeros((2, 2), dtype=np.float32), 1.5, 1.0, "threshold 1.5"),
        (np.zeros((2, 2), dtype=np.float32), 0.5, 0.0, "cell of 0 um"),
    ],
)
def test_meaningless_input_is_refused(
    values: npt.NDArray[np.float32], threshold: float, cell_um: float, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        find_regions(values, threshold, cell_um)


def test_slide_score_is_the_largest_neighbourhood_mean() -> None:
    values = np.zeros((6, 6), dtype=np.float32)
    values[0:3, 0:3] = 0.9
    values[5, 5] = 1.0
    score, sentence = slide_score(values)
    assert score == pytest.approx(0.9)
    assert "3 × 3" in sentence


def test_slide_score_counts_read_cells_only() -> None:
    values = np.full((5, 5), NAN, dtype=np.float32)
    values[0, 0:3] = (0.2, 0.4, 0.9)
    assert slide_score(values)[0] == pytest.approx(0.5)


def test_slide_score_of_scattered_cells_is_their_mean() -> None:
    values = np.full((5, 5), NAN, dtype=np.float32)
    values[0, 0], values[4, 4] = 0.2, 0.6
    score, sentence = slide_score(values)
    assert score == pytest.approx(0.4)
    assert "2 cells" in sentence


def test_slide_score_of_an_unread_slide_is_none() -> None:
    assert slide_score(np.full((3, 3), NAN, dtype=np.float32))[0] is None


def test_slide_score_is_the_best_region_score() -> None:
    values = smooth_map(5)
    assert slide_score(values, minimum_read=1)[0] == pytest.approx(find_regions(values, 0.5, 1)[0].score)
