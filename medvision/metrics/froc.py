"""Free-response ROC: sensitivity to lesions against false positives per case, and matching of points.

`protocol="official"` repeats the published CAMELYON16 evaluation to the bit, quirks included; `"corrected"` leaves the
quirks out; `"luna16"` repeats the published evaluation of LUNA16. `docs/evaluate.md` lists what they do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from medvision.core.errors import UsageError

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Protocol = Literal["official", "corrected", "luna16"]

CAMELYON_RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per slide at which CAMELYON16 reads the curve."""
LUNA16_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan at which LUNA16 reads the curve; the mean sensitivity is its CPM."""


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
class FrocBand:
    """Sensitivity at `false_positives` per case over all bootstrap draws: mean, and bounds that hold 95% of them."""

    false_positives: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class Froc:
    """A FROC curve, what was read from it, and percentile bootstrap intervals (95%) over cases.

    `false_positives` per case rise from 0; `thresholds[i]` gives point i, the first is inf. `intervals`, `interval` and
    `band` are None where none was asked for, or where over a third of the resamples hold no lesion. `means` are the
    means of the sensitivities over the draws.
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
    means: tuple[float, ...] | None = None
    band: FrocBand | None = None


def froc(
    cases: Sequence[CaseHits],
    protocol: Protocol = "official",
    rates: tuple[float, ...] = CAMELYON_RATES,
    resamples: int = 1000,
    seed: int = 0,
    band: Sequence[float] = (),
) -> Froc:
    """FROC curve over cases; its score is the mean of the sensitivities, linearly interpolated, at `rates`.

    Args:
        cases: one entry per case, those without any detection included: their number divides the false positives.
        protocol: "official" drops the lowest of all thresholds, takes a lesion without hit for one hit at probability
            0 (so a hit at 0 is none), and keeps hits in single but false positives in double precision; "corrected"
            does none of this and takes any finite numbers; so does "luna16", but it rounds as the script of LUNA16
            does, and bounds intervals by one draw each instead of interpolating between two.
        rates: false positives per case.
        resamples: bootstrap draws of whole cases; 0 for no interval.
        seed: equal seeds give equal intervals.
        band: further false positives per case at which the draws are read.

    Raises:
        UsageError: if the protocol is unknown, there is no case or no lesion that counts, or a probability is not
            finite, for "official" not in [0, 1].
    """
    if protocol not in get_args(Protocol):
        raise UsageError(f"no FROC protocol {protocol!r}; known: {', '.join(get_args(Protocol))}")
    _check(cases, protocol)
    pool = _pool(cases, protocol)
    thresholds, false_positives, sensitivity = _curve(pool, protocol, np.ones(len(cases), dtype=np.intp))
    read = _read(false_positives, sensitivity, rates)
    draws = _draw(pool, protocol, (*rates, *band), resamples, seed)
    intervals, interval, means, spread = None, None, None, None
    if draws is not None:
        at = draws[:, : len(rates)]
        low, high = _bounds(at, protocol)
        intervals = tuple(zip(low.tolist(), high.tolist(), strict=True))
        lowest, highest = _bounds(at.mean(axis=1), protocol)
        interval = float(lowest), float(highest)
        means = tuple(at.mean(axis=0).tolist())
        if len(band):
            rest = draws[:, len(rates) :]
            spread = FrocBand(np.asarray(band, dtype=np.float64), rest.mean(axis=0), *_bounds(rest, protocol))
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
        means,
        spread,
    )


@dataclass(frozen=True, eq=False)
class PointMatches:
    """`pairs` (m, 2) of matched indices (prediction, reference), and what stayed alone."""

    pairs: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]
    false_negatives: npt.NDArray[np.int64]


def match_points(
    predictions: Floats,
    reference: Floats,
    radius: float,
    order: Literal["nearest", "reference"] = "nearest",
) -> PointMatches:
    """Match points one to one within `radius` (inclusive).

    Args:
        predictions: (n, axes).
        reference: (m, axes), in the same unit.
        radius: in that unit.
        order: "nearest" takes the nearest pairs first; "reference" goes through the reference as it is listed and gives
            each point the nearest prediction that is left, as evalutils does.
    """
    taken: tuple[set[int], set[int]] = set(), set()
    pairs = []
    if len(predictions) and len(reference):
        near = cKDTree(predictions).sparse_distance_matrix(cKDTree(reference), radius, output_type="ndarray")
        listed = order == "reference"
        for i, j, _ in sorted(near.tolist(), key=lambda pair: (pair[1] if listed else 0, pair[2], *pair[:2])):
            if i not in taken[0] and j not in taken[1]:
                pairs.append((i, j))
                taken[0].add(i)
                taken[1].add(j)
    return PointMatches(
        np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2),
        np.setdiff1d(np.arange(len(predictions)), list(taken[0])),
        np.setdiff1d(np.arange(len(reference)), list(taken[1])),
    )


