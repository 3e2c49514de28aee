"""Distances between the borders of two masks: Hausdorff distance, average surface distance, surface Dice.

A border pixel is a pixel of the mask one of whose neighbours across a side (4 in 2-D, 6 in 3-D) is outside of it; what
lies beyond the image is outside. All border pixels count alike: these are MONAI's definitions. DeepMind's
`surface-distance` weighs each by the area of surface that passes it, and differs a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from medvision.core.errors import UsageError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """From each border pixel of one mask to the nearest of the other, in the unit of the spacing.

    `to_reference` (n,) is of the prediction's border pixels, `to_prediction` (m,) of the reference's. Where one mask is
    empty, the other's distances are infinite; where both are, there are none.
    """

    to_reference: Floats
    to_prediction: Floats

    @property
    def both_empty(self) -> bool:
        """Neither mask has a pixel."""
        return not len(self.to_reference) and not len(self.to_prediction)

    @property
    def one_empty(self) -> bool:
        """Just one of the masks has no pixel."""
        return bool(len(self.to_reference)) != bool(len(self.to_prediction))


def surface_distances(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float] | None = None
) -> SurfaceDistances:
    """Distances between the borders of two masks of one shape, 2-D or 3-D.

    `spacing` is the distance of pixels along each axis, in array order; 1 if not given: distances are then in pixels.

    Raises:
        UsageError: if shapes differ, or the spacing has not one positive number for each axis.

    >>> surface_distances([[1, 1, 0, 0]], [[1, 1, 1, 0]]).to_prediction.tolist()
    [0.0, 0.0, 1.0]
    """
    p, r = np.asarray(prediction, dtype=bool), np.asarray(reference, dtype=bool)
    if p.shape != r.shape:
        raise UsageError(f"masks of shapes {p.shape} and {r.shape} have no distance")
    steps = np.ones(p.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if steps.shape != (p.ndim,) or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise UsageError(f"a spacing of {spacing} for {p.ndim} axes; each takes one positive number")
    border_p, border_r = _border(p), _border(r)
    return SurfaceDistances(_nearest(border_p, border_r, steps), _nearest(border_r, border_p, steps))


def hausdorff(distances: SurfaceDistances, percentile: float = 95.0) -> float:
    """The larger of the two directions' percentiles of the distances, interpolated linearly (Huttenlocher 1993).

    100 gives the Hausdorff distance itself. Infinite where one mask is empty, NaN where both are.
    """
    if distances.both_empty or distances.one_empty:
        return np.nan if distances.both_empty else np.inf
    return max(
        float(np.percentile(one, percentile)) for one in (distances.to_reference, distances.to_prediction)
    )


def average_surface_distance(distances: SurfaceDistances) -> float:
    """Mean distance over the border pixels of both masks (symmetric); infinite and NaN as `hausdorff`."""
    if distances.both_empty or distances.one_empty:
        return np.nan if distances.both_empty else np.inf
    return float(np.concatenate([distances.to_reference, distances.to_prediction]).mean())


def surface_dice(distances: SurfaceDistances, tolerance: float) -> float:
    """Share of the border pixels of both masks that are within `tolerance`, inclusive (Nikolov et al. 2018).

    0 where one mask is empty, NaN where both are.

    Raises:
        UsageError: if the tolerance is negative or not finite.
    """
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"a tolerance of {tolerance}; it must be 0 or more")
    if distances.both_empty:
        return np.nan
    both = np.concatenate([distances.to_reference, distances.to_prediction])
    return float(np.count_nonzero(both <= tolerance) / len(both))


def _border(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Indices (n, axes) of the border pixels, found within the box that the mask fills."""
    box = ndimage.find_objects(mask.view(np.uint8))
    if not box or box[0] is None:
        return np.empty((0, mask.ndim), dtype=np.intp)
    inside = mask[box[0]]
    border = inside & ~ndimage.binary_erosion(inside)  # beyond the box is outside, as the mask ends there
    return np.asarray(np.argwhere(border) + [part.start for part in box[0]], dtype=np.intp)


def _nearest(points: npt.NDArray[np.intp], others: npt.NDArray[np.intp], spacing: Floats) -> Floats:
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    _, index = cKDTree(others * spacing).query(points * spacing)
    # Anew from whole steps: 4 x 0.3 - 3 x 0.3 is not 0.3, and a tolerance may be met exactly.
    return np.asarray(np.sqrt((((points - others[index]) * spacing) ** 2).sum(axis=1)))
