"""Where the lungs are in a CT: threshold, components, closing.

The steps are the usual ones (Hu, Hoffman and Reinhardt, 2001; the closing also takes in nodules that touch the chest
wall, as LUNA16 entries do), in millimetres, so that they mean the same at every spacing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LungSettings:
    """What counts as lung.

    `air_hu`: what is below is air or lung. A part below `least_ml` is no lung; the larger two are taken, and the second
    only from `least_share` of the first on, since lungs often hang together. Bays and holes up to twice
    `closing_mm` wide are closed: vessels at the hilum, and nodules at the wall.
    """

    air_hu: float = -320.0
    least_ml: float = 50.0
    least_share: float = 0.1
    closing_mm: float = 10.0


def lung_mask(
    values: npt.NDArray[Any], spacing_mm: tuple[float, ...], settings: LungSettings | None = None
) -> Mask:
    """True in the lungs, the large airways among them; all false where there are none.

    `values` are Hounsfield units `(planes, rows, columns)` upright ("SPL"), `spacing_mm` their spacing. Spacings of
    1 to 3 mm are best: finer ones take longer and give the same.

    Raises:
        UsageError: if `values` have not three axes, or the spacing does not fit them.
    """
    from scipy import ndimage

    settings = settings or LungSettings()
    if values.ndim != 3 or len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise UsageError(f"values of shape {values.shape} at {spacing_mm} mm are no volume with its spacing")
    inside = (values < settings.air_hu) & ~_around(values < settings.air_hu)
    found = _largest_two(inside, math.prod(spacing_mm), settings)
    if not found.any():
        return found
    # Work in the lungs' own box: the closing needs as much room around as it reaches.
    reach = [math.ceil(settings.closing_mm / s) + 1 for s in spacing_mm]
    spans = [np.flatnonzero(found.any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3)]
    box = tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
    part = np.pad(found[box], [(r, r) for r in reach])
    far = ndimage.distance_transform_edt(~part, sampling=spacing_mm)
    grown = far <= settings.closing_mm
    closed = ndimage.distance_transform_edt(grown, sampling=spacing_mm) > settings.closing_mm
    closed |= part
    for plane in closed:  # what a plane encloses belongs to it: vessels, and nodules in the lung
        plane |= ndimage.binary_fill_holes(plane)
    found[box] = closed[tuple(slice(r, n - r) for r, n in zip(reach, closed.shape, strict=True))]
    return found


def _around(air: Mask) -> Mask:
    """Air outside the body: what hangs together with the sides of each plane. The first and last plane cut lungs."""
    from scipy import ndimage

    outside = np.zeros_like(air)
    for plane, out in zip(air, outside, strict=True):
        labels, count = ndimage.label(plane)
        if count:
            rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
            touched = np.zeros(count + 1, np.bool_)
            touched[rim] = True
            touched[0] = False
            out[:] = touched[labels]
    return outside


def _largest_two(inside: Mask, voxel_mm3: float, settings: LungSettings) -> Mask:
    from scipy import ndimage

    labels, count = ndimage.label(inside)
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * (voxel_mm3 / 1000)
    sizes[0] = 0
    order = np.argsort(-sizes, kind="stable")
    keep = np.zeros(count + 1, np.bool_)
    if count and sizes[order[0]] >= settings.least_ml:
        keep[order[0]] = True
        if count > 1 and sizes[order[1]] >= max(settings.least_ml, settings.least_share * sizes[order[0]]):
            keep[order[1]] = True
    return np.asarray(keep[labels])
