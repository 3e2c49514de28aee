"""Every slide format that OpenSlide knows: NDPI, MRXS, SCN, BIF, VMS, DICOM, Philips, and TIFFs that we decline."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medvision.core.digest import digest_file, digest_files
from medvision.core.errors import UnreadableSourceError
from medvision.core.geometry import Box, Spacing
from medvision.sources.base import READERS, UINT8, Level, Pixels
from medvision.sources.facts import facts
from medvision.sources.faults import (
    MAX_TILE_PIXELS,
    DeclinedError,
    TileMissingError,
    check_pixels,
    check_shape,
    declining,
    read_twice,
    reason_of,
)
from medvision.sources.levels import pyramid
from medvision.sources.parts import files_of
from medvision.sources.spacing import from_resolution, stated
from medvision.sources.tiff_codec import on_white

# Formats in which a tile that is absent is background by design. Elsewhere it is a fault of the file.
_SPARSE = frozenset(
    {"mirax", "hamamatsu", "leica", "ventana", "philips-tiff", "philips", "dicom", "trestle", "zeiss"}
)
_NEAR_GRID = 1 / 256


@READERS.register("openslide")
def open_openslide(path: Path) -> OpenSlideSource:
    """Open a slide that OpenSlide recognises by its content."""
    import openslide

    with declining((openslide.OpenSlideError,)):
        vendor = openslide.OpenSlide.detect_format(path)
    if vendor is None:
        raise DeclinedError("not a slide that OpenSlide knows")
    try:
        with declining((openslide.OpenSlideError,)):
            return OpenSlideSource(path, str(vendor))
    except DeclinedError as error:
        raise UnreadableSourceError(f"{vendor}: {_without_path(str(error), path)}") from error


@dataclass(eq=False)
class OpenSlideSource:
    """An open slide. One handle serves all threads; an error kills a handle, which is then replaced."""

    path: Path
    vendor: str
    axes: str = "yx"
    channels: int = 3
    fill: int = 255
    dtype: np.dtype[Any] = UINT8
    reader: str = "openslide"

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._slide: Any = _open(self.path)
        properties: Mapping[str, str] = dict(self._slide.properties)
        shapes = [(h, w) for w, h in self._slide.level_dimensions]
        self._downsamples = [float(d) for d in self._slide.level_downsamples]
        for index, shape in enumerate(shapes):
            check_shape(f"level {index}", shape)
            tile = [
                properties.get(f"openslide.level[{index}].tile-{side}", "1") for side in ("height", "width")
            ]
            check_pixels(f"a tile of level {index}", (int(tile[0]), int(tile[1])), MAX_TILE_PIXELS)
        self.levels: tuple[Level, ...] = pyramid(shapes)
        self.spacing: Spacing | None = _spacing(properties)
        self.metadata: Mapping[str, str] = _facts(properties)
        self.why = f"OpenSlide recognises the content as {self.vendor}"

    @cached_property
    def id(self) -> str:
        """SHA-256 over all files of the slide."""
        parts = files_of(self.path, self.vendor)
        return digest_file(parts[0]) if len(parts) == 1 else digest_files(parts)

    def read(self, box: Box, level: int = 0) -> Pixels:
        """Pixels of `box` in `level`; white outside and where the format leaves out background. See `Source.read`."""
        pixels = np.empty((*box.shape, 3), np.uint8)
        self.read_into(pixels, box, level)
        return pixels

    def read_into(self, out: Pixels, box: Box, level: int = 0) -> None:
        """`read`, into `out`. See `DirectSource`."""
        import openslide

        slide = self._current()
        inside = box.intersect(Box((0, 0), self.levels[level].shape))
        if inside != box:
            out.fill(self.fill)
        if not inside.size:
            return
        target = out[inside.shift((-box.start[0], -box.start[1])).slices()]
        read_twice(
            self.path,
            box,
            level,
            lambda: self._region(slide, inside, level, target),
            lambda: self._second_look(slide, inside, level, target),
            (openslide.OpenSlideError,),
        )

    def close(self) -> None:
        """Give up the handle; it closes when the last read in progress ends."""
        with self._lock:
            self._closed = True
            self._slide = None

    def _current(self) -> Any:
        with self._lock:
            if self._closed:
                raise UnreadableSourceError(f"{self.path} is closed")
            if self._slide is None:
                self._slide = _open(self.path)
            return self._slide

    def _second_look(self, failed: Any, part: Box, level: int, out: Pixels) -> None:
        """Read through a handle of its own, so that the outcome depends on this window alone."""
        with self._lock:
            if self._slide is failed:
                self._slide = None
        fresh = _open(self.path)
        self._region(fresh, part, level, out)
        with self._lock:
            if self._slide is None and not self._closed:
                self._slide = fresh

    def _region(self, slide: Any, part: Box, level: int, out: Pixels) -> None:
        scale = self._downsamples[level]
        # Between whole pixels of a level OpenSlide interpolates. Start where the level-0 position is (nearly) whole.
        top, left = (_grid_start(start, scale) for start in part.start)
        size = (part.stop[1] - left, part.stop[0] - top)
        image = slide.read_region((round(left * scale), round(top * scale)), level, size)
        inside = (slice(part.start[0] - top, None), slice(part.start[1] - left, None))
        # Pillow packs colours and opacity apart in a third of the time that all four take as an array.
        shape = size[::-1]
        colours = np.frombuffer(image.tobytes("raw", "RGB"), np.uint8).reshape(*shape, 3)[inside]
        alpha = np.frombuffer(image.tobytes("raw", "A"), np.uint8).reshape(shape)[inside]
        if alpha.min() == 255:
            out[:] = colours
            return
        if self.vendor not in _SPARSE and not alpha[1:-1, 1:-1].all():
            raise TileMissingError(
                "a tile is empty (zero bytes), and this format has no empty tiles by design"
            )
        out[:] = on_white(colours, alpha)


def _open(path: Path) -> Any:
    import openslide

    return openslide.OpenSlide(path)


def _grid_start(start: int, scale: float, reach: int = 64) -> int:
    """The last position up to `reach` before `start` whose level-0 position is whole to 1/256 pixel."""
    best, best_error = start, math.inf
    for position in range(start, max(start - reach, -1), -1):
        error = abs(position * scale - round(position * scale)) / scale
        if error <= _NEAR_GRID:
            return position
        if error < best_error:
            best, best_error = position, error
    return best


def _spacing(properties: Mapping[str, str]) -> Spacing | None:
    values = [_float(properties.get(f"openslide.mpp-{axis}")) for axis in "yx"]
    if properties.get("openslide.vendor") == "generic-tiff":
        unit = {"centimeter": "cm", "inch": "inch"}.get(properties.get("tiff.ResolutionUnit", ""), "none")
        per_unit = [_float(properties.get(f"tiff.{axis}Resolution")) for axis in "YX"]
        return from_resolution(per_unit[0] or 0.0, per_unit[1] or 0.0, unit)
    return stated(values[0], values[1])


def _facts(properties: Mapping[str, str]) -> dict[str, str]:
    vendor = properties.get("openslide.vendor", "")
    get = properties.get
    bounds = [get(f"openslide.bounds-{side}") for side in ("y", "x", "height", "width")]
    quality = get("aperio.Quality")
    tile = [get(f"openslide.level[0].tile-{side}") for side in ("height", "width")]
    return facts(
        {
            "scanner_manufacturer": get("dicom.Manufacturer")
            or {"aperio": "Aperio", "hamamatsu": "Hamamatsu", "leica": "Leica", "mirax": "3DHISTECH"}.get(
                vendor
            ),
            "scanner_model": get("dicom.ManufacturerModelName")
            or get("hamamatsu.Product")
            or get("leica.device-model"),
            "objective_power": get("openslide.objective-power"),
            "mpp": get("openslide.mpp-x") if vendor != "generic-tiff" else None,
            "compression": _DICOM_SYNTAX.get(get("dicom.TransferSyntaxUID", "")),
            "quality": quality,
            "tile_size": f"{tile[0]} x {tile[1]}" if all(tile) else None,
            "bits": get("dicom.BitsStored"),
            "samples": get("dicom.SamplesPerPixel"),
            "icc_profile": "present" if get("openslide.icc-size") else "absent",
            "bounds": "row {}, column {}, {} x {} px".format(*bounds) if all(bounds) else None,
        }
    )


_DICOM_SYNTAX = {
    "1.2.840.10008.1.2": "none",
    "1.2.840.10008.1.2.1": "none",
    "1.2.840.10008.1.2.4.50": "JPEG",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}


def _float(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _without_path(text: str, path: Path) -> str:
    return reason_of(ValueError(text.replace(f"Reading {path}: ", "").replace(str(path), path.name)))
