"""Free-response ROC: sensitivity to lesions against false positives per case, and matching of points.

`protocol="official"` repeats the published CAMELYON16 evaluation to the bit, quirks included; `"corrected"` leaves the
quirks out. `docs/evaluate.md` lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from medvision.core.errors import UsageError

Floats = npt.NDArray[np.float64]
Protocol = Literal["official", "corrected"]

CAMELYON_RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per slide at which CAMELYON16 reads the curve."""


@dataclass(frozen=True, eq=False)
class CaseHits:
    """What the detections of one case came to.

    `lesions` has one value per lesion that counts: the probability of its most probable hit, NaN if it was not hit.
    `false_positives` has one probability per false detection, `ignored` the number of lesions that count neither way.
    """

    case: str
    lesions: Floats
    false_positives: Floats
    ignored: int = 0


@dataclass(frozen=True, eq=False)
class Froc:
    """A FROC curve, what was read from it, and percentile bootstrap intervals (95%) over cases.

    `false_positives` per case rise from 0; `thresholds[i]` gives point i, the first is inf. `intervals` and `interval`
    are None where none was asked for, or where over a third of the resamples hold no lesion.
    """

    protocol: Protocol
    thresholds: Floats
    false_positives: Floats
    sensitivity: Floats
    rates: tuple[float, ...]
    sensitivities: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...] | None
    score: float
    interval: tuple[float, float] | None
    cases: int
    lesions: int
    ignored: int


def froc(
    cases: Sequence[CaseHits],
    protocol: Protocol = "official",
    rates: tuple[float, ...] = CAMELYON_RATES,
    resamples: int = 1000,
    seed: int = 0,
) -> Froc:
    """FROC curve over cases; its score is the mean of the sensitivities, linearly interpolated, at `rates`.

    Args:
        cases: one entry per case, those without any detection included: their number divides the false positives.
        protocol: "official" drops the lowest of all thresholds, takes a lesion without hit for one hit at probability
            0 (so a hit at 0 is none), and keeps hits in single but false positives in double precision; "corrected"
            does none of this.
        rates: false positives per case.
        resamples: bootstrap draws of whole cases; 0 for no interval.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: if the protocol is unknown, there is no case or no lesion that counts, or a probability is not in
            [0, 1].
    """
    if protocol not in get_args(Protocol):
        raise UsageError(f"no FROC protocol {protocol!r}; known: {', '.join(get_args(Protocol))}")
    _check(cases)
    thresholds, false_positives, sensitivity = _curve(cases, protocol)
    read = _read(false_positives, sensitivity, rates)
    intervals, interval = _bootstrap(cases, protocol, rates, resamples, seed)
    return Froc(
        protocol,
        thresholds,
        false_positives,
        sensitivity,
        rates,
        tuple(read.tolist()),
        intervals,
        float(read.mean()),
        interval,
        len(cases),
        sum(len(c.lesions) for c in cases),
        sum(c.ignored for c in cases),
    )


@dataclass(frozen=True, eq=False)
class PointMatches:
    """`pairs` (m, 2) of matched indices (prediction, reference), and what stayed alone."""

    pairs: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]
    false_negatives: npt.NDArray[np.int64]


def match_points(predictions: Floats, reference: Floats, radius: float) -> PointMatches:
    """Match points one to one within `radius` (inclusive), nearest pairs first.

    Args:
        predictions: (n, axes).
        reference: (m, axes), in the same unit.
        radius: in that unit.
    """
    taken: tuple[set[int], set[int]] = set(), set()
    pairs = []
    if len(predictions) and len(reference):
        near = cKDTree(predictions).sparse_distance_matrix(cKDTree(reference), radius, output_type="ndarray")
        for i, j, _ in sorted(near.tolist(), key=lambda pair: (pair[2], pair[0], pair[1])):
            if i not in taken[0] and j not in taken[1]:
                pairs.append((i, j))
                taken[0].add(i)
                taken[1].add(j)
    return PointMatches(
        np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2),
        np.setdiff1d(np.arange(len(predictions)), list(taken[0])),
        np.setdiff1d(np.arange(len(reference)), list(taken[1])),
    )


def _check(cases: Sequence[CaseHits]) -> None:
    if sum(len(c.lesions) for c in cases) == 0:
        raise UsageError(f"FROC needs a lesion; {len(cases)} cases hold none that counts")
    for one in cases:
        given = np.concatenate([one.lesions[~np.isnan(one.lesions)], one.false_positives])
        if not ((given >= 0) & (given <= 1)).all():
            raise UsageError(
                f"case {one.case!r}: probabilities must lie in [0, 1]; got {given.min()} to {given.max()}"
            )


def _curve(cases: Sequence[CaseHits], protocol: Protocol) -> tuple[Floats, Floats, Floats]:
    """Thresholds, false positives per case and sensitivity, from no detection to all that the protocol counts."""
    lesions = np.concatenate([c.lesions for c in cases])
    false = np.sort(np.concatenate([c.false_positives for c in cases]))
    if protocol == "official":
        # The published script keeps an array of zeros, one per lesion (ignored ones too), in single precision, and
        # raises entries to the best hit. The zeros take part in the list of thresholds, whose lowest it then skips.
        hits: npt.NDArray[np.floating] = np.sort(np.nan_to_num(lesions, nan=0.0).astype(np.float32))
        zero = [0.0] if any(c.ignored for c in cases) else []
        thresholds = np.unique(np.concatenate([false, hits.astype(np.float64), zero]))[1:]
    else:
        hits = np.sort(lesions[~np.isnan(lesions)])
        thresholds = np.unique(np.concatenate([false, hits]))
    falling = thresholds[::-1]
    false_positives = len(false) - np.searchsorted(false, falling)
    found = len(hits) - np.searchsorted(hits, falling.astype(hits.dtype))
    return (
        np.concatenate([[np.inf], falling]),
        np.concatenate([[0.0], false_positives / len(cases)]),
        np.concatenate([[0.0], found / len(lesions)]),
    )


def _read(false_positives: Floats, sensitivity: Floats, rates: tuple[float, ...]) -> Floats:
    # Of several points at one rate, `interp` takes the last, which is the most sensitive one.
    return np.asarray(np.interp(rates, false_positives, sensitivity), dtype=np.float64)


def _bootstrap(
    cases: Sequence[CaseHits], protocol: Protocol, rates: tuple[float, ...], resamples: int, seed: int
) -> tuple[tuple[tuple[float, float], ...] | None, tuple[float, float] | None]:
    """Intervals of the sensitivities and of the score. Draws without a lesion have no sensitivity and are left out."""
    random = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = [cases[i] for i in random.integers(0, len(cases), len(cases))]
        if any(len(c.lesions) for c in drawn):
            values.append(_read(*_curve(drawn, protocol)[1:], rates))
    if 3 * len(values) < 2 * resamples or not values:
        return None, None
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    score = np.quantile(np.mean(values, axis=1), [0.025, 0.975])
    return tuple(zip(low.tolist(), high.tolist(), strict=True)), (float(score[0]), float(score[1]))
