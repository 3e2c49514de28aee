"""NRRD: `.nrrd` with its voxels in the same file, `.nhdr` with them in another. pynrrd reads the header.

Spaces named in the header (LPS, RAS, LAS) become LPS; the space origin is the centre of the first voxel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medvision.core.errors import MedvisionError, UnreadableSourceError
from medvision.core.world import WorldFrame, from_matrix
from medvision.sources.base import VOLUMES, Source
from medvision.sources.faults import LIBRARY_ERRORS, DeclinedError, quiet, reason_of
from medvision.sources.flat_voxels import FlatVoxels, Layout, Packing, check_voxels, data_file
from medvision.sources.volume import StoredVolume, Volume

_HEADER_BYTES = 1 << 16
_PACKINGS: dict[str, Packing] = {
    "raw": "plain", "gzip": "deflate", "gz": "deflate", "bzip2": "bzip2", "bz2": "bzip2",
}  # fmt: skip
_SPACES = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip


@VOLUMES.register("nrrd")
def open_nrrd(path: Path) -> Source:
    """Open a `.nrrd` or `.nhdr`."""
    with path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
    if head[:4] != b"NRRD":
        raise DeclinedError("not a NRRD file")
    try:
        with quiet():
            return Volume(path, _stored(path, head))
    except MedvisionError:
        raise
    except LIBRARY_ERRORS as error:
        raise UnreadableSourceError(f"damaged NRRD header: {reason_of(error)}") from error


def _stored(path: Path, head: bytes) -> StoredVolume:
    import nrrd
    from nrrd.errors import NRRDError

    lines, end = _header(head)
    try:
        fields: dict[str, Any] = dict(nrrd.read_header(lines))
    except NRRDError as error:
        raise UnreadableSourceError(f"damaged NRRD header: {reason_of(error)}") from error
    sides = [int(n) for n in fields.get("sizes", ())]
    if int(fields.get("dimension", 0)) != 3 or len(sides) != 3:
        raise UnreadableSourceError(
            f"a NRRD file of {fields.get('dimension')} axes ({sides}); three are read"
        )
    x, y, z = sides
    check_voxels((z, y, x))
    dtype = _dtype(fields)
    encoding = str(fields.get("encoding", "")).lower()
    if encoding not in _PACKINGS:
        raise UnreadableSourceError(f"NRRD voxels in encoding {encoding!r}; read are {', '.join(_PACKINGS)}")
    data, offset, skip, files = _data(path, fields, end, z * y * x * dtype.itemsize, _PACKINGS[encoding])
    frame, stated, notes = _frame(fields)
    layout = Layout(data, offset, (z, y, x), dtype, _PACKINGS[encoding], skip, files=files)
    found = {"compression": "none" if encoding == "raw" else encoding, "bits": dtype.itemsize * 8}
    return StoredVolume(
        FlatVoxels(layout), frame, "nrrd", "NRRD by its magic number, header read by pynrrd", "NRRD",
        has_spacing=stated, found=found, notes=tuple(notes),
    )  # fmt: skip


def _header(head: bytes) -> tuple[list[bytes], int]:
    """The header's lines up to the empty one, and where the voxels begin if they are in this file."""
    lines, at = [], 0
    for line in head.splitlines(keepends=True):
        at += len(line)
        if not line.strip():
            break
        lines.append(line)
    else:
        if len(head) == _HEADER_BYTES:
            raise UnreadableSourceError(f"a NRRD header of more than {_HEADER_BYTES:,} bytes")
    return lines, at


def _dtype(fields: dict[str, Any]) -> np.dtype[Any]:
    from nrrd.reader import _TYPEMAP_NRRD2NUMPY as known

    name = str(fields.get("type", ""))
    if name not in known or name == "block":
        raise UnreadableSourceError(f"NRRD voxels of type {name!r}")
    dtype: np.dtype[Any] = np.dtype(known[name])
    order = str(fields.get("endian", "")).lower()
    if dtype.itemsize > 1 and order not in ("little", "big"):
        raise UnreadableSourceError(f"a NRRD file whose byte order is {order or 'not stated'!r}")
    return dtype.newbyteorder(">" if order == "big" else "<")


def _data(
    path: Path, fields: dict[str, Any], end: int, size: int, packing: Packing
) -> tuple[Path, int, int, tuple[Path, ...]]:
    """The file with the voxels, where they begin, how much to skip of what is unpacked, and all files."""
    named = fields.get("data file", fields.get("datafile"))
    data, at = (path, end) if named is None else (data_file(path, str(named).strip()), 0)
    files = (path,) if named is None else (path, data)
    line_skip, byte_skip = (
        int(fields.get(f"{what} skip", fields.get(f"{what}skip", 0))) for what in ("line", "byte")
    )
    if named is not None and str(named).upper().startswith("LIST"):
        raise UnreadableSourceError("a NRRD file with its voxels in several files, which is not read")
    if line_skip or byte_skip < -1 or (byte_skip == -1 and packing != "plain"):
        raise UnreadableSourceError(f"a NRRD file that skips {line_skip} lines and {byte_skip} bytes")
    if byte_skip == -1:  # the voxels are the last bytes of the file
        return data, max(at, data.stat().st_size - size), 0, files
    return (data, at + byte_skip, 0, files) if packing == "plain" else (data, at, byte_skip, files)


def _frame(fields: dict[str, Any]) -> tuple[WorldFrame, bool, list[str]]:
    notes = []
    space = str(fields.get("space", "")).lower()
    units = {str(unit).lower() for unit in fields.get("space units", ())} - {
        "mm",
        "millimeter",
        "millimeters",
        "",
    }
    if units:
        raise UnreadableSourceError(f"a NRRD file in {', '.join(sorted(units))}; millimetres are read")
    if space not in _SPACES:
        said = f"names the space {space[:40]!r}" if space else "names no space"
        notes.append(f"The file {said}: its directions are taken for LPS.")
    signs = np.array(_SPACES.get(space, (1, 1, 1)), np.float64)
    affine, stated = np.eye(4), True
    if (rows := fields.get("space directions")) is not None:
        directions = np.array(rows, np.float64)
        if directions.shape != (3, 3):
            raise UnreadableSourceError(f"NRRD space directions of shape {directions.shape}; 3 x 3 are read")
        affine[:3, :3] = (directions * signs).T
    elif (sides := fields.get("spacings")) is not None:
        spacing = np.array(sides, np.float64)
        if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
            raise UnreadableSourceError(f"NRRD spacings {spacing.tolist()} are not three positive numbers")
        affine[:3, :3] = np.diag(spacing * signs)
    else:
        stated = False
        affine[:3, :3] = np.diag(signs)
    if (origin := fields.get("space origin")) is not None:
        affine[:3, 3] = np.array(origin, np.float64) * signs
    try:
        return from_matrix(affine), stated, notes
    except ValueError as error:
        raise UnreadableSourceError(f"NRRD geometry: {error}") from error
