"""Pictures of a volume's planes: axial, coronal and sagittal, in right proportion, with letters of the patient's sides.

Shown as radiologists look: axial planes from the feet, coronal ones from the front, so that the patient's left is
at the right of the picture; sagittal ones from the patient's left, with the front at the left of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.core.world import letter, opposite
from medvision.ops.window import HU_WINDOWS, between
from medvision.sources.base import Pixels, Values, VolumeSource
from medvision.sources.spacing import require_spacing

View = Literal["axial", "coronal", "sagittal"]
VIEWS: tuple[View, ...] = ("axial", "coronal", "sagittal")

_PERCENTILES = (0.5, 99.5)
_GAP = 6


@dataclass(frozen=True, eq=False)
class Plane:
    """One plane as a picture: grey `pixels` uint8 `(rows, columns)` of `side_mm` each, and the letters of its edges.

    `mark` is the point that the plane goes through, as fractions of its height and width.
    """

    pixels: Pixels
    side_mm: float
    left: str
    right: str
    top: str
    bottom: str
    mark: tuple[float, float]


def plane_of(
    source: VolumeSource,
    view: View,
    at: tuple[float, float, float] | None = None,
    window: tuple[float, float] | None = None,
    longest: int = 512,
    half_mm: float | None = None,
) -> Plane:
    """The plane through the voxel point `at` (plane, row, column), the middle where none is given.

    It is `longest` pixels long at its longer side.

    `window` are the values that become black and white: the lung window for Hounsfield units where none is given, else
    percentiles of the plane. With `half_mm` only the square of twice that side around `at`.

    Raises:
        UsageError: if `at` lies outside.
        SpacingError: if the volume has no spacing, so that no picture has right proportions.
        WindowUnreadableError: if the plane cannot be read.
    """
    spacing = require_spacing(source, "mm").values
    shape = source.levels[0].shape
    point = tuple(n / 2 for n in shape) if at is None else at
    if not all(0 <= p <= n for p, n in zip(point, shape, strict=True)):
        raise UsageError(f"no plane at {point}; the volume has {shape} planes, rows and columns")
    through = VIEWS.index(view)
    shown = [axis for axis in range(3) if axis != through]
    start = [0, 0, 0]
    stop = list(shape)
    start[through] = min(int(point[through]), shape[through] - 1)
    stop[through] = start[through] + 1
    if half_mm is not None:
        for axis in shown:
            start[axis] = round(point[axis] - half_mm / spacing[axis])
            stop[axis] = max(start[axis] + 1, round(point[axis] + half_mm / spacing[axis]))
    values = source.read(Box(tuple(start), tuple(stop))).squeeze(axis=(through, 3))
    if view != "axial":  # planes grow upwards, and pictures are drawn downwards
        values = values[::-1]
    grey = between(values, *(window or _window(source, values)))
    side = max(n * spacing[axis] for n, axis in zip(grey.shape, shown, strict=True)) / longest
    size = [max(1, round(n * spacing[axis] / side)) for n, axis in zip(grey.shape, shown, strict=True)]
    resized = Image.fromarray(grey).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    down, across = (_ways(source, axis) for axis in shown)
    low, right = ((point[axis] - start[axis]) / (stop[axis] - start[axis]) for axis in shown)
    if view != "axial":
        down, low = down[::-1], 1 - low
    return Plane(np.asarray(resized), side, across[0], across[1], down[0], down[1], (low, right))


def lettered(plane: Plane, letter_px: int | None = None) -> Image.Image:
    """The plane with the letters of the patient's sides at its edges, `letter_px` high, or as fits the picture."""
    image = Image.fromarray(plane.pixels).convert("RGB")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(letter_px or max(11, min(image.size) // 22))
    width, height = image.size
    places = {
        "lm": (4, height / 2, plane.left), "rm": (width - 4, height / 2, plane.right),
        "ma": (width / 2, 3, plane.top), "md": (width / 2, height - 3, plane.bottom),
    }  # fmt: skip
    for anchor, (x, y, text) in places.items():
        draw.text((x, y), text, "#ffe27a", font, anchor=anchor, stroke_width=2, stroke_fill="black")
    return image


def three_planes(
    source: VolumeSource,
    at: tuple[float, float, float] | None = None,
    window: tuple[float, float] | None = None,
    height: int = 384,
    half_mm: float | None = None,
) -> Image.Image:
    """Axial, coronal and sagittal planes side by side, to one scale, `height` pixels high. See `plane_of`."""
    shape, spacing = source.levels[0].shape, require_spacing(source, "mm").values
    tall = max(shape[0] * spacing[0], shape[1] * spacing[1]) if half_mm is None else 2 * half_mm
    planes = []
    for view in VIEWS:
        sides = [n * s for k, (n, s) in enumerate(zip(shape, spacing, strict=True)) if k != VIEWS.index(view)]
        longest = max(1, round(height * (max(sides) if half_mm is None else tall) / tall))
        planes.append(lettered(plane_of(source, view, at, window, longest, half_mm)))
    sheet = Image.new(
        "RGB", (sum(p.width for p in planes) + 2 * _GAP, max(p.height for p in planes)), "black"
    )
    left = 0
    for picture in planes:
        sheet.paste(picture, (left, (sheet.height - picture.height) // 2))
        left += picture.width + _GAP
    return sheet


def _window(source: VolumeSource, values: Values) -> tuple[float, float]:
    if source.quantity == "HU":
        return HU_WINDOWS["lung"]
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, _PERCENTILES) if known.size else (0.0, 1.0)
    return float(low), float(high)


def _ways(source: VolumeSource, axis: int) -> tuple[str, str]:
    """The letters of an axis: where it comes from, and where it leads."""
    assert source.frame is not None, "a volume with a spacing has a frame"
    leads = letter(source.frame.directions[axis])
    return opposite(leads), leads