def _check(cases: Sequence[CaseHits], protocol: Protocol) -> None:
    if sum(len(c.lesions) for c in cases) == 0:
        raise UsageError(f"FROC needs a lesion; {len(cases)} cases hold none that counts")
    for one in cases:
        given = np.concatenate([one.lesions[~np.isnan(one.lesions)], one.false_positives])
        if not np.isfinite(given).all():
            raise UsageError(f"case {one.case!r}: probabilities must be finite; got {given.tolist()[:5]}")
        if protocol == "official" and not ((given >= 0) & (given <= 1)).all():
            raise UsageError(
                f"case {one.case!r}: probabilities must lie in [0, 1]; got {given.min()} to {given.max()}"
            )


@dataclass(frozen=True, eq=False)
class _Pool:
    """All cases together: falling thresholds, and for each hit and false positive its case and the first threshold at
    which it counts. `missed` and `ignored` lesions are counted by case.
    """

    thresholds: Floats
    hit_level: Indices
    hit_case: Indices
    false_level: Indices
    false_case: Indices
    missed: Indices
    ignored: Indices

    @property
    def cases(self) -> int:
        return len(self.missed)


def _pool(cases: Sequence[CaseHits], protocol: Protocol) -> _Pool:
    numbers = np.arange(len(cases))
    lesions = np.concatenate([c.lesions for c in cases])
    lesion_case = np.repeat(numbers, [len(c.lesions) for c in cases])
    hit = ~np.isnan(lesions)
    missed = np.bincount(lesion_case[~hit], minlength=len(cases))
    ignored = np.array([c.ignored for c in cases], dtype=np.intp)
    hits: npt.NDArray[np.floating] = lesions[hit]
    false = np.concatenate([c.false_positives for c in cases])
    zero = []
    if protocol == "official":
        # The published script keeps an array of zeros, one per lesion (ignored ones too), in single precision, and
        # raises entries to the best hit. The zeros take part in the list of thresholds.
        hits = hits.astype(np.float32)
        zero = [0.0] if missed.any() or ignored.any() else []
    rising = np.unique(np.concatenate([false, hits.astype(np.float64), zero]))
    return _Pool(
        rising[::-1],
        len(rising) - np.searchsorted(rising.astype(hits.dtype), hits, side="right"),
        lesion_case[hit],
        len(rising) - np.searchsorted(rising, false, side="right"),
        np.repeat(numbers, [len(c.false_positives) for c in cases]),
        missed,
        ignored,
    )


def _curve(pool: _Pool, protocol: Protocol, times: Indices) -> tuple[Floats, Floats, Floats]:
    """Thresholds, false positives per case and sensitivity, from no detection to all that the protocol counts.

    Each case comes so many `times` (cases,). A threshold of no case that comes repeats the point before it.
    """
    levels = len(pool.thresholds)
    hit_times, false_times = times[pool.hit_case], times[pool.false_case]
    found = np.bincount(pool.hit_level, hit_times, levels).cumsum()
    false = np.bincount(pool.false_level, false_times, levels).cumsum()
    hits, lesions, falses = hit_times.sum(), hit_times.sum() + pool.missed @ times, false_times.sum()
    if protocol == "official":
        # It skips the lowest threshold that occurs.
        drawn = [pool.hit_level[hit_times > 0], pool.false_level[false_times > 0]]
        zero = (pool.missed + pool.ignored) @ times > 0
        levels = levels - 1 if zero else max(int(one.max(initial=0)) for one in drawn)
    if protocol == "luna16":
        # The script goes over rates of a ROC curve and back. As 888 scans make every rate that is read a whole number
        # of false positives, where the curve may rise upright, the rounding decides which end of the rise is read.
        false = false / max(falses, 1) * falses
        found = found / max(hits, 1) * hits
    return (
        np.concatenate([[np.inf], pool.thresholds[:levels]]),
        np.concatenate([[0.0], false[:levels] / pool.cases]),
        np.concatenate([[0.0], found[:levels] / lesions]),
    )


def _read(false_positives: Floats, sensitivity: Floats, rates: Sequence[float]) -> Floats:
    # Of several points at one rate, `interp` takes the last, which is the most sensitive one.
    return np.asarray(np.interp(rates, false_positives, sensitivity), dtype=np.float64)


def _draw(
    pool: _Pool, protocol: Protocol, rates: Sequence[float], resamples: int, seed: int
) -> Floats | None:
    """Sensitivities (draws, rates); those without a lesion have none and are left out, None if too few are left."""
    random = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        times = np.bincount(random.integers(0, pool.cases, pool.cases), minlength=pool.cases)
        if times[pool.hit_case].any() or (pool.missed @ times):
            values.append(_read(*_curve(pool, protocol, times)[1:], rates))
    return None if 3 * len(values) < 2 * resamples or not values else np.array(values)


def _bounds(values: Floats, protocol: Protocol) -> tuple[Floats, Floats]:
    """The bounds of 95% of the draws, along the first axis."""
    if protocol == "luna16":
        tail = (1.0 - 0.95) / 2.0
        places = math.floor(tail * len(values)), math.floor((1.0 - tail) * len(values))
        ordered = np.sort(values, axis=0)
        return ordered[places[0]], ordered[places[1]]
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    return low, high
