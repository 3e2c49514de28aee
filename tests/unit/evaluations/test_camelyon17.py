"""Stages of patients from their nodes, and the kappa of tables in the challenge's layout."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.evaluations.base import load_evaluations
from medvision.evaluations.camelyon17 import NODES, STAGES, evaluate, read_patients, stage_of
from medvision.evaluations.camelyon17_page import describe, draw_confusion
from medvision.evaluations.page import write_page
from medvision.report.plots import draw


@pytest.mark.parametrize(
    ("nodes", "stage"),
    [
        ("negative negative negative negative negative", "pN0"),
        ("itc negative itc negative negative", "pN0(i+)"),
        ("micro itc negative negative negative", "pN1mi"),
        ("micro micro micro micro micro", "pN1mi"),  # however many, without a macrometastasis
        ("macro negative negative negative itc", "pN1"),
        ("macro micro micro itc itc", "pN1"),  # isolated cells are no metastasis
        ("macro micro micro micro negative", "pN2"),
        ("macro macro macro macro macro", "pN2"),
        ("macro " + "micro " * 8, "pN2"),
    ],
)
def test_the_rule_of_stages(nodes, stage):
    assert stage_of(nodes.split()) == stage


def test_what_the_rule_does_not_cover_is_refused():
    with pytest.raises(UsageError, match="10 nodes with metastases"):
        stage_of(["macro"] * 10)
    with pytest.raises(UsageError, match="got none"):
        stage_of([])
    with pytest.raises(UsageError, match="got huge"):
        stage_of(["huge", "macro"])


def table(path, stages=None, nodes=None):
    """A file of the challenge's layout: rows of patients, followed by those of their nodes."""
    lines = ["patient,stage"]
    for name in sorted({*(stages or {}), *(nodes or {})}):
        if stages:
            lines.append(f"{name}.zip,{stages[name]}")
        if nodes:
            lines += [f"{name}_node_{i}.tif,{label}" for i, label in enumerate(nodes[name])]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def files(tmp_path):
    """40 patients of 5 nodes; predictions that are wrong on some nodes."""
    random = np.random.default_rng(2)
    truth, said = {}, {}
    for number in range(40):
        name = f"patient_{number:03d}"
        truth[name] = random.choice(NODES, 5, p=[0.6, 0.1, 0.15, 0.15]).tolist()
        said[name] = [str(random.choice(NODES)) if random.random() < 0.2 else label for label in truth[name]]
    reference = table(tmp_path / "truth.csv", {n: stage_of(v) for n, v in truth.items()}, truth)
    return reference, table(tmp_path / "said.csv", nodes=said), truth, said


def test_figures_equal_scikit_learn(files):
    reference, predictions, truth, said = files
    got = evaluate(predictions, reference, resamples=200)
    stages = [[stage_of(nodes) for nodes in one.values()] for one in (truth, said)]
    assert got.kappa.value == pytest.approx(cohen_kappa_score(*stages, labels=STAGES, weights="quadratic"))
    nodes = [[label for patient in one.values() for label in patient] for one in (truth, said)]
    assert got.node_kappa.value == pytest.approx(cohen_kappa_score(*nodes, labels=NODES, weights="quadratic"))
    assert got.kappa.interval[0] < got.kappa.value < got.kappa.interval[1]
    assert (got.stages.sum(), got.nodes.sum()) == (40, 200)
    again = evaluate(predictions, reference, resamples=200)
    assert again.kappa == got.kappa


