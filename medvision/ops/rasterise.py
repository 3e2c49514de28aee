"""Polygons to masks: any part of a slide at any resolution, exact to the pixel centre.

A pixel is inside when its centre is, by the even-odd rule; a centre exactly on an edge belongs to the area to its right
or below, so areas that share an edge share no pixel and leave none out.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from medvision.core.geometry import Box

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
Polygon = tuple[Points, tuple[Points, ...]]
"""An outer ring and the rings of its holes, each (n, 2) of (row, column) in level-0 pixels, open or closed."""

_AT_ONCE = 4_000_000
"""Pairs of point and edge compared at a time, which bounds memory."""


def rasterise(
    polygons: Iterable[Polygon],
    box: Box,
    downsample: float | tuple[float, float] = 1.0,
    excluded: Iterable[Polygon] = (),
) -> Mask:
    """Mask of the union of `polygons` less the union of `excluded`, over one box of a downsampled grid.

    Memory is that of the box, however large the slide. CAMELYON's rule, tumour painted first and exclusions last, is
    this function on the two lists of `medvision.sources.annotations.camelyon_polygons`.

    Args:
        polygons: rings in level-0 pixels; a ring of fewer than three points has no area.
        box: rows and columns of the grid, which starts at the slide's corner; it may leave the slide.
        downsample: side of a grid pixel in level-0 pixels, for both axes or (row, column).
        excluded: areas cut out, whatever they lie in.

    Returns:
        bool array of shape `box.shape`; pixel (i, j) has its centre at level-0 `(start + (i, j) + 0.5) * downsample`.

    >>> square = np.array([(0.0, 0.0), (0.0, 4.0), (4.0, 4.0), (4.0, 0.0)])
    >>> rasterise([(square, ())], Box((0, 0), (3, 3)), downsample=2).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 0]])
    """
    mask = np.zeros(box.shape, dtype=bool)
    scale = np.broadcast_to(np.asarray(downsample, dtype=np.float64), (2,))
    for polygons_of_sign, value in ((polygons, True), (excluded, False)):
        for outer, holes in polygons_of_sign:
            where, inside = _fill(outer / scale - box.start, Box((0, 0), box.shape))
            for hole in holes:
                part, cut = _fill(hole / scale - box.start, where)
                inside[part.shift((-where.start[0], -where.start[1])).slices()] &= ~cut
            mask[where.slices()][inside] = value
    return mask


def contains(
    polygons: Iterable[Polygon], points: Points, excluded: Iterable[Polygon] = ()
) -> npt.NDArray[np.bool_]:
    """Which of `points` (n, 2), (row, column) in level-0 pixels, lie in `polygons` and in none of `excluded`.

    The rule is that of `rasterise`: a pixel of its mask is true where this is true of the pixel's centre.

    >>> square = np.array([(0.0, 0.0), (0.0, 4.0), (4.0, 4.0), (4.0, 0.0)])
    >>> contains([(square, ())], np.array([(0.0, 0.0), (3.9, 1.0), (4.0, 1.0)])).tolist()
    [True, True, False]
    """
    found = np.zeros(len(points), dtype=bool)
    for polygons_of_sign, value in ((polygons, True), (excluded, False)):
        for outer, holes in polygons_of_sign:
            inside = _inside_ring(outer, points)
            for hole in holes:
                inside &= ~_inside_ring(hole, points)
            found[inside] = value
    return found


def bounding_box(polygons: Iterable[Polygon], downsample: float | tuple[float, float] = 1.0) -> Box | None:
    """The smallest box of the downsampled grid that holds every pixel the polygons touch; None without polygons."""
    rings = [outer for outer, _ in polygons]
    if not rings:
        return None
    points = np.concatenate(rings) / np.asarray(downsample, dtype=np.float64)
    low, high = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    return Box((int(low[0]), int(low[1])), (int(high[0]), int(high[1])))


def _inside_ring(ring: Points, points: Points) -> npt.NDArray[np.bool_]:
    """Which points lie inside one ring: those with an odd number of crossings on their row, at or left of them."""
    near = ((points >= ring.min(axis=0)) & (points < ring.max(axis=0))).all(axis=1)
    inside = np.zeros(len(points), dtype=bool)
    ahead = np.roll(ring, -1, axis=0)
    down = (ring[:, 0] <= ahead[:, 0])[:, None]
    (r0, c0), (r1, c1) = np.where(down, ring, ahead).T, np.where(down, ahead, ring).T
    slope = (c1 - c0) / np.where(r1 > r0, r1 - r0, 1)
    chosen = np.flatnonzero(near)
    for part in np.array_split(chosen, max(1, len(chosen) * len(ring) // _AT_ONCE)):
        row, column = points[part, :1], points[part, 1:]
        met = (r0 <= row) & (row < r1) & (c0 + (row - r0) * slope <= column)
        inside[part] = met.sum(axis=1) % 2 == 1
    return inside


def _fill(ring: Points, within: Box) -> tuple[Box, Mask]:
    """Inside of one ring, in grid pixels, over the part of `within` that it can reach.

    Each edge toggles, on every row whose centre it crosses, the first pixel whose centre lies right of the crossing;
    the running parity along a row is then the inside.
    """
    first = np.ceil(ring.min(axis=0) - 0.5).astype(np.int64)
    stop = np.ceil(ring.max(axis=0) - 0.5).astype(np.int64)
    reach = Box((int(first[0]), int(first[1])), (int(stop[0]), int(stop[1]))).intersect(within)
    if reach.size == 0:
        return reach, np.zeros(reach.shape, dtype=bool)
    (top, left), (bottom, right) = reach.start, reach.stop
    ahead = np.roll(ring, -1, axis=0)
    # Edges point down, so that two areas compute the crossing of a shared edge in the same way.
    down = (ring[:, 0] <= ahead[:, 0])[:, None]
    upper, lower = np.where(down, ring, ahead), np.where(down, ahead, ring)
    begin = np.clip(np.ceil(upper[:, 0] - 0.5), top, bottom).astype(np.int64)
    count = np.clip(np.ceil(lower[:, 0] - 0.5), top, bottom).astype(np.int64) - begin
    edge = np.repeat(np.arange(len(ring)), count)
    row = begin[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    (r0, c0), (r1, c1) = upper[edge].T, lower[edge].T
    crossing = c0 + (row + 0.5 - r0) * ((c1 - c0) / (r1 - r0))
    column = np.clip(np.ceil(crossing - 0.5), left, right).astype(np.int64)
    toggles = np.zeros((bottom - top, right - left + 1), dtype=np.uint8)
    np.bitwise_xor.at(toggles, (row - top, column - left), 1)
    return reach, np.bitwise_xor.accumulate(toggles[:, :-1], axis=1).astype(bool)
