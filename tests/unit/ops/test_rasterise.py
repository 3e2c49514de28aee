"""Rasterising against shapely, point by point, and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from medvision.core.geometry import Box
from medvision.ops.rasterise import bounding_box, rasterise

SQUARE = np.array([(2.0, 2.0), (2.0, 8.0), (8.0, 8.0), (8.0, 2.0)])


def star(random, centre, size, count=12):
    """A ring around its centre without self-crossing, at places where no edge meets a pixel centre."""
    angle = (np.arange(count) + random.random(count)) / count * 2 * np.pi
    radius = size * (0.3 + 0.7 * random.random(count))
    return np.stack([centre[0] + radius * np.sin(angle), centre[1] + radius * np.cos(angle)], axis=1)


def by_point(polygons, box, downsample, excluded=()):
    """Every pixel centre asked of shapely."""
    rows, columns = np.meshgrid(
        *[(np.arange(a, b) + 0.5) * d for a, b, d in zip(box.start, box.stop, downsample, strict=True)],
        indexing="ij",
    )
    mask = np.zeros(box.shape, dtype=bool)
    for group, value in ((polygons, True), (excluded, False)):
        for outer, holes in group:
            mask[shapely.contains_xy(shapely.Polygon(outer, holes), rows, columns)] = value
    return mask


@pytest.mark.parametrize("seed", range(10))
def test_equals_shapely_for_any_box_and_downsample(seed):
    random = np.random.default_rng(seed)
    polygons = []
    for _ in range(4):
        centre = random.random(2) * 300
        polygons.append((star(random, centre, 90), (star(random, centre, 20),)))
    excluded = [(star(random, random.random(2) * 300, 40), ())]
    for start, shape, downsample in (((0, 0), (300, 320), (1, 1)), ((-9, 13), (40, 25), (7.3, 6.9))):
        box = Box.at(start, shape)
        expected = by_point(polygons, box, downsample, excluded)
        assert expected.any()
        np.testing.assert_array_equal(rasterise(polygons, box, downsample, excluded), expected)


def test_equals_scikit_image_where_a_pixel_is_its_centre():
    random = np.random.default_rng(1)
    ring = star(random, (50, 60), 45)
    expected = polygon2mask((100, 120), ring - 0.5)  # scikit-image has pixel centres at whole numbers
    np.testing.assert_array_equal(rasterise([(ring, ())], Box((0, 0), (100, 120))), expected)


def test_a_self_crossing_ring_follows_the_even_odd_rule():
    bow = np.array([(0.0, 0.0), (0.0, 9.0), (8.0, 0.0), (8.0, 9.0)])
    mask = rasterise([(bow, ())], Box((0, 0), (8, 9)))
    assert mask[1].astype(int).tolist() == mask[6].astype(int).tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]
    assert mask[:, 0].sum() == 0


@given(
    cut=st.lists(st.integers(0, 20), min_size=2, max_size=2),
    corner=st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
)
@settings(max_examples=60, deadline=None)
def test_areas_that_share_an_edge_share_no_pixel_and_leave_none_out(cut, corner):
    # A rectangle cut in two along a line whose ends lie on half pixels: centres may lie on the cut.
    top, bottom = (np.array(cut) + 0.5).tolist()
    left = np.array([(0.0, 0.0), (0.0, top), (20.0, bottom), (20.0, 0.0)])
    right = np.array([(0.0, top), (0.0, 21.0), (20.0, 21.0), (20.0, bottom)])
    box = Box.at(corner, (20, 21))
    first, second = (rasterise([(ring, ())], box) for ring in (left, right))
    whole = rasterise([(np.array([(0.0, 0.0), (0.0, 21.0), (20.0, 21.0), (20.0, 0.0)]), ())], box)
    assert not (first & second).any()
    np.testing.assert_array_equal(first | second, whole)


def test_parts_fit_together_to_the_whole():
    random = np.random.default_rng(2)
    polygons = [(star(random, (60, 60), 55, 40), (star(random, (60, 60), 12),))]
    whole = rasterise(polygons, Box((0, 0), (120, 120)))
    for row in range(0, 120, 37):
        for column in range(0, 120, 41):
            box = Box.at((row, column), (37, 41)).intersect(Box((0, 0), (120, 120)))
            np.testing.assert_array_equal(rasterise(polygons, box), whole[box.slices()])


def test_exclusions_are_painted_last_and_holes_cut_only_their_own_polygon():
    inner = np.array([(4.0, 4.0), (4.0, 6.0), (6.0, 6.0), (6.0, 4.0)])
    box = Box((0, 0), (10, 10))
    assert rasterise([(SQUARE, ())], box, excluded=[(inner, ())]).sum() == 36 - 4
    assert rasterise([(SQUARE, (inner,))], box).sum() == 36 - 4
    assert rasterise([(SQUARE, (inner,)), (inner, ())], box).sum() == 36
    assert rasterise([(SQUARE, ()), (SQUARE, ())], box).sum() == 36


def test_degenerate_rings_and_boxes_are_empty():
    box = Box((0, 0), (10, 10))
    assert rasterise([], box).shape == (10, 10)
    for count in (1, 2):
        assert not rasterise([(SQUARE[:count], ())], box).any()
    assert rasterise([(SQUARE, ())], Box((5, 5), (5, 9))).shape == (0, 4)
    assert not rasterise([(SQUARE, ())], Box((20, 20), (30, 30))).any()


def test_a_slide_of_any_size_costs_no_more_than_its_box():
    ring = np.array([(0.0, 0.0), (0.0, 2e5), (2e5, 2e5), (2e5, 0.0)])
    mask = rasterise([(ring, ())], Box.at((199_990, 199_990), (20, 20)))
    assert mask[:10, :10].all()
    assert mask.sum() == 100


def test_bounding_box_holds_every_pixel():
    assert bounding_box([]) is None
    assert bounding_box([(SQUARE + 0.25, ())], 2.0) == Box((1, 1), (5, 5))
