"""Label images and class probabilities: what is taken, what is refused and why."""

import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.core.labels import (
    Segmentation,
    as_labels,
    as_probabilities,
    certain_labels,
    most_probable,
)


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        (bool, np.uint8),
        (np.uint8, np.uint8),
        (np.int32, np.int32),
        (np.int64, np.uint8),
        (np.uint16, np.uint8),
    ],
)
def test_whole_types_become_the_one_type(given: type, becomes: type) -> None:
    found = as_labels(np.array([[0, 1], [1, 0]], given))
    assert found.dtype == becomes
    assert found.tolist() == [[0, 1], [1, 0]]


def test_many_objects_need_int32() -> None:
    assert as_labels(np.array([[0, 256]])).dtype == np.int32


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((2, 2), np.float32), "whole numbers, not float32"),
        (np.zeros(4, np.uint8), "two or three axes"),
        (np.zeros((2, 0), np.uint8), "none of them empty"),
        (np.array([[-1, 0]]), "from -1 to 0"),
        (np.array([[2**31, 0]]), "int32 the largest"),
    ],
)
def test_other_labels_are_refused(values: np.ndarray, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        as_labels(values)


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(2, 2\) do not fit an image of shape \(3, 2\)"):
        as_labels(np.zeros((2, 2), np.uint8), (3, 2))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((2, 2, 1), 1.0), "two classes or more"),
        (np.full((2, 2), 0.5), "two classes or more"),
        (np.full((2, 2, 2), 0.6), "off by 0.2"),
        (np.full((2, 2, 2), np.nan), "without NaN"),
        (np.stack([np.full((2, 2), 1.5), np.full((2, 2), -0.5)], -1), "0..1"),
    ],
)
def test_what_is_no_probability_is_refused(values: np.ndarray, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        as_probabilities(values)


def test_certain_labels_give_the_labels_back() -> None:
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    found = certain_labels(labels, 3, 0.8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[1, 0], [0.1, 0.1, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(most_probable(found), labels)
    as_probabilities(found)
    for classes, certainty in ((2, 0.9), (3, 0.2), (3, 1.1)):
        with pytest.raises(UsageError):
            certain_labels(labels, classes, certainty)


def test_numbered_objects_have_no_class_probabilities() -> None:
    beliefs = np.full((2, 2, 2), 0.5, np.float32)
    with pytest.raises(UsageError, match="numbered objects"):
        Segmentation(np.zeros((2, 2), np.uint8), beliefs, objects=True)
    assert Segmentation.of(beliefs).labels.tolist() == [[0, 0], [0, 0]]  # the first of equal ones
