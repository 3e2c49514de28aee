"""Ink on the glass: pathologists mark slides with black, blue, green and red pens, beside tissue and across it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

_DENSITY = -np.log((np.arange(256) + 1) / 256).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PenSettings:
    """What tells ink from stain: differences and ratios of the natural optical densities of red, green and blue.

    Haematoxylin and eosin absorb green most. Blue and green ink absorb red most: red over green by `cool_seed` in its
    core and `cool_grow` in its fading rim. Red ink absorbs blue nearly as much as green (`warm_ratio_*`) and hardly
    any red (`warm_seed`, `warm_grow`; over dark tissue `warm_deep`). Black ink is neutral and dark. Ink is a patch of
    at least `minimum_area_um2` of core; the rim grows out of the core only, and a margin of `margin_um` is added.
    """

    cool_seed: float = 0.35
    cool_grow: float = 0.15
    warm_seed: float = 1.2
    warm_grow: float = 0.25
    warm_deep: float = 1.6
    warm_ratio_seed: float = 0.78
    warm_ratio_grow: float = 0.74
    chroma_seed: float = 0.2
    chroma_grow: float = 0.04
    warm_chroma_seed: float = 0.45
    black_chroma: float = 0.06
    minimum_area_um2: float = 20_000.0
    margin_um: float = 48.0


def find_ink(
    balanced: npt.NDArray[np.uint8],
    chroma: npt.NDArray[np.float32],
    dark: Mask,
    view_um: float,
    settings: PenSettings,
) -> Mask:
    """Ink and its margin, in a white-balanced RGB view `(rows, columns, 3)` at `view_um` micrometres per pixel.

    `chroma` is the spread between channels in 0..1; `dark` marks pixels too dark for stain, borders left out.
    """
    red, green, blue = (_DENSITY[plane] for plane in cv2.split(balanced))
    cool = red - green
    warm_ratio = blue / np.maximum(green, np.float32(0.02))
    cool_grow = (cool > settings.cool_grow) & (chroma > settings.chroma_grow)
    cool_seed = (cool > settings.cool_seed) & (chroma > settings.chroma_seed)
    warm_grow = (-cool > settings.warm_grow) & (warm_ratio > settings.warm_ratio_grow)
    warm_grow = (warm_grow & (chroma > settings.chroma_grow)) | (-cool > settings.warm_deep)
    warm_seed = (
        (-cool > settings.warm_seed)
        & (warm_ratio > settings.warm_ratio_seed)
        & (chroma > settings.warm_chroma_seed)
    )
    black = dark & (chroma < settings.black_chroma)
    minimum = settings.minimum_area_um2 / view_um**2
    ink = np.zeros(dark.shape, dtype=np.uint8)
    for seed, grow in ((cool_seed, cool_grow), (warm_seed, warm_grow | (dark & warm_grow)), (black, black)):
        ink |= _grown(seed, grow, minimum)
    if not ink.any():
        return ink.astype(bool)
    radius = max(1, round(settings.margin_um / view_um))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(ink, kernel).astype(bool)


def _grown(seed: Mask, grow: Mask, minimum: float) -> npt.NDArray[np.uint8]:
    """Components of `seed | grow` that hold at least `minimum` pixels of `seed`."""
    if not seed.any():
        return np.zeros(seed.shape, dtype=np.uint8)
    count, labels = cv2.connectedComponents((seed | grow).astype(np.uint8), connectivity=8)
    enough = np.bincount(labels[seed], minlength=count) >= minimum
    enough[0] = False
    return np.asarray(enough[labels], dtype=np.uint8)
