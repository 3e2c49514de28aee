"""Predictions about slides: a folder that `medvision analyze` wrote, or CSV files of any other program."""

from __future__ import annotations

import csv
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


def read_predictions(folder: Path) -> list[SlidePrediction]:
    """Read all predictions of a folder, in order of slide name.

    Either sub-folders `SLIDE/result.json` of `medvision analyze`, with the detections from `SLIDE/detections.csv` or,
    where that is absent, from the result's regions at their peak; or files `SLIDE.csv` with the columns probability, x,
    y in level-0 pixels, and, for a score per slide, `slide_scores.csv` with the columns slide, probability and, where
    known, the level-0 spacing in um/px. A header line is allowed. A slide without detections needs its (empty) file.
    Results set aside by the store are passed over.

    Raises:
        UsageError: if the folder holds neither, or a file is malformed, or a slide failed or was rejected, or two files
            are of one slide (names are compared without regard to case).
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of predictions")
    results = sorted(path for path in folder.glob(f"*/{RESULT}") if not is_set_aside(path.parent))
    if results:
        _refuse_twins(folder, [path.parent.name for path in results])
        return [_read_result(path) for path in results]
    tables = sorted(path for path in folder.glob("*.csv") if path.name != SLIDE_SCORES)
    if not tables:
        raise UsageError(
            f"{folder}: holds neither SLIDE/{RESULT} as written by `medvision analyze` nor SLIDE.csv"
        )
    _refuse_twins(folder, [path.stem for path in tables])
    scores = _read_scores(folder / SLIDE_SCORES)
    names = {path.stem for path in tables}
    if strangers := sorted(set(scores) - names):
        raise UsageError(
            f"{folder / SLIDE_SCORES}: scores slides without a detection file: {', '.join(strangers)}"
        )
    if scores and (missing := sorted(names - set(scores))):
        raise UsageError(f"{folder / SLIDE_SCORES}: has no score for {', '.join(missing)}")
    return [
        SlidePrediction(path.stem, *read_detections(path), *scores.get(path.stem, (None, None)))
        for path in tables
    ]


def read_detections(path: Path) -> tuple[Floats, Floats]:
    """Points (n, 2) as (row, column), and probabilities (n,), of a CSV of probability, x, y; x is the column.

    Raises:
        UsageError: if a line does not hold these three numbers, or a probability is outside [0, 1].
    """
    rows = []
    for number, row in _rows(path, "probability"):
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
            f"{path}: the slide was not scored ({result.verdict}: {result.reason}); analyse it again"
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
    for number, row in _rows(path, "slide"):
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


def _rows(path: Path, first_column: str) -> list[tuple[int, list[str]]]:
    """Lines with their number, without blank lines and the header, known by the name of its first column."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [
                (i, row) for i, row in enumerate(csv.reader(stream), 1) if any(cell.strip() for cell in row)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV: {error}") from error
    is_header = bool(rows) and rows[0][1][0].strip().lower() in (
        first_column,
        "confidence",
        "score",
        "image",
        "name",
    )
    return rows[1:] if is_header else rows
