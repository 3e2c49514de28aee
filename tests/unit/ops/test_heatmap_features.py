"""Features of maps, by maps small enough to count on."""

from __future__ import annotations

import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.ops.heatmap_features import FEATURES, heatmap_features


def named(probability, cell_um=100.0):
    return dict(zip(FEATURES, heatmap_features(np.array(probability, np.float32), cell_um), strict=True))


def test_there_are_28() -> None:
    assert len(FEATURES) == len(set(FEATURES)) == 28


def test_a_map_by_hand() -> None:
    probability = np.full((20, 20), 0.1)
    probability[2:6, 3:11] = 0.6  # 32 cells
    probability[3:5, 5:9] = 0.95  # 8 of them
    probability[10, 10] = 0.75  # a cell alone
    probability[15:] = np.nan
    found = named(probability)
    assert found["maximum"] == pytest.approx(0.95)
    assert found["mean"] == pytest.approx((267 * 0.1 + 24 * 0.6 + 8 * 0.95 + 0.75) / 300)
    assert [found[f"share_{t:g}"] * 300 for t in (0.5, 0.6, 0.7, 0.8, 0.9)] == pytest.approx(
        [33, 33, 9, 8, 8]
    )
    assert (found["regions_0.5"], found["regions_0.9"]) == (2, 1)
    assert found["largest_share_0.5"] == pytest.approx(32 / 33)
    assert found["area_mm2_0.5"] == pytest.approx(0.32)
    assert found["second_area_mm2_0.5"] == pytest.approx(0.01)
    assert found["extent_0.5"] == found["solidity_0.5"] == found["solidity_0.9"] == 1
    assert found["mean_0.5"] == pytest.approx((24 * 0.6 + 8 * 0.95) / 32)
    assert found["maximum_0.5"] == pytest.approx(0.95)
    # A 4 x 8 rectangle: major axis 4 sqrt(8^2 / 12), eccentricity sqrt(1 - (4/8)^2).
    assert found["length_mm_0.5"] == pytest.approx(4 * np.sqrt(64 / 12) / 10, rel=0.02)
    assert found["eccentricity_0.5"] == pytest.approx(np.sqrt(0.75), rel=0.02)


def test_a_stair_leaves_gaps_in_its_hull() -> None:
    probability = np.zeros((12, 12))
    probability[1:11, 1] = 1
    probability[10, 1:11] = 1
    found = named(probability)
    assert found["extent_0.9"] == pytest.approx(0.19)
    assert 0.25 < found["solidity_0.9"] < 0.45


def test_lengths_follow_the_stride() -> None:
    probability = np.zeros((40, 40))
    probability[8:24, 4:36] = 1
    fine, coarse = named(probability, 50), named(probability[::2, ::2], 100)
    for name in ("area_mm2_0.9", "length_mm_0.9", "share_0.5", "extent_0.5"):
        assert fine[name] == pytest.approx(coarse[name], rel=0.02), name


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2)])
def test_small_regions_have_finite_features(shape) -> None:
    probability = np.zeros((9, 9))
    probability[: shape[0], : shape[1]] = 1
    assert np.isfinite(heatmap_features(probability, 64.0)).all()
    assert np.isfinite(heatmap_features(np.ones(shape), 64.0)).all()


def test_no_region_is_zero() -> None:
    found = named(np.full((6, 6), 0.2))
    assert all(found[name] == 0 for name in FEATURES if name.endswith(("_0.5", "_0.9")))


def test_wrong_input_is_named() -> None:
    with pytest.raises(UsageError, match="without any read cell"):
        heatmap_features(np.full((3, 3), np.nan), 64)
    with pytest.raises(UsageError, match=r"\(2, 2, 2\)"):
        heatmap_features(np.zeros((2, 2, 2)), 64)
    with pytest.raises(UsageError, match="cell of 0 um"):
        heatmap_features(np.zeros((2, 2)), 0)
