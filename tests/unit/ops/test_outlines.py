"""Outlines run along cell borders and enclose exactly the cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medvision.ops.outlines import Polygon, outline_cells


def as_shapely(polygon: Polygon) -> shapely.Polygon:
    return shapely.Polygon(polygon.exterior[:, ::-1], [hole[:, ::-1] for hole in polygon.holes])


def cells(*rows: str) -> npt.NDArray[np.bool_]:
    return np.array([[mark == "#" for mark in row] for row in rows])


def test_a_cell_is_a_unit_square_clockwise_as_seen() -> None:
    (polygon,) = outline_cells(cells("..", ".#"))
    assert {tuple(vertex) for vertex in polygon.exterior} == {(1, 1), (1, 2), (2, 2), (2, 1)}
    assert polygon.area == 1
    assert not polygon.holes


def test_nothing_has_no_outline() -> None:
    assert outline_cells(np.zeros((3, 4), dtype=bool)) == ()


def test_an_l_shape_has_six_corners() -> None:
    (polygon,) = outline_cells(cells("#.", "##"))
    assert len(polygon.exterior) == 6
    assert polygon.area == 3


def test_cells_that_meet_at_a_corner_are_two_polygons() -> None:
    polygons = outline_cells(cells("#.", ".#"))
    assert [polygon.area for polygon in polygons] == [1, 1]


def test_a_hole_is_subtracted() -> None:
    (polygon,) = outline_cells(cells("###", "#.#", "###"))
    assert len(polygon.holes) == 1
    assert polygon.area == 8


def test_a_ring_closed_over_a_corner_keeps_its_hole() -> None:
    member = cells(".##", "#.#", "###")  # the hole touches the exterior at the vertex (1, 1)
    (polygon,) = outline_cells(member)
    assert polygon.area == 7
    assert as_shapely(polygon).is_valid


def test_moved_scales_then_shifts() -> None:
    polygon = Polygon(np.array([[0.0, 0], [0, 1], [1, 1], [1, 0]])).moved((2, 3), (10, 20))
    assert polygon.exterior.tolist() == [[10, 20], [10, 23], [12, 23], [12, 20]]
    assert polygon.area == 6


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_polygons_are_valid_disjoint_and_cover_the_cells(member: npt.NDArray[np.bool_]) -> None:
    polygons = outline_cells(member)
    shapes = [as_shapely(polygon) for polygon in polygons]
    assert all(shape.is_valid for shape in shapes)
    assert sum(polygon.area for polygon in polygons) == member.sum()
    rows, columns = np.indices(member.shape) + 0.5
    covered = shapely.contains_xy(shapely.union_all(shapes), columns.ravel(), rows.ravel())
    assert covered.reshape(member.shape).tolist() == member.tolist()


def test_polygons_agree_with_a_union_of_squares() -> None:
    member = np.random.default_rng(3).random((40, 50)) > 0.45
    rows, columns = np.nonzero(member)
    expected = shapely.union_all(shapely.box(columns, rows, columns + 1, rows + 1))
    found = shapely.MultiPolygon([as_shapely(polygon) for polygon in outline_cells(member)])
    assert shapely.symmetric_difference(expected, found).area == pytest.approx(0, abs=1e-9)
    assert len(found.geoms) == len(shapely.get_parts(expected))
