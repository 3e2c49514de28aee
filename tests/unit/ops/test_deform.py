"""Deformations: exact where they must be, smooth where they are said to be, and the same for image and labels."""

from __future__ import annotations

import numpy as np
import pytest

from medvision.ops.deform import field_displacement, grid_displacement, sample, window_places


def test_a_window_that_is_neither_turned_nor_moved_is_a_cut_and_beyond_the_border_a_mirror() -> None:
    image = np.arange(30.0).reshape(5, 6)
    inside = sample(image, window_places((3, 4), (2, 2.5)))
    assert np.array_equal(inside, image[1:4, 1:5])
    mirrored = sample(image, window_places((9, 10), (2, 2.5)))
    assert np.array_equal(mirrored, np.pad(image, 2, mode="reflect"))


def test_a_quarter_turn_by_matrix_is_a_quarter_turn() -> None:
    volume = np.random.default_rng(0).integers(0, 9, (3, 4, 4)).astype(np.uint8)
    matrix = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    turned = sample(volume, window_places((3, 4, 4), (1, 1.5, 1.5), matrix), nearest=True)
    assert turned.dtype == np.uint8
    assert np.array_equal(turned, np.rot90(volume, 1, (1, 2)))


def test_half_a_pixel_is_the_mean_of_two() -> None:
    image = np.array([[0, 4, 8], [0, 4, 8]], np.uint8)
    places = window_places((1, 2), (0, 1), displacement=np.zeros((2, 1, 2), np.float32))
    assert sample(image, places).tolist() == [[2.0, 6.0]]


@pytest.mark.parametrize("shape", [(33, 65), (17, 33, 25)])
def test_the_coarse_grid_is_met_at_its_nodes(shape: tuple[int, ...]) -> None:
    field = grid_displacement(shape, np.random.default_rng(3), sigma_px=10)
    axes = len(shape)
    drawn = np.random.default_rng(3).normal(0, 10, (axes, *(3,) * axes))
    at = np.ix_(range(axes), *([0, (n - 1) // 2, n - 1] for n in shape))
    assert field[at] == pytest.approx(drawn, rel=1e-5, abs=1e-5)
    # smooth: second differences are small beside the displacements
    assert np.abs(np.diff(field, 2, axis=1)).max() < 0.2 * np.abs(field).max()


@pytest.mark.parametrize("shape", [(40, 50), (12, 20, 20)])
def test_the_field_has_the_size_that_was_asked_for_and_is_smooth(shape: tuple[int, ...]) -> None:
    field = field_displacement(shape, np.random.default_rng(1), sigma_px=3, smooth_px=4)
    assert field.shape == (len(shape), *shape)
    assert np.sqrt((field**2).mean(axis=tuple(range(1, field.ndim)))) == pytest.approx(3, rel=1e-5)
    assert np.abs(np.diff(field, axis=1)).max() < 3
    again = field_displacement(shape, np.random.default_rng(1), sigma_px=3, smooth_px=4)
    assert np.array_equal(field, again)


def test_labels_stay_labels_and_move_with_the_image() -> None:
    rows, columns = np.mgrid[:64, :64]
    labels = np.where((rows - 30) ** 2 + (columns - 34) ** 2 < 300, 200, 7).astype(np.uint8)
    field = grid_displacement((64, 64), np.random.default_rng(5), sigma_px=4)
    places = window_places((64, 64), (31.5, 31.5), displacement=field)
    moved, image = sample(labels, places, nearest=True), sample(labels, places)
    assert set(np.unique(moved)) == {7, 200}
    assert np.mean((image > 103.5) == (moved > 103.5)) > 0.995
    assert not np.array_equal(moved, labels)
