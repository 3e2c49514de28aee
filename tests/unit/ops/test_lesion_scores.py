"""Two-model lesion scores by hand, and a raster read on another one's grid."""

from __future__ import annotations

import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.core.geometry import Spacing
from medvision.core.results import Raster
from medvision.ops.lesion_scores import on_grid_of, two_model_lesions


def test_one_detection_a_component_with_the_mean_of_both() -> None:
    first, second = np.zeros((8, 8)), np.zeros((8, 8))
    first[1:4, 1:4] = [[0.9, 0.92, 0.94], [0.9, 1.0, 0.9], [0.91, 0.93, 0.9]]
    second[1:4, 1:4] = 0.5
    first[6, 6] = first[7, 7] = 0.99  # one component: corners touch
    second[6, 6], second[7, 7] = 0.9, np.nan
    first[0, 7] = 0.89
    found = two_model_lesions(first, second)
    assert [peak.position for peak in found] == [(6.5, 6.5), (2.5, 2.5)]
    assert found[0].probability == pytest.approx(((0.99 + 0.9) / 2 + 0.99) / 2)
    assert found[1].probability == pytest.approx((first[1:4, 1:4].mean() + 0.5) / 2)


def test_the_centre_lies_in_the_component() -> None:
    first = np.zeros((9, 9))
    first[1:8, 1] = first[1, 1:8] = first[7, 1:8] = 1  # open to the right: the centroid lies in the gap
    (peak,) = two_model_lesions(first, first)
    assert first[int(peak.position[0]), int(peak.position[1])] == 1


def test_unread_cells_and_empty_maps_hold_no_lesion() -> None:
    first = np.full((4, 4), np.nan)
    assert two_model_lesions(first, first) == ()
    assert two_model_lesions(np.zeros((3, 3)), np.ones((3, 3))) == ()


def test_wrong_input_is_named() -> None:
    with pytest.raises(UsageError, match=r"\(2, 2\) and \(2, 3\)"):
        two_model_lesions(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(UsageError, match=r"1\.5 lies outside"):
        two_model_lesions(np.zeros((2, 2)), np.zeros((2, 2)), 1.5)


def raster(values, cell):
    return Raster(np.asarray(values, np.float32)[..., None], Spacing((cell, cell)), ("tumor",))


def test_a_coarser_or_finer_raster_is_read_at_the_centres_of_cells() -> None:
    coarse, fine = raster([[1, 2], [3, 4]], 100), raster(np.arange(36).reshape(6, 6), 50)
    same = on_grid_of(coarse, "tumor", fine)
    assert same[:4, :4].tolist() == np.kron([[1, 2], [3, 4]], np.ones((2, 2))).tolist()
    assert np.isnan(same[4:]).all()
    assert np.isnan(same[:, 4:]).all()
    # The centre of a coarse cell is a corner of fine ones: it belongs to the one below and to the right.
    assert on_grid_of(fine, "tumor", coarse).tolist() == [[7, 9], [19, 21]]
    np.testing.assert_array_equal(on_grid_of(fine, "tumor", fine), fine.values[..., 0])
