"""Where the tissue is, on a low-resolution view of a slide. Classical, fast, and with every number on record.

The signal is chroma: the spread between the colour channels after the glass was balanced to white. Stained tissue
absorbs green more than red or blue (brown chromogen: blue most), while glass, scanner borders, stitching gaps,
cover-slip edges and shadows are neutral at any brightness, so white, grey and black surroundings need no special
case. Otsu's threshold separates the two where there is tissue (Wang et al. 2016 take Otsu's on the saturation); fixed
bounds on it keep faint stain in and give an empty mask on empty glass. Pen ink is told from stain by the ratios of
its optical densities. `docs/tissue-and-quality.md` shows examples and figures.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.ops.pen import PenSettings, find_ink

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Planes = npt.NDArray[np.float32]

_FILL_DEVIATION = 2.0
"""Standard deviation in grey levels up to which a flat area counts as filled with one colour."""


@dataclass(frozen=True, slots=True)
class TissueSettings:
    """Limits of the tissue search. Chroma and noise are in 0..1, grey levels in 0..255.

    Otsu's threshold is held between `chroma_floor` (raised to `noise_factor` deviations above what the glass itself
    shows) and `chroma_ceiling`. Fat has a chroma below the ceiling, so it is left out unless the stain of the whole
    slide is as faint. Finer views than `working_um`, and larger ones than `working_pixels`, are averaged down first.
    """

    working_um: float = 16.0
    working_pixels: float = 2.0e6
    chroma_floor: float = 0.035
    chroma_ceiling: float = 0.06
    noise_factor: float = 5.0
    black_level: int = 45
    flat_range: int = 2
    grey_step: int = 24
    border_share: float = 0.005
    close_um: float = 32.0
    hole_um2: float = 60_000.0
    minimum_area_um2: float = 20_000.0
    halo_um: float = 160.0
    pen: PenSettings = field(default_factory=PenSettings)


@dataclass(frozen=True, eq=False)
class Tissue:
    """Masks `(rows, columns)` of the view they were found in, and what made them.

    `pen_mask` holds ink and a margin around it; `border_mask` what the scanner did not image: black or grey fill.
    The three masks are disjoint. `thresholds` has every setting and every value learned from the image.
    """

    mask: Mask
    pen_mask: Mask
    border_mask: Mask
    thresholds: dict[str, float]
    method: str


def find_tissue(image: Image, spacing_um: float, *, settings: TissueSettings | None = None) -> Tissue:
    """Tissue in an RGB view `(rows, columns, 3)`, uint8, at `spacing_um` micrometres per pixel (8 to 16 is usual).

    Raises:
        UsageError: for another shape or type of image, or a spacing that is not positive.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UsageError(f"tissue is sought in uint8 (rows, columns, 3), not {image.dtype} {image.shape}")
    if not spacing_um > 0:
        raise UsageError(f"spacing of {spacing_um:g} um per pixel: it must be above 0")
    chosen = settings or TissueSettings()
    view, view_um = _working_view(image, spacing_um, chosen)
    spread = _local_range(view)
    glass = _glass_colour(view)
    balanced = _balance(view, glass)
    chroma, lightness = _chroma(balanced)
    # neutral fill beside tinted glass is neutral before the balance, not after it
    chroma = np.minimum(chroma, _chroma(view)[0])

    dark = lightness < chosen.black_level
    border = _border(lightness, chroma, spread, dark, chosen)
    ink = find_ink(balanced, chroma, dark & ~border, view_um, chosen.pen) & ~border
    threshold, noise, otsu = _threshold(chroma, ~(border | ink | dark), chosen)
    mask = _tidy((chroma > threshold) & ~(border | ink), view_um, chosen) & ~(border | ink)
    mask = _without_halo(mask, ink, view_um, chosen)
    mask = _without_small(mask, chosen.minimum_area_um2 / view_um**2)

    learned = {
        "glass_red": float(glass[0]), "glass_green": float(glass[1]), "glass_blue": float(glass[2]),
        "glass_noise": noise, "chroma_otsu": otsu, "chroma": threshold, "view_um": view_um,
    }  # fmt: skip
    return Tissue(
        mask=_enlarge(mask, image.shape[:2]),
        pen_mask=_enlarge(ink, image.shape[:2]),
        border_mask=_enlarge(border, image.shape[:2]),
        thresholds=_numbers(chosen) | learned,
        method="Otsu threshold on white-balanced chroma within bounds; ink by optical-density ratios",
    )


