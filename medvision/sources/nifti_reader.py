"""NIfTI-1 and NIfTI-2 in one file, plain or gzipped. nibabel reads the header; the voxels are fetched as asked for.

NIfTI counts in RAS; frames here are in LPS. The s-form is taken before the q-form, as nibabel does.
"""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from medvision.core.errors import MedvisionError, UnreadableSourceError
from medvision.core.world import WorldFrame, from_matrix, lps_from_ras
from medvision.sources.base import VOLUMES, Source
from medvision.sources.faults import LIBRARY_ERRORS, DeclinedError, quiet, reason_of
from medvision.sources.flat_voxels import FlatVoxels, Layout, check_voxels, first_bytes
from medvision.sources.volume import StoredVolume, Volume

_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
_LONGEST_HEADER = 1 << 16


@VOLUMES.register("nifti")
def open_nifti(path: Path) -> Source:
    """Open a `.nii` or `.nii.gz`."""
    head = first_bytes(path, 544)
    second = head[4:12] == b"n+2\0\r\n\x1a\n"
    if not second and head[344:348] != b"n+1\0":
        if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
            raise DeclinedError(
                "a NIfTI header whose voxels lie in another file; save it as .nii", recognised=True
            )
        raise DeclinedError("not a NIfTI file")
    try:
        with quiet():
            return Volume(path, _stored(path, head, second))
    except MedvisionError:
        raise
    except LIBRARY_ERRORS as error:
        raise UnreadableSourceError(f"damaged NIfTI header: {reason_of(error)}") from error


def _stored(path: Path, head: bytes, second: bool) -> StoredVolume:
    import nibabel

    kind: Any = nibabel.Nifti2Header if second else nibabel.Nifti1Header
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    size = 540 if second else 348
    # Extensions after the header are skipped: they may hold anything, and nothing here needs them.
    header = kind(head[:size], check=False)
    header = kind.from_fileobj(BytesIO(header.binaryblock + b"\0" * 4), check=False)
    shape = _shape(header)
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and offset >= size and offset.is_integer()):
        raise UnreadableSourceError(f"a NIfTI file whose voxels begin at byte {offset:g}")
    notes: list[str] = []
    frame = _frame(header, notes)
    slope, intercept = _scale(header)
    dtype = _dtype(header)
    layout = Layout(
        path,
        0 if packed else int(offset),
        shape,
        dtype,
        "deflate" if packed else "plain",
        int(offset) if packed else 0,
        slope,
        intercept,
    )
    name = f"NIfTI-{1 + second}"
    found = {"compression": "gzip" if packed else "none", "bits": dtype.itemsize * 8}
    return StoredVolume(
        FlatVoxels(layout), frame, "nifti", f"{name} by its magic number, header read by nibabel", name,
        found=found, notes=tuple(notes),
    )  # fmt: skip


def _shape(header: Any) -> tuple[int, int, int]:
    axes = int(header["dim"][0])
    sides = [int(n) for n in header["dim"][1 : 1 + axes]] if 1 <= axes <= 7 else []
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if len(sides) != 3:
        said = " x ".join(str(n) for n in sides) or f"{axes} axes"
        raise UnreadableSourceError(
            f"a NIfTI file of {said}; three axes are read, one volume and no series of them"
        )
    check_voxels(tuple(sides))
    x, y, z = sides
    return z, y, x


def _dtype(header: Any) -> np.dtype[Any]:
    code = int(header["datatype"])
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except LIBRARY_ERRORS as error:
        raise UnreadableSourceError(f"NIfTI data type {code} is not known") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnreadableSourceError(
            f"NIfTI voxels of type {dtype}; numbers of one channel and up to 64 bits are read"
        )
    return dtype


def _scale(header: Any) -> tuple[float, float]:
    """Slope and intercept; a slope of 0, or one that is no number, means that values are as stored."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if math.isnan(intercept):
        intercept = 0.0
    if math.isinf(slope) or math.isinf(intercept):
        raise UnreadableSourceError(f"NIfTI values scaled by {slope} and {intercept}")
    return slope, intercept


def _frame(header: Any, notes: list[str]) -> WorldFrame:
    try:
        unit = str(header.get_xyzt_units()[0])
    except LIBRARY_ERRORS:
        unit = "unknown"
    if unit not in _MM:
        notes.append("The file does not state the unit of its spacing: millimetres are taken for granted.")
    sides = [float(v) for v in header["pixdim"][1:4]]
    if not all(math.isfinite(v) for v in sides):
        raise UnreadableSourceError(f"NIfTI spacing {tuple(sides)} is not finite")
    if not int(header["sform_code"]) and any(v <= 0 for v in sides):
        raise UnreadableSourceError(f"NIfTI spacing {tuple(sides)} is not positive")
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        notes.append(
            "The file does not state its orientation: as for any NIfTI file without one, the first axis is taken "
            "to lead to the left and the origin to be the middle."
        )
    affine = lps_from_ras(header.get_best_affine())
    affine[:3] *= _MM.get(unit, 1.0)
    try:
        return from_matrix(affine)
    except ValueError as error:
        raise UnreadableSourceError(f"NIfTI orientation: {error}") from error
