"""Classified images: figures against scikit-learn and torchmetrics, the rule of intervals, files and pages."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sklearn.metrics
import torch
from scipy.stats import binomtest
from torchmetrics.functional.classification import multiclass_calibration_error

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.evaluations.base import load_evaluations
from medvision.evaluations.classify import evaluate
from medvision.evaluations.image_page import describe
from medvision.evaluations.page import write_page
from medvision.metrics.ranking import bootstrap_interval, delong_interval, roc_auc

COUNTS = {"A": 60, "B": 25, "C": 40}


def test_figures_equal_scikit_learn(images):
    made = images(COUNTS)
    y, p = made.labels, made.probabilities
    (got,) = evaluate(made.predictions, made.truth, resamples=50).questions
    value = {name: score.value for name, score in got.figures.items()}
    assert value["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(y, p.argmax(1)))
    assert value["balanced accuracy"] == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(y, p.argmax(1))
    )
    each = [sklearn.metrics.roc_auc_score(y == i, p[:, i]) for i in range(3)]
    assert value["macro AUC"] == value["MedMNIST AUC"] == pytest.approx(np.mean(each))
    assert value["MedMNIST ACC"] == value["accuracy"]
    assert value["Brier score"] == pytest.approx(np.mean(np.sum((p - np.eye(3)[y]) ** 2, axis=1)))
    calibration = multiclass_calibration_error(torch.tensor(p), torch.tensor(y), 3, n_bins=15)
    assert value["expected calibration error"] == pytest.approx(calibration.item(), abs=1e-6)
    np.testing.assert_array_equal(got.table, sklearn.metrics.confusion_matrix(y, p.argmax(1)))
    assert [figures["AUC"].value for figures in got.per_class] == pytest.approx(each)
    recall = sklearn.metrics.recall_score(y, p.argmax(1), average=None)
    assert [figures["sensitivity"].value for figures in got.per_class] == pytest.approx(recall)


def test_intervals_by_formula_and_by_drawing_images(images):
    made = images(COUNTS)
    y, p = made.labels, made.probabilities
    (got,) = evaluate(made.predictions, made.truth, resamples=200, seed=4).questions
    right = p.argmax(1) == y
    wilson = binomtest(int(right.sum()), len(y)).proportion_ci(method="wilson")
    assert got.figures["accuracy"].interval == pytest.approx((wilson.low, wilson.high))
    of_b = binomtest(int(right[y == 1].sum()), 25).proportion_ci(method="wilson")
    assert got.per_class[1]["sensitivity"].interval == pytest.approx((of_b.low, of_b.high))
    assert got.per_class[1]["sensitivity"].cases == 25
    others = int((p.argmax(1) != 1)[y != 1].sum())
    of_others = binomtest(others, 100).proportion_ci(method="wilson")
    assert got.per_class[1]["specificity"].interval == pytest.approx((of_others.low, of_others.high))
    assert got.per_class[2]["AUC"].interval == pytest.approx(delong_interval(y == 2, p[:, 2]))
    assert got.per_class[2]["AUC"].protocol.endswith("interval: DeLong")
    macro = bootstrap_interval(
        lambda y, p: float(np.mean([roc_auc(y == i, p[:, i]) for i in range(3)])), y, p, n=200, seed=4
    )
    assert got.figures["macro AUC"].interval == pytest.approx(macro)
    assert got.figures["macro AUC"].protocol.endswith("interval: bootstrap over images")
    assert got.figures["expected calibration error"].interval is None


def test_groups_are_drawn_whole_for_every_figure(images):
    made = images(COUNTS, groups=40)
    y, p = made.labels, made.probabilities
    result = evaluate(made.predictions, made.truth, resamples=200)
    (got,) = result.questions
    group = np.array([f"g{i % 40}" for i in range(len(y))])
    expected = bootstrap_interval(lambda y, p: float(np.mean(p.argmax(1) == y)), y, p, n=200, groups=group)
    assert got.figures["accuracy"].interval == pytest.approx(expected)
    expected = bootstrap_interval(roc_auc, y == 1, p[:, 1], n=200, groups=group)
    assert got.per_class[1]["AUC"].interval == pytest.approx(expected)
    protocols = [score.protocol for score in got.figures.values() if score.interval]
    assert all(text.endswith("bootstrap over groups") for text in protocols)
    assert "125 images of 40 groups" in describe(result).summary


def test_two_classes_by_medmnist_s_definition_with_readers(tmp_path):
    said, truth, readers = (tmp_path / name for name in ("said.csv", "truth.csv", "readers.csv"))
    scores = np.array([0.5, 0.2, 0.7, 0.4, 0.9, 0.5, 0.6])
    y = np.array([0, 0, 0, 1, 1, 1, 1])
    said.write_text("image,ill\n" + "".join(f"{i},{s}\n" for i, s in enumerate(scores)))
    truth.write_text("image,label\n" + "".join(f"{i},{'ill' if t else 'well'}\n" for i, t in enumerate(y)))
    readers.write_text("reader,sensitivity,specificity\nann,0.9,0.3\nbob,0.4,1\n")
    result = evaluate(said, truth, readers, resamples=0)
    (question,), (task,) = result.questions, result.tasks
    assert question.figures["MedMNIST ACC"].value == np.mean((scores > 0.5) == y) == 4 / 7
    assert question.figures["MedMNIST AUC"].value == task.figures["AUC"].value == roc_auc(y, scores)
    assert task.figures["sensitivity"].value == 0.5
    assert task.figures["specificity"].value == pytest.approx(2 / 3)
    assert question.figures["Brier score"].value == pytest.approx(np.mean((scores - y) ** 2))
    # At a specificity of 0.3 or more the threshold 0.5 lets one of three through: 3 of 4 found.
    assert [reader.predictions for reader in task.readers] == [1.0, 0.25]
    assert "2 images have several most probable classes: they count as the first" in result.notes[0]
    page = describe(result)
    titles = [table.title for table in page.tables[:3]]
    assert titles == ["Each figure beside published ones", "Tasks", "Readers: ill against well"]
    assert page.tables[0].rows[1] == ("MedMNIST ACC", "0.571", "0.854")
    assert page.tables[2].rows[0] == ("ann", "0.900", "0.300", "1.000")


def test_a_class_without_an_image(images):
    made = images(COUNTS)
    text = made.predictions.read_text().splitlines()
    made.predictions.write_text("\n".join([text[0] + ",D", *(f"{line},0" for line in text[1:])]))
    result = evaluate(made.predictions, made.truth, resamples=50)
    (got,) = result.questions
    assert got.figures["macro AUC"] is None
    assert got.figures["MedMNIST AUC"] is None
    assert got.per_class[3] == {
        "sensitivity": None,
        "specificity": got.per_class[3]["specificity"],
        "AUC": None,
    }
    assert got.figures["balanced accuracy"].value == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(made.labels, made.probabilities.argmax(1))
    )
    assert "4 classes: no macro AUC, because a class has no image" in result.notes
    page = describe(result)
    assert next(row.value for row in page.rows if row.name == "macro AUC") == "not measured"


def test_perfect_separation_is_said_to_prove_nothing(tmp_path):
    said, truth = tmp_path / "said.csv", tmp_path / "truth.csv"
    said.write_text("image,x,y\n1,1,0\n2,0.9,0.1\n3,0,1\n4,0.2,0.8\n")
    truth.write_text("image,label\n1,x\n2,x\n3,y\n4,y\n")
    result = evaluate(said, truth, resamples=20)
    assert any("DeLong's interval is a point where all are ranked right" in note for note in result.notes)


def test_files_and_command(images, tmp_path):
    made = images(COUNTS, groups=40)
    page = describe(evaluate(made.predictions, made.truth, resamples=30))
    first, second = (
        {name: path.read_bytes() for name, path in write_page(page, tmp_path / out).items()} for out in "ab"
    )
    assert first == second
    assert set(first) == {
        *(f"classify.{e}" for e in ("json", "md", "html")),
        "curves.png",
        "curves.svg",
    }
    data = json.loads(first["classify.json"])
    (question,) = data["questions"]
    assert np.sum(question["confusion"]["reference in rows"]) == 125
    assert question["classes"]["B"]["roc"][0]["threshold"] is None
    assert "| ResNet-18 at 28 px, PneumoniaMNIST | 0.944 | 0.854 |" in first["classify.md"].decode()
    html = first["classify.html"].decode()
    assert "RESEARCH USE ONLY" in html
    assert 'class="number shade-9"' in html or 'class="number shade-7"' in html
    places = [
        "--predictions",
        str(made.predictions),
        "--truth",
        str(made.truth),
        "--out",
        str(tmp_path / "c"),
    ]
    assert run(["evaluate", "classify", *places, "--resamples", "20"]) == 0
    assert (tmp_path / "c" / "classify.html").is_file()
    assert load_evaluations()["classify"].evaluate is evaluate


def test_draws_cannot_be_fewer_than_none(images):
    made = images(COUNTS)
    with pytest.raises(UsageError, match="a number from 0; got -1"):
        evaluate(made.predictions, made.truth, resamples=-1)


def test_the_command_refuses_with_one_line(images, tmp_path, capfd):
    made = images(COUNTS)
    made.truth.write_text(made.truth.read_text().replace("i7,", "i7x,"))
    places = [
        "--predictions",
        str(made.predictions),
        "--truth",
        str(made.truth),
        "--out",
        str(tmp_path / "c"),
    ]
    assert run(["evaluate", "classify", *places]) == 2
    said = capfd.readouterr().err
    assert said.startswith("medvision: error: ")
    assert "lacks 1 of the images in truth.csv: i7x" in said
