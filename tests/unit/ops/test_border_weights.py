"""The weight map of U-Net, against distances counted by hand and against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medvision.ops.border_weights import border_weights


def test_a_gap_is_weighted_by_the_sum_of_both_distances() -> None:
    objects = np.array([[1, 0, 0, 0, 2]])
    inner = 10 * math.exp(-((2 + 2) ** 2) / 50)  # 1 + 3 beside an object, 2 + 2 in the middle: the same sum
    assert border_weights(objects) == pytest.approx(np.array([[0, inner, inner, inner, 0]]), rel=1e-6)


@pytest.mark.parametrize("objects", [np.zeros((4, 5), int), np.array([[0, 3, 3, 0]]), np.ones((2, 2), int)])
def test_without_a_second_object_there_is_no_gap(objects: np.ndarray) -> None:
    assert not border_weights(objects).any()


@pytest.mark.parametrize("shape", [(40, 60), (14, 18, 22)])
def test_it_is_the_definition_whatever_the_labels_are_called(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    objects = np.zeros(shape, np.int32)
    for label in (7, 900, 12, 40):
        start = [int(rng.integers(0, n - 5)) for n in shape]
        objects[tuple(slice(a, a + 4) for a in start)] = label
    places = np.argwhere(np.ones(shape, bool))
    away = np.sort(
        [np.linalg.norm(places[:, None] - np.argwhere(objects == k)[None], axis=2).min(axis=1)
         for k in np.unique(objects) if k],
        axis=0,
    )  # fmt: skip
    expected = np.where(objects.ravel() == 0, 3 * np.exp(-((away[0] + away[1]) ** 2) / (2 * 2.0**2)), 0)
    found = border_weights(objects, w0=3, sigma_px=2)
    assert found.dtype == np.float32
    assert found.ravel() == pytest.approx(expected, abs=1e-6)
