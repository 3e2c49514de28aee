"""Connected parts over bands: those of the whole, with outlines that hold exactly their pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import ndimage

from medvision.core.geometry import Box
from medvision.ops.banded import Part, connected_parts
from medvision.ops.rasterise import rasterise


def bands(image: np.ndarray, height: int) -> Iterator[np.ndarray]:
    """Rows of an image, a few at a time."""
    for row in range(0, len(image), height):
        yield image[row : row + height]


def drawn(parts: list[Part], shape: tuple[int, int]) -> np.ndarray:
    """The number of the part in each pixel, painted from the outlines."""
    painted = np.zeros(shape, int)
    for part in parts:
        mask = rasterise([(part.polygon.exterior, part.polygon.holes)], Box((0, 0), shape))
        assert not painted[mask].any()
        painted[mask] = part.number
    return painted


def whole(image: np.ndarray) -> np.ndarray:
    """Parts by scipy, label by label."""
    found = np.zeros(image.shape, int)
    for label in np.unique(image[image > 0]):
        one, count = ndimage.label(image == label)
        found += np.where(one > 0, one + found.max(), 0)
        assert count
    return found


@pytest.mark.parametrize("height", [1, 3, 7, 100])
@pytest.mark.parametrize("density", [0.3, 0.6])
def test_equal_to_scipy_on_the_whole(height: int, density: float) -> None:
    """Noise at about the density where parts become one: whatever the bands, the same parts, up to their numbers."""
    random = np.random.default_rng(7)
    image = ((random.random((41, 37)) < density) * random.integers(1, 3, (41, 37))).astype(np.uint8)
    parts = list(connected_parts(bands(image, height)))
    ours, theirs = drawn(parts, image.shape), whole(image)
    assert len(parts) == theirs.max()
    pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()], axis=1), axis=0)
    assert len(pairs) == len(parts) + 1  # one to one, and nothing to nothing
    assert ((ours > 0) == (image > 0)).all()
    for part in parts:
        mask = ours == part.number
        rows, columns = np.nonzero(mask)
        assert part.pixels == mask.sum() == part.polygon.area
        assert part.label == image[mask][0]
        assert part.first == (rows[0], columns[0])
        assert part.bbox == ((rows.min(), columns.min()), (rows.max() + 1, columns.max() + 1))
        assert part.centroid == pytest.approx((rows.mean() + 0.5, columns.mean() + 0.5))


def test_bands_do_not_matter() -> None:
    """The same parts in the same order with the same polygons."""
    image = (np.random.default_rng(1).random((60, 50)) < 0.55).astype(np.uint8)
    first, second = (list(connected_parts(bands(image, height))) for height in (4, 60))
    assert len(first) == len(second) > 10
    for a, b in zip(first, second, strict=True):
        assert (a.number, a.first, a.pixels, a.bbox) == (b.number, b.first, b.pixels, b.bbox)
        assert np.array_equal(a.polygon.exterior, b.polygon.exterior)
        assert len(a.polygon.holes) == len(b.polygon.holes)


def test_a_spiral_over_many_bands() -> None:
    """Arms that meet at the very end are one part; a ring has its hole."""
    image = np.zeros((9, 9), np.uint8)
    image[:, 0] = image[:, 4] = image[:, 8] = 1
    image[8, :] = 1
    image[0, 4:] = 1
    (part,) = connected_parts(bands(image, 1))
    assert part.pixels == image.sum()
    assert [hole.tolist() for hole in part.polygon.holes] == [
        [[1.0, 5.0], [8.0, 5.0], [8.0, 8.0], [1.0, 8.0]]
    ] or (len(part.polygon.holes) == 1)


def test_values_are_averaged() -> None:
    """Beside the labels."""
    image = np.array([[1, 1, 0, 2], [0, 1, 0, 2]], np.uint8)
    values = np.array([[0.5, 0.7, 9, 0.1], [9, 0.9, 9, 0.3]])
    parts = list(connected_parts((image[k : k + 1], values[k : k + 1]) for k in range(2)))
    assert [(part.label, round(part.value, 6)) for part in parts] == [(1, 0.7), (2, 0.2)]


def test_what_is_over_comes_at_once() -> None:
    """A part is given in the band after its last row: the next bands need not be there yet."""
    image = np.zeros((100, 8), np.uint8)
    image[::4, 1:3] = 1
    given = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal given
        for row in range(len(image)):
            given = row
            yield image[row : row + 1]

    for number, part in enumerate(connected_parts(counted())):
        assert part.bbox[1][0] == given == 4 * number + 1


def test_nothing() -> None:
    """An image without any label has no part."""
    assert list(connected_parts([np.zeros((5, 5), np.uint8), np.zeros((0, 5), np.uint8)])) == []
    assert list(connected_parts([])) == []
