"""The page of a cohort: tables that a program can read, the comparison with earlier runs, and many slides."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medvision.core.errors import StoreError, UsageError
from medvision.report import thumbnails
from medvision.report.cohort_table import _cell
from medvision.report.index import render_index
from medvision.report.render import render_reports
from medvision.store.files import safe_name
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.ledger_records import Attempt, AttemptEnd, RunStart
from medvision.store.records import QcMeasure, SlideOutcome


def outcome_of(name: str, probability: float | None, status: str = "done", **digests: str) -> SlideOutcome:
    label = None if probability is None else "positive" if probability >= 0.5 else "negative"
    return SlideOutcome(
        slide=f"/data/{name}.svs",
        name=name,
        status=status,
        reason="" if status == "done" else f"/data/{name}.svs: lost",
        probability=probability,
        label=label,
        batch_size=64,
        digests={"slide": f"s-{name}", "model": "m", "config": "c", "code": "d", "result": "r", **digests},
    )


def record(
    folder: Path, run_id: str, outcomes: list[SlideOutcome], density: float = 0.4, slides: int | None = None
) -> None:
    planned = [(f"id-{one.name}", one.name) for one in outcomes]
    with Ledger(folder / LEDGER) as ledger:
        start = RunStart(
            run_id=run_id,
            started_utc=f"2026-01-0{run_id[1:]}T00:00:00Z",
            operator="ada",
            command="c",
            slides=len(planned),
            config={},
            config_digest="c",
            code="d",
            software={},
        )
        ledger.begin_run(start, planned)
        for place, one in enumerate(outcomes):
            identity = {"run_id": run_id, "slide_id": f"id-{one.name}", "name": one.name}
            ledger.begin(Attempt(attempt_id=f"{run_id}{one.name}", number=1, began_utc="t", **identity))
            end = AttemptEnd(attempt_id=f"{run_id}{one.name}", ended_utc="t", verdict=one.status, outcome=one)
            ledger.end(end)
            value = density + place / 1000
            measure = QcMeasure(name="stain density", value=value, unit="", ok=True, limit="", meaning="")
            ledger.record_quality(run_id, {f"id-{one.name}": [measure]})


@pytest.fixture
def run(make_result, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    make_result("=cmd()", folder=folder / "node-1")
    make_result("node-2", folder=folder / "node-2", label="negative", probability=0.125, regions=())
    render_index(
        folder,
        [outcome_of("node-1", 0.9412), outcome_of("node-2", 0.125), outcome_of("gone", None, "failed")],
    )
    return folder


def test_the_table_is_typed_and_missing_is_null(run: Path) -> None:
    table = pq.read_table(run / "cohort.parquet")
    types = {field.name: field.type for field in table.schema}
    assert types["probability"] == types["qc_blur"] == pa.float64()
    assert types["regions"] == types["windows"] == types["attempts"] == pa.int64()
    assert types["qc_blur_ok"] == pa.bool_()
    first, second, gone = table.to_pylist()
    assert first["slide"] == "=cmd()"
    assert (first["verdict"], first["label"], first["probability"]) == ("done", "positive", 0.9412)
    assert (first["regions"], first["windows"], first["unread"]) == (2, 37_411, 3)
    assert (first["qc_blur"], first["qc_blur_ok"], first["qc_tissue_share_ok"]) == (61.2, False, True)
    assert (first["slide_digest"], first["model_digest"]) == ("3f" * 32, "a9" * 32)
    assert (first["spacing_row_um"], first["reader"], first["batch_size"]) == (0.5, "openslide", 64)
    assert first["longest_mm"] == pytest.approx(2 * 44 * 60 * 0.5 / 1000)
    assert second["longest_mm"] is None
    assert second["report"] is None
    assert gone["verdict"] == "failed"
    assert gone["reason"] == "gone.svs: lost"
    filled = {name for name, value in gone.items() if value is not None}
    digests = {f"{what}_digest" for what in ("slide", "model", "config", "code", "result")}
    assert filled == {"name", "verdict", "status", "reason", "batch_size"} | digests


def test_both_tables_say_the_same(run: Path) -> None:
    with (run / "cohort.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row, typed in zip(rows, pq.read_table(run / "cohort.parquet").to_pylist(), strict=True):
        assert list(row) == list(typed)
        for name, value in typed.items():
            if isinstance(value, float):
                assert float(row[name]) == value
            elif value != "=cmd()":
                said = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
                assert row[name] == said
    assert rows[0]["slide"] == "'=cmd()"


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(start: str) -> None:
    assert _cell(start) == f"'{start}"
    assert _cell(-1.5) == "-1.5"
    assert _cell("a=1") == "a=1"


def test_a_manifest_of_the_same_name_stays(make_result, tmp_path: Path, page_of) -> None:
    make_result("node-1", folder=tmp_path / "node-1")
    (tmp_path / "cohort.csv").write_text("slide_id,path\na,a.svs\n")
    page = page_of(render_index(tmp_path).read_bytes())
    assert (tmp_path / "cohort.csv").read_text() == "slide_id,path\na,a.svs\n"
    assert "./results-cohort.csv" in page.attributes("href")
    assert "node-1" in (tmp_path / "results-cohort.csv").read_text()


def test_rendered_again_all_bytes_are_the_same(run: Path) -> None:
    names = ("index.html", "index.json", "cohort.csv", "cohort.parquet")
    before = {name: (run / name).read_bytes() for name in names}
    render_index(run)
    assert {name: (run / name).read_bytes() for name in names} == before


def test_a_chip_for_each_verdict(run: Path, page_of, assert_inert) -> None:
    page = page_of((run / "index.html").read_bytes())
    assert_inert(page)
    chips = [a["data-verdict"] for tag, a in page.tags if tag == "button" and "data-verdict" in a]
    assert chips == ["Positive", "Negative", "Failed"]
    rows = [a["data-verdict"] for tag, a in page.tags if tag == "tr" and "data-verdict" in a]
    assert rows == ["Positive", "Negative", "Failed"]


@pytest.fixture
def two_runs(run: Path) -> Path:
    """Of the second run one slide has another label, one failed, and one is new."""
    record(run, "R1", [outcome_of("node-1", 0.25), outcome_of("node-2", 0.125), outcome_of("gone", 0.75)])
    record(
        run,
        "R2",
        [
            outcome_of("node-1", 0.9412, config="c2", model="m2", result="r2"),
            outcome_of("node-2", 0.125),
            outcome_of("gone", None, "failed"),
        ],
    )
    return run


def test_the_first_run_has_nothing_to_compare_with(run: Path, page_of) -> None:
    record(run, "R1", [outcome_of("node-1", 0.25)])
    assert "Across runs" not in page_of(render_index(run, run_id="R1").read_bytes()).text
    assert pq.read_table(run / "cohort.parquet").to_pylist()[0]["run_id"] == "R1"


def test_scores_that_changed_and_why(two_runs: Path, page_of, assert_inert) -> None:
    page = page_of(render_index(two_runs, run_id="R2").read_bytes())
    assert_inert(page)
    assert "2 slides scored before: 1 with another probability, 1 with another label." in page.text
    assert "node-1 0.250 0.941 +0.691 negative → positive model, settings" in page.text
    assert [a["class"] for tag, a in page.tags if tag == "circle"] == ["turned", "kept"]
    assert "R2 (this) 2026-01-02T00:00:00Z 3 2 done, 1 failed" in page.text
    assert "R1 2026-01-01T00:00:00Z 3 3 done" in page.text
    assert page.text.count("Too few") == 3
    row = pq.read_table(two_runs / "cohort.parquet").to_pylist()[0]
    assert (row["slide_id"], row["attempts"], row["run_id"]) == ("id-node-1", 1, "R2")


def test_the_comparison_is_rendered_again_as_it_was(two_runs: Path) -> None:
    """Also after a later run has begun, and by the command that renders reports."""
    render_index(two_runs, run_id="R2")
    render_reports(two_runs)
    before = (two_runs / "index.html").read_bytes()
    assert b"Across runs" in before
    record(two_runs, "R3", [outcome_of("node-2", 0.5)])
    assert render_index(two_runs).read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "nothing that was recorded"),
        ({"result": "x"}, "library versions"),
        ({"code": "x", "result": "x"}, "code"),
        ({"slide": "x", "result": "x"}, "slide content"),
    ],
)
def test_what_differs_is_said(run: Path, page_of, changed: dict[str, str], words: str) -> None:
    record(run, "R1", [outcome_of("node-1", 0.25)])
    record(run, "R2", [outcome_of("node-1", 0.5, **changed)])
    page = page_of(render_index(run, run_id="R2").read_bytes())
    assert f"+0.250 negative → positive {words}" in page.text


def test_a_slide_under_another_name_is_known_by_its_content(run: Path, page_of) -> None:
    record(run, "R1", [outcome_of("old-name", 0.25, slide="same")])
    record(run, "R2", [outcome_of("node-1", 0.5, slide="same")])
    assert "node-1 0.250 0.500 +0.250" in page_of(render_index(run, run_id="R2").read_bytes()).text


def test_quality_that_drifted_is_flagged(run: Path, page_of) -> None:
    names = [f"n{number}" for number in range(12)]
    record(run, "R1", [outcome_of(name, number / 12) for number, name in enumerate(names)])
    record(run, "R2", [outcome_of(name, number / 12) for number, name in enumerate(names)], density=0.9)
    text = page_of(render_index(run, run_id="R2").read_bytes()).text
    assert re.search(r"Stain density 12 / 12 0\.9\S+ \(.*?\) 0\.4\S+ \(.*?\) 1\.00 <0\.001 Drifted", text)
    assert re.search(r"Probability 12 / 12 .*? 0\.00 1\.000 Alike", text)
    assert "2 measures judged, drifted: stain density." in text
    assert "12 slides scored before: every probability is the same." in text


def test_a_run_that_the_ledger_does_not_have(run: Path) -> None:
    with pytest.raises(StoreError, match="there is no ledger"):
        render_index(run, run_id="R1")
    record(run, "R1", [outcome_of("node-1", 0.25)])
    with pytest.raises(UsageError, match="runs: R1"):
        render_index(run, run_id="R7")


@pytest.fixture
def many(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page that has more slides than it holds pictures for."""
    monkeypatch.setattr("medvision.report.index.EMBEDDED", 1)
    return run


