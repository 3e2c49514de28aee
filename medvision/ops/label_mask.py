"""Clean-up of label images, class by class, in planes and volumes: thin parts, holes, small pieces.

What a step takes from a class becomes background. Classes do not compete: a step never turns one class into another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.labels import Labels, as_labels


def open_labels(labels: npt.NDArray[Any], radius: float, spacing: tuple[float, ...] | None = None) -> Labels:
    """Each class opened by a disc or ball: without the parts into which it does not fit.

    Args:
        labels: `(*shape)`, 0 is background.
        radius: in pixels, or in the unit of the spacing.
        spacing: between pixels along each axis.
    """
    if not radius >= 0:
        raise UsageError(f"radius {radius:g} must be 0 or above")
    checked = as_labels(labels)
    from scipy.ndimage import distance_transform_edt

    # An opening by distances takes the same time at every radius. The frame erodes nothing: what lies beyond counts
    # as more of the same.
    steps = np.ones(checked.ndim) if spacing is None else np.asarray(spacing, np.float64)
    reach = [int(np.ceil(radius / step)) + 1 for step in steps]
    inner = tuple(slice(r, -r) for r in reach)
    opened = np.zeros_like(checked)
    for value in _classes(checked):
        inside = np.pad(checked == value, [(r, r) for r in reach], mode="edge")
        if inside.all():
            opened[...] = value
            continue
        core = distance_transform_edt(inside, sampling=spacing) > radius
        if core.any():
            near = distance_transform_edt(~core, sampling=spacing) <= radius
            opened[near[inner] & (checked == value)] = value
    return opened


def fill_holes(labels: npt.NDArray[Any], largest: int | None = None) -> Labels:
    """Background that one class encloses becomes that class; in a volume, what is enclosed on all sides.

    A hole that touches two classes, or the frame, stays.

    Args:
        labels: `(*shape)`, 0 is background.
        largest: pixels of the largest hole that is filled; None fills all.
    """
    if largest is not None and largest < 0:
        raise UsageError(f"largest hole of {largest} pixels: 0 or above")
    checked = as_labels(labels).copy()
    from scipy import ndimage

    holes, count = ndimage.label(checked == 0)
    if count == 0:
        return checked
    # The classes next to each hole, faces only, as holes are connected.
    low = np.full(count + 1, np.iinfo(np.int64).max)
    high = np.full(count + 1, -1)
    for axis in range(checked.ndim):
        for step in (1, -1):
            of_hole = _without_end(holes, axis, step)
            beside = _without_end(checked, axis, -step).astype(np.int64)
            met = (of_hole > 0) & (beside > 0)
            np.minimum.at(low, of_hole[met], beside[met])
            np.maximum.at(high, of_hole[met], beside[met])
    enclosed = low == high
    for axis in range(checked.ndim):
        enclosed[np.take(holes, [0, -1], axis=axis).ravel()] = False
    if largest is not None:
        enclosed &= np.bincount(holes.ravel(), minlength=count + 1) <= largest
    enclosed[0] = False
    fill = enclosed[holes]
    checked[fill] = high[holes[fill]].astype(checked.dtype)
    return checked


def drop_small(labels: npt.NDArray[Any], least: int, *, objects: bool = False) -> Labels:
    """Without connected pieces of a class below `least` pixels; pixels that meet at a corner are connected.

    Args:
        labels: `(*shape)`, 0 is background.
        least: pixels of the smallest piece that stays.
        objects: labels are numbered objects: a small one is dropped as a whole, and the others count from 1 again.
    """
    if least < 0:
        raise UsageError(f"least size of {least} pixels: 0 or above")
    checked = as_labels(labels).copy()
    if objects:
        sizes = np.bincount(checked.ravel())
        keep = sizes >= max(least, 1)
        keep[0] = False
        numbers = np.where(keep, np.cumsum(keep), 0).astype(checked.dtype)
        return as_labels(numbers[checked])
    from scipy import ndimage

    for value in _classes(checked):
        pieces, _ = ndimage.label(checked == value, structure=np.ones((3,) * checked.ndim))
        small = np.bincount(pieces.ravel()) < least
        small[0] = False
        checked[small[pieces]] = 0
    return checked


def _classes(labels: Labels) -> list[int]:
    return [int(value) for value in np.unique(labels) if value > 0]


def _without_end(values: npt.NDArray[Any], axis: int, step: int) -> npt.NDArray[Any]:
    """All but the last along an axis (step 1) or all but the first (step -1)."""
    cut = slice(None, -1) if step == 1 else slice(1, None)
    return values[(slice(None),) * axis + (cut,)]
