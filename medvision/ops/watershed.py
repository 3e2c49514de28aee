"""Touching objects told apart: a watershed of the distance to the background, from the middles of the objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.labels import Labels
from medvision.ops.colours import Background
from medvision.ops.label_mask import drop_small, fill_holes
from medvision.ops.thresholds import otsu


def split_touching(
    labels: npt.NDArray[Any],
    *,
    depth: float = 1.0,
    smooth: float = 1.0,
    spacing: tuple[float, ...] | None = None,
) -> Labels:
    """Objects of a label image, numbered from 1 in int32; each lies in one class.

    The distance of each pixel to the outside of its class is smoothed; its peaks are the objects' middles. A peak that
    rises less than `depth` above the saddle to a higher one is part of that one.

    Args:
        labels: classes `(*shape)`, 0 is background.
        depth: in pixels, or in the unit of the spacing; 0 splits at every saddle.
        smooth: Gaussian of the distance, in pixels; it removes peaks of a ragged outline.
        spacing: between pixels along each axis.

    Raises:
        UsageError: for a parameter below 0.
    """
    from scipy import ndimage
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    if not (depth >= 0 and smooth >= 0):
        raise UsageError(f"depth {depth:g} and smooth {smooth:g} must be 0 or above")
    objects = np.zeros(labels.shape, np.int32)
    everywhere = np.ones((3,) * labels.ndim)
    for value in np.unique(labels[labels > 0]):
        inside = labels == value
        # Seen from within, the frame is no border: a cut object is as wide as what is seen of it.
        distance = ndimage.distance_transform_edt(inside, sampling=spacing)
        if inside.all():
            distance = np.ones(labels.shape)
        if smooth > 0:
            distance = ndimage.gaussian_filter(distance, smooth)
        distance = np.where(inside, distance, 0)
        peaks = h_maxima(distance, depth) if depth > 0 else _peaks(distance)
        middles, _ = ndimage.label((peaks > 0) & inside, structure=everywhere)
        middles = _each_piece(middles, inside)
        found = watershed(-distance, middles, mask=inside)
        objects[inside] = found[inside] + objects.max()
    return objects


def nuclei(
    image: npt.NDArray[Any],
    *,
    smooth: float = 1.0,
    depth: float = 1.0,
    least: int = 20,
    background: Background = "frame",
) -> Labels:
    """Nuclei numbered from 1, by Otsu's threshold and a watershed: the floor that a network has to beat.

    Args:
        image: `(*shape, channels)`; dark on bright or bright on dark, as the background says.
        smooth: Gaussian of image and distance, in pixels.
        depth: see `split_touching`.
        least: pixels of the smallest nucleus.
        background: frame, dark or bright.
    """
    mask = otsu(image, smooth=smooth, background=background)
    whole = fill_holes(drop_small(mask, least))
    return drop_small(split_touching(whole, depth=depth, smooth=smooth), least, objects=True)


def _peaks(distance: npt.NDArray[np.floating]) -> npt.NDArray[Any]:
    from skimage.morphology import local_maxima

    return np.asarray(local_maxima(distance))


def _each_piece(middles: npt.NDArray[np.int32], inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """`middles` with one more for each connected piece that has none, since its peak is lower than the depth."""
    from scipy import ndimage

    pieces, count = ndimage.label(inside, structure=np.ones((3,) * inside.ndim))
    served = np.zeros(count + 1, dtype=bool)
    served[pieces[middles > 0]] = True
    served[0] = True
    without = ~served[pieces]
    middles = middles.astype(np.int32)
    lonely, _ = ndimage.label(without, structure=np.ones((3,) * inside.ndim))
    middles[without] = lonely[without] + middles.max()
    return middles
