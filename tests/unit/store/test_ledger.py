"""The ledger keeps what it was told, takes the same twice, and lets nothing be changed or removed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from medvision.core.errors import StoreError, UsageError
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.ledger_records import Attempt, AttemptEnd, RunEnd, RunStart
from medvision.store.records import QcMeasure, SlideOutcome


def start_of(run_id: str, slides: int = 2, at: str = "2026-01-01T00:00:00Z") -> RunStart:
    return RunStart(
        run_id=run_id,
        started_utc=at,
        operator="ada",
        command="medvision batch",
        slides=slides,
        config={"threshold": 0.9, "stride": None, "classes": ["a", "b"]},
        config_digest="c" * 64,
        code="d" * 64,
        software={"python": "3.12"},
        runner="thread",
        host="node1",
    )


def attempt_at(run_id: str, slide: str, number: int = 1) -> Attempt:
    return Attempt(
        run_id=run_id,
        attempt_id=f"{run_id}/{slide}/{number}",
        number=number,
        slide_id=slide,
        name=f"{slide}-folder",
        began_utc="2026-01-01T00:01:00Z",
        worker="w1",
    )


def outcome_of(slide: str, status: str = "done", probability: float | None = 0.1 + 0.2) -> SlideOutcome:
    return SlideOutcome(
        slide=f"in/{slide}.svs",
        name=f"{slide}-folder",
        status=status,
        reason="" if status == "done" else "why; 'quoted' \"twice\"\n",
        probability=probability,
        label=None if probability is None else "negative",
        regions=3,
        windows=40,
        unread=1,
        seconds=1.5,
        digests={"slide": f"sha-{slide}", "model": "m", "config": "c", "code": "d", "result": f"key-{slide}"},
        batch_size=64,
        device="cpu",
    )


def end_of(run_id: str, slide: str, number: int = 1, **changes: object) -> AttemptEnd:
    fields = {
        "attempt_id": f"{run_id}/{slide}/{number}",
        "ended_utc": "2026-01-01T00:02:00Z",
        "verdict": "done",
        "outcome": outcome_of(slide),
    }
    return AttemptEnd(**{**fields, **changes})


def planned(*slides: str) -> list[tuple[str, str]]:
    return [(slide, f"{slide}-folder") for slide in slides]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / LEDGER


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path) as made:
        made.begin_run(start_of("R1"), planned("b", "a"))
        yield made


def raw(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path, isolation_level=None))


def test_what_was_told_is_read_again(ledger: Ledger, path: Path) -> None:
    attempt, end = attempt_at("R1", "a"), end_of("R1", "a")
    ledger.begin(attempt)
    ledger.end(end)
    stop = RunEnd(run_id="R1", finished_utc="2026-01-01T01:00:00Z", state="finished", counts={"done": 1})
    ledger.end_run(stop)
    with Ledger(path, read_only=True) as again:
        detail = again.run("R1")
    assert detail.summary.start == start_of("R1")
    assert detail.summary.end == stop
    assert detail.summary.state == "finished"
    assert detail.summary.counts == {"done": 1, "planned": 1}
    assert [(slide.slide_id, slide.name, slide.verdict) for slide in detail.slides] == [
        ("b", "b-folder", "planned"),
        ("a", "a-folder", "done"),
    ]
    (one,) = detail.slides[1].attempts
    assert one.attempt == attempt
    assert one.ends == (end,)
    assert detail.slides[1].outcome == outcome_of("a")


def test_the_same_twice_is_once(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.begin_run(start_of("R1"), planned("b", "a"))
        ledger.begin(attempt_at("R1", "a"))
        ledger.end(end_of("R1", "a"))
        ledger.end_run(RunEnd(run_id="R1", finished_utc="t", state="interrupted", counts={}))
    (summary,) = ledger.runs()
    assert summary.state == "interrupted"
    (attempt,) = ledger.run("R1").slides[1].attempts
    assert len(attempt.ends) == 1


def test_a_later_different_end_wins_and_the_first_stays(ledger: Ledger) -> None:
    ledger.begin(attempt_at("R1", "a"))
    lost = end_of("R1", "a", verdict="interrupted", outcome=None)
    for end in (lost, end_of("R1", "a"), lost):  # the third was sent again
        ledger.end(end)
    detail = ledger.run("R1").slides[1]
    assert detail.verdict == "done"
    assert detail.attempts[0].ends == (lost, end_of("R1", "a"))


def test_the_last_attempt_is_the_verdict(ledger: Ledger) -> None:
    ledger.begin(attempt_at("R1", "a"))
    ledger.end(end_of("R1", "a", verdict="interrupted", outcome=None))
    ledger.begin(attempt_at("R1", "a", 2))
    assert ledger.runs()[0].counts == {"begun": 1, "planned": 1}
    ledger.end(end_of("R1", "a", 2, verdict="failed", outcome=outcome_of("a", "failed", None)))
    assert ledger.runs()[0].counts == {"failed": 1, "planned": 1}
    assert ledger.run("R1").slides[1].verdict == "failed"
    assert len(ledger.run("R1").slides[1].attempts) == 2


def test_what_cannot_be_is_refused(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="another run R1"):
        ledger.begin_run(start_of("R1"), planned("a", "b"))
    with pytest.raises(UsageError, match="1 slides are not the 2 stated"):
        ledger.begin_run(start_of("R2"), planned("a"))
    with pytest.raises(UsageError, match="twice"):
        ledger.begin_run(start_of("R2"), planned("a", "a"))
    with pytest.raises(UsageError, match="did not plan slide 'c'"):
        ledger.begin(attempt_at("R1", "c"))
    with pytest.raises(UsageError, match="no attempt R1/a/1"):
        ledger.end(end_of("R1", "a"))
    ledger.begin(attempt_at("R1", "a"))
    with pytest.raises(UsageError, match="another slide"):
        ledger.begin(attempt_at("R1", "b").model_copy(update={"attempt_id": "R1/a/1"}))
    with pytest.raises(UsageError, match="'R9' is the start of no one run's id; runs: R1"):
        ledger.end_run(RunEnd(run_id="R9", finished_utc="t", state="finished", counts={}))


def test_a_run_is_found_by_the_start_of_its_id(ledger: Ledger) -> None:
    ledger.begin_run(start_of("R12", 1, "2026-01-02T00:00:00Z"), planned("a"))
    assert ledger.run("R12").summary.run_id == "R12"
    assert ledger.run("R1").summary.run_id == "R1"
    assert [summary.run_id for summary in ledger.runs()] == ["R12", "R1"]
    for start in ("R", "x", ""):
        with pytest.raises(UsageError, match="runs: R12, R1"):
            ledger.run(start)


def test_history_over_runs(ledger: Ledger) -> None:
    ledger.begin(attempt_at("R1", "a"))
    ledger.end(end_of("R1", "a"))
    measure = QcMeasure(name="blur", value=0.25, unit="share", ok=False, limit="<= 0.1", meaning="m")
    ledger.record_quality("R1", {"a": [measure]})
    ledger.record_quality("R1", {"a": [measure.model_copy(update={"value": 1.0})]})
    ledger.begin_run(start_of("R2", 1, "2026-01-02T00:00:00Z"), planned("a"))
    ledger.begin(attempt_at("R2", "a"))
    ledger.end(end_of("R2", "a", verdict="failed", outcome=outcome_of("a", "failed", None)))
    by_name, by_digest = ledger.history("a-folder"), ledger.history("sha-a")
    assert by_name == by_digest == ledger.results()
    assert [(one.run_id, one.verdict, one.probability) for one in by_name] == [
        ("R2", "failed", None),
        ("R1", "done", 0.1 + 0.2),
    ]
    assert by_name[1].quality == (measure,)
    assert by_name[1].digests["result"] == "key-a"
    assert ledger.history("nobody") == []


TABLES = ("run", "planned", "attempt", "attempt_end", "measure", "run_end")


@pytest.fixture
def full(ledger: Ledger, path: Path) -> Path:
    """A ledger with a row in every table."""
    ledger.begin(attempt_at("R1", "a"))
    ledger.end(end_of("R1", "a"))
    measure = QcMeasure(name="blur", value=0.25, unit="", ok=True, limit="", meaning="")
    ledger.record_quality("R1", {"a": [measure]})
    ledger.end_run(RunEnd(run_id="R1", finished_utc="t", state="finished", counts={}))
    return path


def test_of_two_runs_of_one_second_that_entered_later_is_newer(ledger: Ledger) -> None:
    for run_id in ("b", "a", "c"):
        ledger.begin_run(start_of(run_id, 1), planned("s"))
        ledger.begin(attempt_at(run_id, "s"))
        ledger.end(end_of(run_id, "s"))
    assert [run.run_id for run in ledger.runs()][:3] == ["c", "a", "b"]
    assert [past.run_id for past in ledger.history("s-folder")] == ["c", "a", "b"]
    assert [past.run_id for past in ledger.results()][:3] == ["c", "a", "b"]


@pytest.mark.parametrize("table", TABLES)
def test_no_row_is_ever_changed_or_removed(full: Path, table: str) -> None:
    with raw(full) as connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        }
        assert tables == set(TABLES)
        before = connection.execute(f"SELECT * FROM {table}").fetchall()
        column = connection.execute(f"PRAGMA table_info({table})").fetchone()[1]
        names = ", ".join(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))
        for statement in (
            f"UPDATE {table} SET {column} = {column}",
            f"DELETE FROM {table}",
            f"INSERT OR REPLACE INTO {table} ({names}) SELECT {names} FROM {table}",
            f"INSERT INTO {table} ({names}) SELECT {names} FROM {table} WHERE 1 ON CONFLICT DO UPDATE SET {column} = 1",
        ):
            with pytest.raises(sqlite3.DatabaseError, match="append-only"):
                connection.execute(statement)
        assert connection.execute(f"SELECT * FROM {table}").fetchall() == before
        assert before


def test_columns_for_people_who_ask_in_sql(full: Path) -> None:
    with raw(full) as connection:
        connection.row_factory = sqlite3.Row
        (row,) = connection.execute("SELECT * FROM slide_result WHERE slide_id = 'a'")
    shown = outcome_of("a").model_dump()
    for name in ("probability", "label", "regions", "windows", "unread", "seconds", "batch_size", "device"):
        assert row[name] == shown[name]
    for name, digest in shown["digests"].items():
        assert row["result_key" if name == "result" else f"{name}_digest"] == digest


def test_it_is_on_the_disk_before_it_is_acknowledged(ledger: Ledger) -> None:
    assert ledger._rows("PRAGMA synchronous")[0][0] == 2
    assert ledger._rows("PRAGMA journal_mode")[0][0] == "wal"


def test_a_backup_is_whole_while_others_append(full: Path, ledger: Ledger, tmp_path: Path) -> None:
    copy = ledger.back_up(tmp_path / "copy.sqlite")
    ledger.begin(attempt_at("R1", "b"))
    assert sorted(one.name for one in tmp_path.glob("copy*")) == ["copy.sqlite"]
    with Ledger(copy, read_only=True) as read:
        assert read.problems() == []
        assert read.runs()[0].counts == {"done": 1, "planned": 1}
    with pytest.raises(UsageError, match="there already"):
        ledger.back_up(copy)
    with pytest.raises(StoreError, match="cannot be opened"):
        ledger.back_up(tmp_path / "absent" / "copy.sqlite")
    assert full.is_file()
