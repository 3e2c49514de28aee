"""The check of a ledger finds each kind of disagreement, names it, and finds none where there is none."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from medvision.cli import run as medvision
from medvision.core.errors import StoreError
from medvision.pipelines.ledger_check import check_ledger
from medvision.pipelines.run import finish_run
from medvision.report.build import read_record
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.ledger_records import Attempt, AttemptEnd, RunEnd, RunStart
from medvision.store.manifest import ResultSpec
from medvision.store.records import ModelInfo, QcMeasure, RunIndex, SlideInfo, SlideOutcome, SlideResult
from medvision.store.store import publish_folder

SLIDES = ("a", "b")


def result_of(name: str, probability: float) -> SlideResult:
    return SlideResult(
        verdict="done",
        slide=SlideInfo(
            name=f"{name}.svs",
            digest=f"slide-{name}",
            reader="tiff",
            reader_reason="",
            vendor="",
            shape=(10, 10),
            levels=1,
            spacing_um=(0.5, 0.5),
            spacing_origin="file",
        ),
        model=ModelInfo(
            name="m",
            version="1",
            digest="model",
            classes=("normal", "tumor"),
            positive="tumor",
            window_px=(8, 8),
            spacing_um=0.5,
            calibration="",
            card="",
        ),
        config={},
        config_digest="c",
        software={},
        threshold=0.5,
        probability=probability,
        score_rule="",
        label="positive" if probability >= 0.5 else "negative",
        heatmap=None,
        tissue=None,
        qc=(QcMeasure(name="sharpness", value=0.4, unit="ratio", ok=True, limit="", meaning=""),),
    )


def publish(out: Path, name: str, probability: float, **config: float) -> SlideOutcome:
    """Publish a result, as an analysis does, and return its outcome."""
    result = result_of(name, probability)
    spec = ResultSpec(
        kind="analyze",
        name=f"{name}.svs",
        source=f"slide-{name}",
        model="model",
        config={"threshold": 0.5, **config},
    )
    publish_folder(
        out / name,
        spec,
        lambda folder: (folder / "result.json").write_text(result.model_dump_json()) and None,
    )
    return SlideOutcome(
        slide=f"in/{name}.svs",
        name=name,
        status="done",
        probability=probability,
        label=result.label,
        seconds=2.0,
        digests=spec.digests,
    )


def record_run(
    out: Path, run_id: str, outcomes: dict[str, SlideOutcome], *, ended: bool = True, day: int | None = None
) -> None:
    """What a batch records of a run, in the order in which it does."""
    number = day or int(run_id[1:])
    with Ledger(out / LEDGER) as ledger:
        start = RunStart(
            run_id=run_id,
            started_utc=f"2026-01-{number:02d}T00:00:00Z",
            operator="ada",
            command="medvision batch",
            slides=len(SLIDES),
            config={},
            config_digest="c",
            code="d",
            software={},
        )
        ledger.begin_run(start, [(f"id-{name}", name) for name in SLIDES])
        for name, outcome in outcomes.items():
            attempt_id = f"{run_id}-{name}"
            ledger.begin(
                Attempt(
                    run_id=run_id,
                    attempt_id=attempt_id,
                    number=1,
                    slide_id=f"id-{name}",
                    name=name,
                    began_utc=f"2026-01-{number:02d}T00:10:00Z",
                )
            )
            ledger.end(
                AttemptEnd(
                    attempt_id=attempt_id,
                    ended_utc=f"2026-01-{number:02d}T00:20:00Z",
                    verdict=outcome.status,
                    outcome=outcome,
                )
            )
        if ended:
            finish_run(out, list(outcomes.values()), ledger=ledger, run_id=run_id)
            ledger.end_run(RunEnd(run_id=run_id, finished_utc="t", state="finished", counts={"done": 2}))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two finished runs, the second with another result of one slide."""
    folder = tmp_path / "out"
    folder.mkdir()
    record_run(folder, "R1", {name: publish(folder, name, 0.2) for name in SLIDES})
    again = {"a": publish(folder, "a", 0.7, stride=1.0), "b": publish(folder, "b", 0.2)}
    record_run(folder, "R2", again)
    return folder


