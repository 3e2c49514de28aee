"""Non-maximum suppression beside the published steps written out one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvision.core.errors import UsageError
from medvision.ops.nms import peaks, radius_in_cells


def step_by_step(values: npt.NDArray[np.float32], radius: int) -> list[tuple[float, float]]:
    """On the transposed map, as published: x is the first axis."""
    left = np.nan_to_num(values, nan=-1.0).T.copy()
    found = []
    while left.max() > 0.5:
        x, y = np.unravel_index(int(left.argmax()), left.shape)
        found.append((float(y) + 0.5, float(x) + 0.5))
        for i in range(max(int(x) - radius, 0), min(int(x) + radius, left.shape[0])):
            for j in range(max(int(y) - radius, 0), min(int(y) + radius, left.shape[1])):
                left[i, j] = 0
    return found


def test_peaks_clear_a_half_open_square_and_stop_at_the_threshold() -> None:
    values = np.zeros((10, 10), dtype=np.float32)
    values[4, 4] = 0.9
    values[2, 2], values[5, 5] = 0.8, 0.8  # inside [2, 6) on both axes
    values[4, 6], values[1, 4] = 0.7, 0.6  # just outside
    values[9, 0] = 0.5  # not above the threshold
    found = peaks(values, radius_cells=2)
    assert [peak.position for peak in found] == [(4.5, 4.5), (4.5, 6.5), (1.5, 4.5)]
    assert [peak.probability for peak in found] == pytest.approx([0.9, 0.7, 0.6])


def test_of_equal_cells_the_leftmost_comes_first() -> None:
    values = np.zeros((6, 6), dtype=np.float32)
    values[0, 4] = values[5, 1] = values[2, 1] = 0.75
    assert [peak.position for peak in peaks(values, radius_cells=1)] == [(2.5, 1.5), (5.5, 1.5), (0.5, 4.5)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_peaks_agree_with_the_steps_one_by_one(seed: int, radius: int) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 12, (17, 23)).astype(np.float32) / 12  # many equal cells
    values[random.random(values.shape) < 0.1] = np.nan
    assert [peak.position for peak in peaks(values, radius_cells=radius)] == step_by_step(values, radius)


def test_a_map_without_read_cells_has_no_peak() -> None:
    assert peaks(np.full((3, 4), np.nan, np.float32)) == ()


def test_the_published_radius_keeps_its_size_on_the_glass() -> None:
    assert radius_in_cells(64 * 0.243) == 12
    assert radius_in_cells(128 * 0.243) == 6
    assert radius_in_cells(10_000) == 1


def test_wrong_input_is_named() -> None:
    with pytest.raises(UsageError, match=r"\(3,\)"):
        peaks(np.zeros(3, np.float32))
    with pytest.raises(UsageError, match="radius 0"):
        peaks(np.zeros((3, 3), np.float32), radius_cells=0)
