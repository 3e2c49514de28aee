"""Predictions and references as CSV files with a header, read strictly: a fault names file and line."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from medvision.core.errors import UsageError


@dataclass(frozen=True, eq=False)
class CsvTable:
    """Rows as (line number, column to text without surrounding blanks).

    `columns` are in lower case and `written` as the file has them; `unused` are those that were not wanted.
    """

    path: Path
    rows: tuple[tuple[int, dict[str, str]], ...]
    columns: tuple[str, ...]
    written: tuple[str, ...]
    unused: tuple[str, ...]


def read_table(
    path: Path, required: Collection[str], optional: Collection[str] = (), may_be_empty: bool = False
) -> CsvTable:
    """A CSV file in UTF-8; names of columns are read without regard to case, blank lines are passed over.

    Raises:
        UsageError: if the file cannot be read, lacks a required column or names one twice, holds no row though it may
            not be empty, or a row has another number of cells than the header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = [
                (i, [cell.strip() for cell in row]) for i, row in enumerate(csv.reader(stream), 1) if any(row)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV: {error}") from error
    head = [name.lower() for name in lines[0][1]] if lines else []
    if missing := [name for name in required if name not in head]:
        raise UsageError(
            f"{path}: has no column {', '.join(missing)}; its first line must name the columns, found: "
            f"{', '.join(head) or 'nothing, the file is empty'}"
        )
    if len(set(head)) < len(head):
        raise UsageError(f"{path}: a column is named twice in {', '.join(head)}")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) != len(head):
            raise UsageError(f"{path}, line {number}: {len(cells)} cells for {len(head)} columns")
        rows.append((number, dict(zip(head, cells, strict=True))))
    if not rows and not may_be_empty:
        raise UsageError(f"{path}: holds a header and no row")
    wanted = {*required, *optional}
    return CsvTable(
        path,
        tuple(rows),
        tuple(head),
        tuple(lines[0][1]),
        tuple(name for name in head if name not in wanted),
    )


def read_number(path: Path, line: int, column: str, text: str, low: float, high: float) -> float:
    """A finite number in [low, high].

    Raises:
        UsageError: if it is anything else, naming file, line, column and value.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UsageError(f"{path}, line {line}: {column} {text!r} is no number in [{low:g}, {high:g}]")
    return value
