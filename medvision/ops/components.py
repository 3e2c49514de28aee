"""What a probability map says: connected regions with exact outlines, one score for the slide.

A map is float `(rows, columns)` with NaN where nothing was read. Cell `(i, j)` covers `[i, i+1) x [j, j+1)` in cell
coordinates, so its centre lies at `(i + 0.5, j + 0.5)`. Positions returned here are (row, column) in these coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.ops.outlines import Polygon, outlines_by_label

Floats = npt.NDArray[np.floating]
SCORE_SIDE = 3
"""Side in cells of the neighbourhood whose mean probability scores a region and a slide."""


@dataclass(frozen=True, eq=False)
class RegionShape:
    """One 8-connected region of cells at or above a threshold.

    `label` counts from 1 in order of score. `major_axis_um` is the major axis of the ellipse with the region's second
    moments, each cell taken as a filled square, so that a single cell has a length too. `peak` is the centre of the
    cell with the highest probability, `bbox` the half-open box `((r0, c0), (r1, c1))` in cells. The polygons of
    `outline` run along the borders of cells: their area is exactly that of the cells, and parts that meet only at a
    corner are polygons of their own.
    """

    label: int
    cells: int
    area_um2: float
    major_axis_um: float
    centroid: tuple[float, float]
    peak: tuple[float, float]
    bbox: tuple[tuple[int, int], tuple[int, int]]
    maximum: float
    mean: float
    score: float
    outline: tuple[Polygon, ...]


def find_regions(
    probability: Floats,
    threshold: float,
    cell_um: float,
    *,
    minimum_area_um2: float = 0.0,
    minimum_peak: float | None = None,
) -> tuple[RegionShape, ...]:
    """Connected regions at or above `threshold`, the highest score first.

    The score of a region is the largest mean over the 3 x 3 read cells around any of its cells, so that a lone hot cell
    ranks behind a hot area; the slide's score follows the same rule (`slide_score`). Ties go by the larger area, then
    by the position of the first cell.

    Args:
        probability: `(rows, columns)` in 0..1, NaN where unread. An unread cell belongs to no region.
        threshold: smallest probability of a region's cells, in 0..1.
        cell_um: side of a cell in micrometres.
        minimum_area_um2: smaller regions are left out.
        minimum_peak: regions whose highest probability is below it are left out (two-threshold rule); None keeps all.

    Raises:
        UsageError: for a map that is not two-dimensional, a threshold outside 0..1 or a cell without size.
    """
    values = _as_map(probability)
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold {threshold:g} lies outside 0..1")
    if not cell_um > 0:
        raise UsageError(f"cell of {cell_um:g} um: the side must be above 0")
    # 8-connected; the labels count from 1 in row order of their first cell
    from scipy import ndimage  # half a second to load, and needed only after the network

    labels, _ = ndimage.label(np.nan_to_num(values, nan=-1.0) >= threshold, structure=np.ones((3, 3)))
    groups = _measure(labels, values)
    kept = groups.cells * cell_um**2 >= minimum_area_um2
    if minimum_peak is not None:
        kept &= groups.maximum >= minimum_peak
    order = np.lexsort((-groups.cells, -groups.score))
    outlines = outlines_by_label(np.isin(labels, np.flatnonzero(kept) + 1), labels)
    return tuple(
        groups.shape(index, label, cell_um, outlines[index + 1])
        for label, index in enumerate(order[kept[order]].tolist(), start=1)
    )


def slide_score(probability: Floats, *, minimum_read: int = 3) -> tuple[float | None, str]:
    """A robust maximum of the map, and the sentence that explains it in a report.

    The score is the largest mean over 3 x 3 cells of which at least `minimum_read` were read. A map in which no
    neighbourhood has that many is scored by the mean of its read cells; one without any read cell has no score (None).
    """
    values = _as_map(probability)
    read = ~np.isnan(values)
    if not read.any():
        return None, "No score: no cell of the slide was read."
    means = _neighbourhood_mean(values, minimum_read)
    if np.isnan(means).all():
        count = int(read.sum())
        return float(values[read].mean()), f"Mean probability of the {count} cells that were read."
    return (
        float(np.nanmax(means)),
        f"Highest mean probability over {SCORE_SIDE} × {SCORE_SIDE} neighbouring cells "
        f"(at least {minimum_read} of them read).",
    )


def _as_map(probability: Floats) -> npt.NDArray[np.float64]:
    if probability.ndim != 2:
        raise UsageError(f"a probability map has shape (rows, columns), not {probability.shape}")
    return probability.astype(np.float64)


def _neighbourhood_mean(values: npt.NDArray[np.float64], minimum_read: int) -> npt.NDArray[np.float64]:
    """Mean over the read cells of each 3 x 3 neighbourhood; NaN where the centre or too many of them are unread."""
    read = ~np.isnan(values)
    kernel = (SCORE_SIDE, SCORE_SIDE)
    total, count = (
        cv2.boxFilter(plane, cv2.CV_64F, kernel, normalize=False, borderType=cv2.BORDER_CONSTANT)
        for plane in (np.where(read, values, 0.0), read.astype(np.float64))
    )
    enough = read & (count >= minimum_read)
    means: npt.NDArray[np.float64] = np.divide(total, count, out=np.full(values.shape, np.nan), where=enough)
    return means


@dataclass(frozen=True, eq=False)
class _Groups:
    """Measures of every group of connected cells, one row each, in order of the labels (from 1)."""

    cells: npt.NDArray[np.int64]
    centroid: npt.NDArray[np.float64]
    major_axis: npt.NDArray[np.float64]
    peak: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]
    maximum: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]

    def shape(self, index: int, label: int, cell_um: float, outline: tuple[Polygon, ...]) -> RegionShape:
        """The group at `index` as a region called `label`."""
        start, stop, peak = self.start[index].tolist(), self.stop[index].tolist(), self.peak[index].tolist()
        centroid = self.centroid[index].tolist()
        return RegionShape(
            label=label,
            cells=int(self.cells[index]),
            area_um2=float(self.cells[index] * cell_um**2),
            major_axis_um=float(self.major_axis[index] * cell_um),
            centroid=(centroid[0], centroid[1]),
            peak=(peak[0] + 0.5, peak[1] + 0.5),
            bbox=((start[0], start[1]), (stop[0], stop[1])),
            maximum=float(self.maximum[index]),
            mean=float(self.mean[index]),
            score=float(self.score[index]),
            outline=outline,
        )


def _measure(labels: npt.NDArray[np.integer], values: npt.NDArray[np.float64]) -> _Groups:
    inside = np.flatnonzero(labels)
    # cells sorted by label, row order within: every group is one slice that starts at `first`
    ordered = inside[np.argsort(labels.ravel()[inside], kind="stable")]
    group = labels.ravel()[ordered]
    first = np.flatnonzero(np.diff(group, prepend=0))
    cells = np.diff(first, append=len(ordered))
    rows, columns = np.divmod(ordered, labels.shape[1])
    inner = values.ravel()[ordered]
    around = _neighbourhood_mean(values, minimum_read=1).ravel()[ordered]
    if len(first) == 0:
        empty = np.empty((0, 2), dtype=np.int64)
        none = np.empty(0)
        return _Groups(cells, empty.astype(float), none, empty, empty, empty, none, none, none)
    maximum = np.maximum.reduceat(inner, first)
    at_peak = np.flatnonzero(inner == np.repeat(maximum, cells))
    peak = at_peak[np.searchsorted(at_peak, first)]
    centroid = np.stack([np.add.reduceat(axis, first) / cells for axis in (rows, columns)], axis=1)
    return _Groups(
        cells=cells,
        centroid=centroid + 0.5,
        major_axis=_major_axes(rows, columns, centroid, first, cells),
        peak=np.stack([rows[peak], columns[peak]], axis=1),
        start=np.stack([np.minimum.reduceat(axis, first) for axis in (rows, columns)], axis=1),
        stop=np.stack([np.maximum.reduceat(axis, first) + 1 for axis in (rows, columns)], axis=1),
        maximum=maximum,
        mean=np.add.reduceat(inner, first) / cells,
        score=np.maximum.reduceat(around, first),
    )


def _major_axes(
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    centroid: npt.NDArray[np.float64],
    first: npt.NDArray[np.int64],
    cells: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Four standard deviations along each group's longest direction; 1/12 is the second moment of a unit square."""
    y, x = rows - np.repeat(centroid[:, 0], cells), columns - np.repeat(centroid[:, 1], cells)
    yy, xx, xy = (np.add.reduceat(product, first) / cells for product in (y * y, x * x, x * y))
    largest = (yy + xx) / 2 + np.sqrt(((yy - xx) / 2) ** 2 + xy**2) + 1 / 12
    axes: npt.NDArray[np.float64] = 4 * np.sqrt(largest)
    return axes