def box_share(
    mask: Mask, mask_spacing_um: float, boxes: npt.ArrayLike, box_spacing_um: float
) -> npt.NDArray[np.float64]:
    """Share of each box that is true in `mask`, in 0..1, exact to fractions of a mask pixel.

    Args:
        mask: `(rows, columns)` at `mask_spacing_um`, with its corner where the boxes' coordinates start.
        mask_spacing_um: side of a mask pixel.
        boxes: `(n, 2, 2)`: start and stop, each (row, column), half-open, in pixels of `box_spacing_um`.
        box_spacing_um: side of the pixels in which the boxes are given.

    What lies outside the mask counts as false; a box without area has share 0.
    """
    edges = np.asarray(boxes, dtype=np.float64).reshape(-1, 2, 2) * (box_spacing_um / mask_spacing_um)
    depth = cv2.CV_32S if mask.size < 2**31 else cv2.CV_64F
    total = cv2.integral(np.ascontiguousarray(mask, np.uint8), sdepth=depth)
    (top, left), (bottom, right) = edges[:, 0].T, edges[:, 1].T
    inside = (
        _integral_at(total, bottom, right)
        - _integral_at(total, top, right)
        - _integral_at(total, bottom, left)
        + _integral_at(total, top, left)
    )
    area = (bottom - top) * (right - left)
    share: npt.NDArray[np.float64] = np.divide(inside, area, out=np.zeros(len(area)), where=area > 0)
    return np.clip(share, 0.0, 1.0)


