"""The ledger of an output folder: which runs there were, what they planned, and what became of each slide.

It is `OUT/ledger.sqlite`, a SQLite database to which rows are only ever added: its triggers refuse every change and
every removal. A record is on the disk (`synchronous=FULL`) when the call that appends it returns; a process may be
killed at any moment. The results themselves are folders (see `medvision.store.store`), and
`medvision.pipelines.ledger_check` proves that the two agree.

Several processes of one machine may append at once. SQLite's log does not work over network file systems: workers on
other machines report to the coordinator, which alone writes.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from medvision.core.errors import StoreError, UsageError
from medvision.store.files import sync
from medvision.store.ledger_records import (
    Attempt,
    AttemptDetail,
    AttemptEnd,
    PastResult,
    RunDetail,
    RunEnd,
    RunStart,
    RunSummary,
    SlideDetail,
)
from medvision.store.ledger_schema import connect, explained
from medvision.store.records import QcMeasure, SlideOutcome

LEDGER = "ledger.sqlite"

_PAST = """
SELECT run_id, started_utc, ended_utc, end_id AS place, slide_id, name, attempts, attempt_id,
  verdict, outcome FROM slide_result
WHERE verdict NOT IN ('planned', 'begun')
"""
_OF_SLIDE = """
name = ? OR slide_digest = ? AND (run_id, slide_id) IN (
  SELECT run_id, slide_id FROM attempt JOIN attempt_end USING (attempt_id) WHERE slide_digest = ?
)
"""
"""The last condition says nothing new, but lets the index on the digest be used."""
# Of runs that began within one second, that one is newer which was entered later.
_NEWEST = "ORDER BY started_utc DESC, rowid DESC"
_NEWEST_SLIDES = (
    "ORDER BY started_utc DESC, (SELECT rowid FROM run WHERE run.run_id = slide_result.run_id) DESC, position"
)


class Ledger:
    """The ledger at `path`, which is made where it is absent, unless `read_only`; used in a `with` statement.

    Threads may share one; each call is a transaction of its own.

    Raises:
        StoreError: if it is absent (read only), cannot be opened or written, or is damaged, no ledger or a newer one.
            Every method raises it too, where the disk is full or fails.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self._turn = threading.RLock()
        self._connection = connect(self.path, read_only=read_only)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. The last process to do so merges the log into it."""
        with self._turn:
            self._connection.close()

    def begin_run(self, start: RunStart, slides: Sequence[tuple[str, str]]) -> None:
        """Record a run and every slide that it plans, `(slide_id, name)` in its order; the same again is no error.

        Raises:
            UsageError: if the number of slides differs from `start.slides`, a slide is there twice, or another run has
                that id.
        """
        if len(slides) != start.slides:
            raise UsageError(f"run {start.run_id}: {len(slides)} slides are not the {start.slides} stated")
        if len({slide_id for slide_id, _ in slides}) != len(slides):
            raise UsageError(f"run {start.run_id}: a slide_id is there twice")
        with self._transaction():
            known = self._rows("SELECT * FROM run WHERE run_id = ?", start.run_id)
            if known:
                planned = self._planned(start.run_id)
                if _start_of(known[0]) != start or planned != list(map(tuple, slides)):
                    raise UsageError(f"{self.path}: there is another run {start.run_id}")
                return
            self._insert("run", _columns_of(start))
            self._connection.executemany(
                "INSERT INTO planned (run_id, slide_id, name, position) VALUES (?, ?, ?, ?)",
                ((start.run_id, slide_id, name, place) for place, (slide_id, name) in enumerate(slides)),
            )

    def begin(self, attempt: Attempt) -> None:
        """Record that a slide is begun. An attempt that is there already stays as it is.

        Raises:
            UsageError: if the run did not plan the slide under that name, or the id is that of an attempt at another.
        """
        with self._transaction():
            planned = self._rows(
                "SELECT name FROM planned WHERE run_id = ? AND slide_id = ?", attempt.run_id, attempt.slide_id
            )
            if not planned or planned[0]["name"] != attempt.name:
                raise UsageError(
                    f"{self.path}: run {attempt.run_id} did not plan slide {attempt.slide_id!r} "
                    f"in the folder {attempt.name!r}"
                )
            known = self._rows(
                "SELECT run_id, slide_id FROM attempt WHERE attempt_id = ?", attempt.attempt_id
            )
            if not known:
                self._insert("attempt", attempt.model_dump(exclude={"name"}))
            elif tuple(known[0]) != (attempt.run_id, attempt.slide_id):
                raise UsageError(f"{self.path}: attempt {attempt.attempt_id} is one at another slide")

    def end(self, end: AttemptEnd) -> None:
        """Record how an attempt ended. An end that is there already is not repeated; another one counts from now on.

        Raises:
            UsageError: if there is no such attempt.
        """
        with self._transaction():
            if not self._rows("SELECT 1 FROM attempt WHERE attempt_id = ?", end.attempt_id):
                raise UsageError(f"{self.path}: there is no attempt {end.attempt_id}")
            if end not in self._ends("WHERE attempt_id = ?", end.attempt_id).get(end.attempt_id, ()):
                outcome = None if end.outcome is None else end.outcome.model_dump_json()
                self._insert("attempt_end", {**end.model_dump(exclude={"outcome"}), "outcome": outcome})

    def record_quality(self, run_id: str, measures: Mapping[str, Sequence[QcMeasure]]) -> None:
        """Record quality measures by slide_id, for later runs to be compared with; a measure that is there stays.

        Raises:
            UsageError: if the run did not plan a slide.
        """
        with self._transaction():
            planned = {slide_id for slide_id, _ in self._planned(run_id)}
            for slide_id, found in measures.items():
                if slide_id not in planned:
                    raise UsageError(f"{self.path}: run {run_id} did not plan slide {slide_id!r}")
                query = "SELECT name FROM measure WHERE run_id = ? AND slide_id = ?"
                known = {row["name"] for row in self._rows(query, run_id, slide_id)}
                for measure in found:
                    if measure.name not in known:
                        columns = measure.model_dump(exclude={"limit"})
                        self._insert(
                            "measure",
                            {"run_id": run_id, "slide_id": slide_id, "bound": measure.limit, **columns},
                        )

    def end_run(self, end: RunEnd) -> None:
        """Record how a run ended. An end that is there already is not repeated; another one counts from now on.

        Raises:
            UsageError: if there is no such run.
        """
        with self._transaction():
            if not self._rows("SELECT 1 FROM run WHERE run_id = ?", end.run_id):
                raise self._unknown_run(end.run_id)
            if end not in self._run_ends("WHERE run_id = ?", end.run_id):
                self._insert("run_end", {**end.model_dump(), "counts": json.dumps(end.counts)})

    def runs(self) -> list[RunSummary]:
        """Every run, newest first."""
        with self._snapshot():
            return self._summaries("")

    def run(self, run_id: str) -> RunDetail:
        """The run whose id begins with `run_id`, with every slide and every attempt.

        Raises:
            UsageError: if no run's id begins so, or several do, with those that there are.
        """
        with self._snapshot():
            run_id = self._whole_id(run_id)
            (summary,) = self._summaries("WHERE run_id = ?", run_id)
            ends = self._ends("WHERE attempt_id IN (SELECT attempt_id FROM attempt WHERE run_id = ?)", run_id)
            attempts: dict[str, list[AttemptDetail]] = {}
            for row in self._rows(
                "SELECT run_id, attempt_id, number, slide_id, name, began_utc, worker "
                "FROM attempt JOIN planned USING (run_id, slide_id) WHERE run_id = ? ORDER BY id",
                run_id,
            ):
                one = Attempt(**row)
                detail = AttemptDetail(attempt=one, ends=tuple(ends.get(one.attempt_id, ())))
                attempts.setdefault(one.slide_id, []).append(detail)
            slides = tuple(
                SlideDetail(slide_id=slide_id, name=name, attempts=tuple(attempts.get(slide_id, ())))
                for slide_id, name in self._planned(run_id)
            )
            return RunDetail(summary=summary, slides=slides)

    def history(self, slide: str) -> list[PastResult]:
        """What each run found about a slide, newest first; `slide` is its content's digest, or its folder's name."""
        with self._snapshot():
            rows = self._rows(f"{_PAST} AND ({_OF_SLIDE}) {_NEWEST_SLIDES}", slide, slide, slide)
            return [_past_result(row, self._quality(row["run_id"], row["slide_id"])) for row in rows]

    def results(self) -> list[PastResult]:
        """What each run found about each slide, newest run first, in the order of its plan."""
        with self._snapshot():
            measures = self._measures("")
            return [
                _past_result(row, measures.get((row["run_id"], row["slide_id"]), ()))
                for row in self._rows(f"{_PAST} {_NEWEST_SLIDES}")
            ]

    def problems(self) -> list[str]:
        """What SQLite finds wrong with the file, one sentence each; every page and every index is read."""
        try:
            with self._snapshot():
                found = [str(row[0]) for row in self._rows("PRAGMA integrity_check")]
                orphans = [str(row[0]) for row in self._rows("PRAGMA foreign_key_check")]
        except StoreError as error:
            return [str(error)]
        problems = [f"{self.path}: {words}" for words in found if words != "ok"]
        return problems + [f"{self.path}: a row of {table} belongs to nothing" for table in orphans]

    def back_up(self, path: Path) -> Path:
        """Copy the ledger as it is at one moment to the new file `path`, while others append.

        Raises:
            UsageError: if something is at `path` already.
        """
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} is there already; name a new file")
        partial = path.with_name(f".partial-{path.name}")
        try:
            with self._turn, explained(path), contextlib.closing(sqlite3.connect(partial)) as copy:
                self._connection.backup(copy)
                # The copy is one file, without a log, so that it can be read where nothing can be written.
                copy.execute("PRAGMA journal_mode = DELETE")
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)
        return path

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Everything inside is appended whole or not at all."""
        with self._turn, explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                # Some errors, a full disk among them, have ended the transaction themselves.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Everything inside sees the ledger as it was at one moment."""
        with self._turn, explained(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        cursor = self._connection.cursor()
        cursor.row_factory = sqlite3.Row
        return cursor.execute(query, values).fetchall()

    def _insert(self, table: str, columns: Mapping[str, object]) -> None:
        names, marks = ", ".join(columns), ", ".join("?" for _ in columns)
        self._connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(columns.values()))

    def _planned(self, run_id: str) -> list[tuple[str, str]]:
        query = "SELECT slide_id, name FROM planned WHERE run_id = ? ORDER BY position"
        return [(row["slide_id"], row["name"]) for row in self._rows(query, run_id)]

    def _ends(self, where: str, *values: object) -> dict[str, list[AttemptEnd]]:
        query = f"SELECT attempt_id, ended_utc, verdict, outcome FROM attempt_end {where} ORDER BY id"
        ends: dict[str, list[AttemptEnd]] = {}
        for row in self._rows(query, *values):
            ends.setdefault(row["attempt_id"], []).append(
                AttemptEnd(**{**dict(row), "outcome": _outcome(row["outcome"])})
            )
        return ends

    def _run_ends(self, where: str, *values: object) -> list[RunEnd]:
        rows = self._rows(
            f"SELECT run_id, finished_utc, state, counts FROM run_end {where} ORDER BY id", *values
        )
        return [RunEnd(**{**dict(row), "counts": json.loads(row["counts"])}) for row in rows]

    def _summaries(self, where: str, *values: object) -> list[RunSummary]:
        counts: dict[str, dict[str, int]] = {}
        for row in self._rows(
            f"SELECT run_id, verdict, count(*) AS slides FROM slide_result {where} GROUP BY run_id, verdict "
            "ORDER BY verdict",
            *values,
        ):
            counts.setdefault(row["run_id"], {})[row["verdict"]] = row["slides"]
        ends = {end.run_id: end for end in self._run_ends(where, *values)}
        return [
            RunSummary(
                start=_start_of(row), end=ends.get(row["run_id"]), counts=counts.get(row["run_id"], {})
            )
            for row in self._rows(f"SELECT * FROM run {where} {_NEWEST}", *values)
        ]

    def _quality(self, run_id: str, slide_id: str) -> Sequence[QcMeasure]:
        found = self._measures("WHERE run_id = ? AND slide_id = ?", run_id, slide_id)
        return found.get((run_id, slide_id), ())

    def _measures(self, where: str, *values: object) -> dict[tuple[str, str], list[QcMeasure]]:
        """Quality measures by run and slide, in the order in which they were recorded."""
        measures: dict[tuple[str, str], list[QcMeasure]] = {}
        for row in self._rows(f"SELECT * FROM measure {where} ORDER BY rowid", *values):
            columns = dict(row)
            key = (columns.pop("run_id"), columns.pop("slide_id"))
            value = float("nan") if columns["value"] is None else columns["value"]
            columns |= {"limit": columns.pop("bound"), "ok": bool(columns["ok"]), "value": value}
            measures.setdefault(key, []).append(QcMeasure(**columns))
        return measures

    def _whole_id(self, start: str) -> str:
        ids = [row["run_id"] for row in self._rows(f"SELECT run_id FROM run {_NEWEST}")]
        found = [start] if start in ids else [one for one in ids if start and one.startswith(start)]
        if len(found) == 1:
            return str(found[0])
        raise self._unknown_run(start, found or ids)

    def _unknown_run(self, start: str, known: Sequence[str] | None = None) -> UsageError:
        if known is None:
            known = [row["run_id"] for row in self._rows(f"SELECT run_id FROM run {_NEWEST}")]
        shown = ", ".join(known[:10]) or "none"
        more = f" and {len(known) - 10} more" if len(known) > 10 else ""
        return UsageError(f"{self.path}: {start!r} is the start of no one run's id; runs: {shown}{more}")


def _columns_of(start: RunStart) -> dict[str, Any]:
    columns = start.model_dump(mode="json")
    return columns | {name: json.dumps(columns[name]) for name in ("config", "software")}


def _start_of(row: sqlite3.Row) -> RunStart:
    columns = dict(row)
    return RunStart(**columns | {name: json.loads(columns[name]) for name in ("config", "software")})


def _outcome(text: str | None) -> SlideOutcome | None:
    return None if text is None else SlideOutcome.model_validate_json(text)


def _past_result(row: sqlite3.Row, quality: Sequence[QcMeasure]) -> PastResult:
    outcome = _outcome(row["outcome"])
    columns = {name: row[name] for name in row.keys() if name != "outcome"}  # noqa: SIM118 - a Row's items are values
    if outcome is not None:
        columns |= {
            name: getattr(outcome, name) for name in ("reason", "probability", "label", "digests", "status")
        }
    return PastResult(**columns, quality=tuple(quality))
