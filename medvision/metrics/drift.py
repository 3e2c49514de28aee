"""Whether a measure is distributed in one set of slides as it is in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SIGNIFICANCE = 0.05
LEAST_GAP = 0.1
LEAST_SLIDES = 10
RULE = (
    f"A measure is flagged where a two-sample Kolmogorov-Smirnov test gives p < {SIGNIFICANCE:g} divided by the number "
    f"of measures (Bonferroni; Rabanser et al., NeurIPS 2019), and the share of cases below some value differs by "
    f"{LEAST_GAP:g} or more. With fewer than {LEAST_SLIDES} cases on either side nothing is judged."
)
"""What `compare` flags, in words."""

_EXACT_UP_TO = 500
"""Slides on each side up to which the test's exact distribution is computed."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A sample by its quartiles."""

    count: int
    lowest: float
    lower: float
    median: float
    upper: float
    highest: float


@dataclass(frozen=True, slots=True)
class Drift:
    """One measure in two sets. `gap` is the Kolmogorov-Smirnov distance in 0..1; None where nothing was judged."""

    now: Spread
    earlier: Spread
    gap: float | None
    p_value: float | None
    flagged: bool


def spread(values: Sequence[float]) -> Spread:
    """Quartiles, by linear interpolation, of one value or more."""
    low, lower, median, upper, high = (float(v) for v in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    return Spread(len(values), low, lower, median, upper, high)


def compare(measures: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> dict[str, Drift]:
    """Compare each measure's values now with the earlier ones; a measure without values on a side is left out.

    A measure is flagged by `RULE`, which tests each alone as Rabanser, Günnemann and Lipton ("Failing loudly: an
    empirical study of methods for detecting dataset shift", NeurIPS 2019) found best. The test takes the two sets for
    independent; where a slide is in both, they are more alike than chance has it, and the test flags less.

    >>> compare({"blur": ([0.9] * 12, [0.1] * 12)})["blur"].flagged
    True
    """
    kept = {name: pair for name, pair in measures.items() if pair[0] and pair[1]}
    judged = {name for name, pair in kept.items() if min(map(len, pair)) >= LEAST_SLIDES}
    drifts = {}
    for name, (now, earlier) in kept.items():
        gap = p_value = None
        if name in judged:
            gap, p_value = _kolmogorov_smirnov(now, earlier)
        flagged = (
            gap is not None
            and p_value is not None
            and gap >= LEAST_GAP
            and p_value < SIGNIFICANCE / len(judged)
        )
        drifts[name] = Drift(spread(now), spread(earlier), gap, p_value, flagged)
    return drifts


def _kolmogorov_smirnov(now: Sequence[float], earlier: Sequence[float]) -> tuple[float, float]:
    from scipy.stats import ks_2samp

    method = "exact" if max(len(now), len(earlier)) <= _EXACT_UP_TO else "asymp"
    found = ks_2samp(now, earlier, method=method)
    return float(found.statistic), float(found.pvalue)
