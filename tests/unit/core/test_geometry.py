"""Boxes and spacing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvision.core.geometry import Box, Spacing

corners = st.tuples(st.integers(-50, 50), st.integers(-50, 50))
shapes = st.tuples(st.integers(0, 40), st.integers(0, 40))
boxes = st.builds(Box.at, corners, shapes)


@given(boxes, boxes)
def test_intersection_is_what_both_cover(a: Box, b: Box) -> None:
    def cover(box: Box) -> np.ndarray:
        canvas = np.zeros((200, 200), bool)
        canvas[box.shift((60, 60)).slices()] = True
        return canvas

    common = a.intersect(b)
    assert np.array_equal(cover(common), cover(a) & cover(b))
    assert common.size == int((cover(a) & cover(b)).sum())
    assert common == b.intersect(a) or common.size == 0


def test_box_by_hand() -> None:
    box = Box.at((2, 3), (4, 5))
    assert (box.start, box.stop, box.shape, box.size) == ((2, 3), (6, 8), (4, 5), 20)
    assert box.slices() == (slice(2, 6), slice(3, 8))
    assert box.shift((1, -3)) == Box((3, 0), (7, 5))
    assert box.intersect(Box((100, 100), (110, 110))).size == 0


def test_box_refuses_what_is_no_box() -> None:
    with pytest.raises(ValueError, match=r"\(2, 0\) lies beyond its stop \(1, 5\)"):
        Box((2, 0), (1, 5))
    with pytest.raises(ValueError, match="number of axes"):
        Box((0,), (1, 1))


@pytest.mark.parametrize("values", [(), (0.0, 0.25), (-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_spacing_refuses_what_is_no_length(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="not positive and finite"):
        Spacing(values)


def test_spacing_by_hand() -> None:
    spacing = Spacing((0.25, 0.25), origin="supplied")
    assert spacing.mean == pytest.approx(0.25)
    assert spacing.scaled((4, 8)) == Spacing((1.0, 2.0), "um", "supplied")
    assert str(spacing) == "0.25 µm/px"
    assert str(Spacing((2.5, 0.7, 0.7), "mm")) == "2.5 × 0.7 × 0.7 mm/px"
