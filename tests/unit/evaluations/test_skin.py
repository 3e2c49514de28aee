"""Skin lesions: the rules of the ISIC challenges' scorer, sums over a taxonomy, and the sample data of ISIC 2017."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.core.taxonomy import read_taxonomy
from medvision.evaluations.skin import evaluate
from medvision.metrics.ranking import auc_above_sensitivity

TAXONOMY = Path(__file__).resolve().parents[3] / "configs" / "skin-taxonomy.yaml"
COUNTS = {"MEL": 30, "NV": 60, "BCC": 25, "AKIEC": 20, "BKL": 30, "DF": 12, "VASC": 15}
ABOVE = "AUC above 80% sensitivity"


def test_isic_scores(images):
    made = images(COUNTS)
    y, p = made.labels, made.probabilities
    (got,) = evaluate(made.predictions, made.truth, resamples=20).questions
    assert got.figures["balanced accuracy"].value == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(y, p.argmax(1))
    )
    for i, figures in enumerate(got.per_class):
        assert figures["AUC"].value == pytest.approx(sklearn.metrics.roc_auc_score(y == i, p[:, i]))
        assert figures[ABOVE].value == auc_above_sensitivity(y == i, p[:, i], 0.8)


def test_truth_as_the_challenges_have_it(images, tmp_path):
    made = images(COUNTS)
    expected = evaluate(made.predictions, made.truth, resamples=0).questions[0]
    rows = [line.split(",") for line in made.truth.read_text().splitlines()[1:]]
    names = list(COUNTS)
    lines = [
        f"{image}.jpg,{','.join(str(float(label == name)) for name in names)},1.0" for image, label in rows
    ]
    truth = tmp_path / "one_hot.csv"
    head = f"image,{','.join(names)},score_weight"
    zero = "ISIC_0035068," + ",".join("1" if name == "NV" else "0" for name in names) + ",1"
    other = "ISIC_1,0,1" + ",0" * 5 + ",0.0"
    truth.write_text("\n".join([head, zero, *lines, other]))
    extra = "".join(f"{image},1,0,0,0,0,0,0\n" for image in ("ISIC_0035068", "ISIC_1"))
    made.predictions.write_text(made.predictions.read_text() + extra)
    result = evaluate(made.predictions, truth, resamples=0)
    assert result.questions[0].figures == expected.figures
    assert "left out, as the challenge's scorer gives them no weight: ISIC_0035068, ISIC_1" in result.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,mel,nv\na,1,1\n", r"line 2: image 'a' must have a 1 in one of mel, nv.*has 1 in mel and nv"),
        ("image,mel,nv\na,0,0\n", "line 2: image 'a' must have.*it has no 1"),
        ("image,mel,nv\na,0.5,0.5\n", "line 2: image 'a' must have.*it has '0.5' in mel, '0.5' in nv"),
        ("image,mel,nv\na,x,1\n", "line 2: image 'a' must have.*'x' in mel"),
        ("image,mel,nv,score_weight\na,0,1,0.5\n", "line 2: score_weight 0.5 is neither 0 nor 1"),
        ("image,mel,nv\na,0,1\na.jpg,0,1\n", "line 3: image 'a' for the second time"),
        ("image,mel,nv,score_weight\na,0,1,0\n", "no image has a weight"),
        ("image,label\na,mel\na.jpg,mel\n", "an image comes twice, with and without .jpg"),
        ("image,label\na,nevus\n", "line 2: 'nevus' is unknown; known: MEL, NV"),
    ],
)
def test_faulty_truth(tmp_path, text, message):
    said, truth = tmp_path / "said.csv", tmp_path / "truth.csv"
    said.write_text("image,MEL,NV\na,0.5,0.5\n")
    truth.write_text(text)
    with pytest.raises(UsageError, match=message):
        evaluate(said, truth)


def test_scores_that_do_not_sum_to_one_and_ties(tmp_path):
    said, truth = tmp_path / "said.csv", tmp_path / "truth.csv"
    said.write_text("image,MEL,NV,BKL\na,0.9,0.9,0\nb,0.2,0.8,0.3\nc,0,0,0\nd,0.1,0.2,0.9\ne,0.6,0.1,0.1\n")
    truth.write_text("image,label\na,MEL\nb,NV\nc,BKL\nd,BKL\ne,MEL\n")
    result = evaluate(said, truth, TAXONOMY, resamples=0)
    (got,) = result.questions
    assert got.columns == ("mel", "nv", "bkl", "undecided")
    assert got.table.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1]]
    assert got.figures["balanced accuracy"].value == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert "Brier score" not in got.figures
    assert got.reliability is None
    assert result.tasks == ()
    assert any("scores of 5 images do not sum to 1" in note for note in result.notes)
    assert any(
        "2 images have several most probable classes: they were given no class" in n for n in result.notes
    )
    with pytest.raises(UsageError, match="cannot be added up over several classes"):
        evaluate(said, truth, TAXONOMY, positive=("benign",))
    (task,) = evaluate(said, truth, positive=("mel",), resamples=0).tasks
    assert task.figures["AUC"].value == 1


def test_levels_and_task_of_a_taxonomy(images):
    made = images(COUNTS)
    y, p = made.labels, made.probabilities
    result = evaluate(made.predictions, made.truth, TAXONOMY, resamples=0)
    _, two, five = result.questions
    assert (two.title, five.title) == ("2-way (level 1)", "5-way (level 2)")
    bad = np.array([name in ("MEL", "BCC", "AKIEC") for name in COUNTS])
    malignant = p[:, bad].sum(axis=1)
    benign = p[:, ~bad].sum(axis=1)
    assert two.figures["accuracy"].value == np.mean((malignant > benign) == bad[y])
    tree = read_taxonomy(TAXONOMY)
    group = [tree.path(name.lower())[2] for name in COUNTS]
    summed = np.stack([p[:, [g == one for g in group]].sum(axis=1) for one in five.classes], axis=1)
    truth = np.array([five.classes.index(group[i]) for i in y])
    assert five.figures["accuracy"].value == np.mean(summed.argmax(1) == truth)
    (task,) = result.tasks
    assert task.name == "malignant"
    assert task.figures["AUC"].value == pytest.approx(sklearn.metrics.roc_auc_score(bad[y], malignant))
    assert "level 1: neither a class nor an image lies in non-neoplastic: left out" in result.notes


def test_one_class_against_another(images):
    made = images(COUNTS)
    y, p = made.labels, made.probabilities
    kept = y < 2
    (task,) = evaluate(made.predictions, made.truth, positive=("mel",), negative=("nv",), resamples=0).tasks
    assert (task.cases, task.positives) == (90, 30)
    assert task.figures["AUC"].value == pytest.approx(sklearn.metrics.roc_auc_score(y[kept] == 0, p[kept, 0]))


def test_training_classes_and_finer_labels(tmp_path):
    tree, said, truth = tmp_path / "tree.yaml", tmp_path / "said.csv", tmp_path / "truth.csv"
    tree.write_text("name: skin\ntree:\n  benign: {nevus: [blue, halo], cyst: }\n  malignant: [mel, bcc]\n")
    said.write_text(
        "image,nevus,cyst,malignant\na,0.6,0.3,0.1\nb,0.2,0.7,0.1\nc,0.1,0.1,0.8\nd,0.5,0.2,0.3\n"
    )
    truth.write_text("image,label\na,blue\nb,cyst\nc,mel\nd,bcc\n")
    result = evaluate(said, truth, tree, resamples=0)
    first, coarse = result.questions
    assert first.table.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0]]
    assert coarse.classes == ("benign", "malignant")
    assert coarse.table.tolist() == [[2, 0], [1, 1]]
    assert (
        "no level 2: 'mel' is a part of the class 'malignant', which is not told apart further"
        in result.notes
    )
    truth.write_text("image,label\na,benign\nb,cyst\nc,mel\nd,bcc\n")
    with pytest.raises(UsageError, match="label 'benign' of image 'a' lies in no class of the predictions"):
        evaluate(said, truth, tree)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positive": ("wart",)}, "--positive: 'wart' is unknown; known: "),
        ({"negative": ("nv",)}, "--negative says nothing without --positive"),
        ({"positive": ("mel",), "negative": ("mel",)}, "'MEL' is positive too"),
        (
            {"positive": ("non-neoplastic",), "taxonomy": TAXONOMY},
            "no class of the predictions lies in non-neo",
        ),
    ],
)
def test_tasks_that_mean_nothing(images, options, message):
    made = images(COUNTS)
    with pytest.raises(UsageError, match=message):
        evaluate(made.predictions, made.truth, resamples=0, **options)


def test_the_command(images, tmp_path):
    made = images(COUNTS, groups=60)
    readers = tmp_path / "readers.csv"
    readers.write_text("reader,sensitivity,specificity\nr1,0.8,0.7\nr2,0.9,0.6\n")
    out = tmp_path / "out"
    places = ["--predictions", str(made.predictions), "--truth", str(made.truth), "--out", str(out)]
    assert (
        run(
            [
                "evaluate",
                "skin",
                *places,
                "--taxonomy",
                str(TAXONOMY),
                "--readers",
                str(readers),
                "--resamples",
                "20",
            ]
        )
        == 0
    )
    text = (out / "skin.md").read_text()
    assert "| Inception-v3 with a taxonomy | – | 0.721 | 0.554 |" in text
    assert "Readers: malignant against all others" in text
    assert len(json.loads((out / "skin.json").read_text())["questions"]) == 3


def test_isic_2017_by_hand(tmp_path):
    said, truth = tmp_path / "said.csv", tmp_path / "truth.csv"
    said.write_text("image_id,seborrheic_keratosis,melanoma\na,0.1,0.9\nb,0.8,0.7\nc,0.2,0.4\nd,0.1,0.8\n")
    truth.write_text("image_id,melanoma,seborrheic_keratosis\na,1,0\nb,0,1\nc,0,0\nd,0,0\n")
    result = evaluate(said, truth, resamples=0)
    assert [task.figures["AUC"].value for task in result.tasks] == [1, 1]
    assert [task.figures["specificity"].value for task in result.tasks] == [pytest.approx(1 / 3), 1]
    assert result.figures["mean AUC"].value == 1
    assert [task.figures[ABOVE].value for task in result.tasks] == [1, 1]
    with pytest.raises(UsageError, match="two fixed tasks"):
        evaluate(said, truth, TAXONOMY)
    said.write_text("image_id,melanoma\na,0.9\n")
    with pytest.raises(UsageError, match="ISIC 2017 has columns melanoma, seborrheic_keratosis"):
        evaluate(said, truth)
    truth.write_text("image_id,melanoma,seborrheic_keratosis\na,1,1\n")
    said.write_text("image_id,melanoma,seborrheic_keratosis\na,1,1\n")
    with pytest.raises(UsageError, match="image 'a' must have 0 or 1, and 1 at most once"):
        evaluate(said, truth)


def read_columns(path):
    return sorted(line.split(",") for line in path.read_text().splitlines()[1:])


@pytest.mark.shared
def test_isic_2017_sample_from_the_command_line(shared, tmp_path, capfd):
    folder = shared / "classification" / "isic2017_eval"
    places = [
        "--predictions",
        str(folder / "sample_predictions.csv"),
        "--truth",
        str(folder / "ground_truth.csv"),
    ]
    assert run(["evaluate", "skin", *places, "--out", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "skin.json").read_text())
    assert [round(task["figures"]["AUC"]["value"], 3) for task in data["tasks"]] == [0.526, 0.606]
    assert round(data["figures"]["mean AUC"]["value"], 3) == 0.566
    assert data["images"] == 600
    tables = [read_columns(folder / name) for name in ("sample_predictions.csv", "ground_truth.csv")]
    for place, task in enumerate(data["tasks"], start=1):
        scores, truth = (np.array([float(row[place]) for row in rows]) for rows in tables)
        expected = auc_above_sensitivity(truth == 1, scores, 0.8)
        assert task["figures"][ABOVE]["value"] == pytest.approx(expected)
    page = (tmp_path / "skin.md").read_text()
    assert "| sample predictions beside a copy of the truth | 0.566 | 0.526 | 0.606 |" in page
    assert "3-way" not in page, "those are figures of another question"
    said = capfd.readouterr().out
    assert all(figure in said for figure in ("0.526", "0.606", "0.566"))
