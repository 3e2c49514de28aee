"""Pictures that are decoded whole, through Pillow: PNG, JPEG, WebP, BMP, JPEG 2000, and TIFFs in old encodings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvision.core.digest import digest_file
from medvision.core.errors import SourceTooLargeError, UnreadableSourceError
from medvision.core.geometry import Box, Spacing
from medvision.sources.base import READERS, UINT8, Level, Pixels
from medvision.sources.facts import facts
from medvision.sources.faults import (
    MAX_FLAT_PIXELS,
    DeclinedError,
    check_pixels,
    check_shape,
    declining,
    quiet,
)

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_KINDS = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WebP", "BMP": "BMP", "JPEG2000": "JPEG 2000", "TIFF": "TIFF"}
_OLD_JPEG, _YCBCR = 6, 6


@READERS.register("image")
def open_image(path: Path) -> ImageSource:
    """Open and decode a picture. Its resolution in dpi is about print and screens, so it never counts as spacing."""
    from PIL import Image, UnidentifiedImageError

    try:
        with quiet(), declining(), Image.open(path, formats=list(_KINDS)) as image:
            _check(image)
            kind = _KINDS[str(image.format)]
            pixels = _decode(image)
            found = {
                "compression": kind,
                "bits": 16 if image.mode.startswith("I") else 8,
                "samples": len(image.getbands()),
                "icc_profile": "present" if image.info.get("icc_profile") else "absent",
            }
    except Image.DecompressionBombError as error:
        raise SourceTooLargeError(str(error)) from error
    except DeclinedError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise DeclinedError("not a picture that Pillow knows") from error
        raise
    return ImageSource(path, pixels, facts(found), f"{kind} picture, decoded whole by Pillow")


@dataclass(eq=False)
class ImageSource:
    """A decoded picture: one level, no spacing of its own."""

    path: Path
    pixels: Pixels
    metadata: Mapping[str, str]
    why: str
    spacing: Spacing | None = None
    vendor: str = "picture"
    axes: str = "yx"
    channels: int = 3
    fill: int = 255
    dtype: np.dtype[Any] = UINT8
    reader: str = "image"

    def __post_init__(self) -> None:
        self.levels = (Level(self.pixels.shape[:2], (1.0, 1.0)),)
        self._closed = False

    @cached_property
    def id(self) -> str:
        """SHA-256 of the file."""
        return digest_file(self.path)

    def read(self, box: Box, level: int = 0) -> Pixels:
        """Pixels of `box`; white outside. See `Source.read`."""
        out = np.empty((*box.shape, 3), np.uint8)
        self.read_into(out, box, level)
        return out

    def read_into(self, out: Pixels, box: Box, level: int = 0) -> None:
        """`read`, into `out`. See `DirectSource`."""
        if self._closed:
            raise UnreadableSourceError(f"{self.path} is closed")
        if level != 0:
            raise IndexError(f"{self.path} has level 0 only, not {level}")
        inside = box.intersect(Box((0, 0), self.levels[0].shape))
        if inside != box:
            out.fill(self.fill)
        if inside.size:
            out[inside.shift((-box.start[0], -box.start[1])).slices()] = self.pixels[inside.slices()]

    def close(self) -> None:
        """Drop the pixels."""
        self._closed = True
        self.pixels = np.empty((0, 0, 3), np.uint8)


def _check(image: Picture) -> None:
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(259) != _OLD_JPEG and tags.get(262) != _YCBCR:
            raise DeclinedError("a TIFF for the other readers")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise UnreadableSourceError(f"holds {frames} frames, and only a single picture is read as a source")
    shape = (image.height, image.width)
    check_shape("the picture", shape)
    check_pixels("the picture", shape, MAX_FLAT_PIXELS)


def _decode(image: Picture) -> Pixels:
    """RGB on white, upright by the EXIF orientation. 16-bit grey is shown as its upper 8 bits, rounded."""
    from PIL import Image, ImageOps

    image.load()
    image = ImageOps.exif_transpose(image) or image
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.uint32)
        small = (np.minimum(grey, 65535) * 255 + 32767) // 65535
        return np.repeat(small.astype(np.uint8)[..., None], 3, axis=-1)
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    seen = image.convert("RGBA")
    white = Image.new("RGB", seen.size, "white")
    white.paste(seen, mask=seen)
    return np.array(white)
