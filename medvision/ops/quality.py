"""What could spoil a result: too little tissue, ink, unscanned areas, clipping, odd stain, folds, blur.

Every measure carries the limit it was judged by and a sentence for the report. The limits are those that the real
examples in `docs/tissue-and-quality.md` keep; they call for a look, they do not prove a fault.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.ops.tissue import Tissue

Image = npt.NDArray[np.uint8]

_DENSITY = -np.log((np.arange(256) + 1) / 256).astype(np.float32)
_SHARPNESS_UM = 1.0
"""Spacing at which sharpness is judged; finer windows are averaged down to it."""
_FOLD_UM = 40.0
_LEAST_CONTRAST = 0.04
"""Standard deviation of the lightness (0..1) below which a window says nothing about sharpness."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of every measure, as shares in 0..1 unless the name says otherwise."""

    tissue_mm2: float = 0.1
    pen: float = 0.05
    unscanned: float = 0.5
    clipped: float = 0.02
    density_low: float = 0.10
    density_high: float = 1.4
    hue_low_deg: float = 245.0
    hue_high_deg: float = 350.0
    fold: float = 0.10
    sharpness: float = 0.30


@dataclass(frozen=True, slots=True)
class Measure:
    """One quality measure: its value, whether it keeps the limit, the limit in words, and what it means."""

    name: str
    value: float
    unit: str
    ok: bool
    limit: str
    meaning: str


def assess(
    image: Image, tissue: Tissue, spacing_um: float, *, limits: Limits | None = None
) -> tuple[Measure, ...]:
    """Quality measures of a low-resolution view: the one in which `tissue` was found, at `spacing_um`.

    Raises:
        UsageError: if the masks have another shape than the image.
    """
    if tissue.mask.shape != image.shape[:2]:
        raise UsageError(f"tissue of shape {tissue.mask.shape} does not belong to a view of {image.shape}")
    bounds = limits or Limits()
    mask = tissue.mask
    area = float(mask.sum()) * spacing_um**2 / 1e6
    pen, unscanned = float(tissue.pen_mask.mean()), float(tissue.border_mask.mean())
    areas = (
        _at_least(
            "tissue area", area, "mm²", bounds.tissue_mm2, "Area that was recognised as stained tissue."
        ),
        Measure(
            "tissue share", float(mask.mean()), "share", bool(mask.any()), "above 0",
            "Share of the slide's image that is tissue.",
        ),
        _at_most(
            "pen share", pen, "share", bounds.pen,
            "Share of the image under pen marks; tissue under ink is not scored.",
        ),
        _at_most(
            "unscanned share", unscanned, "share", bounds.unscanned,
            "Share of the image that the scanner left black or filled with grey.",
        ),
    )  # fmt: skip
    return areas + (
        _stain(_smoothed(image, spacing_um)[mask], image[mask], tissue, bounds) if mask.any() else ()
    )


def blur(patches: Image, spacing_um: float, *, limits: Limits | None = None) -> Measure:
    """Sharpness of tissue windows `(n, rows, columns, 3)`, uint8, at `spacing_um` of at most 1 um per pixel.

    Averaged down to 1 um per pixel, the standard deviation of the detail finer than a Gaussian of 1 um, over that of
    the detail between 1 and 4 um: a ratio, so that it depends little on stain and contrast. The median over the
    windows that have any contrast is the value. Sharp tissue lies at 0.43 or above, tissue blurred by 2 um at 0.25 or
    below.

    Raises:
        UsageError: for another shape, or a spacing above 1.05 um per pixel, where the detail is averaged away.
    """
    if patches.ndim != 4 or patches.shape[-1] != 3:
        raise UsageError(f"sharpness is judged on (n, rows, columns, 3), not on {patches.shape}")
    if not 0 < spacing_um <= 1.05 * _SHARPNESS_UM:
        raise UsageError(
            f"sharpness cannot be judged at {spacing_um:g} um per pixel: {_SHARPNESS_UM:g} at most"
        )
    bound = (limits or Limits()).sharpness
    ratios = [ratio for patch in patches if (ratio := _detail_ratio(patch, spacing_um)) is not None]
    limit = f"at least {bound:g}"
    if not ratios:
        return Measure(
            "sharpness", 0.0, "ratio", False, limit, "No window had enough contrast to judge focus."
        )
    value = float(np.median(ratios))
    meaning = "Fine detail relative to coarse detail in tissue windows; low where the scan is out of focus."
    return Measure("sharpness", value, "ratio", value >= bound, limit, meaning)


