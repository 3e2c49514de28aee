"""Ranking against scikit-learn, torchmetrics, and definitions spelt out."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
)

from medvision.core.errors import UsageError
from medvision.metrics.ranking import (
    average_precision,
    bootstrap_interval,
    delong_interval,
    roc_auc,
    roc_curve,
)


def cases(seed, n=80, levels=12):
    """Labels and scores with many ties, the scores never 0 or 1."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], random.integers(0, 2, n - 2)])
    return labels, (random.integers(0, levels, n) + 0.5) / levels * 0.7 + 0.2 * labels


@pytest.mark.parametrize("seed", range(15))
def test_equal_to_scikit_learn_and_torchmetrics(seed):
    y, s = cases(seed)
    p, t = torch.tensor(s, dtype=torch.float64), torch.tensor(y)
    assert roc_auc(y, s) == pytest.approx(sklearn.metrics.roc_auc_score(y, s), abs=1e-12)
    assert roc_auc(y, s) == pytest.approx(binary_auroc(p, t).item(), abs=1e-6)
    assert average_precision(y, s) == pytest.approx(sklearn.metrics.average_precision_score(y, s), abs=1e-12)
    assert average_precision(y, s) == pytest.approx(binary_average_precision(p, t).item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_roc_curve_equals_scikit_learn(seed):
    y, s = cases(seed)
    fpr, tpr, thresholds = sklearn.metrics.roc_curve(y, s, drop_intermediate=False)
    got = roc_curve(y, s)
    np.testing.assert_allclose(got.false_positive_rate, fpr)
    np.testing.assert_allclose(got.sensitivity, tpr)
    np.testing.assert_array_equal(got.thresholds, thresholds)
    assert np.trapezoid(got.sensitivity, got.false_positive_rate) == pytest.approx(roc_auc(y, s))


def test_auc_by_pairs_with_ties_half():
    y, s = [0, 0, 1, 1, 1], [0.3, 0.5, 0.5, 0.2, 0.9]
    assert roc_auc(y, s) == (0.5 + 1 + 0 + 0 + 1 + 1) / 6
    assert roc_auc([0, 1], [0.5, 0.5]) == 0.5
    assert roc_auc([True, False], [1, 0]) == 1.0


def test_delong_equals_the_definition():
    y, s = cases(3)
    positive, negative = s[y == 1], s[y == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = wins.mean(axis=1).var(ddof=1) / len(positive) + wins.mean(axis=0).var(ddof=1) / len(negative)
    half = 1.959963984540054 * np.sqrt(variance)
    assert delong_interval(y, s) == pytest.approx((wins.mean() - half, min(1, wins.mean() + half)), abs=1e-12)
    assert delong_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == (1.0, 1.0)


def test_bootstrap_agrees_with_delong_and_is_seeded():
    y, s = cases(0, n=400, levels=1000)
    low, high = bootstrap_interval(roc_auc, y, s)
    assert (low, high) == pytest.approx(delong_interval(y, s), abs=0.01)
    assert (low, high) == bootstrap_interval(roc_auc, y, s)
    assert (low, high) != bootstrap_interval(roc_auc, y, s, seed=1)


def test_bootstrap_of_the_mean_equals_theory():
    values = np.random.default_rng(2).normal(3, 2, 300)
    half = 1.96 * values.std() / np.sqrt(300)
    got = bootstrap_interval(lambda v: float(v.mean()), values, n=4000)
    assert got == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_bootstrap_of_groups_draws_whole_groups():
    # Ten slides of 100 equal cases: the cases add nothing, so the interval is that of ten values.
    slide = np.repeat(np.arange(10), 100)
    values = slide.astype(float)
    drawn = set()

    def mean(v, g):
        drawn.add(tuple(np.bincount(g, minlength=10) % 100))
        return float(v.mean())

    by_slide = bootstrap_interval(mean, values, slide, groups=slide)
    assert drawn == {(0,) * 10}
    by_case = bootstrap_interval(mean, values, slide)
    assert by_slide[1] - by_slide[0] > 5 * (by_case[1] - by_case[0])
    assert by_slide == pytest.approx((4.5 - 1.96 * 2.87 / 10**0.5, 4.5 + 1.96 * 2.87 / 10**0.5), abs=0.25)


def test_bootstrap_says_when_the_statistic_is_often_undefined():
    with pytest.raises(UsageError, match="too few cases of a class"):
        bootstrap_interval(roc_auc, [0, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.9], n=200, seed=1)
    assert bootstrap_interval(roc_auc, [0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == (1, 1)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 1], [0.1, 0.2], "both classes; got 2 positive and 0 negative"),
        ([0, 2], [0.1, 0.2], "labels must be 0 or 1"),
        ([0, 1], [0.1], "shape"),
        ([], [], "n above 0"),
        ([0, 1], [0.1, np.nan], "1 of 2 scores are not finite"),
    ],
)
def test_wrong_input_is_named(labels, scores, message):
    with pytest.raises(UsageError, match=message):
        roc_auc(labels, scores)


def test_other_wrong_input_is_named():
    with pytest.raises(UsageError, match="needs a positive"):
        average_precision([0, 0], [0.1, 0.2])
    with pytest.raises(UsageError, match="two cases of each"):
        delong_interval([0, 1, 1], [0.1, 0.2, 0.3])
    with pytest.raises(UsageError, match="common length"):
        bootstrap_interval(roc_auc, [0, 1], [0.5])
    with pytest.raises(UsageError, match="groups of shape"):
        bootstrap_interval(roc_auc, [0, 1], [0.5, 0.6], groups=[1])
