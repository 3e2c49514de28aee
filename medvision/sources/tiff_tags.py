"""What a TIFF's tags say: kind, pyramid, encoding, spacing, facts. Declines whatever is not understood for certain."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UnreadableSourceError
from medvision.core.geometry import Spacing
from medvision.sources import tiff_codec as codec
from medvision.sources.facts import facts
from medvision.sources.faults import (
    MAX_FLAT_PIXELS,
    MAX_SEGMENTS,
    MAX_TILE_PIXELS,
    DeclinedError,
    check_pixels,
    check_shape,
)
from medvision.sources.levels import is_reduction
from medvision.sources.spacing import from_resolution, stated
from medvision.sources.tiff_codec import SegmentFormat

# tifffile reports damaged tags through logging; what matters of it arrives as our errors.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

MAX_PAGES = 512
_STRIP_BYTES = 1 << 20
_FOREIGN = ("ndpi", "scn", "bif", "philips", "lsm", "stk", "fluoview", "indica", "eer", "vista")
_TO_UM = {"m": 1e6, "mm": 1e3, "µm": 1.0, "um": 1.0, "nm": 1e-3, "cm": 1e4}


@dataclass(frozen=True, eq=False)
class Page:
    """One level as stored: `offsets` and `sizes` in bytes of its segments, row by row, plane by plane."""

    shape: tuple[int, int]
    form: SegmentFormat
    tiled: bool
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles down and across; strips are tiles as wide as the image."""
        (h, w), (th, tw) = self.shape, self.form.tile
        return (-(-h // th), -(-w // tw))


@dataclass(frozen=True, eq=False)
class Layout:
    """Everything that opening a TIFF found out."""

    pages: tuple[Page, ...]
    orientation: int
    spacing: Spacing | None
    vendor: str
    metadata: dict[str, str]
    why: str


def parse(tiff: Any) -> Layout:
    """Layout of an open `tifffile.TiffFile`."""
    first = tiff.pages[0].aspage()
    for flag in _FOREIGN:
        if getattr(first, f"is_{flag}"):
            raise DeclinedError(f"a {flag.upper()} TIFF, which OpenSlide knows better", recognised=True)
    vendor, spacing, found = _vendor_facts(first)
    base = _page(first)
    rest = _following(tiff)
    _refuse_stack(first, rest, vendor)
    smaller = [p for p in [*_subpages(first), *rest] if _is_level(first, p, vendor)]
    smaller.sort(key=lambda p: -int(p.imagewidth))
    pages = [base, *(_page(p) for p in smaller)]
    if any(b.shape == a.shape for a, b in pairwise(pages)):
        raise DeclinedError("two levels of one size", recognised=True)
    orientation = first.tags.valueof(274, 1)
    orientation = int(orientation) if orientation in range(1, 9) else 1
    if spacing is not None and orientation >= 5:
        spacing = Spacing(spacing.values[::-1])
    form = base.form
    found |= {
        "compression": codec.COMPRESSIONS[form.compression],
        "tile_size": f"{form.tile[0]} x {form.tile[1]}" + ("" if base.tiled else " (strips)"),
        "bits": form.bits,
        "samples": form.samples,
        "orientation": orientation if orientation != 1 else None,
        "icc_profile": "present" if 34675 in first.tags else "absent",
    }
    return Layout(tuple(pages), orientation, spacing, vendor, facts(found), _why(vendor, base))


def _why(vendor: str, base: Page) -> str:
    kind = {"aperio": "Aperio SVS", "ome": "OME-TIFF", "perkinelmer": "QPTIFF"}.get(vendor, "TIFF")
    stored = "tiles" if base.tiled else "strips"
    encoding = codec.COMPRESSIONS[base.form.compression]
    return f"{kind} with {stored} of known encoding ({encoding}), each decoded once, by any thread"


def _following(tiff: Any) -> list[Any]:
    pages = []
    for index in range(1, MAX_PAGES + 1):
        try:
            pages.append(tiff.pages[index].aspage())
        except IndexError:
            return pages
    raise DeclinedError(f"more than {MAX_PAGES} pages", recognised=True)


def _subpages(first: Any) -> list[Any]:
    return [p.aspage() for p in first.pages] if first.subifds else []


def _refuse_stack(first: Any, rest: list[Any], vendor: str) -> None:
    same = [p for p in rest if (p.imagelength, p.imagewidth) == (first.imagelength, first.imagewidth)]
    # The thumbnail of a tiny slide may have its size too, but it is stored in strips.
    planes = 1 + sum(not int(p.subfiletype) & 1 and p.is_tiled == first.is_tiled for p in same)
    if vendor == "ome" and first.description:
        planes = max(planes, _ome_planes(first))
    if planes > 1:
        raise UnreadableSourceError(
            f"holds {planes} planes of one size (channels, focus or time), and only a single plane is read as a slide"
        )


def _is_level(first: Any, page: Any, vendor: str) -> bool:
    if not is_reduction((first.imagelength, first.imagewidth), (page.imagelength, page.imagewidth)):
        return False
    alike = all(
        getattr(page, name) == getattr(first, name)
        for name in ("bitspersample", "samplesperpixel", "photometric", "planarconfig")
    )
    if not alike or int(page.subfiletype) & 8:  # 8: Aperio's macro
        return False
    if vendor == "aperio":
        return bool(page.is_tiled)
    return bool(int(page.subfiletype) & 1 or page.is_subifd or page.is_tiled)


def _page(page: Any) -> Page:
    shape = (int(page.imagelength), int(page.imagewidth))
    check_shape("a TIFF page", shape)
    tiled = bool(page.is_tiled)
    if page.imagedepth != 1 or page.tiledepth != 1:
        raise DeclinedError("volumetric TIFF", recognised=True)
    form = _format(page, shape, tiled)
    offsets = np.asarray(page.dataoffsets, np.int64)
    sizes = np.asarray(page.databytecounts, np.int64)
    if tiled:
        check_pixels("a TIFF tile", form.tile, MAX_TILE_PIXELS)
    elif form.compression == codec.NONE:
        form, offsets, sizes = _cut_strips(form, shape, offsets, sizes)
    check_pixels("a TIFF strip", form.tile, MAX_FLAT_PIXELS)
    built = Page(shape, form, tiled, offsets, sizes)
    wanted = built.grid[0] * built.grid[1] * (form.samples if form.planar else 1)
    if wanted > MAX_SEGMENTS or not len(offsets) == len(sizes) == wanted:
        # No reader can know better: OpenSlide would open such a file and put tiles where they do not belong.
        raise UnreadableSourceError(
            f"lists {len(offsets)} offsets and {len(sizes)} sizes for {wanted} tiles or strips of a level"
        )
    return built


def _cut_strips(
    form: SegmentFormat, shape: tuple[int, int], offsets: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> tuple[SegmentFormat, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Uncompressed strips may be read in part: cut tall ones, so that a window need not fetch a whole picture."""
    rows = max(1, _STRIP_BYTES // form.row_bytes)
    height = form.tile[0]
    if rows >= height or len(offsets) != len(sizes):
        return form, offsets, sizes
    rows = next((r for r in range(rows, rows // 2, -1) if height % r == 0), rows)
    if len(offsets) > 1 and height % rows:
        return form, offsets, sizes  # the cuts of one strip would not line up with the next
    starts, lengths = [], []
    for offset, size in zip(offsets.tolist(), sizes.tolist(), strict=True):
        for top in range(0, min(height, shape[0]), rows):
            at = top * form.row_bytes
            if at < size:
                starts.append(offset + at)
                lengths.append(min(rows * form.row_bytes, size - at))
    cut = SegmentFormat(**{**_fields(form), "tile": (rows, form.tile[1])})
    return cut, np.asarray(starts, np.int64), np.asarray(lengths, np.int64)


def _fields(form: SegmentFormat) -> dict[str, Any]:
    return {name: getattr(form, name) for name in SegmentFormat.__dataclass_fields__}


def _format(page: Any, shape: tuple[int, int], tiled: bool) -> SegmentFormat:
    compression, photometric = int(page.compression), int(page.photometric)
    bits, samples = page.bitspersample, int(page.samplesperpixel)
    if compression not in codec.COMPRESSIONS:
        raise DeclinedError(f"compression {_name(page.compression)}", recognised=True)
    if not isinstance(bits, int) or not 1 <= bits <= 16:
        raise DeclinedError(f"{bits} bits a sample", recognised=True)
    if page.sampleformat not in (None, 1):
        raise DeclinedError("samples that are not unsigned integers", recognised=True)
    colours = {codec.WHITE_IS_ZERO: 1, codec.BLACK_IS_ZERO: 1, codec.RGB: 3, codec.PALETTE: 1, codec.YCBCR: 3}
    if photometric not in colours or samples < colours[photometric]:
        raise DeclinedError(f"photometric {_name(page.photometric)} with {samples} samples", recognised=True)
    image_codec = compression in (codec.JPEG, codec.JP2, codec.APERIO_JP2_RGB)
    planar = int(page.planarconfig) == 2 and samples > 1
    odd = (
        (image_codec and (bits != 8 or photometric == codec.PALETTE))
        or (compression == codec.JPEG and not planar and samples not in (1, 3))
        or (photometric == codec.YCBCR and (compression != codec.JPEG or planar))
        or (page.predictor not in (1, 2))
        or (page.predictor == 2 and bits not in (8, 16))
        or (photometric == codec.PALETTE and bits > 8)
    )
    if odd:
        raise DeclinedError(
            f"{codec.COMPRESSIONS[compression]} with {bits} bits, photometric {_name(page.photometric)}, "
            f"predictor {page.predictor}",
            recognised=True,
        )
    tile = (
        (int(page.tilelength), int(page.tilewidth))
        if tiled
        else (min(int(page.rowsperstrip), shape[0]), shape[1])
    )
    check_shape("a TIFF tile", tile)
    extra = [int(e) for e in page.extrasamples]
    alpha = "none"
    if samples == colours[photometric] + 1 and extra[:1] in ([1], [2]):
        alpha = "premultiplied" if extra[0] == 1 else "straight"
    top = (1 << bits) - 1
    stated_top = page.tags.valueof(281)
    if bits == 16 and isinstance(stated_top, int) and 255 < stated_top < top:
        top = stated_top
    return SegmentFormat(
        tile=tile,
        samples=samples,
        bits=bits,
        compression=compression,
        photometric=photometric,
        predictor=1 if image_codec else int(page.predictor),
        planar=planar,
        reversed_bits=int(page.fillorder) == 2,
        byteorder=str(page.parent.byteorder),
        tables=page.jpegtables or b"",
        palette=_palette(page) if photometric == codec.PALETTE else None,
        alpha=alpha,
        max_value=top,
    )


def _palette(page: Any) -> npt.NDArray[np.uint8]:
    table = np.asarray(page.colormap)
    if table.ndim != 2 or table.shape[0] != 3 or table.shape[1] < 1 << int(page.bitspersample):
        raise DeclinedError("no palette", recognised=True)
    # A few writers store 8-bit entries in the 16-bit table.
    return np.ascontiguousarray((table.T >> 8 if table.max() > 255 else table.T).astype(np.uint8))


def _name(code: object) -> str:
    return str(getattr(code, "name", code))


def _vendor_facts(page: Any) -> tuple[str, Spacing | None, dict[str, object]]:
    text = page.description or ""
    software = str(page.tags.valueof(305, ""))
    if text.startswith("Aperio"):
        return ("aperio", *_aperio(text))
    if page.is_ome:
        return ("ome", *_ome(text))
    if software.startswith("PerkinElmer-QPI") or page.is_qpi:
        return (
            "perkinelmer",
            _tag_spacing(page),
            {"objective_power": _number(text, r"<Objective>([\d.]+)x?</Objective>")},
        )
    return ("generic", _tag_spacing(page), {})


def _aperio(text: str) -> tuple[Spacing | None, dict[str, object]]:
    mpp = _number(text, r"\|\s*MPP\s*=\s*([\d.]+)")
    quality = re.search(r"\bQ=(\d+)", text)
    found: dict[str, object] = {
        "scanner_manufacturer": "Aperio",
        "objective_power": _number(text, r"\|\s*AppMag\s*=\s*([\d.]+)"),
        "mpp": mpp,
        "quality": quality[1] if quality else None,
    }
    value = float(mpp) if mpp else None
    return stated(value, value), found


def _ome_pixels(text: str) -> dict[str, str]:
    from defusedxml import ElementTree

    root = ElementTree.fromstring(text.encode())
    for element in root.iter():
        if element.tag.rpartition("}")[2] == "Pixels":
            channel = next((c for c in element if c.tag.rpartition("}")[2] == "Channel"), None)
            return {**element.attrib, "SPP": "1" if channel is None else channel.get("SamplesPerPixel", "1")}
    return {}


def _ome(text: str) -> tuple[Spacing | None, dict[str, object]]:
    pixels = _ome_pixels(text)
    sides = []
    for axis in "YX":
        value, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        sides.append(float(value) * _TO_UM[unit] if value and unit in _TO_UM else None)
    power = _number(text, r'NominalMagnification="([\d.]+)"')
    return stated(sides[0], sides[1]), {"objective_power": power}


def _ome_planes(page: Any) -> int:
    pixels = _ome_pixels(page.description)
    sizes = {axis: int(pixels.get(f"Size{axis}", "1")) for axis in "CZT"}
    samples = max(int(pixels.get("SPP", "1")), int(page.samplesperpixel))
    return max(1, sizes["C"] // samples) * sizes["Z"] * sizes["T"]


def _tag_spacing(page: Any) -> Spacing | None:
    unit = {2: "inch", 3: "cm"}.get(int(page.tags.valueof(296, 2)), "none")
    per_unit = [_rational(page.tags.valueof(code)) for code in (283, 282)]
    return from_resolution(per_unit[0], per_unit[1], unit)


def _rational(value: object) -> float:
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0]) / float(value[1])
    return float(value) if isinstance(value, int | float) else 0.0


def _number(text: str, pattern: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None
