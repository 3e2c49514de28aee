"""How large a nodule is: a simple segmentation around its centre, its axes in the plane, and the band of its size.

Diameters are measured as Lung-RADS 2022 (American College of Radiology) asks: the mean of the long and the short axis
in one plane, here the axial one in which the nodule is largest, to a tenth of a millimetre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError

Mask = npt.NDArray[np.bool_]

LUNG_HU = -850.0
"""Of the lung around a nodule, where the cube shows none of it."""
LEAST_CONTRAST_HU = 150.0
"""By which a nodule is denser than the lung, at least."""
LEAST_MM = 2.0
MOST_AT_THE_RIM = 0.1
"""Share of the ball's rim that a segmentation may take up: more has run into a vessel or the chest wall."""

SOLID_BANDS = ((6.0, "below 6 mm"), (8.0, "6 to below 8 mm"), (15.0, "8 to below 15 mm"))
"""Upper ends of the size bands of a solid nodule at a first screening, by Lung-RADS 2022."""
LARGEST_BAND = "15 mm or more"


@dataclass(frozen=True, slots=True)
class NoduleSize:
    """Axes in the plane, volume, and mean value in Hounsfield units of a segmented nodule."""

    long_mm: float
    short_mm: float
    volume_mm3: float
    mean_hu: float

    @property
    def diameter_mm(self) -> float:
        """Mean of both axes, to a tenth."""
        return round((self.long_mm + self.short_mm) / 2, 1)


def reach_mm(guess_mm: float) -> float:
    """Radius of the ball around the centre that a segmentation may fill, by the diameter that is expected."""
    return 0.75 * guess_mm + 3.0


def measure_nodule(values: npt.NDArray[Any], side_mm: float, guess_mm: float) -> NoduleSize | None:
    """Segment what lies in the middle of a cube and measure it; None where that cannot be told from its surroundings.

    The threshold lies half-way between the nodule and the lung around it, so that it fits solid and ground-glass
    nodules alike. What is thinner than two fifths of the expected diameter is taken off (vessels), and the part around
    the middle stays. A part that fills much of the rim of the ball of `reach_mm` has run into something else.

    Args:
        values: Hounsfield units of a cube `(n, n, n)` (plane, row, column), centred on the nodule.
        side_mm: of its voxels, the same along all axes.
        guess_mm: diameter that the detector expects.

    Raises:
        UsageError: if `values` are no cube, or a length is not positive.
    """
    if values.ndim != 3 or len(set(values.shape)) != 1 or not (side_mm > 0 and guess_mm > 0):
        raise UsageError(f"values of shape {values.shape} of {side_mm} mm, around {guess_mm} mm, are no cube")
    places = (np.arange(values.shape[0]) + 0.5 - values.shape[0] / 2) * side_mm
    apart_mm = np.sqrt(sum(axis**2 for axis in np.ix_(places, places, places)))
    ball = apart_mm <= reach_mm(guess_mm)
    core = values[apart_mm <= max(1.5, 0.2 * guess_mm, side_mm)]
    lung = values[ball & (values < -500)]
    level = float(np.percentile(core, 60))
    around = float(np.median(lung)) if lung.size else LUNG_HU
    if level - around < LEAST_CONTRAST_HU:
        return None
    found = _middle_part((values >= (level + around) / 2) & ball, apart_mm, side_mm, 0.2 * guess_mm)
    rim = ball & (apart_mm > reach_mm(guess_mm) - 1.5 * side_mm)
    if found is None or (found & rim).sum() > MOST_AT_THE_RIM * rim.sum():
        return None
    plane = found[int(found.sum(axis=(1, 2)).argmax())]
    long_mm, short_mm = _axes(np.argwhere(_outline(plane)) * side_mm, side_mm)
    if short_mm < LEAST_MM:
        return None
    return NoduleSize(
        round(long_mm, 1),
        round(short_mm, 1),
        round(float(found.sum()) * side_mm**3, 1),
        round(float(values[found].mean()), 1),
    )


def size_band(diameter_mm: float) -> str:
    """The band of `SOLID_BANDS` that a diameter falls into."""
    return next((name for end, name in SOLID_BANDS if round(diameter_mm, 1) < end), LARGEST_BAND)


def _middle_part(
    mask: Mask, apart_mm: npt.NDArray[np.float64], side_mm: float, thin_mm: float
) -> Mask | None:
    """The part of a mask next to the middle, opened by a ball of radius `thin_mm`; None where nothing lies there."""
    from scipy import ndimage

    deep = ndimage.distance_transform_edt(mask, sampling=side_mm)
    # Small nodules are all rim: what is thicker than a voxel or two stays whatever the expectation.
    thin_mm = min(thin_mm, 0.6 * float(deep[apart_mm <= max(2.0, 2 * side_mm)].max(initial=0.0)))
    cores, count = ndimage.label(deep > thin_mm)
    if not count:
        return None
    nearest = int(np.where(cores > 0, apart_mm, np.inf).argmin())
    if apart_mm.ravel()[nearest] > max(2.0, 2 * side_mm):
        return None
    kept = cores == cores.ravel()[nearest]
    grown = ndimage.distance_transform_edt(~kept, sampling=side_mm) <= thin_mm + 0.5 * side_mm
    return np.asarray(mask & grown, np.bool_)


def _outline(plane: Mask) -> Mask:
    """Pixels of a plane with a neighbour outside. Both axes end there, and pairs of all pixels would take gigabytes."""
    from scipy import ndimage

    return np.asarray(plane & ~ndimage.binary_erosion(plane), np.bool_)


def _axes(points: npt.NDArray[np.floating[Any]], side_mm: float) -> tuple[float, float]:
    """The longest distance between pixels `(n, 2)` of a plane, and their extent at a right angle to it, in mm."""
    apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=2))
    first, second = np.unravel_index(int(apart.argmax()), apart.shape)
    along = points[second] - points[first]
    length = float(apart.max())
    across = np.array([-along[1], along[0]]) / (length or 1.0)
    return length + side_mm, float(np.ptp(points @ across)) + side_mm
