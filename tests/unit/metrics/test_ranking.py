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
    auc_above_sensitivity,
    average_precision,
    bootstrap_interval,
    bootstrap_intervals,
    delong_interval,
    roc_auc,
    roc_curve,
    sensitivity_at,
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


@pytest.mark.parametrize(
    ("labels", "scores", "sensitivity", "area"),
    [
        # The six cases by which the ISIC challenges' scorer tests its own function, thresholds of 0 apart.
        ([0, 0, 1, 1], [0.2, 0.4, 0.6, 0.8], 1.0, 1.0),
        ([0, 0, 1, 1], [0.3, 0.7, 0.3, 0.7], 1.0, 0.0),
        ([0, 0, 1, 1], [0.8, 0.6, 0.4, 0.2], 1.0, 0.0),
        # By hand: from (0.2, 0.8) on the diagonal to (1, 1), a trapezium.
        ([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5], 0.8, 0.2 * (0.8 + 1) / 2),
        # By hand: (0, .5), (.5, .5), (.5, 1), (1, 1); it crosses 0.8 at 0.5 and covers the half right of it.
        ([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.8], 0.8, 0.5),
        ([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.8], 0.5, 0.25 + 0.5),
    ],
)
def test_auc_above_a_sensitivity(labels, scores, sensitivity, area):
    assert auc_above_sensitivity(labels, scores, sensitivity) == pytest.approx(area)


@pytest.mark.parametrize("seed", range(5))
def test_auc_above_a_sensitivity_by_fine_steps(seed):
    y, s = cases(seed)
    curve = roc_curve(y, s)
    # The curve as a function of arc length, cut into small steps: those at or above the sensitivity are added up.
    steps = np.linspace(0, len(curve.sensitivity) - 1, 200_001)
    places = np.arange(len(curve.sensitivity))
    x, t = (np.interp(steps, places, one) for one in (curve.false_positive_rate, curve.sensitivity))
    area = np.sum(np.diff(x) * (t[1:] + t[:-1]) / 2 * (t[:-1] >= 0.8))
    assert auc_above_sensitivity(y, s) == pytest.approx(area, abs=1e-4)
    assert auc_above_sensitivity(y, s, 1e-12) == pytest.approx(roc_auc(y, s), abs=1e-9)


def test_a_sensitivity_or_specificity_outside_its_range_is_refused():
    with pytest.raises(UsageError, match=r"lies in \(0, 1\]; got 0"):
        auc_above_sensitivity([0, 1], [0.1, 0.2], 0)
    with pytest.raises(UsageError, match=r"lies in \[0, 1\]; got 1.1"):
        sensitivity_at(roc_curve([0, 1], [0.1, 0.2]), 1.1)


def test_sensitivity_at_a_specificity_is_of_a_point_of_the_curve():
    y = np.repeat([0, 1], 10)
    s = np.concatenate([np.arange(10), np.arange(10) + 4.5])
    curve = roc_curve(y, s)
    for specificity in np.linspace(0, 1, 11):
        best = max(np.mean(s[y == 1] >= t) for t in [*s, 99] if np.mean(s[y == 0] < t) >= specificity - 1e-9)
        assert sensitivity_at(curve, specificity) == pytest.approx(best)
    assert sensitivity_at(curve, 0.95) == sensitivity_at(curve, 1)


def test_several_figures_share_their_resamples():
    y, s = cases(5)
    auc, precision, seldom = bootstrap_intervals(
        lambda y, s: [roc_auc(y, s), average_precision(y, s), float("nan")], y, s, n=200, seed=3
    )
    assert auc == bootstrap_interval(roc_auc, y, s, n=200, seed=3)
    assert precision == bootstrap_interval(average_precision, y, s, n=200, seed=3)
    assert seldom == "the statistic is undefined on 200 of 200 resamples: too few cases of a class"


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