def test_the_stage_in_the_patient_s_own_row_counts(files, tmp_path):
    reference, _, truth, _ = files
    stages = {name: stage_of(nodes) for name, nodes in truth.items()}
    given = table(tmp_path / "given.csv", stages)
    got = evaluate(given, reference, resamples=0)
    assert got.kappa.value == 1
    assert got.nodes is None
    assert any("no confusion table of nodes" in note for note in got.notes)
    first = next(name for name, stage in stages.items() if stage == "pN0")
    both = table(tmp_path / "both.csv", {**stages, first: "pN2"}, truth)
    got = evaluate(both, reference, resamples=0)
    assert got.kappa.value < 1
    assert any(f"the stage of {first} is not that of the nodes" in note for note in got.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("patient,stage\n", "holds a header and no row"),
        ("name,label\na,b\n", "has no column patient, stage"),
        ("patient,stage\npatient_1.zip\n", "line 2: 1 cells for 2 columns"),
        ("patient,stage\npatient_1.zip,pN3\n", r"line 2: 'pN3' of 'patient_1.zip'; a patient is one of pN0"),
        ("patient,stage\npatient_1_node_0.tif,nan\n", "line 2: 'nan' .* a node is one of negative"),
        ("patient,stage\npatient_1.zip,pN0\nPatient_1,pN1\n", "line 3: 'Patient_1' for the second time"),
        ("patient,stage\na_node_1.tif,itc\na_node_1.tif,itc\n", "line 3: 'a_node_1.tif' for the second"),
    ],
)
def test_malformed_tables_name_file_and_line(tmp_path, text, message):
    path = tmp_path / "stages.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_patients(path)
    assert "stages.csv" in str(caught.value)


def test_patients_and_nodes_must_be_those_of_the_reference(files, tmp_path):
    reference, predictions, _, said = files
    lines = predictions.read_text()
    predictions.write_text(lines.replace("patient_003", "patient_903"))
    with pytest.raises(UsageError, match=r"said\.csv: lacks patients patient_003"):
        evaluate(predictions, reference)
    predictions.write_text(lines.replace("patient_003_node_4.tif,", "patient_003_node_7.tif,"))
    with pytest.raises(UsageError, match="patient_003_node_4, patient_003_node_7 must be in both"):
        evaluate(predictions, reference)
    same = table(tmp_path / "same.csv", dict.fromkeys(said, "pN0"))
    with pytest.raises(UsageError, match="all 40 cases are of one class"):
        evaluate(same, same)


def test_a_patient_beyond_the_rule_is_named(tmp_path):
    nodes = {"patient_001": ["macro"] * 10, "patient_002": ["negative"] * 10}
    given = table(tmp_path / "given.csv", nodes=nodes)
    with pytest.raises(UsageError, match="patient_001: 10 nodes with metastases"):
        evaluate(given, given)


def test_names_of_classes_do_not_touch_in_the_plot(files, monkeypatch):
    reference, predictions, _, _ = files
    figures = []

    def watched(name, alt, size, paint):
        def then(figure):
            figures.append(figure)
            paint(figure)

        return draw(name, alt, size, then)

    monkeypatch.setattr("medvision.evaluations.camelyon17_page.draw", watched)
    draw_confusion(evaluate(predictions, reference, resamples=0))
    (figure,) = figures
    assert len(figure.axes) == 2
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        gaps = [right.x0 - left.x1 for left, right in pairwise(boxes)]
        assert min(gaps) > 0.06 * figure.dpi, axes.get_title(loc="left")


def test_files_and_command(files, tmp_path):
    reference, predictions, _, _ = files
    page = describe(evaluate(predictions, reference, resamples=100))
    first, second = (
        {name: path.read_bytes() for name, path in write_page(page, tmp_path / out).items()} for out in "ab"
    )
    assert first == second
    assert set(first) == {
        *(f"camelyon17.{e}" for e in ("json", "md", "html")),
        "confusion.png",
        "confusion.svg",
    }
    data = json.loads(first["camelyon17.json"])
    assert np.sum(data["stages"]["reference in rows"]) == 40
    assert "| PFA-ScanNet 2019 | 0.905 | – | MICCAI 2019 |" in first["camelyon17.md"].decode()
    places = ["--predictions", str(predictions), "--reference", str(reference), "--out", str(tmp_path / "c")]
    assert run(["evaluate", "camelyon17", *places]) == 0
    assert (tmp_path / "c" / "camelyon17.html").is_file()
    assert load_evaluations()["camelyon17"].evaluate is evaluate
