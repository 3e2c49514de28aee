"""Draws of runs and cases together: their spread against formulas, paired differences, what is undefined."""

from __future__ import annotations

import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.metrics.crossed import cross
from medvision.metrics.ranking import roc_auc


def mean_of_first(labels: np.ndarray, scores: np.ndarray) -> float:
    return float(scores[:, 0].mean())


def as_scores(values: np.ndarray) -> np.ndarray:
    """`(ways, runs, cases)` as scores of one class."""
    return values[..., None].astype(np.float64)


RUNS, CASES = np.array([0.2, 0.5, 0.9, 0.4]), np.random.default_rng(3).normal(size=60)
LABELS = np.arange(60) % 2


@pytest.mark.parametrize(
    ("values", "variance"),
    [
        (np.tile(RUNS[:, None], (1, 60)), RUNS.var() / 4),
        (np.tile(CASES, (4, 1)), CASES.var() / 60),
        (RUNS[:, None] + CASES, RUNS.var() / 4 + CASES.var() / 60),
    ],
    ids=["runs alone", "cases alone", "both"],
)
def test_the_spread_is_that_of_runs_and_of_cases(values: np.ndarray, variance: float) -> None:
    found = cross(mean_of_first, LABELS, as_scores(values[None]), n=4000)
    assert found.mean(0) == pytest.approx(values.mean())
    assert found.draws[:, 0].var() == pytest.approx(variance, rel=0.1)
    low, high = found.interval(0) or (np.nan, np.nan)
    assert low < found.mean(0) < high


def test_a_difference_is_of_the_same_runs_and_cases() -> None:
    first = RUNS[:, None] + CASES
    found = cross(mean_of_first, LABELS, as_scores(np.stack([first, first + 0.25])))
    assert found.difference(1, 0) == pytest.approx(0.25)
    assert found.difference_interval(1, 0) == pytest.approx((0.25, 0.25)), "what is common cancels"


def test_whole_groups_are_drawn() -> None:
    groups = np.repeat(np.arange(6), 10)
    values = np.tile(groups.astype(float), (1, 1, 1))
    found = cross(mean_of_first, LABELS, as_scores(values), groups=groups, n=4000)
    assert found.draws[:, 0].var() == pytest.approx(np.arange(6).var() / 6, rel=0.1)


def test_draws_without_a_class_are_left_out_and_too_many_of_them_give_no_interval() -> None:
    labels = np.array([0, 0, 0, 1])
    scores = np.array([[[[0.1], [0.2], [0.3], [0.8]]]])
    auc = cross(lambda y, s: roc_auc(y, s[:, 0]), labels, scores, n=500)
    share = np.isnan(auc.draws[:, 0]).mean()
    assert share == pytest.approx(0.75**4 + 0.25**4, abs=0.06)
    assert auc.mean(0) == 1 and auc.interval(0) == (1, 1)
    lonely = cross(lambda y, s: roc_auc(y, s[:, 0]), np.array([0, 1]), np.ones((1, 1, 2, 1)), n=500)
    assert lonely.interval(0) is None, "half of the draws have one class only"


def test_shapes_are_checked() -> None:
    with pytest.raises(UsageError, match=r"\(ways, runs, cases, classes\)"):
        cross(mean_of_first, LABELS, np.ones((2, 60, 1)))
    with pytest.raises(UsageError, match="for 60 cases"):
        cross(mean_of_first, LABELS, np.ones((1, 2, 59, 1)))