@pytest.fixture
def ledger(out: Path) -> Iterator[Ledger]:
    with Ledger(out / LEDGER) as opened:
        yield opened


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


def test_nothing_is_wrong_after_two_runs(out: Path) -> None:
    assert check_ledger(out) == []


def test_of_two_runs_at_once_either_may_be_on_the_page(out: Path) -> None:
    done = read_record(out / "index.json", RunIndex).outcomes
    unchanged = [outcome.model_copy(update={"status": "unchanged"}) for outcome in done]
    record_run(out, "R3", {outcome.name: outcome for outcome in unchanged}, day=2)
    finish_run(out, done)
    assert check_ledger(out) == []
    record_run(out, "R4", {outcome.name: outcome for outcome in unchanged})
    finish_run(out, done)
    assert all("disagree on the status" in problem for problem in check_ledger(out))
    assert len(check_ledger(out)) == 2


def test_the_end_of_a_run_keeps_its_quality_for_later_runs(out: Path, ledger: Ledger) -> None:
    found = {(one.run_id, one.name): [m.name for m in one.quality] for one in ledger.results()}
    assert found == {(run, name): ["sharpness"] for run in ("R1", "R2") for name in SLIDES}
    assert b"Across runs" in (out / "index.html").read_bytes()


def test_a_result_that_is_gone(out: Path) -> None:
    (out / "a").rename(out.parent / "elsewhere")
    assert "a is missing, and the ledger (run R2, slide 'id-a') says 'done'" in only(check_ledger(out))


def test_a_byte_of_a_result_that_changed(out: Path) -> None:
    path = out / "a" / "result.json"
    path.write_bytes(path.read_bytes().replace(b"0.7", b"0.8"))
    assert "result.json was altered" in only(check_ledger(out))


def test_a_result_that_was_made_again_behind_the_ledgers_back(out: Path) -> None:
    publish(out, "a", 0.4, stride=2.0)
    problems = check_ledger(out)
    assert len(problems) == 2
    assert "has the config digest" in problems[0]
    assert "has the result digest" in problems[1]


def test_an_outcome_that_does_not_say_what_it_is_of(out: Path) -> None:
    outcome = publish(out, "a", 0.7, stride=1.0).model_copy(update={"digests": {}})
    record_run(out, "R3", {"a": outcome, "b": publish(out, "b", 0.2)})
    assert "does not say what" in only(check_ledger(out))


def test_a_result_that_no_run_planned(out: Path) -> None:
    publish(out, "c", 0.1)
    assert "c holds a result, and no run in the ledger planned it" in only(check_ledger(out))
    (out / "c").rename(out / "c.set-aside-1")
    assert check_ledger(out) == []


def test_a_result_of_which_no_attempt_tells(tmp_path: Path) -> None:
    outcomes = {name: publish(tmp_path, name, 0.2) for name in SLIDES}
    failed = SlideOutcome(slide="in/b.svs", name="b", status="failed", reason="why")
    record_run(tmp_path, "R1", {**outcomes, "b": failed})
    assert "b holds a result, and no attempt in the ledger came to one" in only(check_ledger(tmp_path))


def test_a_finished_run_with_a_slide_that_was_never_begun(tmp_path: Path) -> None:
    record_run(tmp_path, "R1", {"a": publish(tmp_path, "a", 0.2)})
    assert "run R1 is finished, and its slide 'id-b' was never begun" in only(check_ledger(tmp_path))


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_an_attempt_that_never_ended(out: Path, ledger: Ledger, state: str) -> None:
    attempt = Attempt(run_id="R2", attempt_id="x", number=2, slide_id="id-a", name="a", began_utc="t")
    ledger.begin(attempt)
    ledger.end_run(RunEnd(run_id="R2", finished_utc="u", state=state, counts={}))
    problems = check_ledger(out)
    said = f"attempt 2 at slide 'id-a' of run R2 was begun and never ended, and the run is {state}"
    assert said in problems


