"""Pictures of a stored result as a report embeds them, and what is drawn over them: outlines, scale bar, colour bar."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from medvision.core.errors import StoreError
from medvision.ops.overlay import colour_table, scale_bar

MAX_PIXELS = 64_000_000
"""A picture made for a report has two million pixels; one far beyond that is not ours."""

HEAT_OPACITY = 0.6
"""How strongly the heatmap covers the tissue, before the reader moves the control; printed reports keep it."""

Ring = tuple[tuple[float, float], ...]
"""A closed line as (x, y) fractions of the slide's width and height."""

ColourTable = npt.NDArray[np.uint8]

_MEDIA = {"JPEG": ("image/jpeg", "jpg"), "PNG": ("image/png", "png")}


@dataclass(frozen=True)
class Picture:
    """An image file's bytes with what a page must know about it."""

    data: bytes
    media: str
    suffix: str
    width: int
    height: int
    alt: str

    @property
    def uri(self) -> str:
        """The picture as a `data:` address."""
        return f"data:{self.media};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class ScaleBar:
    """A bar of a round length: `fraction` of the picture's width, and its label."""

    fraction: float
    label: str


@dataclass(frozen=True)
class ColourStop:
    """One step of the colour bar: `at` in 0..1 and a colour, as it shows over white."""

    at: float
    colour: str


def inside(folder: Path, name: str) -> Path:
    """The file called `name` below `folder`.

    Raises:
        StoreError: for a name that leads out of the folder, by itself or through a link, or a file that is not there.
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name or "\0" in name:
        raise StoreError(f"{folder}: refuses the file name {name!r}, which leads out of the result's folder")
    path = folder / relative
    if not path.is_file():
        raise StoreError(f"{path}: the result names this file, and it is not there")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise StoreError(f"{path}: refuses a link that leads out of the result's folder")
    return path


def load_picture(folder: Path, name: str, alt: str) -> Picture:
    """Read a JPEG or PNG of a result and decode it once, so that no broken picture reaches a page.

    Raises:
        StoreError: for a file that is missing, is no such image or is cut short.
    """
    path = inside(folder, name)
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=tuple(_MEDIA)) as image:
            kind, (width, height) = str(image.format), image.size
            if width * height > MAX_PIXELS:
                raise StoreError(f"{path}: {width} × {height} pixels are too many for a report's picture")
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: not a whole JPEG or PNG image ({error})") from error
    media, suffix = _MEDIA[kind]
    return Picture(data, media, suffix, width, height, alt)


def faded(picture: Picture, opacity: float) -> Picture:
    """The RGBA picture with its alpha multiplied, for renderers that cannot set an opacity."""
    with Image.open(io.BytesIO(picture.data)) as image:
        layers = _fade(image.convert("RGBA"), opacity)
    stream = io.BytesIO()
    layers.save(stream, "PNG")
    return Picture(stream.getvalue(), "image/png", "png", picture.width, picture.height, picture.alt)


def small_overlay(thumbnail: Picture, heatmap: Picture | None, side: int) -> Picture:
    """A JPEG of at most `side` pixels with the heat over the tissue, for a list of slides."""
    with Image.open(io.BytesIO(thumbnail.data)) as image:
        image.draft("RGB", (2 * side, 2 * side))  # a JPEG is decoded at the size that is needed
        base = image.convert("RGBA")
    base.thumbnail((side, side), Image.Resampling.LANCZOS)
    if heatmap is not None:
        with Image.open(io.BytesIO(heatmap.data)) as image:
            heat = image.convert("RGBA").resize(base.size, Image.Resampling.BOX)
        base = Image.alpha_composite(base, _fade(heat, HEAT_OPACITY))
    return _jpeg(base, thumbnail.alt)


def small_image(pixels: npt.NDArray[np.uint8], side: int, alt: str) -> Picture:
    """A JPEG of at most `side` pixels of an image, uint8 grey `(rows, columns)` or RGB `(rows, columns, 3)`."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _jpeg(image, alt)


