"""Killed, damaged, foreign, full, read-only, or with several writers: the ledger is whole, or says what is wrong."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medvision.core.errors import StoreError
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.ledger_records import RunStart

APPENDERS = """
import os, sys
from pathlib import Path
from medvision.store.ledger import Ledger
from medvision.store.ledger_records import Attempt, AttemptEnd, RunStart
from medvision.store.records import SlideOutcome

def append(path, run_id, slides):
    names = [(f"s{number}", f"f{number}") for number in range(slides)]
    said = os.open(f"{path}.{run_id}", os.O_CREAT | os.O_WRONLY)
    with Ledger(path) as ledger:
        ledger.begin_run(
            RunStart(run_id=run_id, started_utc="t", operator="o", command="c", slides=slides, config={},
                     config_digest="", code="", software={}),
            names,
        )
        os.write(said, b"planned ")
        for slide_id, name in names:
            attempt_id = f"{run_id}/{slide_id}"
            ledger.begin(Attempt(run_id=run_id, attempt_id=attempt_id, number=1, slide_id=slide_id, name=name,
                                 began_utc="t"))
            outcome = SlideOutcome(slide=name, name=name, status="done", probability=0.5, reason="x" * 2000)
            ledger.end(AttemptEnd(attempt_id=attempt_id, ended_utc="t", verdict="done", outcome=outcome))
            os.write(said, slide_id.encode() + b" ")

for line in sys.stdin:
    word, *arguments = line.split()
    if word == "reap":
        print(os.waitpid(int(arguments[0]), 0)[1], flush=True)
    elif (child := os.fork()) == 0:
        append(Path(arguments[0]), arguments[1], int(arguments[2]))
        os._exit(0)
    else:
        print(child, flush=True)
"""


class Appenders:
    """Processes that append runs to a ledger, each forked from one that has loaded everything."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", APPENDERS]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, path: Path, run_id: str, slides: int) -> int:
        """The process that appends one run of so many slides; what was acknowledged to it, it writes down."""
        return int(self._ask(f"start {path} {run_id} {slides}"))

    def reap(self, process: int) -> int:
        """Wait for the end of a process; its status."""
        return int(self._ask(f"reap {process}"))

    def close(self) -> None:
        self._server.communicate(timeout=60)

    def _ask(self, line: str) -> str:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{line}\n")
        self._server.stdin.flush()
        return self._server.stdout.readline()


@pytest.fixture
def appenders() -> Iterator[Appenders]:
    made = Appenders()
    yield made
    made.close()


def test_four_processes_append_at_once_to_a_ledger_that_was_not_there(
    tmp_path: Path, appenders: Appenders
) -> None:
    path = tmp_path / LEDGER
    processes = [appenders.start(path, f"R{number}", 12) for number in range(4)]
    assert [appenders.reap(process) for process in processes] == [0, 0, 0, 0]
    with Ledger(path, read_only=True) as ledger:
        assert ledger.problems() == []
        assert {run.run_id: run.counts for run in ledger.runs()} == {f"R{n}": {"done": 12} for n in range(4)}


def test_killed_at_any_moment_nothing_acknowledged_is_lost_and_no_row_is_half(
    tmp_path: Path, appenders: Appenders
) -> None:
    """20 kills, spread over the making of the file, the plan, and the attempts."""
    moments = random.Random(3)
    seen = 0
    for number in range(20):
        path = tmp_path / str(number // 5) / LEDGER  # the making of the file is among the moments four times
        path.parent.mkdir(exist_ok=True)
        process = appenders.start(path, f"R{number}", 300)
        said = path.with_name(f"{LEDGER}.R{number}")
        awaited = number % 5 * 3
        while awaited and (not said.exists() or len(said.read_text().split()) < awaited):
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.003 if awaited else 0.03))
        os.kill(process, signal.SIGKILL)
        assert appenders.reap(process) == signal.SIGKILL
        with Ledger(path) as ledger:
            assert ledger.problems() == []
            known = {run.run_id for run in ledger.runs()}
            for said in path.parent.glob(f"{LEDGER}.R*"):
                acknowledged = set(said.read_text().split())
                run_id = said.suffix[1:]
                assert run_id in known or not acknowledged
                if run_id in known:
                    slides = ledger.run(run_id).slides
                    assert len(slides) == 300
                    assert acknowledged - {"planned"} <= {s.slide_id for s in slides if s.verdict == "done"}
                    assert sum(slide.verdict == "begun" for slide in slides) <= 1
                    seen += len(acknowledged)
    assert seen >= 4 * (3 + 6 + 9 + 12)


def made(path: Path, rows: int = 1) -> Path:
    names = [(f"s{number}" + "x" * 200, f"f{number}") for number in range(rows)]
    with Ledger(path) as ledger:
        ledger.begin_run(start_of("R1", rows), names)
    return path


def start_of(run_id: str, slides: int) -> RunStart:
    return RunStart(
        run_id=run_id,
        started_utc="t",
        operator="o",
        command="c",
        slides=slides,
        config={},
        config_digest="",
        code="",
        software={},
    )


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_ledger_is_said_to_be_damaged(tmp_path: Path, share: float, read_only: bool) -> None:
    path = made(tmp_path / LEDGER, 400)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(StoreError, match=r"ledger\.sqlite: the ledger is damaged"):
        Ledger(path, read_only=read_only)


