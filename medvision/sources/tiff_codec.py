"""From the bytes of one TIFF tile or strip to RGB pixels, without state: safe on any number of threads.

The decoders release the interpreter lock. JPEG is decoded strictly: data that libjpeg would patch up with grey, as in a
truncated tile, is an error, because invented pixels must not reach a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.sources.base import Pixels

NONE, LZW, JPEG, DEFLATE, PACKBITS, OLD_DEFLATE = 1, 5, 7, 8, 32773, 32946
APERIO_JP2_RGB, JP2, ZSTD = 33005, 34712, 50000
COMPRESSIONS = {
    NONE: "none",
    LZW: "LZW",
    JPEG: "JPEG",
    DEFLATE: "deflate",
    OLD_DEFLATE: "deflate",
    PACKBITS: "PackBits",
    APERIO_JP2_RGB: "JPEG 2000",
    JP2: "JPEG 2000",
    ZSTD: "zstd",
}
"""TIFF compression codes that are decoded here, with the name shown to a person."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6


Empty = Callable[[tuple[int, ...]], Pixels]
"""Gives a uint8 array of a shape, its values unset."""
Samples = npt.NDArray[np.uint8 | np.uint16]


def fresh(shape: tuple[int, ...]) -> Pixels:
    """Memory that nothing has used before."""
    return np.empty(shape, np.uint8)


@dataclass(frozen=True, eq=False)
class SegmentFormat:
    """How the segments (tiles or strips) of one TIFF page are encoded. `tile` is their shape in pixels."""

    tile: tuple[int, int]
    samples: int
    bits: int
    compression: int
    photometric: int
    predictor: int
    planar: bool
    """Each segment holds one sample only, so that a tile is made of `samples` segments."""
    reversed_bits: bool
    byteorder: str
    tables: bytes
    palette: npt.NDArray[np.uint8] | None
    alpha: str
    """"none", "straight" or "premultiplied": the meaning of the last sample."""
    max_value: int
    """Stored value that is shown as 255."""

    @property
    def segment_samples(self) -> int:
        """Samples per pixel in one segment."""
        return 1 if self.planar else self.samples

    @property
    def row_bytes(self) -> int:
        """Bytes of one uncompressed row of a segment; TIFF rows begin at a byte."""
        return (self.tile[1] * self.segment_samples * self.bits + 7) // 8

    @cached_property
    def jpeg_head(self) -> bytes:
        """What goes before a tile's own JPEG data: start marker, an Adobe marker with the page's colour space, tables.

        The photometric tag decides between RGB and YCbCr, as in libtiff and OpenSlide; libjpeg alone would guess from
        component numbers, and Aperio's RGB tiles carry no hint.
        """
        transform = 1 if self.photometric == YCBCR else 0
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
        return b"\xff\xd8" + (adobe if self.samples == 3 else b"") + self.tables[2:-2]


def decode_tile(form: SegmentFormat, segments: list[bytes], rows: int, empty: Empty) -> Pixels:
    """RGB `(rows, tile columns, 3)` of one tile from its segment, or from its segments where samples lie apart.

    `empty` gives the memory to decode into.

    Raises what the decoding library raises, or `ValueError` where the data is short or of an unexpected size.
    """
    return to_rgb(form, decode_samples(form, segments, rows, empty))


def decode_samples(form: SegmentFormat, segments: list[bytes], rows: int, empty: Empty) -> Samples:
    """`decode_tile` before colours are made of it: what is stored, `(rows, tile columns, samples)`."""
    shape = (rows, form.tile[1])
    decode = _DECODERS.get(form.compression, _plain)
    planes = [decode(form, data, shape, empty) for data in segments]
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)


def _jpeg(form: SegmentFormat, data: bytes, shape: tuple[int, int], empty: Empty) -> Samples:
    import simplejpeg

    colour = "RGB" if form.segment_samples == 3 else "GRAY"
    # The buffer bounds what is allocated, whatever size the JPEG header claims.
    out = empty((*shape, form.segment_samples))
    whole = form.jpeg_head + data[2:]
    decoded: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
        whole, colour, fastdct=False, fastupsample=False, buffer=out, strict=True
    )
    if decoded.shape != out.shape:
        raise ValueError(f"the JPEG in a tile of {out.shape} is {decoded.shape}")
    return decoded


def _jpeg2000(form: SegmentFormat, data: bytes, shape: tuple[int, int], empty: Empty) -> Samples:
    import imagecodecs

    claimed = jpeg2000_shape(data)
    if claimed != (*shape, form.segment_samples):
        raise ValueError(f"the JPEG 2000 in a tile of {(*shape, form.segment_samples)} is {claimed}")
    out = empty(claimed if claimed[2] > 1 else claimed[:2])
    decoded: npt.NDArray[np.uint8] = imagecodecs.jpeg2k_decode(data, numthreads=1, out=out)
    if decoded.dtype != np.uint8:
        raise ValueError(f"the JPEG 2000 in an 8-bit tile is {decoded.dtype}")
    return decoded.reshape(*shape, form.segment_samples)


