"""Which files make up one slide, for its digest."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SLICED = ("CT", "MR", "PT")
"""Modalities whose series are volumes."""


def files_of(path: Path, vendor: str) -> list[Path]:
    """All files of the slide or series at `path`, itself among them; `vendor` as its reader calls it."""
    if vendor == "mirax":
        return [path, *_below(path.with_suffix(""))]
    if vendor == "hamamatsu":
        return [path, *_named_in(path)]
    if vendor in ("dicom", "DICOM"):
        return _series(path)
    return [path]


def _below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []


def _named_in(path: Path) -> list[Path]:
    """Files that a VMS or VMU index names (`ImageFile(1,0)=...`), where they exist beside it."""
    if path.suffix.lower() not in (".vms", ".vmu"):
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    named = re.findall(r"^\w*File(?:\([\d,]+\))?\s*=\s*(.+?)\s*$", text, re.MULTILINE)
    found = {path.parent / Path(name).name for name in named if name}
    return sorted(p for p in found if p.is_file() and p != path)


def _series(path: Path) -> list[Path]:
    """DICOM instances in the same folder that belong to the same series, as OpenSlide gathers them."""
    own = None if path.is_dir() else _series_uid(path)
    if own is None:
        return [path]
    return sorted(p for p in path.parent.iterdir() if p == path or (p.is_file() and _series_uid(p) == own))


def _series_uid(path: Path) -> str | None:
    return _header(path, "SeriesInstanceUID")


def _header(path: Path, tag: str) -> str | None:
    """One value of a DICOM file as text; None where it has none, or is no DICOM."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return None
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[tag])
    except (InvalidDicomError, OSError, ValueError, KeyError, AttributeError):
        return None
    return str(header.get(tag, "")) or None


def one_of_each_slide(paths: Iterable[Path]) -> list[Path]:
    """`paths` without the further files of a slide that one of them stands for already: DICOM has one per level."""
    kept: list[Path] = []
    seen: set[tuple[Path, str]] = set()
    for path in paths:
        uid = None
        if _is_dicom(path):
            with contextlib.suppress(OSError):
                uid = _series_uid(path)
        if uid is not None:
            if (path.parent, uid) in seen:
                continue
            seen.add((path.parent, uid))
        kept.append(path)
    return kept


def one_of_each_scan(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """`paths` below `folder`, with one for each DICOM series: its folder where it lies there alone, else a file."""
    kept = one_of_each_slide(paths)
    series = Counter(path.parent for path in kept if _is_dicom(path))
    return [
        path.parent if _is_dicom(path) and series[path.parent] == 1 and path.parent != folder else path
        for path in kept
    ]


def one_of_each_case(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """`paths` below `folder` as of slides, but series of several slices of CT, MR or PET as `one_of_each_scan`.

    Other DICOM files, slides and single images, stay files.
    """
    paths = list(paths)
    files = Counter(path.parent for path in paths if _is_dicom(path))
    of_slides = one_of_each_slide(paths)
    series = Counter(path.parent for path in of_slides if _is_dicom(path))
    return [
        path.parent
        if _is_dicom(path)
        and series[path.parent] == 1 < files[path.parent]
        and path.parent != folder
        and _header(path, "Modality") in SLICED
        else path
        for path in of_slides
    ]


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() in (".dcm", ".dicom")
