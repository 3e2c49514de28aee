"""Figures of several classes against scikit-learn, torchmetrics, scipy, and sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
from scipy.stats import binomtest, mannwhitneyu
from torchmetrics.functional.classification import (
    multiclass_auroc,
    multiclass_calibration_error,
    multiclass_recall,
    multiclass_specificity,
)

from medvision.core.errors import UsageError
from medvision.metrics.agreement import confusion_counts
from medvision.metrics.calibration import calibration_gap
from medvision.metrics.classes import (
    accuracy,
    balanced_accuracy,
    class_brier,
    confidence_reliability,
    decide,
    macro_auc,
    medmnist_accuracy,
    medmnist_auc,
    one_vs_rest_auc,
    sensitivities,
    specificities,
    tied,
    weighted_error,
    wilson_interval,
)
from medvision.metrics.ranking import delong_interval


def cases(seed, n=200, classes=5, digits=2):
    """Labels with a case of every class, and probabilities that favour them; two digits of them make ties."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, n - classes)])
    logits = random.normal(0, 1, (n, classes)) + 1.2 * np.eye(classes)[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, np.round(p, digits) / np.round(p, digits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_scikit_learn_and_torchmetrics(seed):
    y, p = cases(seed)
    k, said = p.shape[1], decide(p)
    table = confusion_counts(y, said, (k, k))
    t, q = torch.tensor(y), torch.tensor(p)
    np.testing.assert_array_equal(table, sklearn.metrics.confusion_matrix(y, said))
    assert accuracy(table) == pytest.approx(sklearn.metrics.accuracy_score(y, said))
    assert balanced_accuracy(table) == pytest.approx(sklearn.metrics.balanced_accuracy_score(y, said))
    np.testing.assert_allclose(sensitivities(table), multiclass_recall(q, t, k, average=None), atol=1e-6)
    np.testing.assert_allclose(specificities(table), multiclass_specificity(q, t, k, average=None), atol=1e-6)
    expected = [sklearn.metrics.roc_auc_score(y == i, p[:, i]) for i in range(k)]
    np.testing.assert_allclose(one_vs_rest_auc(y, p), expected)
    np.testing.assert_allclose(one_vs_rest_auc(y, p), multiclass_auroc(q, t, k, average=None), atol=1e-6)
    assert macro_auc(y, p) == pytest.approx(sklearn.metrics.roc_auc_score(y, p, multi_class="ovr"))
    assert class_brier(y, p) == pytest.approx(sklearn.metrics.brier_score_loss(y, p))


@pytest.mark.parametrize("seed", range(4))
def test_calibration_error_equals_torchmetrics(seed):
    y, p = cases(seed, digits=12)  # not on the edges of bins, to which torchmetrics assigns them otherwise
    expected = multiclass_calibration_error(torch.tensor(p), torch.tensor(y), 5, n_bins=15).item()
    assert calibration_gap(confidence_reliability(y, p, 15)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_two_classes_are_scored_by_the_last_one(seed):
    y, p = cases(seed, classes=2)
    assert class_brier(y, p) == pytest.approx(sklearn.metrics.brier_score_loss(y, p[:, 1]))
    assert medmnist_auc(y, p) == pytest.approx(sklearn.metrics.roc_auc_score(y, p[:, 1]))
    assert medmnist_accuracy(y, p) == np.mean((p[:, 1] > 0.5) == y)


@pytest.mark.parametrize("seed", range(4))
def test_the_evaluator_of_medmnist_with_several_classes(seed):
    y, p = cases(seed)
    of_each = [
        mannwhitneyu(p[y == i, i], p[y != i, i]).statistic / (y == i).sum() / (y != i).sum() for i in range(5)
    ]
    assert medmnist_auc(y, p) == pytest.approx(np.mean(of_each))
    assert medmnist_accuracy(y, p) == np.mean(np.argmax(p, axis=1) == y)
    with pytest.raises(UsageError, match="every class"):
        medmnist_auc(np.array([0, 1]), p[:2])


def test_by_hand():
    p = np.array([[0.5, 0.5, 0], [0.2, 0.3, 0.5], [1, 0, 0], [0.1, 0.8, 0.1]])
    y = np.array([1, 2, 0, 1])
    assert decide(p).tolist() == [0, 2, 0, 1]
    assert tied(p).tolist() == [True, False, False, False]
    # The first image is undecided: of no class, so wrong for its own and right for the others.
    table = confusion_counts(y, np.array([3, 2, 0, 1]), (3, 4))
    assert table.tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert accuracy(table) == 0.75
    assert sensitivities(table).tolist() == [1, 0.5, 1]
    assert specificities(table).tolist() == [1, 1, 1]
    assert balanced_accuracy(table) == pytest.approx(2.5 / 3)
    assert class_brier(y, p) == pytest.approx((0.5 + 0.38 + 0 + 0.06) / 4)
    assert medmnist_accuracy(np.array([1]), np.array([[0.5, 0.5]])) == 0


def test_a_class_without_a_case_has_no_figure():
    table = np.array([[2, 0, 1], [0, 0, 0], [1, 0, 3]])
    assert np.isnan(sensitivities(table)).tolist() == [False, True, False]
    assert specificities(table)[1] == 1
    assert balanced_accuracy(table) == pytest.approx((2 / 3 + 3 / 4) / 2)
    y, p = np.array([0, 0, 2, 2]), np.full((4, 3), 1 / 3)
    assert np.isnan(one_vs_rest_auc(y, p)).tolist() == [False, True, False]
    assert np.isnan(macro_auc(y, p))


def test_weighted_error():
    table = np.array([[8, 2], [1, 9]])
    assert weighted_error(table, np.array([[0.0, 4], [1, 0]])) == pytest.approx(9 / 20)
    assert weighted_error(table, 1 - np.eye(2)) == pytest.approx(1 - accuracy(table))
    with pytest.raises(UsageError, match=r"penalties of shape \(3, 3\)"):
        weighted_error(table, np.zeros((3, 3)))


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (81, 263), (624, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_scipy(hits, n, level):
    expected = binomtest(hits, n).proportion_ci(level, method="wilson")
    assert wilson_interval(hits, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_needs_a_proportion():
    for wrong in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(UsageError, match="no proportion"):
            wilson_interval(*wrong)


def test_delong_s_variance_is_that_of_leaving_cases_out():
    # Sen's components of the Mann-Whitney statistic equal the two jackknives over positives and over negatives.
    y, p = cases(1, classes=2)
    s = p[:, 1]

    def auc(positive, negative):
        return mannwhitneyu(positive, negative).statistic / len(positive) / len(negative)

    positive, negative = s[y == 1], s[y == 0]
    without = [auc(np.delete(positive, i), negative) for i in range(len(positive))]
    without_negative = [auc(positive, np.delete(negative, i)) for i in range(len(negative))]
    variance = sum(
        (len(one) - 1) / len(one) * np.sum((np.array(one) - np.mean(one)) ** 2)
        for one in (without, without_negative)
    )
    low, high = delong_interval(y, s)
    assert (low + high) / 2 == pytest.approx(auc(positive, negative), abs=1e-12)
    assert (high - low) / 2 == pytest.approx(1.959963984540054 * np.sqrt(variance), rel=1e-9)
