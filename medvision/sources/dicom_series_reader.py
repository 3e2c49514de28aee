"""DICOM series of CT, MR and PET: a folder, or any file of it. pydicom reads and decodes; slices stay a while."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from medvision.core.digest import digest_files
from medvision.core.errors import MedvisionError, UnreadableSourceError
from medvision.core.geometry import Box
from medvision.sources.base import DTYPES, VOLUMES, Source, Values
from medvision.sources.dicom_series import Series, Slice, gather
from medvision.sources.faults import DeclinedError, quiet, read_twice
from medvision.sources.flat_voxels import check_voxels, held_in, scaled
from medvision.sources.still_dicom import dataset_of, padding, stored_pixels
from medvision.sources.volume import AIR_HU, StoredVolume, Volume

_KEPT_BYTES = 1 << 28
"""Decoded slices kept: a scan of 512 planes of 512 x 512."""


@VOLUMES.register("dicom-series")
def open_dicom_series(path: Path) -> Source:
    """Open the series in a folder, or the one of a file."""
    if not path.is_dir():
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                raise DeclinedError("not a DICOM file")
    series = gather(path, _same_pixels)
    if series is None:
        raise DeclinedError("no CT, MR or PET slices")
    voxels = SliceVoxels(series)
    voxels.check_first()
    header, first = series.header, series.slices[0]
    found = {
        "modality": series.kind,
        "scanner_manufacturer": header.get("Manufacturer"),
        "scanner_model": header.get("ManufacturerModelName"),
        "slices": len(series.slices),
        "slice_thickness_mm": header.get("SliceThickness"),
        "kernel": header.get("ConvolutionKernel"),
        "kvp": header.get("KVP"),
        "bits": first.bits,
        "compression": getattr(header.file_meta.get("TransferSyntaxUID"), "name", None),
    }
    stored = StoredVolume(
        voxels, series.frame, "dicom-series", f"{series.kind} slices, sorted by position, read by pydicom",
        "DICOM", quantity="HU" if series.kind == "CT" else "", found=found, notes=series.notes,
    )  # fmt: skip
    return Volume(path, stored)


def series_files(path: Path) -> list[Path]:
    """The files of a series, in the order of its slices.

    Raises:
        UnreadableSourceError: if it is none.
    """
    series = gather(path, _same_pixels)
    if series is None:
        raise UnreadableSourceError(f"{path}: no CT, MR or PET slices")
    return [one.path for one in series.slices]


class SliceVoxels:
    """See `medvision.sources.volume.Voxels`. The latest slices stay decoded: the whole scan or 256 MiB, what is
    less."""

    def __init__(self, series: Series) -> None:
        self.series = series
        self._slices = series.slices
        self._is_ct = series.kind == "CT"
        self.shape = (len(series.slices), *series.slices[0].shape)
        check_voxels(self.shape)
        self.dtype = _dtype(series)
        plane = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._most = max(1, _KEPT_BYTES // plane)
        self._kept: OrderedDict[int, Values] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False
        self._digest: str | None = None

    def check_first(self) -> None:
        """Decode one slice, so that an encoding that cannot be read is known at once."""
        self._plane(self.shape[0] // 2)

    def read(self, box: Box) -> Values:
        """See `Voxels.read`."""
        if self._closed:
            raise UnreadableSourceError(f"{self._slices[0].path.parent} is closed")
        out = np.empty(box.shape, self.dtype)
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        for z in range(z0, z1):
            one = Box((z, y0, x0), (z + 1, y1, x1))
            path = self._slices[z].path

            def plane(z: int = z) -> Values:
                return self._plane(z)

            out[z - z0] = read_twice(path, one, 0, plane, plane)[y0:y1, x0:x1]
        return out

    def digest(self) -> str:
        """See `Voxels.digest`."""
        if self._digest is None:
            self._digest = digest_files([one.path for one in self._slices])
        return self._digest

    def close(self) -> None:
        """See `Voxels.close`."""
        self._closed = True
        with self._lock:
            self._kept.clear()

    def _plane(self, index: int) -> Values:
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
        plane = self._decoded(self._slices[index])
        with self._lock:
            self._kept[index] = plane
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return plane

    def _decoded(self, one: Slice) -> Values:
        dataset, stored = _stored(one)
        values = scaled(stored, one.slope, one.intercept, self.dtype)
        if self._is_ct:
            values[padding(dataset, stored)] = AIR_HU
        return values


def _dtype(series: Series) -> np.dtype[Any]:
    """Hounsfield units are whole and within 16 bits, whatever the file's bits could hold; other values as they need."""
    if series.kind == "CT":
        return DTYPES[1]
    kinds = {held_in(_narrowest(one), one.slope, one.intercept) for one in series.slices}
    return kinds.pop() if len(kinds) == 1 else DTYPES[2]


def _narrowest(one: Slice) -> np.dtype[Any]:
    """The type whose range the stored bits cannot leave: 12 bits without a sign fit in 16 with one."""
    return DTYPES[1] if one.stored.kind == "u" and 8 < one.bits < 16 else one.stored


def _stored(one: Slice) -> tuple[Any, Values]:
    try:
        with quiet():
            dataset = dataset_of(BytesIO(one.path.read_bytes()))
            stored = stored_pixels(dataset, 0)
    except MedvisionError as error:
        raise type(error)(f"{one.path.name}: {error}") from error
    if stored.shape != one.shape:
        raise UnreadableSourceError(f"{one.path.name} has pixels of {stored.shape}, and stated {one.shape}")
    return dataset, stored


def _same_pixels(a: Slice, b: Slice) -> bool:
    digests = [hashlib.sha256(np.ascontiguousarray(_stored(one)[1]).tobytes()).digest() for one in (a, b)]
    return digests[0] == digests[1] and (a.slope, a.intercept) == (b.slope, b.intercept)
