"""`medvision batch`: what is wrong is one error before any server is started, and what is noted is never lost."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from medvision import sources
from medvision.cli import run as medvision
from medvision.core.errors import StoreError
from medvision.pipelines.batch import BatchRun, recover
from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.batch_plan import BatchItem
from medvision.pipelines.preflight import preflight
from medvision.sources import guarded_process
from medvision.store.journal import Entry, Journal
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.records import SlideOutcome


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "a.svs").write_bytes(b"no slide")
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "--workers 0: input should be greater than or equal to 1"),
        (["--workers", "2"], "--workers 2 is for --runner process or dask"),
        (["--workers", "9999", "--runner", "process"], "--workers 9999: this machine has room for "),
        (["--attempts", "0"], "--attempts 0: input should be greater"),
        (["--memory-limit", "0"], "--memory-limit 0: input should be greater than 0"),
        (["--memory-limit", "inf"], "--memory-limit inf: input should be a finite number"),
        (["--memory-limit", "1e300"], "--memory-limit 1e300: input should be less than or equal to 1000000"),
        (["--time-limit", "-1"], "--time-limit -1: input should be greater than 0"),
        (["--time-limit", "1e300"], "--time-limit 1e300: input should be less than or equal to 1000000"),
        (["--runner", "spark"], "--runner spark: input should be 'thread', 'process' or 'dask'"),
        (["--address", "tcp://h:1"], "address tcp://h:1 is for the dask runner, not thread"),
        (["--model", "nope"], "no model is called 'nope'; shipped: camelyon-mini"),
        (["--backend", "nope"], "no backend is called 'nope'"),
        (["--device", "cpu,nope"], "device 'nope' is not available here; choose among: auto, cpu"),
        (["--device", "nope", "--runner", "process"], "device 'nope' is not available here"),
        (["--pattern", "*.zzz"], r"holds no file that matches *.zzz"),
        (["--pseudonym-key", "absent"], "absent: the pseudonym key cannot be read"),
    ],
)
def test_a_wrong_option_is_one_error(
    words: list[str], message: str, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert medvision(["batch", str(slides), "--out", str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("medvision: error: ") and said.err.count("\n") == 1
    assert message in said.err
    assert not (tmp_path / "out" / LEDGER).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("thresold: 0.5\n", "thresold: no such field"),
        ("- a\n- b\n", "expected a mapping of names to values (`name: value`), not list"),
        ("hello\n", "expected a mapping of names to values (`name: value`), not str"),
        ("threshold: high\n", "threshold: Input should be a valid number"),
        ("a: [\n", "not YAML"),
        ("[" * 2000, "not YAML (maximum recursion depth exceeded"),
        ("a: !!python/object/apply:os.system [id]\n", "not YAML"),
    ],
)
def test_a_wrong_file_of_settings_is_named(
    content: str, message: str, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "batch.yaml"
    config.write_text(content)
    assert medvision(["batch", str(slides), "--out", str(tmp_path / "out"), "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"medvision: error: {config}: {message}") and said.count("\n") == 1


def test_a_file_of_comments_is_every_default(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "batch.yaml").write_text("# threshold: 0.5\n")
    words = ["--config", str(tmp_path / "batch.yaml"), "--pattern", "*.zzz"]
    assert medvision(["batch", str(slides), "--out", str(tmp_path / "out"), *words]) == 2
    assert "*.zzz" in capsys.readouterr().err


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE a (b)")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out: out.write_text("mine"), "is there and is not a folder"),
        (lambda out: (out.mkdir(), (out / LEDGER).write_text("no database, at all")), "another kind of file"),
        (lambda out: (out.mkdir(), foreign(out / LEDGER)), "another program's database"),
        (lambda out: (out / LEDGER).mkdir(parents=True), LEDGER),
    ],
)
def test_an_output_that_cannot_be_is_said_before_a_slide_is_opened(
    make: Callable[[Path], object],
    message: str,
    slides: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    make(out)
    assert medvision(["batch", str(slides), "--out", str(out), "--model", "camelyon-mini"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("medvision: error: ") and said.count("\n") == 1
    assert str(out) in said and message in said


def test_starting_the_process_that_opens_slides_is_not_the_slides_time(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = BatchItem(1, "a", "a", slides / "a.svs")
    monkeypatch.setattr(guarded_process, "_START", f"import time; time.sleep(4)\n{guarded_process._START}")
    request = BatchRequest(slides=slides, out=tmp_path, options=BatchOptions(time_limit=3))
    found = preflight([slide], request)
    ((_, reason),) = found.problems
    assert "not an image" in reason


def test_a_machine_that_allows_less_memory_is_no_fault_of_a_slide() -> None:
    code = (
        "import resource; from medvision.sources.guarded_child import limit_memory; "
        "resource.setrlimit(resource.RLIMIT_AS, (4_000_000_000, 4_000_000_000)); limit_memory(8_000_000_000); "
        "print(resource.getrlimit(resource.RLIMIT_AS)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "4000000000\n", done.stderr


def test_what_a_decoder_says_does_not_end_the_batch(slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fall_over(*_: object) -> None:
        raise IndexError("tag 7")

    monkeypatch.setattr(sources, "open_source", fall_over)
    slide = BatchItem(1, "a", "a", slides / "a.svs")
    request = BatchRequest(slides=slides, out=slides, options=BatchOptions(trust=True))
    ((_, reason),) = preflight([slide], request).problems
    assert reason == f"{slides / 'a.svs'}: unexpected IndexError: tag 7"


def test_what_the_ledger_could_not_take_is_there_for_the_next_run(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    request = BatchRequest(slides=slides, out=out, options=BatchOptions(runner="process"))
    keeper = BatchRun(request)

    def full() -> Ledger:
        raise StoreError("the disk is full")

    def end_in_trouble() -> None:
        with keeper:
            monkeypatch.setattr(keeper, "_ledger", full)
            times = {"began_utc": "2026-01-31T12:00:00Z", "ended_utc": "2026-01-31T12:01:00Z"}
            outcome = SlideOutcome(slide="a.svs", name="a", status="failed", reason="damaged")
            entry = Entry(number=1, attempt=1, slide_id="a", name="a", worker="w", outcome=outcome, **times)
            Journal(out, keeper.run_id).write(entry)

    with pytest.raises(StoreError, match="the disk is full"):
        end_in_trouble()
    assert recover(out) == [keeper.run_id]
    with Ledger(out / LEDGER, read_only=True) as ledger:
        run = ledger.run(keeper.run_id)
    assert run.summary.state == "interrupted"
    assert [slide.verdict for slide in run.slides] == ["failed"]
    assert recover(out) == []
