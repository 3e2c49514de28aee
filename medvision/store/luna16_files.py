"""The files of LUNA16: scans, annotated and excluded findings, candidates, and which fold a scan is in.

Series uids are text from the first to the last line: as numbers they would all become one.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.metrics.nodules import Findings
from medvision.store.files import atomic_write
from medvision.store.tables import CsvTable, read_number, read_table

Floats = npt.NDArray[np.float64]

CANDIDATE_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "probability")
_COORDINATES = ("coordx", "coordy", "coordz")
_SPREADSHEET = re.compile(r"\d+([.,]\d+)?[eE]\+?\d+")
SCAN_SUFFIXES = (".nii.gz", ".mhd", ".mha", ".nii", ".nrrd", ".nhdr")
"""Of the files that a scan is opened by."""
_SUFFIXES = (*SCAN_SUFFIXES, ".raw", ".zraw", ".dcm", ".dicom")


@dataclass(frozen=True, eq=False)
class Points:
    """Rows of a table by scan: `centres` (n, 3) as (x, y, z) in world mm, and a `value` (n,) of each."""

    centres: Floats
    values: Floats


@dataclass(frozen=True, eq=False)
class ScanTable:
    """Points of the scans that have any, and `notes` on what was passed over or taken for something else."""

    scans: dict[str, Points]
    notes: tuple[str, ...]

    def findings(self, uid: str) -> Findings:
        """The findings of a scan, their values taken for diameters in mm."""
        found = self.scans.get(uid)
        return (
            Findings(np.empty((0, 3)), np.empty(0))
            if found is None
            else Findings(found.centres, found.values)
        )


def series_name(name: str) -> str:
    """What a scan of this file name is called in LUNA16's tables: the name without the ending of its format."""
    ending = next((one for one in _SUFFIXES if name.lower().endswith(one) and len(name) > len(one)), "")
    return name[: len(name) - len(ending)]


