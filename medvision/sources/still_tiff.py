"""Still images in TIFF files, with all their bits: decoded as the tiles of a slide are, in strictly bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO, TypeVar

import numpy as np

from medvision.core.errors import UnreadableSourceError, UsageError
from medvision.sources.base import Pixels
from medvision.sources.faults import MAX_FLAT_PIXELS, DeclinedError, check_pixels, declining, quiet
from medvision.sources.still_image import AS_STORED, StillImage, Window, Windowing
from medvision.sources.still_picture import grey_on_white, look_at_picture, read_picture
from medvision.sources.tiff_codec import (
    BLACK_IS_ZERO,
    WHITE_IS_ZERO,
    Samples,
    SegmentFormat,
    decode_samples,
    fresh,
    to_rgb,
    turned,
)
from medvision.sources.tiff_tags import Layout, Page, parse

T = TypeVar("T")


def read_tiff(data: bytes, digest: str, window: Window) -> StillImage:
    """The image in a TIFF's bytes, the largest level of a pyramid. See `medvision.sources.still.read_still`."""
    try:
        layout = _layout(BytesIO(data))
    except DeclinedError as error:
        return _by_pillow(lambda: read_picture(data, digest, window), error)
    page = layout.pages[0]
    stored = turned(_samples(data, page), layout.orientation)
    pixels, windowing = _shown(page.form, stored, window)
    return StillImage(np.ascontiguousarray(pixels), windowing, page.form.bits, "TIFF", digest)


def look_at_tiff(stream: BinaryIO) -> None:
    """Read the header of a file that is open. See `medvision.sources.still.look_at_still`."""
    try:
        _layout(stream)
    except DeclinedError as error:
        _by_pillow(lambda: look_at_picture(stream), error)


def _layout(stream: BinaryIO) -> Layout:
    """Where the pixels of a TIFF lie. Raises `DeclinedError` if that is left to Pillow."""
    import tifffile

    with quiet(), declining((tifffile.TiffFileError,)), tifffile.TiffFile(stream) as tiff:
        layout = parse(tiff)
    check_pixels("the TIFF", layout.pages[0].shape, MAX_FLAT_PIXELS)
    return layout


def _by_pillow(read: Callable[[], T], declined: DeclinedError) -> T:
    """A TIFF in an old or rare encoding; what Pillow does not know either is told in the first reader's words."""
    try:
        return read()
    except UsageError:
        raise
    except UnreadableSourceError as error:
        if "known kind" in str(error):
            raise UnreadableSourceError(f"damaged or unsupported TIFF ({declined})") from error
        raise


def _samples(data: bytes, page: Page) -> Samples:
    """All that a page stores, `(rows, columns, samples)`."""
    form, (height, width), (down, across) = page.form, page.shape, page.grid
    planes = range(form.samples) if form.planar else range(1)
    out = np.zeros((height, width, form.samples), np.uint8 if form.bits <= 8 else np.uint16)
    for row in range(down):
        top = row * form.tile[0]
        rows = form.tile[0] if page.tiled else min(form.tile[0], height - top)
        for column in range(across):
            left, first = column * form.tile[1], row * across + column
            segments = [_segment(data, page, first + plane * down * across) for plane in planes]
            tile = decode_samples(form, segments, rows, fresh)
            out[top : top + rows, left : left + form.tile[1]] = tile[: height - top, : width - left]
    return out


def _segment(data: bytes, page: Page, index: int) -> bytes:
    offset, size = int(page.offsets[index]), int(page.sizes[index])
    if size <= 0 or offset <= 0 or offset + size > len(data):
        raise UnreadableSourceError(
            f"tile or strip {index} lies beyond the end of the file (truncated), or is empty"
        )
    return data[offset : offset + size]


def _shown(form: SegmentFormat, stored: Samples, window: Window) -> tuple[Pixels, Windowing]:
    grey = form.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    if form.bits <= 8:
        pixels = to_rgb(form, stored)
        return (pixels[..., 0] if grey else pixels), AS_STORED
    if not grey:
        return to_rgb(form, stored), Windowing("full range", 0.0, float(form.max_value))
    alpha = None
    if form.alpha != "none":
        full = (1 << form.bits) - 1
        alpha = (stored[..., -1].astype(np.uint32) * 65535 // full).astype(np.uint16)
    values = stored[..., 0].astype(np.uint16, copy=False)
    return grey_on_white(values, alpha, window, float(form.max_value), form.photometric == WHITE_IS_ZERO)
