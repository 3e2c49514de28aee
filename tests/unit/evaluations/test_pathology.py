"""The evaluation of patches from a CSV: figures against scikit-learn, and faults that are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sklearn.metrics
from sklearn.calibration import calibration_curve

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.evaluations.page import write_page
from medvision.evaluations.pathology import evaluate, read_patches
from medvision.evaluations.pathology_page import describe


@pytest.fixture
def patches(tmp_path):
    """600 patches of 35 slides; patches of a slide resemble each other."""
    random = np.random.default_rng(0)
    slide = random.integers(0, 35, 600)
    label = random.random(600) < 0.4
    logit = random.normal(0, 1.2, 600) + 2 * label - 1 + random.normal(0, 0.8, 35)[slide]
    p = 1 / (1 + np.exp(-2 * logit))
    path = tmp_path / "patches.csv"
    rows = [
        f"s{s:02d},{i},{'tumor' if y else 'Normal'},{v:.6f}"
        for i, (s, y, v) in enumerate(zip(slide, label, p, strict=True))
    ]
    path.write_text("slide,patch,label,Probability\n" + "\n".join(rows) + "\n")
    return path, label, np.round(p, 6), slide


def test_figures_equal_scikit_learn(patches):
    path, y, p, _ = patches
    got = evaluate(path, resamples=200)
    assert got.auc.value == pytest.approx(sklearn.metrics.roc_auc_score(y, p))
    assert got.average_precision.value == pytest.approx(sklearn.metrics.average_precision_score(y, p))
    assert got.brier.value == pytest.approx(sklearn.metrics.brier_score_loss(y, p))
    assert got.log_loss.value == pytest.approx(sklearn.metrics.log_loss(y, p))
    assert got.accuracy.value == pytest.approx(sklearn.metrics.accuracy_score(y, p >= 0.5))
    observed, predicted = calibration_curve(y, p, n_bins=15)
    np.testing.assert_allclose(got.reliability.observed, observed)
    np.testing.assert_allclose(got.reliability.predicted, predicted)
    assert (got.patches, got.positives, got.slides) == (600, y.sum(), 35)
    assert got.notes == ()


def test_slides_widen_the_interval(patches, tmp_path):
    path = patches[0]
    by_slide = evaluate(path)
    text = path.read_text().splitlines()
    alone = tmp_path / "alone.csv"
    alone.write_text("\n".join(line.partition(",")[2] for line in text))
    by_patch = evaluate(alone)
    width = [np.ptp(got.auc.interval) for got in (by_slide, by_patch)]
    assert width[0] > width[1]
    assert np.ptp(by_patch.delong) == pytest.approx(width[1], rel=0.15)
    assert any("patches were drawn as if independent" in note for note in by_patch.notes)


def test_one_class_has_calibration_and_no_auc(tmp_path):
    path = tmp_path / "normal.csv"
    path.write_text("label,probability,extra\n0,0.1,x\n0,0.3,y\n")
    got = evaluate(path)
    assert got.auc is got.roc is got.delong is None
    assert got.brier.value == pytest.approx(0.05)
    assert got.notes[0] == "columns not used: extra"
    assert "no AUC: all 2 patches are of one class" in got.notes
    page = describe(got)
    assert page.rows[0].value == "not measured"
    files = write_page(page, tmp_path / "out")
    assert json.loads(files["pathology.json"].read_text())["auc"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,probability\n", "holds a header and no row"),
        ("label,score\n1,0.5\n", "has no column probability"),
        ("label,label,probability\n1,1,0.5\n", "a column is named twice"),
        ("label,probability\n1,nan\n", r"line 2: probability 'nan' is no number in \[0, 1\]"),
        ("label,probability\n1,1.2\n", r"line 2: probability '1.2'"),
        ("label,probability\n1,\n", r"line 2: probability ''"),
        ("label,probability\nyes,0.5\n", "line 2: label 'yes'; known: tumor.* pass --positive"),
        ("slide,label,probability\n,1,0.5\n", "line 2: the slide of the patch is not named"),
        ("patch,label,probability\na,1,0.5\na,1,0.6\n", "line 3: patch 'a' for the second time"),
        ("seed,label,probability\n0,1,0.5\n1,1,0.6\n", "predictions of 2 seeds"),
    ],
)
def test_malformed_tables_name_file_and_line(tmp_path, text, message):
    path = tmp_path / "patches.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        evaluate(path)
    assert "patches.csv" in str(caught.value)


def test_labels_may_be_other_words(tmp_path):
    path = tmp_path / "patches.csv"
    path.write_text("label,probability\nDCIS,0.9\nbenign,0.2\ninvasive,0.4\n")
    assert read_patches(path, "dcis").positive.tolist() == [True, False, False]
    with pytest.raises(
        UsageError, match=r"no patch has the positive label 'tumor'; its labels are DCIS, benign, inv"
    ):
        read_patches(path, "tumor")


def test_files_and_command(patches, tmp_path):
    page = describe(evaluate(patches[0], resamples=50))
    first, second = (
        {name: path.read_bytes() for name, path in write_page(page, tmp_path / out).items()} for out in "ab"
    )
    assert first == second
    assert set(first) == {*(f"pathology.{e}" for e in ("json", "md", "html")), "curves.png", "curves.svg"}
    data = json.loads(first["pathology.json"])
    assert sum(entry["patches"] for entry in data["reliability"]) == 600
    assert data["roc"][0]["threshold"] is None
    assert "| GDensenet, Veeling et al. 2018 | 0.963 | 0.898 |" in first["pathology.md"].decode()
    assert run(["evaluate", "pathology", "--predictions", str(patches[0]), "--out", str(tmp_path / "c")]) == 0
    assert (tmp_path / "c" / "pathology.html").is_file()


def test_the_command_says_what_the_figures_lack(tmp_path, capfd):
    path = tmp_path / "normal.csv"
    path.write_text("label,probability\n0,0.1\n0,0.3\n")
    assert run(["evaluate", "pathology", "--predictions", str(path), "--out", str(tmp_path / "out")]) == 0
    said = capfd.readouterr().out
    assert "note: no AUC: all 2 patches are of one class" in said
    assert "note: no column slide" in said
