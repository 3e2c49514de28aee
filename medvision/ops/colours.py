"""Images as colours in which distances mean something, for the methods that group pixels by colour."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.labels import Labels, as_labels

Planes = npt.NDArray[np.float32]
Background = Literal["frame", "dark", "bright"]
"""Which of several groups of pixels is the background: the one that holds most of the image's frame, or an extreme."""


def check_image(image: npt.NDArray[Any]) -> None:
    """Raise `UsageError` unless `image` is `(*two or three axes, channels)`, finite and not empty."""
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise UsageError(f"an image has shape (*two or three axes, channels), not {image.shape}")
    if not np.isfinite(image).all():
        raise UsageError("an image with NaN or infinite values cannot be segmented")


def colours(image: npt.NDArray[Any]) -> Planes:
    """CIE Lab of an RGB image in uint8; of any other the values, 0..255 or else their range stretched to 0..100.

    Args:
        image: `(*shape, channels)`.

    Returns:
        float32 `(*shape, channels)`; lightness is the first channel of Lab.
    """
    check_image(image)
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        from skimage.color import rgb2lab

        return np.asarray(rgb2lab(image), np.float32)
    values = image.astype(np.float32)
    if image.dtype == np.uint8:
        return values * np.float32(100 / 255)
    low, high = values.min(), values.max()
    stretched: Planes = (values - low) * np.float32(100 / (high - low) if high > low else 0)
    return stretched


def lightness(image: npt.NDArray[Any], smooth: float = 0.0) -> Planes:
    """Lightness `(*shape)` in 0..100: L of Lab, or the mean of the channels; smoothed by a Gaussian of `smooth` pixels.

    Raises:
        UsageError: for something that is no image, or a width below 0.
    """
    if not smooth >= 0:
        raise UsageError(f"a Gaussian of {smooth:g} pixels: 0 or above")
    found = colours(image)
    is_lab = image.dtype == np.uint8 and image.shape[-1] == 3
    light = found[..., 0] if is_lab else found.mean(axis=-1, dtype=np.float32)
    if smooth == 0:
        return light
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(light, smooth), np.float32)


def in_order(
    groups: npt.NDArray[np.integer], light: npt.NDArray[np.floating], background: Background
) -> Labels:
    """Groups of pixels as labels: the background is 0, the others count from 1, dark ones first.

    Args:
        groups: any whole numbers from 0, `(*shape)`.
        light: lightness `(*shape)`, by whose mean they are ordered.
        background: which group is the background.
    """
    count = int(groups.max()) + 1
    sizes = np.bincount(groups.ravel(), minlength=count)
    means = np.bincount(groups.ravel(), light.ravel(), minlength=count) / np.maximum(sizes, 1)
    order = [int(k) for k in np.argsort(means, kind="stable") if sizes[k] > 0]
    if background == "dark":
        zero = order[0]
    elif background == "bright":
        zero = order[-1]
    elif background == "frame":
        zero = int(np.argmax(np.bincount(_frame(groups), minlength=count)))
    else:
        raise UsageError(f"background {background!r} must be frame, dark or bright")
    table = np.zeros(count, np.int64)
    table[[k for k in order if k != zero]] = np.arange(1, len(order))
    return as_labels(table[groups])


def _frame(groups: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """All values on the outermost rows, columns and planes, each once."""
    inside = np.zeros(groups.shape, dtype=bool)
    inside[tuple(slice(1, -1) for _ in groups.shape)] = True
    return np.asarray(groups[~inside])
