"""Several ways of training, each run several times, on the same cases: means over the runs, and their differences.

Runs (by seed) and cases are crossed: every run answers every case. Both are drawn, independently and with replacement
(the pigeonhole bootstrap of Owen and Eckles, Annals of Applied Statistics 2012;6:895), so that an interval holds the
chance of the seeds and that of the cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.metrics.ranking import members_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Statistic = Callable[[Ints, Floats], float]


@dataclass(frozen=True, eq=False)
class Crossed:
    """Figures of `ways` of training over `runs`. `values` (ways, runs); `draws` (n, ways) hold means of drawn runs.

    A draw in which the figure is undefined, because a class is absent, is NaN for every way.
    """

    values: Floats
    draws: Floats

    def mean(self, way: int) -> float:
        """Mean over the runs."""
        return float(self.values[way].mean())

    def interval(self, way: int, level: float = 0.95) -> tuple[float, float] | None:
        """Percentile interval of the mean; None where over a third of the draws lack the figure."""
        return _interval(self.draws[:, way], level)

    def difference(self, way: int, than: int) -> float:
        """Mean over the runs of one way's figure minus that of another, run by run."""
        return float((self.values[way] - self.values[than]).mean())

    def difference_interval(self, way: int, than: int, level: float = 0.95) -> tuple[float, float] | None:
        """Percentile interval of the difference: both ways on the same drawn runs and cases."""
        return _interval(self.draws[:, way] - self.draws[:, than], level)


def cross(
    statistic: Statistic,
    labels: Ints,
    scores: Floats,
    *,
    groups: npt.ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Crossed:
    """A figure of each way and run, and bootstrap draws of its means.

    Args:
        statistic: a figure from labels `(cases,)` and scores `(cases, classes)`; raises `UsageError` where undefined.
        labels: `(cases,)`.
        scores: `(ways, runs, cases, classes)`; the runs of one number belong together, as by seed.
        groups: `(cases,)`; with them whole groups of cases, such as patients, are drawn.
        n: number of draws.
        seed: equal seeds give equal draws.

    Raises:
        UsageError: if shapes differ, or the figure is undefined on the cases themselves.
    """
    if scores.ndim != 4 or scores.shape[2] != len(labels) or 0 in scores.shape:
        raise UsageError(
            f"scores of shape {scores.shape} for {len(labels)} cases; they are (ways, runs, cases, classes)"
        )
    ways, runs = scores.shape[:2]
    values = np.array([[statistic(labels, run) for run in way] for way in scores])
    members = members_of(groups, len(labels))
    random = np.random.default_rng(seed)
    draws = np.full((n, ways), np.nan)
    for row in draws:
        drawn = random.integers(0, len(members), len(members))
        cases = np.concatenate([members[i] for i in drawn]) if groups is not None else drawn
        chosen, times = np.unique(random.integers(0, runs, runs), return_counts=True)
        try:
            found = [[statistic(labels[cases], way[run][cases]) for run in chosen] for way in scores]
        except UsageError:
            continue
        row[:] = np.average(np.array(found), axis=1, weights=times)
    return Crossed(values, draws)


def _interval(values: Floats, level: float) -> tuple[float, float] | None:
    known = values[~np.isnan(values)]
    if 3 * len(known) < 2 * len(values) or not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