def _smoothed(image: Image, spacing_um: float) -> Image:
    """The view averaged over `_FOLD_UM`, so that single nuclei and vessels do not count as folds."""
    side = max(1, round(_FOLD_UM / spacing_um))
    return np.asarray(cv2.blur(image, (side, side)), dtype=np.uint8)


def _stain(smooth: Image, pixels: Image, tissue: Tissue, bounds: Limits) -> tuple[Measure, ...]:
    """Measures of exposure, stain and thickness over tissue pixels `(n, 3)`, smoothed and as they are."""
    glass = np.array([tissue.thresholds[f"glass_{name}"] for name in ("red", "green", "blue")], np.float32)
    clipped = float(((pixels <= 1).any(axis=1) | (pixels >= 254).all(axis=1)).mean())
    densities = _DENSITY[smooth] - np.mean(-np.log((glass + 1) / 256))
    mean_density = densities.mean(axis=1)
    density = float(np.median(mean_density))
    colour = np.clip(np.median(smooth, axis=0) / glass, 0, 1)
    hue = 360 * colorsys.rgb_to_hsv(*colour.tolist())[0]
    chroma = (smooth.max(axis=1) - smooth.min(axis=1)) / np.float32(255)
    fold = float(((mean_density > max(1.2, 1.8 * density)) & (chroma > 0.15)).mean())
    return (
        _at_most(
            "clipped share", clipped, "share", bounds.clipped,
            "Share of tissue pixels at the end of the range, where over- or under-exposure has lost detail.",
        ),
        Measure(
            "stain density", density, "optical density",
            bounds.density_low <= density <= bounds.density_high,
            f"{bounds.density_low:g} to {bounds.density_high:g}",
            "Median strength of the stain over tissue; outside the limits it is unusually faint or dark.",
        ),
        Measure(
            "stain hue", hue, "°", bounds.hue_low_deg <= hue <= bounds.hue_high_deg,
            f"{bounds.hue_low_deg:g} to {bounds.hue_high_deg:g}",
            "Hue of the median tissue colour; outside the limits the stain is unusual for H&E.",
        ),
        _at_most(
            "fold share", fold, "share", bounds.fold,
            "Share of tissue about twice as dense as the rest: folds or thick areas.",
        ),
    )  # fmt: skip


def _detail_ratio(patch: Image, spacing_um: float) -> float | None:
    """Fine over coarse detail of one window, or None where it has too little contrast."""
    lightness = cv2.cvtColor(np.ascontiguousarray(patch), cv2.COLOR_RGB2GRAY)
    grey = np.asarray(lightness / 255.0, dtype=np.float32)
    factor = spacing_um / _SHARPNESS_UM
    if factor < 0.95:
        size = tuple(max(8, round(length * factor)) for length in grey.shape[::-1])
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
    if grey.std() < _LEAST_CONTRAST:
        return None
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    coarse = float((smooth - cv2.GaussianBlur(grey, (0, 0), 4.0)).std())
    return float((grey - smooth).std()) / coarse if coarse > 0 else None


def _at_most(name: str, value: float, unit: str, bound: float, meaning: str) -> Measure:
    return Measure(name, value, unit, value <= bound, f"at most {bound:g}", meaning)


def _at_least(name: str, value: float, unit: str, bound: float, meaning: str) -> Measure:
    return Measure(name, value, unit, value >= bound, f"at least {bound:g}", meaning)
