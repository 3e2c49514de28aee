"""Outlines of cells: polygons whose area is exactly that of the cells they enclose.

Contour tracers that join pixel centres shrink every region by half a cell all round. These polygons run along the
borders of cells instead, where cell `(i, j)` covers `[i, i+1) x [j, j+1)`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
"""Vertices `(k, 2)` as (row, column); a ring does not repeat its first vertex."""

# Directions of a border with its cell on the right hand: east along the top, south, west along the bottom, north.
_STEPS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])
_FIRST_VERTEX = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])


@dataclass(frozen=True, eq=False)
class Polygon:
    """A polygon without self-contact: one exterior ring, clockwise as seen, and the rings of its holes."""

    exterior: Points
    holes: tuple[Points, ...] = ()

    @property
    def area(self) -> float:
        """Area inside the exterior less the holes, in squared units of the vertices."""
        return abs(_signed_area(self.exterior)) - sum(abs(_signed_area(hole)) for hole in self.holes)

    def moved(
        self, scale: tuple[float, float] = (1.0, 1.0), offset: tuple[float, float] = (0.0, 0.0)
    ) -> Polygon:
        """The polygon with vertices `vertex * scale + offset`, both (row, column): from cells to pixels."""
        return Polygon(
            self.exterior * np.asarray(scale) + np.asarray(offset),
            tuple(hole * np.asarray(scale) + np.asarray(offset) for hole in self.holes),
        )


def outline_cells(member: npt.NDArray[np.bool_]) -> tuple[Polygon, ...]:
    """Polygons along the borders of the true cells of `member` (rows, columns), in row order of their first cell.

    Cells that meet only at a corner fall into different polygons, and no ring visits a vertex twice, so every polygon
    is valid by the OGC's rules and the areas sum to the number of true cells.
    """
    from scipy import ndimage  # half a second to load, and needed only after the network

    parts, _ = ndimage.label(member)
    grouped = outlines_by_label(member, parts)
    return tuple(polygon for label in sorted(grouped) for polygon in grouped[label])


def outlines_by_label(
    member: npt.NDArray[np.bool_], labels: npt.NDArray[np.integer]
) -> dict[int, tuple[Polygon, ...]]:
    """The polygons of `outline_cells`, keyed by the label in `labels` (same shape) of the cells that they enclose.

    All cells of one polygon must share a label, as they do where cells with a common border do.
    """
    from scipy import ndimage  # half a second to load, and needed only after the network

    parts, _ = ndimage.label(member)
    exteriors: dict[int, Points] = {}
    holes: dict[int, list[Points]] = defaultdict(list)
    owners: dict[int, int] = {}
    for cell, ring in _rings(member):
        part = int(parts[cell])
        owners[part] = int(labels[cell])
        if _signed_area(ring) > 0:
            exteriors[part] = ring
        else:
            holes[part].append(ring)
    grouped: dict[int, list[Polygon]] = defaultdict(list)
    for part in sorted(exteriors):
        grouped[owners[part]].append(Polygon(exteriors[part], tuple(holes[part])))
    return {label: tuple(polygons) for label, polygons in grouped.items()}


def polygon_of_borders(borders: npt.NDArray[np.int64]) -> Polygon:
    """The polygon around cells that hang together by their sides, from all their borders with other cells.

    `borders` are `(n, 3)` in any order: row and column of a cell, and on which side of it the border is: 0 above, 1 to
    the right, 2 below, 3 to the left.
    """
    ordered = borders[np.lexsort((borders[:, 2], borders[:, 1], borders[:, 0]))]
    cells, directions = ordered[:, :2], ordered[:, 2]
    origin = cells.min(axis=0)
    rings = [
        ring + origin
        for _, ring in _closed(cells - origin, directions, int(cells[:, 1].max() - origin[1]) + 2)
    ]
    (exterior,) = (ring for ring in rings if _signed_area(ring) > 0)
    return Polygon(exterior, tuple(ring for ring in rings if _signed_area(ring) <= 0))


def _rings(member: npt.NDArray[np.bool_]) -> list[tuple[tuple[int, int], Points]]:
    """Every closed border, corners only, with one of the cells along it. Cells lie to the right of the direction."""
    cells, directions = _borders(member)
    return _closed(cells, directions, member.shape[1] + 1)


def _closed(
    cells: npt.NDArray[np.int64], directions: npt.NDArray[np.int64], stride: int
) -> list[tuple[tuple[int, int], Points]]:
    """Borders joined to rings; `stride` is more than any vertex's column."""
    starts = cells + _FIRST_VERTEX[directions]
    following = _following(starts, directions, stride)
    follow, corner = following.tolist(), (directions[following] != directions).tolist()
    rows, columns = starts.T.tolist()
    steps = _STEPS[directions].tolist()
    seen = bytearray(len(follow))
    rings: list[tuple[tuple[int, int], Points]] = []
    for first in range(len(follow)):
        if seen[first]:
            continue
        ring, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            if corner[edge]:
                ring.append((rows[edge] + steps[edge][0], columns[edge] + steps[edge][1]))
            edge = follow[edge]
        cell = (int(cells[first, 0]), int(cells[first, 1]))
        rings.extend((cell, np.array(part, dtype=np.float64)) for part in _split_at_contacts(ring))
    return rings


def _borders(
    member: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Unit borders between true and other cells: their cell and direction, in row order of the cell."""
    padded = np.pad(member, 1)
    inner = padded[1:-1, 1:-1]
    beyond = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    found = [np.argwhere(inner & ~other) for other in beyond]
    cells = np.concatenate(found)
    directions = np.repeat(np.arange(4), [len(part) for part in found])
    order = np.lexsort((directions, cells[:, 1], cells[:, 0]))
    return cells[order], directions[order]


def _following(
    starts: npt.NDArray[np.int64], directions: npt.NDArray[np.int64], stride: int
) -> npt.NDArray[np.int64]:
    """Index of the border that continues each one.

    Two borders leave a vertex where cells meet at a corner only; the right turn then stays with the same cell.
    """
    ends = starts + _STEPS[directions]
    leaving = starts @ (stride, 1)
    arriving = ends @ (stride, 1)
    order = np.argsort(leaving, kind="stable")
    ordered = leaving[order]
    one = np.searchsorted(ordered, arriving, side="left")
    last = np.searchsorted(ordered, arriving, side="right") - 1
    candidates = order[one], order[last]
    turns_right = directions[candidates[0]] == (directions + 1) % 4
    following: npt.NDArray[np.int64] = np.where(turns_right, *candidates)
    return following


def _split_at_contacts(ring: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """A ring cut into rings that visit no vertex twice."""
    if len(set(ring)) == len(ring):
        return [ring]
    rings: list[list[tuple[int, int]]] = []
    path: list[tuple[int, int]] = []
    position: dict[tuple[int, int], int] = {}
    for vertex in ring:
        if vertex in position:
            start = position[vertex]
            rings.append(path[start:])
            for gone in path[start + 1 :]:
                del position[gone]
            del path[start + 1 :]
        else:
            position[vertex] = len(path)
            path.append(vertex)
    return [*rings, path]


def _signed_area(ring: Points) -> float:
    """Positive for rings that are clockwise as seen (rows point down)."""
    rows, columns = ring.T
    inner = columns[:-1] @ rows[1:] - rows[:-1] @ columns[1:]
    closing = columns[-1] * rows[0] - rows[-1] * columns[0]
    return float(inner + closing) / 2