def jpeg2000_shape(data: bytes) -> tuple[int, int, int]:
    """Rows, columns and components that a JPEG 2000 codestream (bare, or in a JP2 file) claims in its SIZ marker."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 42:
        raise ValueError("no JPEG 2000 header")
    right, lower, left, upper = (
        int.from_bytes(data[at + 8 + 4 * i : at + 12 + 4 * i], "big") for i in range(4)
    )
    return lower - upper, right - left, int.from_bytes(data[at + 40 : at + 42], "big")


def _plain(form: SegmentFormat, data: bytes, shape: tuple[int, int], empty: Empty) -> Samples:
    import imagecodecs

    size = shape[0] * form.row_bytes
    unpacked: bytes | bytearray = data
    if form.reversed_bits:
        unpacked = imagecodecs.bitorder_decode(data)
    if form.compression != NONE:
        # libdeflate has the format and the checks of zlib at twice its speed.
        unpack = {
            LZW: imagecodecs.lzw_decode,
            DEFLATE: imagecodecs.deflate_decode,
            OLD_DEFLATE: imagecodecs.deflate_decode,
            PACKBITS: imagecodecs.packbits_decode,
            ZSTD: imagecodecs.zstd_decode,
        }[form.compression]
        unpacked = unpack(unpacked, out=empty((size,)).data)
    if len(unpacked) < size:
        raise ValueError(f"a segment holds {len(unpacked)} bytes of {size}")
    values = _unpack(form, unpacked[:size], shape)
    if form.predictor == 2:
        values = imagecodecs.delta_decode(values, axis=1, out=values if values.flags.writeable else None)
    return values


def _unpack(form: SegmentFormat, data: bytes | bytearray, shape: tuple[int, int]) -> Samples:
    import imagecodecs

    full = (*shape, form.segment_samples)
    if form.bits == 8:
        return np.frombuffer(data, np.uint8).reshape(full)
    if form.bits == 16:
        return np.frombuffer(data, form.byteorder + "u2").reshape(full).astype(np.uint16)
    kind = "uint8" if form.bits < 8 else "uint16"
    values = imagecodecs.packints_decode(data, kind, form.bits, runlen=shape[1] * form.segment_samples)
    return np.asarray(values, kind).reshape(full)


_DECODERS: dict[int, Callable[[SegmentFormat, bytes, tuple[int, int], Empty], Samples]] = {
    JPEG: _jpeg,
    JP2: _jpeg2000,
    APERIO_JP2_RGB: _jpeg2000,
}


def to_rgb(form: SegmentFormat, values: Samples) -> Pixels:
    """Stored samples `(rows, columns, samples)` as RGB on white.

    Values of n bits become `round(255 * value / max_value)`, where `max_value` is 2**n - 1 or the file's own statement.
    """
    if form.photometric == PALETTE:
        assert form.palette is not None
        return form.palette[values[..., 0]]
    if form.max_value != 255 or values.dtype != np.uint8:
        wide = values.astype(np.uint32) * 255
        values = np.minimum((wide + form.max_value // 2) // form.max_value, 255).astype(np.uint8)
    colours = 1 if form.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) else 3
    pixels = values[..., :colours].astype(np.uint8, copy=False)
    if form.photometric == WHITE_IS_ZERO:
        pixels = 255 - pixels
    if form.alpha != "none":
        pixels = on_white(pixels, values[..., -1].astype(np.uint8, copy=False), form.alpha == "premultiplied")
    if colours == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    return np.ascontiguousarray(pixels)


def on_white(pixels: Pixels, alpha: npt.NDArray[np.uint8], premultiplied: bool = False) -> Pixels:
    """Pixels `(rows, columns, channels)` laid over white, by their opacity `(rows, columns)` of 0..255."""
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(pixels)
    laid = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), 64):  # in bands: the sums are wider than the pixels
        band = slice(top, top + 64)
        opacity = alpha[band, :, None].astype(np.uint16)
        # At most 255 * 255 in either case, which 16 bits hold.
        colour = (
            np.minimum(pixels[band], alpha[band, :, None]).astype(np.uint16) * 255
            if premultiplied
            else (pixels[band].astype(np.uint16) * opacity)
        )
        laid[band] = (colour + 255 * (255 - opacity) + 127) // 255
    return laid


def turned(stored: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Stored pixels `(rows, columns, ...)` as they are to be seen: mirrored, turned or transposed by tag 274."""
    if orientation in (3, 4, 6, 7):
        stored = stored[::-1]
    if orientation in (2, 3, 7, 8):
        stored = stored[:, ::-1]
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    return stored
