"""Chest X-rays: each layout of predictions, and both tasks against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.evaluations.cxr import evaluate


def test_three_columns_give_both_tasks(images):
    made = images({"NORMAL": 50, "Bacteria": 40, "virus": 30})
    y, p = made.labels, made.probabilities
    result = evaluate(made.predictions, made.truth, resamples=50)
    (question,), (ill, kind) = result.questions, result.tasks
    assert question.classes == ("normal", "bacterial", "viral")
    np.testing.assert_array_equal(question.table, sklearn.metrics.confusion_matrix(y, p.argmax(1)))
    score = p[:, 1] + p[:, 2]
    assert ill.figures["AUC"].value == pytest.approx(sklearn.metrics.roc_auc_score(y > 0, score))
    assert ill.figures["accuracy"].value == np.mean((score > 0.5) == (y > 0))
    assert (ill.cases, ill.positives, kind.cases, kind.positives) == (120, 70, 70, 40)
    share = (p[:, 1] / score)[y > 0]
    assert kind.figures["AUC"].value == pytest.approx(sklearn.metrics.roc_auc_score(y[y > 0] == 1, share))
    assert kind.figures["sensitivity"].value == pytest.approx(np.mean(share[y[y > 0] == 1] > 0.5))


def test_pneumonia_alone_is_scored_as_by_medmnist(images, tmp_path):
    made = images({"normal": 30, "pneumonia": 50})
    both = evaluate(made.predictions, made.truth, resamples=0).tasks[0]
    alone = tmp_path / "alone.csv"
    rows = (line.split(",") for line in made.predictions.read_text().splitlines())
    alone.write_text("\n".join(f"{row[0]},{row[2]}" for row in rows))
    (task,) = evaluate(alone, made.truth, resamples=0).tasks
    assert task.figures == both.figures
    assert task.figures["accuracy"].value == np.mean((made.probabilities[:, 1] > 0.5) == made.labels)


def test_kinds_count_as_pneumonia_where_only_that_is_predicted(images):
    made = images({"normal": 30, "pneumonia": 50})
    expected = evaluate(made.predictions, made.truth, resamples=0).tasks[0].figures
    made.truth.write_text(
        made.truth.read_text().replace(",pneumonia", ",virus", 20).replace(",pneumonia", ",bacterial")
    )
    assert evaluate(made.predictions, made.truth, resamples=0).tasks[0].figures == expected


def test_bacterial_and_viral_alone(images):
    made = images({"viral": 20, "bacterial": 30})
    (task,) = evaluate(made.predictions, made.truth, resamples=0).tasks
    assert task.name == "bacterial"
    expected = sklearn.metrics.roc_auc_score(made.labels == 1, made.probabilities[:, 1])
    assert task.figures["AUC"].value == pytest.approx(
        expected, abs=1e-4
    )  # six digits may not sum to 1 exactly
    made.truth.write_text(made.truth.read_text().replace("viral", "normal", 1))
    with pytest.raises(UsageError, match=r"truth\.csv, line \d+: label 'normal' .* known: bacterial, viral"):
        evaluate(made.predictions, made.truth)


def test_truth_that_does_not_tell_kinds(images):
    made = images({"normal": 20, "bacterial": 20, "viral": 20})
    text = made.truth.read_text().replace("bacterial", "pneumonia").replace("viral", "pneumonia")
    made.truth.write_text(text)
    result = evaluate(made.predictions, made.truth, resamples=0)
    assert [task.name for task in result.tasks] == ["pneumonia"]
    assert result.questions == ()
    assert "no figures of bacterial against viral: the truth does not tell them apart" in result.notes
    made.truth.write_text(text.replace("pneumonia", "viral", 5).replace("pneumonia", "bacteria", 3))
    result = evaluate(made.predictions, made.truth, resamples=0)
    assert [task.cases for task in result.tasks] == [60, 8]
    assert "no table of three classes: the truth does not tell the kind of every pneumonia" in result.notes


def test_no_probability_of_either_kind(tmp_path):
    said, truth = tmp_path / "said.csv", tmp_path / "truth.csv"
    said.write_text("image,normal,bacterial,viral\na,1,0,0\nb,0,1,0\nc,0,0.4,0.6\nd,1,0,0\n")
    truth.write_text("image,label\na,viral\nb,bacterial\nc,viral\nd,normal\n")
    result = evaluate(said, truth, resamples=0)
    assert "1 images of pneumonia have no probability of either kind, taken for 0.5" in result.notes
    assert result.tasks[1].figures["AUC"].value == 1


@pytest.mark.parametrize(
    ("head", "label", "message"),
    [
        ("image,normal,covid", "normal", "the classes must be one of pneumonia; normal, pneumonia; "),
        ("image,bacteria,bacterial", "normal", "the classes must be one of"),
        ("image,normal,pneumonia", "covid", r"truth\.csv, line 2: label 'covid' of image 'a'; known: normal"),
    ],
)
def test_other_classes_are_refused(tmp_path, head, label, message):
    said, truth = tmp_path / "said.csv", tmp_path / "truth.csv"
    said.write_text(f"{head}\na,0.5,0.5\n")
    truth.write_text(f"image,label\na,{label}\n")
    with pytest.raises(UsageError, match=message):
        evaluate(said, truth)


def test_the_command(images, tmp_path):
    made = images({"normal": 30, "pneumonia": 50})
    out = tmp_path / "out"
    places = ["--predictions", str(made.predictions), "--truth", str(made.truth), "--out", str(out)]
    assert run(["evaluate", "cxr", *places]) == 0
    text = (out / "cxr.md").read_text()
    assert "| ResNet-18 at 28 px, PneumoniaMNIST | 0.854 | – | – | 0.944 |" in text
    assert "| Inception-v3, bacterial or viral | – | – | – | – | 0.907 | 0.94 |" in text
