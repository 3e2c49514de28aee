"""MetaImage: `.mhd` with its voxels in another file, or `.mha` with both in one.

The header is a text of a dozen `Key = Value` lines, read here: the library for it, ITK, follows whatever path the
header names and takes a compressed scan several times over in memory, and both are what this reader must not do.

Offsets and directions are LPS, as LUNA16 has them; `AnatomicalOrientation` is a comment that writers disagree on.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medvision.core.errors import MedvisionError, UnreadableSourceError
from medvision.core.world import from_matrix
from medvision.sources.base import VOLUMES, Source
from medvision.sources.faults import LIBRARY_ERRORS, DeclinedError, reason_of
from medvision.sources.flat_voxels import FlatVoxels, Layout, check_voxels, data_file
from medvision.sources.volume import StoredVolume, Volume

_HEADER_BYTES = 1 << 16
_FIELD = re.compile(rb"[ \t]*([A-Za-z_]\w*)[ \t]*=[ \t]*(.*?)[ \t]*\r?\n?\Z")
_AXES = re.compile(rb"^[ \t]*NDims[ \t]*=", re.MULTILINE)
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip


@VOLUMES.register("metaimage")
def open_metaimage(path: Path) -> Source:
    """Open a `.mhd` or `.mha`."""
    with path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
    found = _AXES.search(head[:2048])
    if found is None or b"\0" in head[: found.end()]:
        raise DeclinedError("not a MetaImage file")
    try:
        return Volume(path, _stored(path, head))
    except MedvisionError:
        raise
    except LIBRARY_ERRORS as error:
        raise UnreadableSourceError(f"damaged MetaImage header: {reason_of(error)}") from error


def _stored(path: Path, head: bytes) -> StoredVolume:
    fields, end = _fields(head)
    if (axes := _numbers(fields, "NDims", 1)[0]) != 3:
        raise UnreadableSourceError(f"a MetaImage of {axes:g} axes; three are read")
    for name in ("ElementNumberOfChannels", "ElementNumberOfComponents"):
        if name in fields and fields[name] != "1":
            raise UnreadableSourceError(f"a MetaImage of {fields[name]} channels; one is read")
    if fields.get("BinaryData", "True").lower() == "false":
        raise UnreadableSourceError("a MetaImage with its voxels written as text, which is not read")
    sides = _numbers(fields, "DimSize", 3)
    if any(not v.is_integer() for v in sides):
        raise UnreadableSourceError(f"MetaImage sides {fields['DimSize']!r}")
    x, y, z = (int(v) for v in sides)
    check_voxels((z, y, x))
    dtype = _dtype(fields)
    packed = fields.get("CompressedData", "False").lower() == "true"
    data, offset, files = _data(path, fields, end, z * y * x * dtype.itemsize, packed)
    affine, stated, notes = _affine(fields)
    try:
        frame = from_matrix(affine)
    except ValueError as error:
        raise UnreadableSourceError(f"MetaImage geometry: {error}") from error
    layout = Layout(data, offset, (z, y, x), dtype, "deflate" if packed else "plain", files=files)
    found = {
        "compression": "zlib" if packed else "none",
        "bits": dtype.itemsize * 8,
        "modality": {"MET_MOD_CT": "CT", "MET_MOD_MR": "MR"}.get(fields.get("Modality", "")),
    }
    return StoredVolume(
        FlatVoxels(layout), frame, "metaimage", "MetaImage by its header", "MetaImage", has_spacing=stated,
        quantity="HU" if found["modality"] == "CT" else None, found=found, notes=tuple(notes),
    )  # fmt: skip


def _fields(head: bytes) -> tuple[dict[str, str], int]:
    """The header's fields, and where it ends: `ElementDataFile` is the last of them by definition."""
    fields: dict[str, str] = {}
    at = 0
    while end := head.find(b"\n", at) + 1 or (len(head) if at < len(head) else 0):
        line, at = head[at:end], end
        if b"=" not in line or line.lstrip().startswith(b"#"):
            continue  # empty lines and remarks, which some writers leave
        field = _FIELD.match(line)
        if field is None:
            raise UnreadableSourceError(f"a MetaImage header with a damaged line: {line[:60]!r}")
        name = field[1].decode("ascii", "replace")
        if name in fields:
            raise UnreadableSourceError(f"a MetaImage header that states {name} twice")
        fields[name] = field[2].decode("utf-8", "surrogateescape")
        if name == "ElementDataFile":
            return fields, at
    raise UnreadableSourceError("a MetaImage header that does not say where its voxels are (ElementDataFile)")


def _data(
    path: Path, fields: dict[str, str], end: int, size: int, packed: bool
) -> tuple[Path, int, tuple[Path, ...]]:
    """The file with the voxels, where they begin there, and all files of the volume."""
    named = fields["ElementDataFile"]
    skip = int(fields.get("HeaderSize", "0"))
    if named.upper() == "LOCAL":
        return path, end, (path,)
    if named.upper().split(" ")[0] == "LIST" or "%" in named:
        raise UnreadableSourceError(
            "a MetaImage with one file for each plane, which is not read; save it as .mha"
        )
    data = data_file(path, named)
    if skip == -1 and not packed:  # the voxels are the last bytes of the file
        skip = max(0, data.stat().st_size - size)
    if skip < 0:
        raise UnreadableSourceError(f"a MetaImage whose HeaderSize is {skip}")
    return data, skip, (path, data)


def _dtype(fields: dict[str, str]) -> np.dtype[np.generic]:
    name = fields.get("ElementType", "")
    if name not in _TYPES:
        raise UnreadableSourceError(
            f"MetaImage voxels of type {name or 'unstated'!r}; read are {', '.join(_TYPES)}"
        )
    orders = {
        fields[key].lower() for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") if key in fields
    }
    if len(orders) > 1:
        raise UnreadableSourceError("a MetaImage header that states two byte orders")
    return np.dtype((">" if orders == {"true"} else "<") + _TYPES[name])


def _affine(fields: dict[str, str]) -> tuple[np.ndarray, bool, list[str]]:
    """Index (x, y, z, 1) to LPS millimetres, whether the file states a spacing, and what was taken for granted."""
    notes = []
    given = next((key for key in ("ElementSpacing", "ElementSize") if key in fields), None)
    spacing = _numbers(fields, given, 3) if given else [1.0] * 3
    if not all(np.isfinite(v) and v > 0 for v in spacing):
        raise UnreadableSourceError(f"MetaImage spacing {fields[given or '']!r} is not positive")
    turned = next((key for key in ("TransformMatrix", "Rotation", "Orientation") if key in fields), None)
    # Each group of three is the direction of one axis of the file.
    directions = np.reshape(_numbers(fields, turned, 9), (3, 3)) if turned else np.eye(3)
    placed = next((key for key in ("Offset", "Origin", "Position") if key in fields), None)
    if turned is None:
        notes.append("The file does not state its orientation: LPS is taken for granted.")
    affine = np.eye(4)
    affine[:3, :3] = directions.T * np.array(spacing)
    affine[:3, 3] = _numbers(fields, placed, 3) if placed else [0.0] * 3
    return affine, given is not None, notes


def _numbers(fields: dict[str, str], key: str, count: int) -> list[float]:
    if key not in fields:
        raise UnreadableSourceError(f"a MetaImage header without {key}")
    try:
        values = [float(word) for word in fields[key].split()]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise UnreadableSourceError(f"MetaImage {key} {fields[key][:80]!r}: {count} numbers are wanted")
    return values
