"""Rasters as files: pyramidal OME-TIFF that QuPath and Bio-Formats open, and that gives the same raster back."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UnreadableSourceError, UsageError
from medvision.core.geometry import Spacing
from medvision.core.results import Raster
from medvision.sources.pyramid import CLASSIC_TIFF_BYTES, pyramid_depth, quarters, whole_file

# What tifffile and the codecs raise on files that are cut off or are something else.
_BROKEN = (
    OSError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, AttributeError, struct.error,
)  # fmt: skip
_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def write_raster(path: Path, raster: Raster, *, tile: int = 256) -> Path:
    """Write a raster as a pyramidal OME-TIFF of float32 (deflate), NaN kept, one plane per channel.

    The pyramid lies in SubIFDs, as Bio-Formats and QuPath expect; a reduced cell is the mean of the cells below it that
    hold values, NaN where none does. Spacing, offset and channel names stand in the OME-XML, in the exact form that
    `read_raster` needs to give the same raster back.

    Raises:
        UsageError: if the raster has no cell, or more or fewer than two or three spatial axes.
        StoreError: if the file could not be written whole.
    """
    import tifffile

    if raster.values.size == 0:
        raise UsageError(f"a raster of shape {raster.values.shape} holds no cell to write to {path}")
    planes = _planes(raster)
    depth = pyramid_depth((planes.shape[1], planes.shape[2]), tile)
    description: str | None = _ome_xml(raster, planes.shape)
    per_cm = [(1e4 if raster.spacing.unit == "um" else 10.0) / v for v in raster.spacing.values[-2:]]
    common: dict[str, Any] = {
        "photometric": "minisblack",
        "tile": (tile, tile),
        "compression": "zlib",
        "compressionargs": {"level": 6},
        "predictor": False,
        "metadata": None,
        "software": False,
        "maxworkers": 1,
    }
    bigtiff = planes.nbytes * 4 / 3 > CLASSIC_TIFF_BYTES
    with whole_file(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=bigtiff, ome=False) as tif:
        for plane in planes:
            for level in range(depth):
                resolution = (per_cm[1] / 2**level, per_cm[0] / 2**level)
                extra: dict[str, Any] = {"subfiletype": 1} if level else {"subifds": depth - 1}
                if description is not None:
                    extra["description"], description = description, None
                tif.write(plane, resolution=resolution, resolutionunit="CENTIMETER", **extra, **common)
                plane = _mean_of_present(plane)
    return path


def read_raster(path: Path) -> Raster:
    """The raster that `write_raster` wrote, exactly.

    Raises:
        UnreadableSourceError: if the file is absent, is no TIFF, or was not written by `write_raster`.
    """
    import tifffile
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        with tifffile.TiffFile(path) as tif:
            description = tif.pages.first.description
            values = np.stack([page.asarray(maxworkers=1) for page in tif.pages])
        root = fromstring(description)
    except (*_BROKEN, tifffile.TiffFileError, ParseError) as error:
        raise UnreadableSourceError(f"{path} cannot be read as a raster: {error}") from error
    space = {"ome": _OME}
    facts = {
        entry.get("K"): entry.text or ""
        for entry in root.iterfind(".//ome:MapAnnotation/ome:Value/ome:M", space)
    }
    channels = tuple(c.get("Name", "") for c in root.iterfind(".//ome:Channel", space))
    if "medvision.spacing" not in facts:
        raise UnreadableSourceError(f"{path} is an OME-TIFF that was not written as a raster by this package")
    spacing_values = _floats(facts["medvision.spacing"])
    unit: Literal["um", "mm"] = "mm" if facts["medvision.unit"] == "mm" else "um"
    origin: Literal["file", "supplied"] = "supplied" if facts["medvision.origin"] == "supplied" else "file"
    extent = _floats(facts["medvision.extent"]) if facts.get("medvision.extent") else None
    volume = len(spacing_values) == 3
    values = values.reshape((len(channels), -1, *values.shape[1:])) if volume else values
    return Raster(
        values=np.ascontiguousarray(np.moveaxis(values, 0, -1)),
        spacing=Spacing(spacing_values, unit, origin),
        channels=channels,
        offset=_floats(facts["medvision.offset"]),
        extent=extent,
    )


def _mean_of_present(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """2 x 2 mean over the cells that are not NaN; an odd last row or column stands alone."""
    odd = [(0, n % 2) for n in plane.shape]
    parts = np.stack(quarters(np.pad(plane, odd, constant_values=np.nan)))
    present = ~np.isnan(parts)
    count = present.sum(axis=0)
    total = np.where(present, parts, 0).sum(axis=0, dtype=np.float64)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return np.asarray(mean, dtype=np.float32)


def _planes(raster: Raster) -> npt.NDArray[np.float32]:
    """All planes `(channels * depth, rows, columns)`, depth running fastest."""
    if raster.values.ndim not in (3, 4):
        raise UsageError(
            f"a raster of shape {raster.values.shape} is neither an image nor a volume with channels"
        )
    channels_first = np.moveaxis(raster.values, -1, 0)
    return np.ascontiguousarray(channels_first.reshape((-1, *channels_first.shape[-2:])), dtype=np.float32)


def _ome_xml(raster: Raster, planes: tuple[int, ...]) -> str:
    """OME-XML in ASCII; lengths in the raster's own unit."""
    unit = "&#181;m" if raster.spacing.unit == "um" else "mm"
    names = ("Z", "Y", "X")[-len(raster.spacing.values) :]
    sizes = " ".join(
        f'PhysicalSize{n}="{v!r}" PhysicalSize{n}Unit="{unit}"'
        for n, v in zip(names, raster.spacing.values, strict=True)
    )
    channel_count = len(raster.channels)
    depth = planes[0] // channel_count
    channels = "".join(
        f'<Channel ID="Channel:0:{k}" Name={quoteattr(name)} SamplesPerPixel="1"/>'
        for k, name in enumerate(raster.channels)
    )
    position = " ".join(
        f'Position{n}="{v!r}" Position{n}Unit="{unit}"' for n, v in zip(names, raster.offset, strict=True)
    )
    data = "".join(
        f'<TiffData IFD="{c * depth + z}" FirstC="{c}" FirstZ="{z}" FirstT="0" PlaneCount="1"/>'
        for c in range(channel_count)
        for z in range(depth)
    )
    where = "".join(
        f'<Plane TheC="{c}" TheZ="{z}" TheT="0" {position}/>'
        for c in range(channel_count)
        for z in range(depth)
    )
    facts = {
        "medvision.spacing": _words(raster.spacing.values),
        "medvision.unit": raster.spacing.unit,
        "medvision.origin": raster.spacing.origin,
        "medvision.offset": _words(raster.offset),
        "medvision.extent": _words(raster.extent) if raster.extent is not None else "",
    }
    pairs = "".join(f'<M K="{key}">{escape(value)}</M>' for key, value in facts.items())
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{_OME}" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_OME} {_OME}/ome.xsd">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="float" '
        f'SizeX="{planes[2]}" SizeY="{planes[1]}" SizeZ="{depth}" SizeC="{channel_count}" SizeT="1" {sizes}>'
        f'{channels}{data}{where}</Pixels><AnnotationRef ID="Annotation:0"/></Image>'
        '<StructuredAnnotations><MapAnnotation ID="Annotation:0" Namespace="medvision/raster">'
        f"<Value>{pairs}</Value></MapAnnotation></StructuredAnnotations></OME>"
    )
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _words(values: tuple[float, ...]) -> str:
    return " ".join(repr(float(v)) for v in values)


def _floats(words: str) -> tuple[float, ...]:
    return tuple(float(word) for word in words.split())