def read_series(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The uids of the scans, in order, and notes. The first cell of each line is one; a header is passed over.

    Raises:
        UsageError: if the file cannot be read, names no scan or one twice, or holds uids that became numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            cells = [(i, row[0].strip()) for i, row in enumerate(csv.reader(stream), 1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV: {error}") from error
    notes: tuple[str, ...] = ()
    if cells and cells[0][1].lower() == "seriesuid":
        cells = cells[1:]
        notes = (f"{path.name}: its first line is a header; the official script would count it as a scan",)
    lines: dict[str, int] = {}
    for number, uid in cells:
        _check_uid(path, number, uid)
        if (first := lines.setdefault(uid, number)) != number:
            raise UsageError(f"{path}, line {number}: {uid} is already in line {first}")
    if not lines:
        raise UsageError(f"{path}: names no scan")
    return tuple(lines), notes


def read_annotations(path: Path, series: Collection[str], excluded: bool) -> ScanTable:
    """Nodules, or findings that count neither way, with their diameters in mm.

    A negative diameter stands for an unknown one; for excluded findings its cell or its column may be left out.

    Raises:
        UsageError: if the file cannot be read, lacks a column, or a cell is no finite number.
    """
    required = ("seriesuid", *_COORDINATES, *(() if excluded else ("diameter_mm",)))
    table = read_table(path, required, ("diameter_mm",), may_be_empty=excluded)
    cells = [(n, row.get("diameter_mm", "") if excluded else row["diameter_mm"]) for n, row in table.rows]
    diameters = [
        -1.0 if excluded and text == "" else _number(path, number, "diameter_mm", text)
        for number, text in cells
    ]
    notes = []
    if not excluded and (unknown := sum(d < 0 for d in diameters)):
        notes.append(
            f"{path.name}: {unknown} nodules have a negative diameter, which stands for an unknown one, 10 mm"
        )
    if zero := sum(d == 0 for d in diameters):
        notes.append(f"{path.name}: {zero} findings have a diameter of 0, which nothing can hit")
    return _by_scan(table, diameters, series, notes)


def read_candidates(path: Path, series: Collection[str]) -> ScanTable:
    """Candidates with their probability, any finite number: a CSV file, or a folder whose CSV files are pooled.

    Raises:
        UsageError: if a file cannot be read, lacks a column, a cell is no finite number, the candidates of a scan come
            from two files, or none is of a scan of `series`.
    """
    paths = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not paths:
        raise UsageError(f"{path}: holds no CSV file of candidates")
    scans: dict[str, Points] = {}
    source: dict[str, Path] = {}
    notes: list[str] = []
    rows = 0
    for one in paths:
        required = ("seriesuid", *_COORDINATES, "probability")
        table = read_table(one, required, may_be_empty=True)
        rows += len(table.rows)
        values = [_number(one, number, "probability", row["probability"]) for number, row in table.rows]
        read = _by_scan(table, values, series, [])
        for uid, points in read.scans.items():
            if (first := source.setdefault(uid, one)) != one:
                raise UsageError(
                    f"{path}: candidates of {uid} are in {first.name} and in {one.name}; a scan belongs to one fold"
                )
            scans[uid] = points
        notes += read.notes
    if rows and not scans:
        raise UsageError(f"{path}: none of its {rows} candidates is of a scan that is listed")
    if copies := sum(_copies(points) for points in scans.values()):
        notes.append(
            f"{path.name}: {copies} candidates come more than once; each counts, as in the official script"
        )
    return ScanTable(scans, tuple(notes))


def write_candidates(path: Path, scans: Mapping[str, Points]) -> None:
    """Write candidates with their probabilities, scan by scan, whole or not at all; `read_candidates` reads them."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CANDIDATE_COLUMNS)
    for uid, points in scans.items():
        for centre, value in zip(points.centres, points.values, strict=True):
            # Nine digits tell any two numbers of single precision apart: near 1, where the best ones are, six do not.
            writer.writerow([uid, *(f"{v:.4f}" for v in centre), f"{value:.9g}"])
    atomic_write(path, stream.getvalue().encode())


def write_series(path: Path, series: Sequence[str]) -> None:
    """Write the uids of scans, one a line, without a header; `read_series` reads them."""
    atomic_write(path, "".join(f"{uid}\n" for uid in series).encode())


def read_folds(path: Path, series: Sequence[str]) -> dict[str, str]:
    """Name of the fold of each scan: from a CSV of seriesuid,fold, or a folder with a folder of scans per fold.

    LUNA16's own layout, subset0/UID.mhd to subset9/UID.mhd, is such a folder.

    Raises:
        UsageError: if it cannot be read, or a scan has no fold or two.
    """
    pairs = _fold_folders(path, series) if path.is_dir() else _fold_rows(path)
    known = set(series)
    folds: dict[str, str] = {}
    for uid, fold in pairs:
        if uid in known and folds.setdefault(uid, fold) != fold:
            raise UsageError(f"{path}: {uid} is in two folds, {folds[uid]} and {fold}")
    if missing := [uid for uid in series if uid not in folds]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UsageError(f"{path}: has no fold for {', '.join(missing[:3])}{more}")
    return folds


def _fold_rows(path: Path) -> list[tuple[str, str]]:
    return [(row["seriesuid"], row["fold"]) for _, row in read_table(path, ("seriesuid", "fold")).rows]


def _fold_folders(path: Path, series: Sequence[str]) -> list[tuple[str, str]]:
    known = set(series)
    pairs = []
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        for scan in folder.iterdir():
            endings = (s for s in _SUFFIXES if scan.name.lower().endswith(s))
            names = {scan.name, *(scan.name[: -len(ending)] for ending in endings)}
            pairs += [(uid, folder.name) for uid in names & known]
    return pairs


def _by_scan(
    table: CsvTable, values: Sequence[float], series: Collection[str], notes: Sequence[str]
) -> ScanTable:
    known, others = set(series), 0
    rows: dict[str, list[tuple[float, ...]]] = {}
    for (number, row), value in zip(table.rows, values, strict=True):
        _check_uid(table.path, number, row["seriesuid"])
        x, y, z = (_number(table.path, number, axis, row[axis]) for axis in _COORDINATES)
        if row["seriesuid"] in known:
            rows.setdefault(row["seriesuid"], []).append((x, y, z, value))
        else:
            others += 1
    arrays = {uid: np.array(found, dtype=np.float64) for uid, found in rows.items()}
    notes = [*notes]
    if others:
        notes.append(
            f"{table.path.name}: {others} of {len(table.rows)} rows are of scans that are not listed; they are not "
            "counted, as in the official script"
        )
    return ScanTable({uid: Points(a[:, :3], a[:, 3]) for uid, a in arrays.items()}, tuple(notes))


def _copies(points: Points) -> int:
    rows = np.column_stack([points.centres, points.values])
    return len(rows) - len(np.unique(rows, axis=0))


def _check_uid(path: Path, line: int, uid: str) -> None:
    if not uid:
        raise UsageError(f"{path}, line {line}: no seriesuid")
    if _SPREADSHEET.fullmatch(uid):
        raise UsageError(
            f"{path}, line {line}: the seriesuid {uid} is a rounded number, as spreadsheets make of uids; keep them as "
            "text"
        )


def _number(path: Path, line: int, column: str, text: str) -> float:
    value = read_number(path, line, column, text, -math.inf, math.inf)
    if math.isinf(value):
        raise UsageError(f"{path}, line {line}: {column} {text!r} is not finite")
    return value
