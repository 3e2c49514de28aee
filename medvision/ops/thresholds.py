"""Segmentation by lightness alone: Otsu's threshold, or one learned from labelled images. The floor for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.labels import Labels, Probabilities
from medvision.ops.colours import Background, in_order, lightness

Foreground = Literal["dark", "bright"]
_STEPS = 256


def otsu(
    image: npt.NDArray[Any], *, classes: int = 2, smooth: float = 0.0, background: Background = "frame"
) -> Labels:
    """Bands of lightness that differ most from each other (Otsu 1979; several thresholds: Liao et al. 2001).

    An image of one value, or of fewer values than classes, is background where no threshold tells it apart.

    Args:
        image: `(*shape, channels)`.
        classes: number of bands, 2 to 5.
        smooth: Gaussian before, in pixels.
        background: which band is 0; the others count from 1, dark ones first.
    """
    if not 2 <= classes <= 5:
        raise UsageError(f"{classes} classes: Otsu's thresholds are sought for 2 to 5")
    light = lightness(image, smooth)
    if np.unique(light).size < classes:
        return in_order(np.zeros(light.shape, np.int64), light, background)
    from skimage import filters

    levels = [filters.threshold_otsu(light)] if classes == 2 else filters.threshold_multiotsu(light, classes)
    return in_order(np.digitize(light, levels, right=True), light, background)


def threshold(
    image: npt.NDArray[Any], level: float, *, smooth: float = 0.0, foreground: Foreground = "dark"
) -> Labels:
    """1 where the smoothed lightness in 0..100 is at most `level` (dark foreground) or at least (bright), else 0."""
    light = lightness(image, smooth)
    return (light <= level if foreground == "dark" else light >= level).astype(np.uint8)


def fit_threshold(
    images: Sequence[npt.NDArray[Any]],
    truths: Sequence[npt.NDArray[Any]],
    *,
    smooth: float = 0.0,
    foreground: Foreground = "dark",
) -> tuple[float, float]:
    """The level, of 256 evenly between the extremes, with the best Dice over all images together, and that Dice.

    Args:
        images: `(*shape, channels)` each.
        truths: masks `(*shape)` of the foreground, one for each image.
        smooth: Gaussian before, in pixels.
        foreground: whether it is dark or bright.

    Raises:
        UsageError: without images, or with masks that do not fit or hold no foreground.
    """
    if not images or len(images) != len(truths):
        raise UsageError(
            f"{len(images)} images and {len(truths)} masks: one mask for each of at least one image"
        )
    light = [lightness(image, smooth) for image in images]
    masks = [np.asarray(truth, dtype=bool) for truth in truths]
    for planes, mask in zip(light, masks, strict=True):
        if planes.shape != mask.shape:
            raise UsageError(f"a mask of shape {mask.shape} does not fit an image of shape {planes.shape}")
    values, wanted = np.concatenate([p.ravel() for p in light]), np.concatenate([m.ravel() for m in masks])
    if not wanted.any():
        raise UsageError("no mask holds foreground: there is nothing to fit a threshold to")
    levels = np.linspace(float(values.min()), float(values.max()), _STEPS)
    sign = 1 if foreground == "dark" else -1
    ours, theirs = np.sort(sign * values[wanted]), np.sort(sign * values)
    hits, found = (np.searchsorted(part, sign * levels, side="right") for part in (ours, theirs))
    dice = 2 * hits / (found + len(ours))
    best = int(np.argmax(dice))
    return float(levels[best]), float(dice[best])


def darkness(image: npt.NDArray[Any], smooth: float = 0.0) -> Probabilities:
    """How dark the smoothed image is, as probabilities `(*shape, 2)`: the floor for maps of stained membranes."""
    dark = 1 - np.clip(lightness(image, smooth) / 100, 0, 1)
    return np.stack([1 - dark, dark], axis=-1).astype(np.float32)
