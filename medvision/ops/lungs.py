"""Where the lungs are in a CT: threshold, components, each lung apart, closing.

The steps are those of Hu, Hoffman and Reinhardt (IEEE Trans. Med. Imaging 20, 2001) in millimetres, so that they
mean the same at every spacing; their smoothing becomes a closing that also takes in nodules at the chest wall.
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

    What is below `air_hu` is air or lung. A part below `least_ml` is no lung; the larger two are taken, and the second
    only from `least_share` of the first on, since lungs often hang together. Their cores are deeper than `core_mm`.
    Each lung is closed by a ball of `closing_mm`, which takes in vessels, and nodules at the wall.
    """

    air_hu: float = -320.0
    least_ml: float = 50.0
    least_share: float = 0.1
    closing_mm: float = 10.0
    core_mm: float = 6.0


def lung_mask(
    values: npt.NDArray[Any], spacing_mm: tuple[float, ...], settings: LungSettings | None = None
) -> Mask:
    """True in the lungs, the large airways among them; all false where there are none.

    `values` are Hounsfield units `(planes, rows, columns)` upright ("SPL"), `spacing_mm` their spacing. Spacings of
    1 to 3 mm are best: finer ones take longer and give the same.

    Raises:
        UsageError: if `values` have not three axes, or the spacing does not fit them.
    """

    settings = settings or LungSettings()
    if values.ndim != 3 or len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise UsageError(f"values of shape {values.shape} at {spacing_mm} mm are no volume with its spacing")
    air = values < settings.air_hu
    found = _largest_two(air & ~_around(air), math.prod(spacing_mm), settings)
    for lung in lungs_apart(found, spacing_mm, settings):
        _close(found, lung, spacing_mm, settings.closing_mm)
    return found


def lungs_apart(
    found: Mask, spacing_mm: tuple[float, ...], settings: LungSettings | None = None
) -> list[Mask]:
    """The two lungs of a mask, which hang together through the airways, or the one that there is; the larger first.

    They are told apart by their cores, as deep as `core_mm`, where bronchi are no more; each voxel goes to the
    nearer one.
    """
    from scipy import ndimage

    settings = settings or LungSettings()
    if not found.any():
        return []
    deep = ndimage.distance_transform_edt(np.pad(found, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    cores, count = ndimage.label(deep > settings.core_mm)
    sizes = np.bincount(cores.ravel(), minlength=count + 1)
    sizes[0] = 0
    order = np.argsort(-sizes, kind="stable")
    if count < 2 or sizes[order[1]] < settings.least_share * sizes[order[0]]:
        return [found.copy()]
    both = np.isin(cores, order[:2])
    nearest = ndimage.distance_transform_edt(~both, spacing_mm, return_distances=False, return_indices=True)
    owner = cores[tuple(nearest)]
    return [found & (owner == core) for core in order[:2]]


def _close(found: Mask, lung: Mask, spacing_mm: tuple[float, ...], reach_mm: float) -> None:
    """Add to `found` what a closing of one lung by a ball adds, and what the lung encloses on all sides."""
    from scipy import ndimage

    # Work in the lung's own box: the closing needs as much room around as it reaches.
    reach = [math.ceil(reach_mm / s) + 1 for s in spacing_mm]
    spans = [np.flatnonzero(lung.any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3)]
    box = tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
    part = np.pad(lung[box], [(r, r) for r in reach])
    grown = ndimage.distance_transform_edt(~part, sampling=spacing_mm) <= reach_mm
    closed = ndimage.distance_transform_edt(grown, sampling=spacing_mm) > reach_mm
    closed = ndimage.binary_fill_holes(closed | part)
    found[box] |= closed[tuple(slice(r, n - r) for r, n in zip(reach, closed.shape, strict=True))]


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
