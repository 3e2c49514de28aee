"""How well scores rank cases, with intervals.

Labels are 0/1 or bool, scores any finite floats, both of shape (n,). Everything is a pure function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from medvision.core.errors import UsageError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Points of a ROC curve from (0, 0) to (1, 1). `thresholds[i]` calls a case positive at or above; first is inf."""

    false_positive_rate: Floats
    sensitivity: Floats
    thresholds: Floats


def roc_auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive case outscores a negative one, ties counting half.

    AUC = (sum of the positives' ranks - n1 (n1 + 1) / 2) / (n1 n0), with mid-ranks for ties (Mann-Whitney).

    Raises:
        UsageError: if a class is absent, shapes differ, or a score is not finite.

    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    y, s = checked(labels, scores)
    positives = int(y.sum())
    negatives = len(y) - positives
    return float((rankdata(s)[y].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> RocCurve:
    """The ROC curve, one point per distinct score and the origin.

    Raises:
        UsageError: as `roc_auc`.
    """
    y, s = checked(labels, scores)
    thresholds, true, false = _counts_at_thresholds(y, s)
    return RocCurve(
        np.concatenate([[0.0], false / false[-1]]),
        np.concatenate([[0.0], true / true[-1]]),
        np.concatenate([[np.inf], thresholds]),
    )


def delong_interval(labels: npt.ArrayLike, scores: npt.ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Normal interval of the AUC with DeLong's variance (DeLong 1988, ranks after Sun and Xu 2014), cut to [0, 1].

    With perfect separation the variance estimate is zero and the interval a point: report the bootstrap or the number
    of cases beside it.

    Raises:
        UsageError: as `roc_auc`, and if a class has fewer than two cases.
    """
    y, s = checked(labels, scores)
    positive, negative = s[y], s[~y]
    if min(len(positive), len(negative)) < 2:
        raise UsageError(
            f"DeLong's variance needs two cases of each class; got {len(positive)} positive, {len(negative)} negative"
        )
    among_all = rankdata(np.concatenate([positive, negative]))
    # Share of the other class that each case beats: its placement value.
    v10 = (among_all[: len(positive)] - rankdata(positive)) / len(negative)
    v01 = 1 - (among_all[len(positive) :] - rankdata(negative)) / len(positive)
    half = norm.ppf((1 + level) / 2) * np.sqrt(
        v10.var(ddof=1) / len(positive) + v01.var(ddof=1) / len(negative)
    )
    auc = v10.mean()
    return float(max(0.0, auc - half)), float(min(1.0, auc + half))


def auc_above_sensitivity(labels: npt.ArrayLike, scores: npt.ArrayLike, sensitivity: float = 0.8) -> float:
    """Area under the part of the ROC curve that reaches `sensitivity`, as the ISIC challenges score it; in [0, 1].

    The curve begins where it crosses `sensitivity`, interpolated linearly, and the area is that down to zero from there
    to a false-positive rate of 1. It is a plain area, not rescaled by McClish: a perfect ranking has 1, and one in
    which every positive scores below every negative has 0.

    Raises:
        UsageError: as `roc_auc`, or if `sensitivity` is not in (0, 1].

    >>> auc_above_sensitivity([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.8], 0.75)
    0.5
    """
    if not 0 < sensitivity <= 1:
        raise UsageError(f"a sensitivity above which to take the AUC lies in (0, 1]; got {sensitivity:g}")
    curve = roc_curve(labels, scores)
    x, y = curve.false_positive_rate, curve.sensitivity
    first = int(np.searchsorted(y, sensitivity, side="left"))
    # The point before is strictly below, as the curve begins at 0 and `first` is the leftmost that reaches.
    start = np.interp(sensitivity, y[first - 1 : first + 1], x[first - 1 : first + 1])
    return float(np.trapezoid([sensitivity, *y[first:]], [start, *x[first:]]))


def sensitivity_at(curve: RocCurve, specificity: float) -> float:
    """Highest sensitivity of the curve's points with a specificity of at least `specificity`; nothing is interpolated.

    Raises:
        UsageError: if `specificity` is not in [0, 1].
    """
    if not 0 <= specificity <= 1:
        raise UsageError(f"a specificity lies in [0, 1]; got {specificity:g}")
    # A rate such as 1 - 0.9 differs from 1/10 in its last digit.
    return float(curve.sensitivity[curve.false_positive_rate <= 1 - specificity + 1e-12].max())


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: npt.ArrayLike,
    n: int = 1000,
    seed: int = 0,
    groups: npt.ArrayLike | None = None,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(*arrays)`, resampling cases along the first axis.

    With `groups` (one label per case, such as its slide or patient) whole groups are drawn, as cases of one group are
    not independent. Resamples on which the statistic raises `UsageError` (a class is absent) are left out.

    Args:
        statistic: maps the resampled arrays to a float.
        arrays: equally long along their first axis.
        n: number of resamples.
        seed: equal seeds give equal intervals.
        groups: shape (cases,), anything that sorts.
        level: coverage of the interval.

    Raises:
        UsageError: if lengths differ, the statistic is undefined on the arrays themselves, or on over a third of the
            resamples.
    """
    data = _equally_long(arrays)
    statistic(*data)
    (interval,) = bootstrap_intervals(
        lambda *drawn: [statistic(*drawn)], *data, n=n, seed=seed, groups=groups, level=level
    )
    if isinstance(interval, str):
        raise UsageError(interval)
    return interval


def bootstrap_intervals(
    statistics: Callable[..., Sequence[float]],
    *arrays: npt.ArrayLike,
    n: int = 1000,
    seed: int = 0,
    groups: npt.ArrayLike | None = None,
    level: float = 0.95,
) -> list[tuple[float, float] | str]:
    """Percentile bootstrap intervals of several figures at once, from the same resamples; arguments as above.

    Args:
        statistics: maps the resampled arrays to equally many floats each time. NaN is a figure that a resample does not
            have; where it raises `UsageError`, the resample has none at all.

    Returns:
        For each figure its interval, or, where over a third of the resamples lack it, a text that says so.

    Raises:
        UsageError: if lengths differ.
    """
    data = _equally_long(arrays)
    members = members_of(groups, len(data[0]))
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        drawn = random.integers(0, len(members), len(members))
        index = np.concatenate([members[i] for i in drawn]) if groups is not None else drawn
        try:
            rows.append(np.asarray(statistics(*(a[index] for a in data)), dtype=np.float64))
        except UsageError:
            continue
    figures = len(statistics(*data))
    values = np.array(rows).reshape(len(rows), figures)
    tail = (1 - level) / 2
    return [_interval(values[:, i], n, tail) for i in range(figures)]


def average_precision(labels: npt.ArrayLike, scores: npt.ArrayLike, missed: int = 0) -> float:
    """Area under the precision-recall steps: AP = sum over thresholds of (R_n - R_(n-1)) P_n, without interpolation.

    `missed` positives have no score: no threshold finds them, and they count in the recall.

    Raises:
        UsageError: if there is no positive case, shapes differ, or a score is not finite.
    """
    if missed and not np.size(scores):
        return 0.0
    y, s = checked(labels, scores, both_classes=False)
    if not y.any() and not missed:
        raise UsageError(f"average precision needs a positive case; got {len(y)} negative ones")
    _, true, false = _counts_at_thresholds(y, s)
    recall = true / (true[-1] + missed)
    return float(np.sum(np.diff(recall, prepend=0.0) * true / (true + false)))


def checked(labels: npt.ArrayLike, scores: npt.ArrayLike, both_classes: bool = True) -> tuple[Bools, Floats]:
    """`labels` as bool and `scores` as float, both (n,).

    Raises:
        UsageError: if shapes differ, a label is not 0 or 1, a score is not finite, or a class is absent.
    """
    given: npt.NDArray[Any] = np.asarray(labels)
    s = np.asarray(scores, dtype=np.float64)
    if given.ndim != 1 or given.shape != s.shape or len(s) == 0:
        raise UsageError(
            f"labels of shape {given.shape} and scores of shape {s.shape}; both must be (n,), n above 0"
        )
    if given.dtype != np.bool_ and not np.isin(given, (0, 1)).all():
        raise UsageError(f"labels must be 0 or 1; got {sorted(set(given.tolist()))[:5]}")
    if not np.isfinite(s).all():
        raise UsageError(f"{np.count_nonzero(~np.isfinite(s))} of {len(s)} scores are not finite")
    y = given.astype(bool)
    if both_classes and (y.all() or not y.any()):
        raise UsageError(
            f"ranking needs both classes; got {y.sum()} positive and {len(y) - y.sum()} negative cases"
        )
    return y, s


def _counts_at_thresholds(y: Bools, s: Floats) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Distinct scores, falling, and how many positives and negatives score at or above each."""
    order = np.argsort(-s, kind="stable")
    y, s = y[order], s[order]
    last = np.append(np.flatnonzero(np.diff(s)), len(s) - 1)
    true = np.cumsum(y, dtype=np.int64)[last]
    return s[last], true, last + 1 - true


def _equally_long(arrays: Sequence[npt.ArrayLike]) -> list[npt.NDArray[Any]]:
    data = [np.asarray(a) for a in arrays]
    if not data or len(data[0]) == 0 or any(len(a) != len(data[0]) for a in data):
        raise UsageError(f"bootstrap needs arrays of one common length above 0; got {[len(a) for a in data]}")
    return data


def _interval(values: Floats, drawn: int, tail: float) -> tuple[float, float] | str:
    known = values[~np.isnan(values)]
    if 3 * len(known) < 2 * drawn:
        return f"the statistic is undefined on {drawn - len(known)} of {drawn} resamples: too few cases of a class"
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def members_of(groups: npt.ArrayLike | None, cases: int) -> list[npt.NDArray[np.intp]] | npt.NDArray[np.intp]:
    """Indices of the cases of each group."""
    if groups is None:
        return np.arange(cases)
    given = np.asarray(groups)
    if given.shape != (cases,):
        raise UsageError(f"groups of shape {given.shape} for {cases} cases")
    _, inverse = np.unique(given, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)
