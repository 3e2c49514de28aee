"""Stain as optical density: unmix it, vary it for training, carry it from one slide to another.

By Beer and Lambert's law the optical density of a pixel is the sum of its stains' densities, so colour becomes linear
in the amount of stain. Densities here are natural logarithms of `WHITE / (value + 1)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError

Image = npt.NDArray[np.uint8]
Method = Literal["macenko", "vahadane", "reinhard"]
Normaliser = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]
"""Gives an image `(rows, columns, 3)` the stain of the one that it was fitted to."""
Floats = npt.NDArray[np.float32]

WHITE = 256.0
"""Value plus one of a pixel that absorbs nothing."""

HED: Floats = np.array(
    [[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]],
    dtype=np.float32,
)
"""Haematoxylin, eosin and DAB, one row of red, green, blue densities each (Ruifrok & Johnston 2001)."""
HED.setflags(write=False)

LEAST_DENSITY = 0.15
"""Density in every channel from which a pixel counts as stained."""

FEWEST_PIXELS = 16
"""Stained pixels below which an image has no stain to speak of."""

_SAMPLE = 20_000
_ROUNDS = 200

_DENSITY = np.log(WHITE / (np.arange(256) + 1)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class StainFit:
    """Stain of an image as Macenko's or Vahadane's method sees it.

    `stains` `(2, 3)`: unit densities of haematoxylin and eosin in red, green, blue. `ceiling` `(2,)`: the 99th
    percentile of each stain's amount. `white`: the grey level from which the densities count.
    """

    stains: Floats
    ceiling: Floats
    white: float


def density(image: Image) -> Floats:
    """Optical density `(..., 3)` of uint8 pixels `(..., 3)`; 0 where nothing is absorbed."""
    return np.asarray(_DENSITY[image], dtype=np.float32)


def separate(image: Image, stains: npt.NDArray[np.floating] = HED) -> Floats:
    """Amounts `(..., stains)` of each stain in uint8 pixels `(..., 3)`, by least squares over `stains` `(stains, 3)`.

    Amounts below 0 are kept, so that `combine` gives the same pixels back where there are three stains.
    """
    _check_pixels(image)
    amounts = density(image) @ np.linalg.pinv(_unit(stains)).astype(np.float32)
    return np.asarray(amounts, dtype=np.float32)


def combine(amounts: npt.NDArray[np.floating], stains: npt.NDArray[np.floating] = HED) -> Image:
    """Pixels `(..., 3)` uint8 that hold the given `amounts` `(..., stains)`: the inverse of `separate`."""
    return _to_pixels(np.asarray(amounts @ _unit(stains), dtype=np.float32))


def fit_normaliser(target: Image, method: Method = "macenko") -> Normaliser:
    """A function that gives images the stain of `target`, by one of three published methods.

    "macenko" and "vahadane" unmix haematoxylin and eosin and keep each image's structure in its amounts; "reinhard"
    matches mean and spread of Lab colours, glass included. Every one of them refuses an image with fewer than
    `FEWEST_PIXELS` stained pixels: white has no stain, and statistics of glass would paint it.

    Args:
        target: uint8 `(rows, columns, 3)`.
        method: see above.

    Raises:
        UsageError: for an unknown method, or where `target` has too few stained pixels. The function itself raises it
            for an image that has.
    """
    if method not in get_args(Method):
        raise UsageError(f"no stain normalisation {method!r}; known: {', '.join(get_args(Method))}")
    if method == "macenko":
        macenko = fit_macenko(target)
        return lambda image: normalise_macenko(image, macenko)
    if method == "vahadane":
        vahadane = fit_vahadane(target)
        return lambda image: normalise_vahadane(image, vahadane)
    _stained(target)

    def reinhard(image: Image) -> Image:
        _stained(image)
        return normalise_reinhard(image, target)

    return reinhard


def fit_macenko(
    image: Image, *, white: float = 240.0, least_density: float = LEAST_DENSITY, angle_percentile: float = 1.0
) -> StainFit:
    """Stain vectors and amounts of an H&E image `(rows, columns, 3)` (Macenko et al. 2009).

    Densities count from `white`, the grey level of empty glass; 240, 0.15 and 1 are the values in common use. Pixels
    with a density below `least_density` in any channel are left out as glass. The others are projected onto the plane
    of largest variance; the directions at the `angle_percentile`-th lowest and highest angle are the stains.

    Raises:
        UsageError: if fewer than `FEWEST_PIXELS` pixels are stained.
    """
    stained = _stained(image, white, least_density).astype(np.float64)
    plane = np.linalg.eigh(np.cov(stained.T))[1][:, 1:]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    projected = stained @ plane
    angles = np.arctan2(projected[:, 1], projected[:, 0])
    extremes = np.percentile(angles, [angle_percentile, 100 - angle_percentile])
    stains = _ordered(np.stack([np.cos(extremes), np.sin(extremes)], axis=1) @ plane.T)
    amounts = _densities(image, white) @ np.linalg.pinv(stains).astype(np.float32)
    return StainFit(stains, np.percentile(amounts, 99, axis=0).astype(np.float32), white)


def normalise_macenko(image: Image, target: StainFit) -> Image:
    """`image` `(rows, columns, 3)` with its stains, in proportion to their 99th percentile, replaced by `target`'s.

    What two stains do not explain is lost; `fit_macenko` says when an image cannot be fitted.
    """
    fit = fit_macenko(image, white=target.white)
    amounts = _densities(image, target.white) @ np.linalg.pinv(fit.stains).astype(np.float32)
    return _restained(amounts, fit, target).reshape(image.shape)


def fit_vahadane(
    image: Image, *, white: float = 240.0, least_density: float = LEAST_DENSITY, sparsity: float = 0.1
) -> StainFit:
    """Stain vectors and amounts of an H&E image `(rows, columns, 3)` (Vahadane et al., IEEE Trans Med Imaging 2016).

    Densities `v` are factored into two stains `W` of length 1 and amounts `h`, all of them at least 0, that minimise
    the mean of `|v - h W|^2 / 2 + sparsity * sum(h)`: most pixels hold one stain. At most 20,000 stained pixels, evenly
    spread, are looked at. The search alternates between amounts and stains, both exact, from textbook H&E.
    `normalise_vahadane` then finds the amounts of an image with a tenth of `sparsity`, which would otherwise bleach it.

    Args:
        image: uint8.
        white: grey level of empty glass.
        least_density: pixels with less in any channel are left out as glass.
        sparsity: weight of the amounts; 0.1 as published.

    Raises:
        UsageError: if fewer than `FEWEST_PIXELS` pixels are stained.
    """
    stained = _stained(image, white, least_density).astype(np.float64)
    if len(stained) > _SAMPLE:
        stained = stained[np.linspace(0, len(stained) - 1, _SAMPLE).astype(np.int64)]
    stains = _unit(HED[:2]).astype(np.float64)
    for _ in range(_ROUNDS):
        before = stains.copy()
        amounts = _sparse_amounts(stained, stains, sparsity)
        used, mixed = amounts.T @ amounts, amounts.T @ stained
        for stain in (0, 1):
            # The best direction of one stain with the other fixed, less what would absorb less than nothing.
            best = np.maximum(mixed[stain] - used[stain, 1 - stain] * stains[1 - stain], 0)
            if best.any():
                stains[stain] = best / np.linalg.norm(best)
        if np.abs(stains - before).max() < 1e-7:
            break
    ordered = _ordered(stains)
    amounts = _sparse_amounts(
        _densities(image, white).astype(np.float64), ordered.astype(np.float64), sparsity
    )
    return StainFit(ordered, np.percentile(amounts, 99, axis=0).astype(np.float32), white)


def normalise_vahadane(image: Image, target: StainFit, *, sparsity: float = 0.1) -> Image:
    """`image` `(rows, columns, 3)` with its stains, in proportion to their 99th percentile, replaced by `target`'s.

    Amounts are those of `fit_vahadane`, which also says when an image cannot be fitted.
    """
    fit = fit_vahadane(image, white=target.white, sparsity=sparsity)
    densities = _densities(image, target.white).astype(np.float64)
    amounts = _sparse_amounts(densities, fit.stains.astype(np.float64), sparsity / 10)
    return _restained(amounts.astype(np.float32), fit, target).reshape(image.shape)


def normalise_reinhard(image: Image, target: Image, mask: npt.NDArray[np.bool_] | None = None) -> Image:
    """`image` with the mean and standard deviation of `target`'s Lab channels (Reinhard et al. 2001).

    `mask` `(rows, columns)` limits both the statistics and the change to some pixels of `image`, usually its tissue.
    """
    _check_pixels(image)
    _check_pixels(target)
    source = cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB)
    wanted = cv2.cvtColor(target.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB).reshape(-1, 3)
    chosen = np.ones(image.shape[:2], dtype=bool) if mask is None else mask
    if not chosen.any():
        return image.copy()
    inside = source[chosen]
    spread = np.maximum(inside.std(axis=0), 1e-6)
    source[chosen] = (inside - inside.mean(axis=0)) * (wanted.std(axis=0) / spread) + wanted.mean(axis=0)
    pixels = np.clip(cv2.cvtColor(source, cv2.COLOR_LAB2RGB), 0, 1) * 255
    return np.where(chosen[..., None], np.round(pixels).astype(np.uint8), image)


def _densities(image: Image, white: float) -> Floats:
    """Densities `(pixels, 3)` counted from `white`."""
    return density(image).reshape(-1, 3) - np.float32(np.log(WHITE / white))


def _stained(image: Image, white: float = 240.0, least_density: float = LEAST_DENSITY) -> Floats:
    """Densities of the stained pixels, refusing an image that has next to none."""
    _check_pixels(image)
    densities = _densities(image, white)
    stained = densities[(densities >= least_density).all(axis=1)]
    if len(stained) < FEWEST_PIXELS:
        raise UsageError(f"only {len(stained)} stained pixels in an image of {image.shape}: no stain to fit")
    return stained


def _ordered(stains: npt.NDArray[np.floating]) -> Floats:
    """Haematoxylin first: it absorbs more red than eosin does."""
    return stains[np.argsort(-stains[:, 0])].astype(np.float32)


def _sparse_amounts(
    densities: npt.NDArray[np.float64], stains: npt.NDArray[np.float64], sparsity: float
) -> npt.NDArray[np.float64]:
    """Amounts `(pixels, 2)`, at least 0, that minimise `|v - h W|^2 / 2 + sparsity * sum(h)` for each pixel, exactly.

    Either both stains are there, and the amounts solve two linear equations, or that solution is negative somewhere
    and the optimum lies where one is absent. Alone, a stain of length 1 gains `(v W - sparsity)^2 / 2`: the larger one
    stays.
    """
    gain = densities @ stains.T - sparsity
    cosine = stains[0] @ stains[1]
    both = gain @ np.linalg.inv(np.array([[1, cosine], [cosine, 1]]) + 1e-12 * np.eye(2))
    alone = np.maximum(gain, 0)
    alone[np.arange(len(alone)), alone.argmin(axis=1)] = 0
    return np.where((both < 0).any(axis=1, keepdims=True), alone, both)


def _restained(amounts: Floats, fit: StainFit, target: StainFit) -> Image:
    """Pixels `(pixels, 3)` with amounts of `fit`'s stains turned into those of `target`'s."""
    mixed = amounts * (target.ceiling / np.maximum(fit.ceiling, 1e-6)) @ target.stains
    return _to_pixels(np.asarray(mixed + np.float32(np.log(WHITE / target.white)), dtype=np.float32))


def _to_pixels(densities: npt.NDArray[np.floating]) -> Image:
    values = cv2.exp(np.negative(densities, dtype=np.float32)) * np.float32(WHITE)
    # adding 0.5 rounds, and the density was that of value + 1
    return np.asarray(np.clip(values - np.float32(0.5), 0, 255), dtype=np.uint8)


def _unit(stains: npt.NDArray[np.floating]) -> Floats:
    """Rows scaled to length 1."""
    return np.asarray(stains / np.linalg.norm(stains, axis=1, keepdims=True), dtype=np.float32)


def _check_pixels(image: Image) -> None:
    if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3:
        raise UsageError(
            f"stain needs uint8 RGB pixels (..., rows, columns, 3), not {image.dtype} {image.shape}"
        )
