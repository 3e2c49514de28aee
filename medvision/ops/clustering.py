"""Segmentation by colour: k-means of pixels, or of superpixels, and colour models for a graph cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.labels import Labels, as_labels
from medvision.ops.colours import Background, Planes, colours, in_order, lightness
from medvision.ops.graph_cut import graph_cut
from medvision.ops.potts import Floats, potts_grid

_SAMPLED = 20_000
"""Pixels from which the means are found; all pixels are then assigned."""
_STARTS = 4
_LEAST_VARIANCE = 1.0
"""Of a class's colours, in squared units of Lab: a class of one colour still admits its neighbours."""


def kmeans(
    image: npt.NDArray[Any],
    classes: int = 2,
    *,
    smooth: float = 0.0,
    background: Background = "frame",
    seed: int = 0,
) -> Labels:
    """Pixels grouped by colour: Lloyd's k-means in CIE Lab, the best of four k-means++ starts.

    Args:
        image: `(*shape, channels)`.
        classes: number of groups, 2 or more; fewer come out where the image has fewer colours.
        smooth: Gaussian before, in pixels.
        background: which group is 0; the others count from 1, dark ones first.
        seed: of the starts and of the sample that the means are found in.
    """
    features = colours(image)
    if smooth > 0:
        from scipy.ndimage import gaussian_filter

        axes = tuple(range(features.ndim - 1))
        features = np.asarray(gaussian_filter(features, smooth, axes=axes), np.float32)
    groups = _grouped(features.reshape(-1, features.shape[-1]), None, classes, seed)
    return in_order(groups.reshape(image.shape[:-1]), lightness(image), background)


def slic(
    image: npt.NDArray[Any],
    superpixels: int = 1000,
    *,
    compactness: float = 10.0,
    spacing: tuple[float, ...] | None = None,
) -> Labels:
    """Superpixels, numbered from 1: connected patches of like colour (Achanta et al., PAMI 2012).

    Args:
        image: `(*shape, channels)`.
        superpixels: about how many.
        compactness: what distance in place weighs against distance in Lab.
        spacing: between pixels along each axis.
    """
    if superpixels < 1 or not compactness > 0:
        raise UsageError(f"{superpixels} superpixels of compactness {compactness:g}: both must be above 0")
    from skimage.segmentation import slic as skimage_slic

    features = colours(image)
    stretch = (
        float(np.ptp(features)) or 1.0
    )  # scikit-image divides all channels by it before it compares them
    found = skimage_slic(
        features,
        n_segments=superpixels,
        compactness=compactness / stretch,
        spacing=spacing,
        channel_axis=-1,
        convert2lab=False,
        start_label=1,
    )
    return np.asarray(found, np.int32)


def slic_kmeans(
    image: npt.NDArray[Any],
    classes: int = 2,
    *,
    superpixels: int = 1000,
    compactness: float = 10.0,
    background: Background = "frame",
    spacing: tuple[float, ...] | None = None,
    seed: int = 0,
) -> Labels:
    """Superpixels grouped by their mean colour, each with the weight of its size: k-means that keeps to edges.

    Parameters are those of `kmeans` and `slic`.
    """
    patches = slic(image, superpixels, compactness=compactness, spacing=spacing)
    numbers = patches.ravel()
    features = colours(image).reshape(numbers.size, -1)
    sizes = np.bincount(numbers)
    sums = np.stack([np.bincount(numbers, channel) for channel in features.T], axis=1)
    held = np.flatnonzero(sizes)
    means = (sums[held] / sizes[held, None]).astype(np.float32)
    of_patch = np.zeros(len(sizes), np.int64)
    of_patch[held] = _grouped(means, sizes[held].astype(np.float64), classes, seed)
    return in_order(of_patch[patches], lightness(image), background)


def cut_by_colour(
    image: npt.NDArray[Any],
    start: Labels,
    *,
    weight: float = 10.0,
    rounds: int = 3,
    neighbours: int | None = None,
    spacing: tuple[float, ...] | None = None,
) -> Labels:
    """Labels that are alike in colour and have short borders along edges, from a first guess.

    In turn, a Gaussian of Lab is fitted to each class, and a graph cut finds the best labels for these. Classes keep
    their numbers; one that is lost stays lost.

    Args:
        image: `(*shape, channels)`.
        start: first labels, such as those of `kmeans`.
        weight: cost of a border, in units of log-likelihood.
        rounds: of fitting and cutting; it ends earlier where nothing changes.
        neighbours: as in `medvision.ops.potts.potts_grid`.
        spacing: between pixels along each axis.
    """
    if start.shape != image.shape[:-1]:
        raise UsageError(f"labels of shape {start.shape} do not fit an image of shape {image.shape}")
    if rounds < 1:
        raise UsageError(f"{rounds} rounds: at least 1")
    features = colours(image)
    grid = potts_grid(features, weight, neighbours=neighbours, spacing=spacing)
    labels = start
    for _ in range(rounds):
        classes = np.unique(labels)
        if len(classes) < 2:
            break
        costs = np.stack([_gaussian_costs(features, labels == k) for k in classes], axis=-1)
        found = as_labels(classes[graph_cut(costs, grid)].astype(np.int64))
        if np.array_equal(found, labels):
            break
        labels = found
    return labels


def _grouped(features: Planes, weights: Floats | None, classes: int, seed: int) -> npt.NDArray[np.int64]:
    """Group of each of `features` `(n, channels)`."""
    if classes < 2:
        raise UsageError(f"{classes} classes: at least 2")
    from sklearn.cluster import KMeans

    sample, of_sample = features, weights
    if len(features) > _SAMPLED:
        chosen = np.random.default_rng(seed).choice(len(features), _SAMPLED, replace=False)
        sample, of_sample = features[chosen], None if weights is None else weights[chosen]
    distinct = len(np.unique(sample, axis=0))
    model = KMeans(min(classes, distinct), n_init=_STARTS, random_state=seed)
    model.fit(sample, sample_weight=of_sample)
    return np.asarray(model.predict(features), np.int64)


def _gaussian_costs(features: Planes, inside: npt.NDArray[np.bool_]) -> Floats:
    """Minus the log-likelihood `(*shape)` of each colour under the Gaussian of those inside."""
    colour = features.astype(np.float64)
    mean = colour[inside].mean(axis=0)
    offset = colour - mean
    own = offset[inside]
    covariance = own.T @ own / len(own) + _LEAST_VARIANCE * np.eye(len(mean))
    squares = (offset @ np.linalg.inv(covariance) * offset).sum(axis=-1)
    return np.asarray((squares + np.linalg.slogdet(covariance)[1]) / 2, np.float64)