def test_many_slides_have_their_pictures_beside_the_page(many: Path, page_of) -> None:
    page = page_of(render_index(many).read_bytes())
    pictures = page.attributes("src")
    assert len(pictures) == 2
    assert all(picture.startswith("./thumbnails/node-") for picture in pictures)
    assert all((many / unquote(picture)).is_file() for picture in pictures)
    assert page.attributes("loading") == ["lazy", "lazy"]
    assert "img-src data: 'self' file:; " in page.policy
    assert "unsafe" not in page.policy


def test_a_picture_is_drawn_once_and_again_when_the_result_changed(many: Path, make_result) -> None:
    first = render_index(many).read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in (many / "thumbnails").iterdir()}
    (many / "thumbnails" / "notes.jpg").write_text("a person's")
    assert render_index(many).read_bytes() == first
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    (many / "node-1" / "thumbnail.jpg").write_bytes((many / "node-1" / "region-01.jpg").read_bytes())
    assert render_index(many).read_bytes() != first
    now = {path.name for path in (many / "thumbnails").iterdir()}
    assert len(now) == 3
    assert "notes.jpg" in now
    assert len(now & {path.name for path in kept}) == 1


def test_a_broken_small_picture_is_drawn_again(many: Path) -> None:
    render_index(many)
    path = next((many / "thumbnails").glob("node-1-*"))
    whole = path.read_bytes()
    path.write_bytes(b"")
    render_index(many)
    assert path.read_bytes() == whole


def test_pictures_do_not_go_through_a_link(many: Path, tmp_path: Path, page_of) -> None:
    (tmp_path / "elsewhere").mkdir()
    (many / "thumbnails").symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in page_of(render_index(many).read_bytes()).text
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_slide_takes_the_place_of_the_runs_own_files() -> None:
    for slide in ("thumbnails.svs", "cohort.parquet.svs", "cohort.csv.svs", "ledger.sqlite.svs"):
        assert re.search(r"-[0-9a-f]{8}$", safe_name(slide)), slide
    assert thumbnails.EMBEDDED == 100
