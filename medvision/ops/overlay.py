"""Heat over tissue: one fixed colour for one probability on every slide, and a scale bar."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UnknownNameError, UsageError
from medvision.ops.components import Floats

Image = npt.NDArray[np.uint8]

DEFAULT_COLORMAP = "viridis"
"""Perceptually uniform, and its teal to yellow stands apart from the pinks and purples of H&E; magma does not."""
CLEAR_BELOW = 0.1
OPAQUE_FROM = 0.5


def colourise(probability: Floats, colormap: str = DEFAULT_COLORMAP) -> Image:
    """RGBA colours `(rows, columns, 4)` of probabilities in 0..1; NaN is transparent.

    The scale is fixed: a probability has the same colour on every slide, and nothing is stretched to the map's own
    range. Opacity rises from none at `CLEAR_BELOW` to full at `OPAQUE_FROM`, so that tissue which looks benign to the
    model stays as it is.

    Raises:
        UnknownNameError: if matplotlib knows no such colour map.
    """
    table = colour_table(colormap)
    unread = np.isnan(probability)
    index = np.clip(np.nan_to_num(probability, nan=0.0) * 255 + 0.5, 0, 255).astype(np.uint8)
    colours: Image = table[index]
    colours[unread] = 0
    return colours


@cache
def colour_table(colormap: str = DEFAULT_COLORMAP) -> Image:
    """RGBA `(256, 4)` of the probabilities 0, 1/255, ..., 1: what `colourise` looks up, and what a legend shows."""
    from matplotlib import colormaps

    if colormap not in colormaps:
        raise UnknownNameError(f"no colour map is called {colormap!r}; known: {', '.join(sorted(colormaps))}")
    steps = np.linspace(0, 1, 256)
    table = np.round(colormaps[colormap](steps) * 255).astype(np.uint8)
    opacity = np.clip((steps - CLEAR_BELOW) / (OPAQUE_FROM - CLEAR_BELOW), 0, 1)
    table[:, 3] = np.round(255 * opacity)
    table.setflags(write=False)
    return table


def cells_to_pixels(
    cells: npt.NDArray[np.float32],
    shape: tuple[int, int],
    pixels_per_cell: tuple[float, float],
    offset_pixels: tuple[float, float] = (0.0, 0.0),
) -> npt.NDArray[np.float32]:
    """The value of the cell under each pixel centre, as `shape` (rows, columns); NaN where no cell lies.

    `offset_pixels` is where the corner of the first cell falls in the image. Values are not interpolated: what is shown
    is what was computed.
    """
    picks = []
    for size, step, offset, count in zip(shape, pixels_per_cell, offset_pixels, cells.shape, strict=True):
        index = np.floor((np.arange(size) + 0.5 - offset) / step).astype(np.int64)
        picks.append(np.where((index >= 0) & (index < count), index, count))
    padded = np.pad(cells, ((0, 1), (0, 1)), constant_values=np.nan)
    pixels: npt.NDArray[np.float32] = padded[np.ix_(*picks)]
    return pixels


def blend(base: Image, rgba: Image, opacity: float = 0.55) -> Image:
    """`rgba` `(rows, columns, 4)` laid over `base` `(rows, columns, 3)`, its alpha multiplied by `opacity` in 0..1."""
    if base.shape[:2] != rgba.shape[:2]:
        raise UsageError(f"cannot lay colours of shape {rgba.shape} over an image of shape {base.shape}")
    if not 0 <= opacity <= 1:
        raise UsageError(f"opacity {opacity:g} lies outside 0..1")
    weight = rgba[..., 3:].astype(np.float32) * np.float32(opacity / 255)
    mixed = base * (1 - weight) + rgba[..., :3] * weight
    return np.round(mixed).astype(np.uint8)


def scale_bar(pixels_per_um: float, width_px: float) -> tuple[float, str]:
    """The longest 1-2-5 length in micrometres whose bar fits into `width_px`, and its label.

    >>> scale_bar(0.1, 250)
    (2000.0, '2 mm')
    >>> scale_bar(2.0, 250)
    (100.0, '100 µm')
    """
    if not (pixels_per_um > 0 and width_px > 0):
        raise UsageError(f"no scale bar for {pixels_per_um:g} pixels per um in {width_px:g} pixels")
    room = width_px / pixels_per_um * (1 + 1e-9)
    decade = 10.0 ** math.floor(math.log10(room))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= room)
    return length, f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