def test_damage_inside_is_found_by_the_check(tmp_path: Path) -> None:
    path = made(tmp_path / LEDGER, 400)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = b"\x5a" * 4096
    path.write_bytes(data)
    with Ledger(path, read_only=True) as ledger:
        assert ledger.problems()


def test_another_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    path.write_text("slide_id,path\n" * 100)
    with pytest.raises(StoreError, match="is no ledger but another kind of file"):
        Ledger(path)
    assert path.read_text().startswith("slide_id")


def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE run (x)")
    connection.close()
    for read_only in (False, True):
        with pytest.raises(StoreError, match="another program's database"):
            Ledger(path, read_only=read_only)


def test_a_newer_ledger(tmp_path: Path) -> None:
    path = made(tmp_path / LEDGER)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StoreError, match=r"newer version .*schema 7, known: 1"):
        Ledger(path)


def test_an_absent_ledger(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no ledger"):
        Ledger(tmp_path / LEDGER, read_only=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="could not be written"):
        Ledger(made(tmp_path / LEDGER) / "below" / LEDGER)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = made(tmp_path / "other.sqlite")
    (tmp_path / LEDGER).symlink_to(target)
    with pytest.raises(StoreError, match="symbolic link"):
        Ledger(tmp_path / LEDGER)


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    path = made(tmp_path / LEDGER)
    with Ledger(path, read_only=True) as ledger, pytest.raises(StoreError, match="cannot be written to here"):
        ledger.begin_run(start_of("R2", 0), [])


@pytest.fixture
def locked_folder(tmp_path: Path) -> Path:
    """A folder that cannot be written to."""
    folder = tmp_path / "locked"
    folder.mkdir()
    return folder


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of the administrator, who may write anywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_where_nothing_can_be_written(locked_folder: Path) -> None:
    path = made(locked_folder / LEDGER)
    for above in locked_folder.parents:
        if above.name.startswith(("test_", "popen-", "pytest-")):
            above.chmod(0o755)
    shutil.rmtree(locked_folder / ".medvision")
    path.chmod(0o444)
    locked_folder.chmod(0o555)
    try:
        with as_nobody():
            with Ledger(path, read_only=True) as ledger:
                assert [run.run_id for run in ledger.runs()] == ["R1"]
                assert ledger.problems() == []
            with pytest.raises(StoreError, match=r"ledger\.sqlite: could not be written: Permission denied"):
                Ledger(path)
    finally:
        locked_folder.chmod(0o755)


def test_a_full_disk_loses_the_record_and_nothing_else(tmp_path: Path) -> None:
    path = made(tmp_path / LEDGER)
    with Ledger(path) as ledger:
        pages = ledger._rows("PRAGMA page_count")[0][0]
        ledger._rows(f"PRAGMA max_page_count = {pages}")
        names = [(f"s{number}" + "x" * 200, "f") for number in range(400)]
        with pytest.raises(StoreError, match="the disk is full; nothing was written of the last record"):
            ledger.begin_run(start_of("R2", 400), names)
        assert [run.run_id for run in ledger.runs()] == ["R1"]
        ledger._rows("PRAGMA max_page_count = 100000")
        ledger.begin_run(start_of("R2", 400), names)
        assert ledger.problems() == []


def test_a_disk_that_fails(tmp_path: Path) -> None:
    path = made(tmp_path / LEDGER)
    with Ledger(path) as ledger:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(StoreError, match="the disk failed or is full"):
                ledger.begin_run(start_of("R2", 400), [(f"s{n}" + "x" * 200, "f") for n in range(400)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [run.run_id for run in ledger.runs()] == ["R1"]


def test_waiting_for_a_writer_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvision.store.ledger_schema.BUSY_S", 0.05)
    path = made(tmp_path / LEDGER)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with Ledger(path) as ledger, pytest.raises(StoreError, match="another process held the ledger"):
            ledger.begin_run(start_of("R2", 0), [])
    finally:
        other.close()


@pytest.mark.parametrize(
    ("insert", "said"),
    [
        (
            "run_end (run_id, finished_utc, state, counts) VALUES ('R1', 't', 'finished', '[1]')",
            "RunEnd: counts",
        ),
        (
            "run (run_id, started_utc, operator, command, slides, config, config_digest, code, software, runner, host)"
            " VALUES ('R2', 't', 'o', 'c', 0, '[1]', '', '', '3', '', '')",
            "RunStart: config",
        ),
    ],
)
def test_a_record_of_no_known_form_is_said(tmp_path: Path, insert: str, said: str) -> None:
    path = made(tmp_path / LEDGER)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(f"INSERT INTO {insert}")
        other.commit()
    with (
        Ledger(path, read_only=True) as ledger,
        pytest.raises(
            StoreError, match=rf"ledger\.sqlite: holds a record that this program did not .*{said}"
        ),
    ):
        ledger.runs()