def _jpeg(image: Image.Image, alt: str) -> Picture:
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=85)
    return Picture(stream.getvalue(), "image/jpeg", "jpg", image.width, image.height, alt)


def _fade(image: Image.Image, opacity: float) -> Image.Image:
    image.putalpha(image.getchannel("A").point([round(level * opacity) for level in range(256)]))
    return image


def bar_for(width_um: float, share: float) -> ScaleBar:
    """The scale bar of a picture that is `width_um` wide, not longer than `share` of it."""
    length_um, label = scale_bar(1.0, width_um * share)
    return ScaleBar(length_um / width_um, label)


def load_colours(folder: Path, name: str | None, heatmap: Picture | None) -> ColourTable:
    """The RGBA colours `(256, 4)` of the probabilities 0 to 1 with which a result's heatmap was coloured.

    They are those of the picture called `name`, 256 pixels in a row, else the ones in use today.

    Raises:
        StoreError: if the heatmap has a colour that is not among them: a legend beside it would lie.
    """
    table = colour_table()
    if name is not None:
        strip = _rgba(load_picture(folder, name, "").data)
        if strip.shape != (1, *table.shape):
            raise StoreError(
                f"{inside(folder, name)}: a colour scale is 256 × 1 pixels, not {strip.shape[1]} × {strip.shape[0]}"
            )
        table = strip[0]
    if heatmap is not None:
        pixels = _rgba(heatmap.data)
        seen = pixels[pixels[..., 3] > 0]
        if not np.isin(seen.view(np.uint32), np.ascontiguousarray(table).view(np.uint32)).all():
            raise StoreError(
                f"{folder}: the heatmap's colours are not those of its colour scale, so no legend can be given; "
                "analyse the slide again"
            )
    return table


def _rgba(data: bytes) -> ColourTable:
    with Image.open(io.BytesIO(data)) as image:
        return np.ascontiguousarray(image.convert("RGBA"))


def colour_stops(table: ColourTable, steps: int = 32) -> tuple[ColourStop, ...]:
    """The colours of the probabilities 0 to 1 over white."""
    stops = []
    for index in range(steps + 1):
        red, green, blue, alpha = (int(part) for part in table[round(index * 255 / steps)])
        over_white = [round(255 + (part - 255) * alpha / 255) for part in (red, green, blue)]
        stops.append(ColourStop(round(index / steps, 5), "#" + "".join(f"{part:02x}" for part in over_white)))
    return tuple(stops)


def load_outlines(folder: Path, name: str, shape: tuple[int, int]) -> tuple[Ring, ...]:
    """Every ring of the polygons in a GeoJSON file of level-0 pixels (x, y), as fractions of the slide's size.

    `shape` is (rows, columns) of level 0.

    Raises:
        StoreError: for a file that is missing or is not such GeoJSON.
    """
    path = inside(folder, name)
    try:
        content = json.loads(path.read_bytes())
        features = content["features"] if isinstance(content, dict) else content
        return tuple(_ring(ring, shape) for feature in features for ring in _rings(feature["geometry"]))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise StoreError(f"{path}: not GeoJSON of polygons ({type(error).__name__}: {error})") from error


def svg_path(rings: tuple[Ring, ...], width: int, height: int) -> str:
    """The rings as the data of one SVG path in a box of `width` by `height`."""
    lines = (" ".join(f"{x * width:.1f},{y * height:.1f}" for x, y in ring) for ring in rings)
    return "".join(f"M{line}Z" for line in lines)


def _rings(geometry: dict[str, Any]) -> list[Any]:
    kind = geometry["type"]
    if kind == "Polygon":
        return list(geometry["coordinates"])
    if kind == "MultiPolygon":
        return [ring for polygon in geometry["coordinates"] for ring in polygon]
    return []


def _ring(points: list[list[float]], shape: tuple[int, int]) -> Ring:
    ring = tuple((float(point[0]) / shape[1], float(point[1]) / shape[0]) for point in points)
    if not all(math.isfinite(x) and math.isfinite(y) for x, y in ring):
        raise ValueError("a vertex is not finite")
    return tuple((round(x, 6), round(y, 6)) for x, y in ring)
