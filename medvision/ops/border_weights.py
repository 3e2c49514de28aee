"""The weight map of U-Net, by which the narrow gaps between touching cells count more than other background."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_REACH = 6.0
"""In sigmas. What lies farther from a second object adds less than 2e-8 of w0."""


def border_weights(objects: npt.NDArray[np.integer], w0: float = 10.0, sigma_px: float = 5.0) -> Floats:
    """w0 exp(-(d1 + d2)^2 / (2 sigma^2)) of every pixel outside the objects, 0 inside them.

    d1 and d2 are the distances, in pixels, to the nearest and the second nearest object (Ronneberger et al., MICCAI
    2015, equation 2, without the class weight, which is added where the loss is computed).

    Args:
        objects: labels of any shape in two or three axes; 0 is outside, every other value one object.
        w0: weight in a gap of no width.
        sigma_px: how fast it falls.

    Returns:
        float32 of the same shape.
    """
    from scipy import ndimage

    nearest = np.full(objects.shape, np.inf, np.float32)
    second = nearest.copy()
    _, dense = np.unique(objects, return_inverse=True)
    dense = dense.reshape(objects.shape) + (0 if (objects == 0).any() else 1)
    reach = math.ceil(_REACH * sigma_px)
    for number, box in enumerate(ndimage.find_objects(dense), 1):
        if box is None:
            continue
        wide = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in box)
        away = ndimage.distance_transform_edt(dense[wide] != number).astype(np.float32)
        second[wide] = np.minimum(second[wide], np.maximum(nearest[wide], away))
        nearest[wide] = np.minimum(nearest[wide], away)
    weights = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma_px**2))
    return np.where(objects == 0, weights, 0).astype(np.float32)
