"""Lesions of a slide from two models' maps (Wang et al. 2016): the first says where, both say how sure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medvision.core.errors import UsageError
from medvision.core.results import Raster
from medvision.ops.nms import Peak

LESION_THRESHOLD = 0.90
"""Probability from which a cell belongs to a lesion, as published."""


def two_model_lesions(
    first: npt.NDArray[np.floating], second: npt.NDArray[np.floating], threshold: float = LESION_THRESHOLD
) -> tuple[Peak, ...]:
    """One detection per 8-connected component of `first` at or above `threshold`, the most probable first.

    Its probability is the mean over the component's cells of both maps' probabilities; a cell that the second model did
    not read counts by the first alone. It lies at the component's centre: the cell of the component nearest to the
    centroid, which itself may lie in a gap.

    Args:
        first: `(rows, columns)` in 0..1, NaN where unread.
        second: of the same shape and grid.
        threshold: in 0..1.

    Raises:
        UsageError: for maps of other or different shapes, or a threshold outside 0..1.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise UsageError(
            f"two maps of one shape (rows, columns) are wanted, not {first.shape} and {second.shape}"
        )
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold {threshold:g} lies outside 0..1")
    labels, count = ndimage.label(np.nan_to_num(first, nan=-1.0) >= threshold, structure=np.ones((3, 3)))
    if count == 0:
        return ()
    both = (first.astype(np.float64) + np.where(np.isnan(second), first, second)) / 2
    names = np.arange(1, count + 1)
    means = ndimage.mean(both, labels, names)
    found = []
    for name, mean, part in zip(names, means, ndimage.find_objects(labels), strict=True):
        cells = np.argwhere(labels[part] == name)
        nearest = cells[((cells - cells.mean(axis=0)) ** 2).sum(axis=1).argmin()]
        row, column = (int(n) + axis.start for n, axis in zip(nearest, part, strict=True))
        found.append(Peak((row + 0.5, column + 0.5), float(mean)))
    return tuple(sorted(found, key=lambda peak: (-peak.probability, peak.position)))


def on_grid_of(raster: Raster, channel: str, grid: Raster) -> npt.NDArray[np.float32]:
    """Values of `raster` at the centres of `grid`'s cells, `(rows, columns)`; NaN outside it. Both are of one slide.

    Raises:
        UsageError: if the two are not in one unit.
    """
    if raster.spacing.unit != grid.spacing.unit:
        raise UsageError(f"rasters in {raster.spacing.unit} and {grid.spacing.unit} have no common grid")
    values = raster.channel(channel)
    indices = []
    for axis in (0, 1):
        cells = np.arange(grid.values.shape[axis]) + 0.5
        place = cells * grid.spacing.values[axis] + grid.offset[axis] - raster.offset[axis]
        indices.append(np.floor(place / raster.spacing.values[axis] + 1e-9).astype(np.int64))
    inside = [(index >= 0) & (index < n) for index, n in zip(indices, values.shape, strict=True)]
    found = np.full(grid.values.shape[:2], np.nan, np.float32)
    found[np.ix_(*inside)] = values[np.ix_(*(i[k] for i, k in zip(indices, inside, strict=True)))]
    return found
