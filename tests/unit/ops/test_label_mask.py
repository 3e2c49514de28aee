"""Clean-up of label images on arrays worked out by hand, and against scipy and scikit-image."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology

from medvision.core.errors import UsageError
from medvision.ops.label_mask import drop_small, fill_holes, open_labels
from medvision.ops.watershed import split_touching


def blobs(shape: tuple[int, ...], share: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 1)
    return noise > np.quantile(noise, 1 - share)


def test_holes_of_one_class_are_filled_and_others_stay() -> None:
    labels = np.array(
        [
            [1, 1, 1, 0, 2, 2, 2],
            [1, 0, 1, 0, 2, 0, 1],
            [1, 1, 1, 0, 2, 2, 2],
            [0, 0, 0, 0, 0, 0, 0],
        ],
        np.uint8,
    )
    expected = labels.copy()
    expected[1, 1] = 1  # the hole at (1, 5) has two classes beside it
    np.testing.assert_array_equal(fill_holes(labels), expected)
    np.testing.assert_array_equal(fill_holes(labels, largest=0), labels)
    assert labels[1, 1] == 0  # what was given is unchanged


@pytest.mark.parametrize("shape", [(40, 50), (14, 20, 22)])
def test_holes_of_a_mask_are_those_of_scipy(shape: tuple[int, ...]) -> None:
    mask = blobs(shape, 0.85)
    found = fill_holes(mask)
    np.testing.assert_array_equal(found, ndimage.binary_fill_holes(mask))
    assert found.sum() > mask.sum()


@pytest.mark.parametrize("shape", [(40, 50), (14, 20, 22)])
def test_small_pieces_are_those_of_scikit_image(shape: tuple[int, ...]) -> None:
    mask = blobs(shape, 0.15)
    expected = morphology.remove_small_objects(mask, max_size=29, connectivity=len(shape))
    np.testing.assert_array_equal(drop_small(mask, 30), expected)
    assert 0 < expected.sum() < mask.sum()


def test_small_objects_go_and_the_others_count_from_one() -> None:
    labels = np.array([[1, 1, 0, 5], [1, 0, 0, 0], [0, 9, 9, 9]], np.int32)
    assert drop_small(labels, 2, objects=True).tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 2, 2, 2]]


def test_opening_is_that_by_a_disc_within_each_class() -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[5:25, 5:25] = 1
    labels[14:16, 25:40] = 1  # a thin arm
    labels[5:25, 40:55] = 2  # touches it
    found = open_labels(labels, 3)
    for value in (1, 2):
        padded = np.pad(labels == value, 4)
        expected = morphology.opening(padded, morphology.disk(3))[4:-4, 4:-4]
        np.testing.assert_array_equal(found == value, expected)
    assert (found[14:16, 30] == 0).all()
    np.testing.assert_array_equal(open_labels(labels, 0), labels)


def test_opening_leaves_what_the_frame_cuts() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[:4, :] = 1
    np.testing.assert_array_equal(open_labels(labels, 3), labels)
    whole = np.full((6, 6), 2, np.uint8)
    np.testing.assert_array_equal(open_labels(whole, 2), whole)


def test_opening_goes_by_the_spacing() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[8:11, 2:18] = 1  # three rows, of 1 mm and of 3 mm
    assert not open_labels(labels, 2.0).any()
    assert open_labels(labels, 2.0, spacing=(3.0, 1.0)).any()


def discs(middles: list[tuple[float, ...]], radius: float, shape: tuple[int, ...]) -> np.ndarray:
    grid = np.indices(shape).astype(float)
    near = [sum((g - m) ** 2 for g, m in zip(grid, middle, strict=True)) <= radius**2 for middle in middles]
    return np.logical_or.reduce(near)


@pytest.mark.parametrize(
    ("middles", "shape"),
    [
        ([(15, 14), (15, 28)], (32, 44)),
        ([(15, 14), (15, 28), (29, 21)], (44, 44)),
        ([(12, 12, 12), (12, 12, 26)], (26, 26, 40)),
    ],
)
def test_touching_discs_are_told_apart(middles: list[tuple[int, ...]], shape: tuple[int, ...]) -> None:
    mask = discs(middles, 8, shape)
    assert ndimage.label(mask)[1] == 1
    found = split_touching(mask)
    assert found.dtype == np.int32
    assert sorted(found[middle] for middle in middles) == list(range(1, len(middles) + 1))
    assert found.max() == len(middles)
    np.testing.assert_array_equal(found > 0, mask)
    sizes = np.bincount(found.ravel())[1:]
    assert sizes.min() > 0.85 * sizes.max()


def test_one_disc_stays_one_and_classes_are_not_mixed() -> None:
    labels = discs([(20, 20)], 12, (40, 40)).astype(np.uint8)
    assert split_touching(labels).max() == 1
    labels[:, 20:] *= 3
    found = split_touching(labels)
    assert found.max() == 2
    assert set(found[labels == 1]) == {1} and set(found[labels == 3]) == {2}


def test_small_pieces_are_objects_too() -> None:
    mask = np.zeros((12, 12), np.uint8)
    mask[2, 2] = mask[8:10, 8] = 1
    assert split_touching(mask, depth=2.0).max() == 2
    assert split_touching(np.zeros((4, 4), np.uint8)).max() == 0
    assert split_touching(np.ones((4, 4), np.uint8)).tolist() == np.ones((4, 4)).tolist()


def test_negative_parameters_are_refused() -> None:
    mask = np.ones((4, 4), np.uint8)
    for call in (
        lambda: open_labels(mask, -1),
        lambda: fill_holes(mask, -1),
        lambda: drop_small(mask, -1),
        lambda: split_touching(mask, depth=-1),
    ):
        with pytest.raises(UsageError, match="0 or above"):
            call()