def test_an_end_that_contradicts_its_outcome(out: Path, ledger: Ledger) -> None:
    outcome = publish(out, "a", 0.7, stride=1.0)
    for verdict, told, words in (
        ("unchanged", outcome, "ended as 'unchanged', and its outcome says 'done'"),
        ("done", None, "ended as 'done', and has no outcome"),
        ("done", outcome.model_copy(update={"name": "b"}), "in the folder 'b', and 'a' was planned"),
    ):
        ledger.end(AttemptEnd(attempt_id="R2-a", ended_utc="u", verdict=verdict, outcome=told))
        assert any(words in problem for problem in check_ledger(out)), words
    ledger.end(AttemptEnd(attempt_id="R2-a", ended_utc="v", verdict="done", outcome=outcome))
    assert check_ledger(out) == []


def test_a_run_that_goes_on_is_asked_for_what_it_recorded_only(out: Path) -> None:
    record_run(out, "R3", {"a": publish(out, "a", 0.9, stride=3.0)}, ended=False)
    assert check_ledger(out) == []
    with Ledger(out / LEDGER) as ledger:
        ledger.begin(
            Attempt(run_id="R3", attempt_id="b3", number=1, slide_id="id-b", name="b", began_utc="t")
        )
    publish(out, "b", 0.9, stride=3.0)  # in place, and not yet reported
    assert check_ledger(out) == []
    (out / "a" / "result.json").unlink()
    assert "result.json is missing" in only(check_ledger(out))


def edit_index(out: Path, **changes: object) -> None:
    stored = json.loads((out / "index.json").read_text())
    stored["outcomes"][0] |= changes
    (out / "index.json").write_text(json.dumps(stored))


def test_an_index_that_tells_another_story(out: Path) -> None:
    edit_index(out, probability=0.5)
    assert "disagree on the probability of 'a': 0.5 and 0.7" in only(check_ledger(out))
    edit_index(out, probability=0.7, status="failed")
    assert "disagree on the status of 'a': 'failed' and 'done'" in only(check_ledger(out))


def test_an_index_with_other_slides(out: Path) -> None:
    edit_index(out, name="z")
    first, second = check_ledger(out)
    assert "lists 'z', which no run in the ledger planned" in first
    assert "does not list 'a', of which run R2 says 'done'" in second


def test_an_index_that_is_gone_or_broken(out: Path) -> None:
    (out / "index.json").write_text("{}")
    assert "index.json: outcomes" in only(check_ledger(out))
    (out / "index.json").unlink()
    assert "index.json is missing" in only(check_ledger(out))


def test_a_damaged_ledger(out: Path) -> None:
    path = out / LEDGER
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'attempt_end'"
        ).fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = os.urandom(4096)
    path.write_bytes(data)
    assert LEDGER in check_ledger(out)[0]
    with pytest.raises(StoreError, match="there is no ledger"):
        check_ledger(out.parent)


def test_the_commands(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert medvision(["runs", str(out), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert [(run["run_id"], run["state"], run["counts"]) for run in runs] == [
        ("R2", "finished", {"done": 2}),
        ("R1", "finished", {"done": 2}),
    ]
    assert medvision(["runs", "list", str(out)]) == 0
    assert "R1" in capsys.readouterr().out
    assert medvision(["runs", "show", str(out), "R2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(one["slide_id"], one["verdict"], len(one["attempts"])) for one in shown["slides_planned"]] == [
        ("id-a", "done", 1),
        ("id-b", "done", 1),
    ]
    assert medvision(["runs", "show", str(out), "R2"]) == 0
    assert "0.700" in capsys.readouterr().out
    assert medvision(["runs", "show", str(out), "Q"]) == 2
    assert "runs: R2, R1" in capsys.readouterr().err
    assert medvision(["runs", "backup", str(out), str(tmp_path / "copy.sqlite")]) == 0
    capsys.readouterr()
    assert medvision(["runs", "check", str(out)]) == 0
    assert capsys.readouterr().out == "2 runs and 2 slides: ledger, results and index agree\n"


def test_the_check_as_a_command_has_a_status(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "a" / "result.json").unlink()
    assert medvision(["runs", "check", str(out)]) == 1
    assert "result.json is missing" in capsys.readouterr().err
    assert medvision(["runs", "check", str(out), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["problems"] == len(said["disagreements"]) == 1
    assert medvision(["runs", "check", str(out / "a")]) == 2
