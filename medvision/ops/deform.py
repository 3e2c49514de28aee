"""Random deformations of images, labels and weights alike: where each pixel of a window is looked up.

A window is looked up in one go, whatever is done to it: its places are turned, scaled and displaced, and the image is
read there, mirrored beyond its borders. All arrays of one image are read at the same places, images and weights
linearly, labels at the nearest pixel, so that labels stay labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Field = npt.NDArray[np.float32]
"""Displacements `(axes, *shape)` in pixels, array order."""


def grid_displacement(
    shape: Sequence[int], rng: np.random.Generator, sigma_px: float = 10.0, nodes: int = 3
) -> Field:
    """A smooth displacement from random vectors on a coarse grid (Ronneberger et al., MICCAI 2015).

    Each component at each of `nodes` x `nodes` (x `nodes`) points is drawn from a Gaussian of `sigma_px`; between them
    is interpolated by cubic splines. The outermost points lie on the corners of the window.
    """
    axes = len(shape)
    field = rng.normal(0, sigma_px, (axes, *(nodes,) * axes))
    for axis, side in enumerate(shape, 1):
        field = np.moveaxis(np.tensordot(_spline(nodes, side), field, (1, axis)), 0, axis)
    return field.astype(np.float32)


def field_displacement(
    shape: Sequence[int], rng: np.random.Generator, sigma_px: float = 4.0, smooth_px: float = 16.0
) -> Field:
    """A displacement from noise at every pixel, smoothed by a Gaussian (Simard et al., ICDAR 2003).

    Each component is drawn evenly from -1 to 1, smoothed by `smooth_px`, and scaled to a root mean square of
    `sigma_px`.
    """
    from scipy import ndimage

    field = np.empty((len(shape), *shape), np.float32)
    for component in field:
        noise = rng.uniform(-1, 1, tuple(shape)).astype(np.float32)
        smooth = ndimage.gaussian_filter(noise, smooth_px, mode="reflect", truncate=3.0)
        component[...] = smooth * (sigma_px / max(1e-12, float(np.sqrt(np.mean(smooth**2)))))
    return field


def window_places(
    shape: Sequence[int],
    centre: Sequence[float],
    matrix: npt.ArrayLike | None = None,
    displacement: Field | None = None,
) -> Floats:
    """Where the pixels of a window are looked up: `(axes, *shape)` in indices of the image.

    Args:
        shape: of the window.
        centre: index of the image in the middle of the window; half of an index lies between two pixels.
        matrix: `(axes, axes)`, what a step in the window is in the image; by default the same step.
        displacement: added to each place, `(axes, *shape)`.
    """
    axes = len(shape)
    turned = np.eye(axes) if matrix is None else np.asarray(matrix, np.float64)
    places = np.empty((axes, *shape))
    for component, row in enumerate(turned):
        places[component] = centre[component]
        for axis, side in enumerate(shape):
            if row[axis]:
                steps = (np.arange(side) - (side - 1) / 2) * row[axis]
                places[component] += steps.reshape([-1 if k == axis else 1 for k in range(axes)])
    if displacement is not None:
        places += displacement
    return places


def sample(array: npt.NDArray[Any], places: Floats, *, nearest: bool = False) -> npt.NDArray[Any]:
    """The values of an array at places `(axes, *shape)`, mirrored about the outermost pixels beyond its borders.

    Linear between pixels, as float32; or, with `nearest`, the value of the nearest, in the type of the array.
    """
    from scipy import ndimage

    kind = array.dtype if nearest else np.float32
    return np.asarray(
        ndimage.map_coordinates(array, places, output=kind, order=0 if nearest else 1, mode="mirror")
    )


@lru_cache(maxsize=64)
def _spline(nodes: int, side: int) -> Floats:
    """What each node adds to each of `side` positions: `(side, nodes)`."""
    from scipy import ndimage

    positions = np.linspace(0, nodes - 1, side)[None]
    return np.stack(
        [ndimage.map_coordinates(node, positions, order=3, mode="mirror") for node in np.eye(nodes)], axis=1
    )