def _integral_at(
    total: npt.NDArray[Any], rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The integral image between its nodes. Bilinear is exact: within a pixel the integral is bilinear."""
    rows = np.clip(rows, 0, total.shape[0] - 1)
    columns = np.clip(columns, 0, total.shape[1] - 1)
    r = np.minimum(rows.astype(np.int64), total.shape[0] - 2)
    c = np.minimum(columns.astype(np.int64), total.shape[1] - 2)
    v, u = rows - r, columns - c
    upper = total[r, c] * (1 - u) + total[r, c + 1] * u
    lower = total[r + 1, c] * (1 - u) + total[r + 1, c + 1] * u
    between: npt.NDArray[np.float64] = upper * (1 - v) + lower * v
    return between


def _working_view(image: Image, spacing_um: float, settings: TissueSettings) -> tuple[Image, float]:
    factor = max(
        settings.working_um / spacing_um, math.sqrt(image.shape[0] * image.shape[1] / settings.working_pixels)
    )
    if factor < 1.2:
        return image, spacing_um
    size = tuple(max(1, round(length / factor)) for length in image.shape[1::-1])
    view = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(view, dtype=np.uint8), spacing_um * image.shape[1] / size[0]


def _enlarge(mask: Mask, shape: tuple[int, ...]) -> Mask:
    if mask.shape == shape:
        return mask
    if not mask.any():
        return np.zeros(shape, bool)
    size = (shape[1], shape[0])
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)


def _extremes(view: Image) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Highest and lowest channel of every pixel."""
    red, green, blue = cv2.split(view)
    highest, lowest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    return np.asarray(highest, dtype=np.uint8), np.asarray(lowest, dtype=np.uint8)


def _chroma(balanced: Image) -> tuple[Planes, npt.NDArray[np.uint8]]:
    """Spread between the channels in 0..1, lightly smoothed against noise, and the highest channel."""
    highest, lowest = _extremes(balanced)
    smooth = cv2.GaussianBlur((highest - lowest).astype(np.float32), (3, 3), 0)
    return np.asarray(smooth / np.float32(255), dtype=np.float32), highest


def _local_range(view: Image) -> npt.NDArray[np.uint8]:
    """Largest minus smallest value in 3 x 3 pixels: 0 to 2 where a scanner or a program filled in one colour."""
    lightness = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
    kernel = np.ones((3, 3), np.uint8)
    spread = cv2.subtract(cv2.dilate(lightness, kernel), cv2.erode(lightness, kernel))
    return np.asarray(spread, dtype=np.uint8)


def _glass_colour(view: Image) -> npt.NDArray[np.float64]:
    """Colour of empty glass: the median of the brightest pixels that may be glass; white where there are too few.

    Pure white counts only where nothing else is bright: it is more often a fill than glass, and says nothing of its
    tint. Glass is neutral, yellowish or bluish. Pixels that lack green look like pale tissue, and count as glass only
    where they cover much of the view and nothing better does.
    """
    highest, lowest = _extremes(view)
    red, green, blue = cv2.split(view)
    bright = (lowest >= 140) & (highest - lowest <= 32)
    if bright.any():
        bright &= highest >= np.percentile(highest[bright], 95) - 24
    if (bright & (lowest < 254)).mean() > 0.01:
        bright &= lowest < 254
    likely = bright & (cv2.subtract(cv2.min(red, blue), green) <= 8)
    if likely.mean() > 0.02:
        chosen = likely
    elif bright.mean() > 0.2:
        chosen = bright
    elif likely.mean() > 0.005:
        chosen = likely
    else:
        return np.full(3, 255.0)
    level = np.percentile(lowest[chosen], 95)
    glass = chosen & (np.abs(lowest.astype(np.int16) - level) <= 8)
    return np.array([np.median(plane[glass]) for plane in cv2.split(view)], dtype=np.float64)


def _balance(view: Image, glass: npt.NDArray[np.float64]) -> Image:
    """The view with its glass made neutral. Channels rise to the glass's highest, so that nothing gets darker."""
    steps = np.arange(256)[:, None] * (glass.max() / glass)
    table = np.clip(np.round(steps), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(view, table.reshape(1, 256, 3)), dtype=np.uint8)


def _border(
    lightness: npt.NDArray[np.uint8],
    chroma: Planes,
    spread: npt.NDArray[np.uint8],
    dark: Mask,
    settings: TissueSettings,
) -> Mask:
    """What was not imaged: large flat neutral areas darker than the glass that reach the frame, and black ones
    anywhere.

    A white fill is as empty as glass and is not told from it.
    """
    neutral = chroma < settings.chroma_floor
    flat = neutral & (spread <= settings.flat_range)
    light = neutral & ~dark
    glass_level = int(np.percentile(lightness[light], 95)) if light.any() else 255
    off_glass = flat & (lightness < glass_level - settings.grey_step)
    minimum = max(settings.border_share * dark.size, 9.0)
    found = _components(off_glass & ~dark, minimum, at_frame=True, level=lightness) | _components(
        flat & dark, minimum
    )
    # a flat area's rim lies within reach of the local range: grow over it
    rim = cv2.dilate(found.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    darker = dark | (lightness < glass_level - settings.grey_step // 2)
    return np.asarray(found | (rim & neutral & darker), dtype=bool)


def _components(
    mask: Mask, minimum: float, *, at_frame: bool = False, level: npt.NDArray[np.uint8] | None = None
) -> Mask:
    """8-connected components of at least `minimum` pixels.

    Optionally only those that touch the image's frame, and those in which `level` keeps to one value, as a fill does
    and unevenly lit glass does not.
    """
    if not mask.any():
        return mask
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= minimum
    keep[0] = False
    if at_frame:
        touching = np.zeros(count, dtype=bool)
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            touching[edge] = True
        keep &= touching
    if level is not None and keep.any():
        inside = keep[labels]
        group, values = labels[inside], level[inside].astype(np.float64)
        size = np.maximum(np.bincount(group, minlength=count), 1)
        mean = np.bincount(group, values, minlength=count) / size
        variance = np.bincount(group, (values - mean[group]) ** 2, minlength=count) / size
        keep &= variance <= _FILL_DEVIATION**2
    if keep[1:].all():
        return mask
    return np.asarray(keep[labels], dtype=bool)


def _threshold(chroma: Planes, considered: Mask, settings: TissueSettings) -> tuple[float, float, float]:
    """Threshold of chroma, noise level of the glass, and Otsu's threshold before it was bounded."""
    values = chroma[considered]
    if values.size == 0:
        return settings.chroma_ceiling, 0.0, 0.0
    levels = np.clip(values * 255, 0, 255).astype(np.uint8).reshape(-1, 1)
    otsu, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    glass = values[values < settings.chroma_floor]
    noise = 0.0
    if glass.size:
        middle = float(np.median(glass))
        noise = middle + settings.noise_factor * 1.4826 * float(np.median(np.abs(glass - middle)))
    floor = min(max(settings.chroma_floor, noise), settings.chroma_ceiling)
    return float(np.clip(otsu / 255, floor, settings.chroma_ceiling)), noise, float(otsu / 255)


def _tidy(mask: Mask, view_um: float, settings: TissueSettings) -> Mask:
    """Gaps closed, small holes filled, specks removed."""
    radius = round(settings.close_um / view_um)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), radius, radius, radius, radius, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)
    inner = closed[radius : closed.shape[0] - radius, radius : closed.shape[1] - radius] > 0
    kept = _without_small(np.asarray(inner, dtype=bool), settings.minimum_area_um2 / view_um**2)
    return ~_without_small(~kept, settings.hole_um2 / view_um**2)


def _without_small(mask: Mask, minimum: float) -> Mask:
    return _components(mask, minimum)


def _without_halo(mask: Mask, ink: Mask, view_um: float, settings: TissueSettings) -> Mask:
    """Without the pieces that lie mostly within `halo_um` of ink: the faded rim of a stroke, not tissue."""
    if not (ink.any() and mask.any()):
        return mask
    near = cv2.distanceTransform((~ink).astype(np.uint8), cv2.DIST_L2, 3) < settings.halo_um / view_um
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    share = np.bincount(labels[near], minlength=count) / np.bincount(labels.ravel(), minlength=count)
    share[0] = 1.0
    return np.asarray((share < 0.7)[labels], dtype=bool)


def _numbers(settings: TissueSettings) -> dict[str, float]:
    """All settings by name, those of the ink search with the prefix `pen_`."""
    own = asdict(settings)
    pen = own.pop("pen")
    return {name: float(value) for name, value in own.items()} | {
        f"pen_{name}": float(value) for name, value in pen.items()
    }
