"""The page of a run: no slide is left out, no name is a link to elsewhere, and it can be made again."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest

from medvision.core.errors import StoreError
from medvision.report.index import froc_plot, render_index
from medvision.report.render import render_reports, write_report
from medvision.store.records import EvaluationRecord, ScoreRecord, SlideOutcome

EVALUATION = EvaluationRecord(
    title="Evaluation",
    truth="Outlines of the generated slides.",
    scores=(
        ScoreRecord(name="Slide AUC", value=0.9375, interval=(0.81, 1.0), protocol="CAMELYON16", cases=8),
        ScoreRecord(name="FROC score", value=0.75, interval=None, protocol="CAMELYON16", cases=5),
    ),
    froc=((0.25, 0.5), (2.0, 1.0)),
)


def outcome(name: str, status: str = "done", reason: str = "", slide: str = "") -> SlideOutcome:
    return SlideOutcome(
        slide=slide or f"/data/{name}.svs", name=name, status=status, reason=reason, seconds=1.5
    )


@pytest.fixture
def run(make_result, tmp_path):
    """Three slides, one of them rejected, and two failures, one with a result left by an earlier run."""
    folder = tmp_path / "run"
    make_result("node-1", folder=folder / "node-1")
    make_result("node-2", folder=folder / "node-2", label="negative", probability=0.1, regions=())
    make_result(
        "node-3",
        folder=folder / "node-3",
        verdict="QC rejected",
        reason="outside the limits: blur",
        label=None,
    )
    make_result("node-4", folder=folder / "node-4", probability=0.7777)
    write_report(folder / "node-1")
    outcomes = [
        outcome("node-1"),
        outcome("node-2", "unchanged"),
        outcome("node-3", "QC rejected"),
        outcome("node-4", "failed", "/data/node-4.svs: 12 of 80 windows could not be decoded"),
        outcome("broken", "failed", "/data/broken.svs: not a slide"),
    ]
    return folder, outcomes


def test_every_outcome_has_a_row(run, page_of, assert_inert):
    folder, outcomes = run
    page = page_of(render_index(folder, outcomes, EVALUATION).read_bytes())
    assert_inert(page)
    rows = [attributes for tag, attributes in page.tags if tag == "tr" and "data-text" in attributes]
    assert [row["class"] for row in rows] == [
        "tone-positive",
        "tone-negative",
        "tone-warning",
        "tone-failed",
        "tone-failed",
    ]
    assert "1 positive, 1 negative, 1 QC rejected, 2 failed" in page.text
    assert "2 of 5 failed" in page.text
    assert "broken.svs: not a slide" in page.text
    assert "/data/" not in page.text


def test_a_failure_does_not_wear_the_figures_of_an_earlier_result(run, page_of):
    folder, outcomes = run
    text = page_of(render_index(folder, outcomes).read_bytes()).text
    assert "0.941" in text
    assert "0.778" not in text


def test_links_are_relative_and_lead_to_files(run, page_of):
    folder, outcomes = run
    page = page_of(render_index(folder, outcomes).read_bytes())
    links = page.attributes("href")
    assert "./node-1/report.pdf" in links
    assert all((folder / unquote(link)).is_file() for link in links)


def test_hostile_folder_names(make_result, tmp_path, page_of, assert_inert):
    run = tmp_path / "run"
    for name in ("a b#c?d%41.x", 'q"><script>x', "javascript:alert(1)"):
        make_result(name, folder=run / name)
    page = page_of(render_index(run).read_bytes())
    assert_inert(page)
    links = page.attributes("href")
    assert len(links) == 8  # two for each slide, and the tables
    assert all((run / unquote(link)).is_file() for link in links)
    assert 'q"><script>x' in page.text


@pytest.mark.parametrize("name", ["../node-1", "a/b", "..", ""])
def test_outcomes_outside_the_run_are_refused(run, name):
    folder, _ = run
    with pytest.raises(StoreError, match="is not the name of a folder of results"):
        render_index(folder, [outcome(name, slide="x")])


def test_the_same_page_again(run):
    folder, outcomes = run
    first = render_index(folder, outcomes, EVALUATION).read_bytes()
    stored = (folder / "index.json").read_bytes()
    assert render_reports(folder)[-1].name == "index.html"
    again = (folder / "index.html").read_bytes()
    assert (folder / "index.json").read_bytes() == stored
    # The other slides have reports now, and links to them: with these the page settles.
    render_reports(folder)
    assert (folder / "index.html").read_bytes() == again
    assert len(again) > len(first)


def test_without_a_stored_index_the_folders_are_listed(run, page_of):
    folder, _ = run
    text = page_of(render_index(folder).read_bytes()).text
    assert all(f"node-{number}" in text for number in (1, 2, 3, 4))
    assert [one["name"] for one in json.loads((folder / "index.json").read_text())["outcomes"]] == [
        "node-1",
        "node-2",
        "node-3",
        "node-4",
    ]


def test_evaluation(run, page_of):
    folder, outcomes = run
    page = page_of(render_index(folder, outcomes, EVALUATION).read_bytes())
    for words in (
        "Slide AUC 0.938 0.810 – 1.000 8",
        "FROC score 0.750 not estimated 5",
        "Outlines of the generated",
    ):
        assert words in page.text
    assert any(tag == "polyline" for tag, _ in page.tags)


def test_froc_steps():
    plot = froc_plot(((0.0, 0.25), (1.0, 0.5), (64.0, 1.0)))
    assert plot.points == (
        (0.0, 0.0),
        (0.0, 0.0),
        (0.0, 0.25),
        (0.5, 0.25),
        (0.5, 0.5),
        (1.0, 0.5),
        (1.0, 1.0),
        (1.0, 1.0),
    )
    assert plot.ticks[3] == (0.5, "1")


def test_a_corrupt_stored_index_is_an_error(run):
    folder, _ = run
    (folder / "index.json").write_text("{}")
    with pytest.raises(StoreError, match=r"index\.json: outcomes"):
        render_index(folder)
