"""Retinal OCT: urgent referral and weighted error by hand, penalties that are refused, the page."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import yaml

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.evaluations.image_page import describe
from medvision.evaluations.oct import CLASSES, OURS, evaluate

COUNTS = dict.fromkeys(CLASSES, 40)


def test_urgent_referral_and_weighted_error(images):
    made = images(COUNTS)
    y, p = made.labels, made.probabilities
    result = evaluate(made.predictions, made.truth, resamples=50)
    (question,), (task,) = result.questions, result.tasks
    said = p.argmax(1)
    assert question.figures["accuracy"].value == np.mean(said == y)
    urgent, called = y < 2, said < 2
    assert task.figures["AUC"].value == pytest.approx(sklearn.metrics.roc_auc_score(urgent, p[:, :2].sum(1)))
    assert task.figures["sensitivity"].value == pytest.approx(np.mean(called[urgent]))
    assert task.figures["specificity"].value == pytest.approx(np.mean(~called[~urgent]))
    penalties = OURS.matrix
    error = question.figures["weighted error"]
    assert error.value == pytest.approx(np.mean([penalties[t, d] for t, d in zip(y, said, strict=True)]))
    assert "penalties of this project, not of the paper" in error.protocol
    assert error.interval[0] < error.value < error.interval[1]


def test_columns_in_any_order_and_case(images, tmp_path):
    made = images(COUNTS)
    expected = evaluate(made.predictions, made.truth, resamples=0).questions[0]
    lines = [line.split(",") for line in made.predictions.read_text().splitlines()]
    lines[0] = ["Image", "cnv", "dme", "drusen", "normal"]
    shuffled = tmp_path / "shuffled.csv"
    shuffled.write_text("\n".join(",".join([c, a, e, b, d]) for a, b, c, d, e in lines))
    got = evaluate(shuffled, made.truth, resamples=0).questions[0]
    assert got.classes == CLASSES
    np.testing.assert_array_equal(got.table, expected.table)


def test_penalties_from_a_file(images, tmp_path):
    made = images(COUNTS)
    path = tmp_path / "penalties.yaml"
    plain = {name: {said: int(said != name) for said in CLASSES} for name in CLASSES}
    path.write_text(yaml.safe_dump(plain))
    result = evaluate(made.predictions, made.truth, path, resamples=0)
    figures = result.questions[0].figures
    assert figures["weighted error"].value == pytest.approx(1 - figures["accuracy"].value)
    assert result.tables[0].note == "Penalties of penalties.yaml."
    for change, message in (
        ({"CNV": {**plain["CNV"], "CNV": 2}}, "CNV called CNV is right and costs 0, not 2"),
        ({"CNV": {**plain["CNV"], "DME": -1}}, "CNV.DME: .* greater than or equal to 0"),
        ({"CNV": {**plain["CNV"], "DME": float("nan")}}, r"CNV\.DME: .*"),
        ({"CNV": {"CNV": 0}}, r"CNV\.DME: is missing"),
        ({"AMD": plain["CNV"]}, "AMD: no such field"),
    ):
        path.write_text(yaml.safe_dump(plain | change))
        with pytest.raises(UsageError, match=message) as caught:
            evaluate(made.predictions, made.truth, path)
        assert "penalties.yaml" in str(caught.value)


def test_other_classes_are_refused(images):
    made = images({"CNV": 5, "DME": 5, "AMD": 5, "NORMAL": 5})
    with pytest.raises(UsageError, match="the classes must be CNV, DME, DRUSEN, NORMAL; got CNV, DME, AMD"):
        evaluate(made.predictions, made.truth)


def test_the_command_with_readers(images, tmp_path):
    made = images(COUNTS, groups=50)
    readers = tmp_path / "readers.csv"
    readers.write_text("reader,sensitivity,specificity\nexpert 1,0.99,0.9\nexpert 2,0.95,0.97\n")
    out = tmp_path / "out"
    places = ["--predictions", str(made.predictions), "--truth", str(made.truth), "--out", str(out)]
    assert run(["evaluate", "oct", *places, "--readers", str(readers), "--resamples", "20"]) == 0
    text = (out / "oct.md").read_text()
    assert "| Inception-v3, 108,312 training images | 0.966 | 0.978 | 0.974 | 0.999 |" in text
    assert "| expert 2 | 0.950 | 0.970 |" in text
    assert "Penalties of this project, not of the paper." in text
    assert "| CNV | 0 | 1 | 3 | 4 |" in text
    page = describe(evaluate(made.predictions, made.truth, readers=readers, resamples=0))
    assert page.ours.keys() == page.columns.keys()
