"""Predictions about slides: a folder that `medvision analyze` wrote, or CSV files of any other program."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from medvision.core.errors import UsageError
from medvision.store.files import is_set_aside
from medvision.store.records import SlideResult

Floats = npt.NDArray[np.float64]

RESULT = "result.json"
DETECTIONS = "detections.csv"
SLIDE_SCORES = "slide_scores.csv"


@dataclass(frozen=True, eq=False)
class SlidePrediction:
    """What was predicted about one slide.

    `points` is (n, 2), (row, column) in level-0 pixels, with `probabilities` (n,). `score` is that of the slide, None
    if none was given. `spacing_um` and `shape` of level 0 are known where the prediction says so. `note` says what had
    to be interpreted.
    """

    slide: str
    points: Floats
    probabilities: Floats
    score: float | None
    spacing_um: tuple[float, float] | None = None
    shape: tuple[int, int] | None = None
    note: str = ""


def read_predictions(folder: Path, exclude: Collection[str] = ()) -> list[SlidePrediction]:
    """Read all predictions of a folder, in order of slide name.

    Either sub-folders `SLIDE/result.json` of `medvision analyze`, with the detections from `SLIDE/detections.csv` or,
    where that is absent, from the result's regions at their peak; or files `SLIDE.csv` with the columns probability, x,
    y in level-0 pixels, and, for a score per slide, `slide_scores.csv` with the columns slide, probability and, where
    known, the level-0 spacing in um/px. A header line is allowed. A slide without detections needs its (empty) file.
    Results set aside by the store are passed over, and slides of `exclude` (without regard to case) are not read.

    Raises:
        UsageError: if the folder holds neither, or a file is malformed, or a slide failed or was rejected, or two files
            are of one slide (names are compared without regard to case).
    """
    left_out = {name.casefold() for name in exclude}
    found = {name: path for name, path in _files(folder).items() if name.casefold() not in left_out}
    if any(path.name == RESULT for path in found.values()):
        return [_read_result(path) for path in found.values()]
    scores = _read_scores(folder / SLIDE_SCORES)
    if strangers := sorted(name for name in scores.keys() - found if name.casefold() not in left_out):
        raise UsageError(
            f"{folder / SLIDE_SCORES}: scores slides without a detection file: {', '.join(strangers)}"
        )
    if scores and (missing := sorted(found.keys() - scores)):
        raise UsageError(f"{folder / SLIDE_SCORES}: has no score for {', '.join(missing)}")
    return [
        SlidePrediction(name, *read_detections(path), *scores.get(name, (None, None)))
        for name, path in found.items()
    ]


def predicted_slides(folder: Path) -> list[str]:
    """Names of the slides that a folder of predictions holds, whatever became of them.

    Raises:
        UsageError: if it holds none, or two files of one slide.
    """
    return list(_files(folder))


def _files(folder: Path) -> dict[str, Path]:
    """The result or table of each slide, in order of name."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of predictions")
    found = {
        path.parent.name: path for path in sorted(folder.glob(f"*/{RESULT}")) if not is_set_aside(path.parent)
    }
    if not found:
        found = {path.stem: path for path in sorted(folder.glob("*.csv")) if path.name != SLIDE_SCORES}
    if not found:
        raise UsageError(
            f"{folder}: holds neither SLIDE/{RESULT} as written by `medvision analyze` nor SLIDE.csv"
        )
    _refuse_twins(folder, list(found))
    return found


def read_detections(path: Path) -> tuple[Floats, Floats]:
    """Points (n, 2) as (row, column), and probabilities (n,), of a CSV of probability, x, y; x is the column.

    Raises:
        UsageError: if a header names the columns in another order, a line does not hold these three numbers, or a
            probability is outside [0, 1].
    """
    rows = []
    head, lines = _rows(path, ("probability", "confidence", "score"))
    if head and not (len(head) > 2 and head[1].startswith("x") and head[2].startswith("y")):
        raise UsageError(
            f"{path}: the columns are {', '.join(head)}; the first three must be probability, x, y"
        )
    for number, row in lines:
        try:
            probability, x, y = (float(cell) for cell in row[:3])
        except ValueError as error:
            raise UsageError(
                f"{path}, line {number}: {row} does not start with numbers probability, x, y"
            ) from error
        if not (0 <= probability <= 1 and np.isfinite((x, y)).all()):
            raise UsageError(
                f"{path}, line {number}: probability {probability} at ({x}, {y}); it must be in [0, 1]"
            )
        rows.append((probability, y, x))
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return table[:, 1:], table[:, 0]


def _read_result(path: Path) -> SlidePrediction:
    try:
        result = SlideResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{path}: is no slide result that this version reads: {error}") from error
    if result.verdict in ("failed", "QC rejected"):
        raise UsageError(
            f"{path}: the slide was not scored ({result.verdict}: {result.reason}); analyse it again or exclude "
            f"{path.parent.name!r} by name"
        )
    table = path.with_name(DETECTIONS)
    if table.exists():
        points, probabilities = read_detections(table)
    else:
        points = np.array([region.peak for region in result.regions], dtype=np.float64).reshape(-1, 2)
        probabilities = np.array([region.score for region in result.regions], dtype=np.float64)
    score, note = result.probability, ""
    if score is None and result.verdict == "no tissue":
        score, note = 0.0, f"{path.parent.name}: no tissue was found; its slide score counts as 0"
    return SlidePrediction(
        path.parent.name, points, probabilities, score, result.slide.spacing_um, result.slide.shape, note
    )


def _refuse_twins(folder: Path, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (first := seen.setdefault(name.casefold(), name)) is not name:
            raise UsageError(
                f"{folder}: {first!r} and {name!r} are predictions for one slide; remove one of them"
            )


def _read_scores(path: Path) -> dict[str, tuple[float, tuple[float, float] | None]]:
    """Score, and spacing where it is stated, of each slide."""
    scores: dict[str, tuple[float, tuple[float, float] | None]] = {}
    if not path.exists():
        return scores
    for number, row in _rows(path, ("slide", "image", "name"))[1]:
        try:
            name, score = row[0].strip(), float(row[1])
            spacing = float(row[2]) if len(row) > 2 and row[2].strip() else None
        except (ValueError, IndexError) as error:
            raise UsageError(f"{path}, line {number}: {row} is not slide, probability, spacing") from error
        if not np.isfinite(score) or name in scores:
            raise UsageError(f"{path}, line {number}: {name!r} twice, or its score {score} is not finite")
        if spacing is not None and not (np.isfinite(spacing) and spacing > 0):
            raise UsageError(f"{path}, line {number}: a spacing of {spacing} um/px; it must be above 0")
        scores[name] = score, None if spacing is None else (spacing, spacing)
    return scores


def _rows(path: Path, first_columns: Collection[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header in lower case, known by its first column, or nothing; and the other lines with their number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [
                (i, row) for i, row in enumerate(csv.reader(stream), 1) if any(cell.strip() for cell in row)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV: {error}") from error
    head = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    if head and head[0] in first_columns:
        return head, rows[1:]
    return [], rows
