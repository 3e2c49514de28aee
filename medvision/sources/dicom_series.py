"""Which DICOM files make one volume, in which order, and what is wrong with them. Headers alone decide.

Slices are sorted by their position along the normal of their plane (PS3.3 C.7.6.2.1.1), never by name or number. What
cannot be a straight, evenly spaced stack is refused with the place and the figure; see `docs/volumes.md` for the table.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvision.core.errors import MedvisionError, UnreadableSourceError
from medvision.core.world import WorldFrame
from medvision.sources.faults import LIBRARY_ERRORS, quiet, reason_of
from medvision.sources.still_dicom import refuse_deflated

SLICE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PET",
}
"""One image in each file, with its place in the patient."""
_ENHANCED = {
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced CT", "1.2.840.10008.5.1.4.1.1.4.1": "enhanced MR",
    "1.2.840.10008.5.1.4.1.1.130": "enhanced PET", "1.2.840.10008.5.1.4.1.1.2.2": "legacy converted enhanced CT",
}  # fmt: skip
MOST_FILES = 20_000
"""Most files of a folder that are looked at."""
_SAME_MM = 0.01
"""Positions closer than this are one place: files round to about a micrometre."""
_UNEVEN = 0.02
"""Largest deviation of a step from the others that counts as rounding, relative."""
_TILT_DEGREES = 0.3
"""Largest angle between the stack and its normal that counts as rounding: half a pixel in 10 cm."""
_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Rows", "Columns", "NumberOfFrames", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "BitsStored", "BitsAllocated", "PixelRepresentation", "SamplesPerPixel",
    "Modality", "Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "KVP",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slice:
    """One file of a series: its place, and how its pixels become values.

    `position` is the centre of its first pixel and `across`, `down` the directions of its rows and columns, in LPS
    millimetres; `spacing` is (row, column).
    """

    path: Path
    position: tuple[float, ...]
    across: tuple[float, ...]
    down: tuple[float, ...]
    spacing: tuple[float, float]
    shape: tuple[int, int]
    slope: float
    intercept: float
    stored: np.dtype[Any]
    bits: int
    uid: str
    """`SOPInstanceUID`; empty where the file has none."""


@dataclass(frozen=True, eq=False)
class Series:
    """Slices in their order, the frame of the stack, and the header of the first for facts."""

    slices: tuple[Slice, ...]
    frame: WorldFrame
    header: Any
    kind: str
    notes: tuple[str, ...]


def gather(path: Path, same: Callable[[Slice, Slice], bool]) -> Series | None:
    """The series in a folder, or the one that a file belongs to with the other files of its folder.

    `same` says whether two slices hold the same pixels. None where the file, or each file of the folder, is no
    slice of a CT, MR or PET.

    Raises:
        UnreadableSourceError: if a folder holds several series, or the slices are no straight, evenly spaced stack.
    """
    if path.is_dir():
        headers = list(_headers(path))
        found = Counter(_uid(header) for _, header in headers)
        if len(found) > 1:
            first = {_uid(header): file.name for file, header in reversed(headers)}
            some = ", ".join(f"{count} files like {first[uid]}" for uid, count in found.most_common(4))
            raise UnreadableSourceError(
                f"{len(found)} series in one folder ({some}); name a file of the one wanted"
            )
        if not headers:
            return None
    else:
        own = _header(path)
        if own is None:
            return None
        if (kind := _ENHANCED.get(str(own.get("SOPClassUID")))) or int(own.get("NumberOfFrames") or 1) > 1:
            raise UnreadableSourceError(
                f"{kind or 'a slice'} with several frames in one file, which is not read; save one file for each slice"
            )
        headers = [one for one in _headers(path.parent) if _uid(one[1]) == _uid(own)]
    return _series(headers, same)


def _headers(folder: Path) -> Iterator[tuple[Path, Any]]:
    """Slices in a folder, in order of name: only so that errors name the same file each time."""
    files = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    if len(files) > MOST_FILES:
        raise UnreadableSourceError(f"a folder of {len(files):,} files; at most {MOST_FILES:,} are looked at")
    for name in files:
        header = _header(folder / name)
        if header is not None and str(header.get("SOPClassUID")) in SLICE_CLASSES:
            yield folder / name, header


def _header(path: Path) -> Any | None:
    """The tags that are needed, None for what is no DICOM slice. What is damaged beyond its first bytes is told."""
    import pydicom

    try:
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return None
            refuse_deflated(stream)
            stream.seek(0)
            header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(_TAGS))
        # Values are converted, and found to be odd, when they are first looked at.
        known = str(header.get("SOPClassUID")) in SLICE_CLASSES | _ENHANCED
    except MedvisionError as error:
        raise UnreadableSourceError(f"{path.name}: {error}") from error
    except LIBRARY_ERRORS as error:
        raise UnreadableSourceError(f"{path.name}: damaged DICOM header: {reason_of(error)}") from error
    return header if known else None


def _uid(header: Any) -> str:
    return str(header.get("SeriesInstanceUID", ""))


def _series(headers: list[tuple[Path, Any]], same: Callable[[Slice, Slice], bool]) -> Series:
    with quiet():
        slices = [_slice(path, header) for path, header in headers]
    first = slices[0]
    for other in slices[1:]:
        _check_alike(first, other)
    across, down = np.array(first.across), np.array(first.down)
    normal = np.cross(across, down)
    slices.sort(key=lambda s: float(np.dot(s.position, normal)))
    notes: list[str] = []
    slices = _without_copies(slices, normal, same, notes)
    places = np.array([np.dot(s.position, normal) for s in slices])
    header = dict(headers)[first.path]
    if len(slices) == 1:
        step = _thickness(header)
        notes.append(f"A single slice: its thickness of {step:g} mm is taken for the spacing of planes.")
    else:
        step = _step(places)
        _check_straight(slices, normal, places)
    row, column = first.spacing
    origin = slices[0].position
    frame = WorldFrame(
        (origin[0], origin[1], origin[2]),
        (step, row, column),
        (tuple(normal.tolist()), tuple(down.tolist()), tuple(across.tolist())),
    )
    return Series(tuple(slices), frame, header, SLICE_CLASSES[str(header.SOPClassUID)], tuple(notes))


def _slice(path: Path, header: Any) -> Slice:
    try:
        position = _numbers(header, "ImagePositionPatient", 3)
        cosines = np.array(_numbers(header, "ImageOrientationPatient", 6)).reshape(2, 3)
        spacing = _numbers(header, "PixelSpacing", 2)
        if int(header.get("SamplesPerPixel") or 1) != 1:
            raise UnreadableSourceError("colour, not grey")
        if not all(v > 0 for v in spacing):
            raise UnreadableSourceError(f"a pixel spacing of {spacing} mm is not positive")
        lengths = np.linalg.norm(cosines, axis=1)
        if not (np.abs(lengths - 1) < 0.01).all() or abs(cosines[0] @ cosines[1]) > 1e-3:
            raise UnreadableSourceError(
                f"an orientation of {cosines.ravel().tolist()} is not two unit vectors at a right angle"
            )
        across, down = cosines / lengths[:, None]
        scale = [1.0 if header.get("RescaleSlope") is None else float(header.RescaleSlope)]
        scale += [0.0 if header.get("RescaleIntercept") is None else float(header.RescaleIntercept)]
        if not all(math.isfinite(v) for v in scale) or scale[0] == 0:
            raise UnreadableSourceError(f"values rescaled by {scale[0]} and {scale[1]}")
        bits = int(header.BitsStored)
        allocated = int(header.BitsAllocated)
        if allocated not in (8, 16, 32) or not 1 <= bits <= allocated:
            raise UnreadableSourceError(f"{bits} bits stored of {allocated}")
        signed = int(header.get("PixelRepresentation") or 0) == 1
        stored = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
        shape = (int(header.Rows), int(header.Columns))
    except MedvisionError as error:
        raise UnreadableSourceError(f"{path.name}: {error}") from error
    except LIBRARY_ERRORS as error:
        raise UnreadableSourceError(f"{path.name}: damaged DICOM header: {reason_of(error)}") from error
    return Slice(
        path, tuple(position), tuple(across.tolist()), tuple(down.tolist()), (spacing[0], spacing[1]), shape,
        scale[0], scale[1], stored, bits, str(header.get("SOPInstanceUID") or ""),
    )  # fmt: skip


def _numbers(header: Any, name: str, count: int) -> list[float]:
    value = header.get(name)
    values = [] if value is None or value == "" else [float(v) for v in value]
    if len(values) != count or not all(math.isfinite(v) for v in values):
        raise UnreadableSourceError(f"{name} is {value or 'not stated'}; {count} numbers are wanted")
    return values


def _check_alike(first: Slice, other: Slice) -> None:
    names = f"{first.path.name} and {other.path.name}"
    if first.shape != other.shape:
        raise UnreadableSourceError(f"mixed sizes: {names} have {first.shape} and {other.shape} pixels")
    if max(abs(a - b) / a for a, b in zip(first.spacing, other.spacing, strict=True)) > 1e-3:
        raise UnreadableSourceError(f"mixed spacings: {names} have {first.spacing} and {other.spacing} mm")
    turned = np.abs(np.subtract((first.across, first.down), (other.across, other.down))).max()
    if turned > 1e-3:
        raise UnreadableSourceError(
            f"mixed orientations: {names} lie in different planes, as a scout and its scan do"
        )


def _without_copies(
    slices: list[Slice], normal: Any, same: Callable[[Slice, Slice], bool], notes: list[str]
) -> list[Slice]:
    """Of slices at one place, one where all are the same; different ones are several scans in a series."""
    kept = [slices[0]]
    for one in slices[1:]:
        last = kept[-1]
        if np.dot(np.subtract(one.position, last.position), normal) > _SAME_MM:
            kept.append(one)
        elif not same(last, one):
            raise UnreadableSourceError(
                f"duplicate positions: {last.path.name} and {one.path.name} lie at the same place and differ; "
                "the series holds several acquisitions or phases"
            )
    if len(kept) < len(slices):
        notes.append(
            f"{len(slices) - len(kept)} slices are copies of others, pixel by pixel, and were left out."
        )
    return kept


def _step(places: Any) -> float:
    """The even distance of the slices. Raises where one is missing or the distances differ."""
    steps = np.diff(places)
    least = float(steps.min())
    missing = [(k, round(float(d) / least) - 1) for k, d in enumerate(steps) if d > 1.5 * least]
    if missing and all(abs(float(steps[k]) / least - (n + 1)) <= _UNEVEN * (n + 1) for k, n in missing):
        k, _ = missing[0]
        raise UnreadableSourceError(
            f"missing slices: {sum(n for _, n in missing)} of {len(places) + sum(n for _, n in missing)}, the first "
            f"between {places[k]:.2f} and {places[k + 1]:.2f} mm along the stack, where others are {least:.3g} mm apart"
        )
    step = float(places[-1] - places[0]) / (len(places) - 1)
    worst = int(np.abs(steps - step).argmax())
    if abs(float(steps[worst]) - step) > max(_UNEVEN * step, 2 * _SAME_MM):
        raise UnreadableSourceError(
            f"uneven steps: slices are {steps.min():.3f} to {steps.max():.3f} mm apart, such as "
            f"{steps[worst]:.3f} mm after {places[worst]:.2f} mm; resample the scan to even steps first"
        )
    return step


def _check_straight(slices: list[Slice], normal: Any, places: Any) -> None:
    """Each slice must lie straight above the first."""
    offsets = np.array([s.position for s in slices]) - np.array(slices[0].position)
    aside = offsets - np.outer(places - places[0], normal)
    far = np.linalg.norm(aside, axis=1)
    angle = math.degrees(math.atan2(float(far[-1]), float(places[-1] - places[0])))
    if angle > _TILT_DEGREES and far[-1] > 2 * _SAME_MM:
        raise UnreadableSourceError(
            f"gantry tilt: the stack leans {angle:.1f} degrees from the normal of its slices; straighten the "
            "scan first (dcm2niix and others do)"
        )
    if far.max() > 0.5 * min(slices[0].spacing):
        worst = slices[int(far.argmax())].path.name
        raise UnreadableSourceError(f"shifted slices: {worst} lies {far.max():.2f} mm beside the others")


def _thickness(header: Any) -> float:
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        try:
            value = abs(float(header.get(name)))
        except (TypeError, ValueError):
            continue
        if math.isfinite(value) and value > 0:
            return value
    raise UnreadableSourceError("a single slice whose thickness is not stated")
