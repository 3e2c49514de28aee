"""LUNA16's hits and curve against a plain version of the protocol's words, and the draws against single curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from medvision.core.errors import UsageError
from medvision.metrics.froc import LUNA16_RATES, CaseHits, froc
from medvision.metrics.nodules import Findings, inside, keep_best, score_candidates

NONE = np.empty(0)


def plain_scan(nodules, excluded, candidates, limit):
    """Best probability per nodule (None if missed), false positives, and ignored ones, by the words of the protocol."""
    if len(candidates) > limit:
        first_left_out = sorted((c[1] for c in candidates), reverse=True)[limit]
        candidates = [c for c in candidates if c[1] > first_left_out]

    def hits(candidate, finding):
        (x, y, z), diameter = finding
        radius = (10.0 if diameter < 0 else diameter) / 2
        a, b, c = candidate[0]
        return (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 < radius**2

    best, used = [], set()
    for nodule in nodules:
        found = [i for i, candidate in enumerate(candidates) if hits(candidate, nodule)]
        best.append(max((candidates[i][1] for i in found), default=None))
        used.update(found)
    rest = [c for i, c in enumerate(candidates) if i not in used]
    false = [c[1] for c in rest if not any(hits(c, finding) for finding in excluded)]
    return best, false, len(rest) - len(false)


def plain_curve(scans):
    """False positives per scan and sensitivity, by way of a ROC curve of what has a probability, as in the script."""
    found = [p for best, _, _ in scans for p in best if p is not None]
    false = [p for _, others, _ in scans for p in others]
    total = sum(len(best) for best, _, _ in scans)
    if not found:
        return np.array([0.0]), np.array([0.0])
    labels = [1.0] * len(found) + [0.0] * len(false)
    if not false:
        return np.zeros(2), np.array([0.0, len(found) / total])
    fpr, tpr, _ = roc_curve(labels, found + false)
    return fpr * len(false) / len(scans), (tpr * len(found)) / total


coordinate = st.integers(0, 7).map(float)
point = st.tuples(coordinate, coordinate, coordinate)
finding = st.tuples(point, st.sampled_from([-1.0, 0.0, 2.0, 3.0, 4.0, 6.5]))
candidate = st.tuples(point, st.integers(-3, 10).map(lambda n: n / 10))
scan = st.tuples(
    st.lists(finding, max_size=3), st.lists(finding, max_size=3), st.lists(candidate, max_size=9)
)


def findings(listed):
    return Findings(
        np.array([f[0] for f in listed], dtype=float).reshape(-1, 3),
        np.array([f[1] for f in listed], dtype=float),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(scan, min_size=1, max_size=5), st.integers(3, 8))
def test_hits_and_curve_equal_the_words_of_the_protocol(scans, limit):
    plain, cases = [], []
    for nodules, excluded, candidates in scans:
        plain.append(plain_scan(nodules, excluded, candidates, limit))
        points = np.array([c[0] for c in candidates], dtype=float).reshape(-1, 3)
        got = score_candidates(
            "s", findings(nodules), findings(excluded), points, np.array([c[1] for c in candidates]), limit
        )
        best, false, ignored = plain[-1]
        assert [None if math.isnan(p) else p for p in got.hits.lesions] == best
        assert sorted(got.hits.false_positives.tolist()) == sorted(false)
        assert got.on_excluded == ignored
        cases.append(got.hits)
    if not any(best for best, _, _ in plain):
        with pytest.raises(UsageError, match="needs a lesion"):
            froc(cases, "luna16", LUNA16_RATES, resamples=0)
        return
    fps, sensitivity = plain_curve(plain)
    got = froc(cases, "luna16", LUNA16_RATES, resamples=0)
    assert got.sensitivities == pytest.approx(np.interp(LUNA16_RATES, fps, sensitivity), abs=1e-12)
    assert got.score == pytest.approx(np.mean(got.sensitivities), abs=1e-15)


def test_the_script_s_rounding_decides_what_is_read_at_whole_numbers_of_false_positives():
    """At 49 of 98 false positives the way there and back is exact, at 29 of 58 and others it is not."""
    differ = 0
    for number in range(8, 120):
        # One scan in 8 carries all: rate 1/8 is one false positive per 8 scans, at which a nodule is found too.
        probabilities = np.linspace(0.99, 0.01, number)
        cases = [CaseHits("0", np.array([0.995, probabilities[0] - 1e-4]), probabilities)]
        cases += [CaseHits(str(i), NONE, NONE) for i in range(1, 8)]
        x = 1 / number * number / 8
        expected = 1.0 if x <= 0.125 else np.interp(0.125, [0, x], [0.5, 0.5])
        got = froc(cases, "luna16", (0.125,), resamples=0).score
        assert got == expected
        differ += got != froc(cases, "corrected", (0.125,), resamples=0).score
    assert differ == sum(1 / n * n / 8 > 0.125 for n in range(8, 120))


def test_a_hit_is_nearer_than_the_radius():
    sphere = Findings(np.array([[0.0, 0.0, 0.0], [20.0, 0.0, 0.0]]), np.array([6.0, -1.0]))
    points = np.array([[3.0, 0, 0], [2.999, 0, 0], [15.0, 0, 0], [15.001, 0, 0]])
    assert inside(points, sphere).tolist() == [[False, False], [True, False], [False, False], [False, True]]


def test_one_candidate_in_two_nodules_counts_for_both_and_two_in_one_once():
    nodules = Findings(np.array([[0.0, 0, 0], [4.0, 0, 0]]), np.array([8.0, 8.0]))
    excluded = Findings(np.array([[2.0, 0, 0], [30.0, 0, 0]]), np.array([10.0, -1.0]))
    points = np.array([[2.0, 0, 0], [-1.0, 0, 0], [33.0, 0, 0], [50.0, 0, 0]])
    got = score_candidates("s", nodules, excluded, points, np.array([0.4, 0.6, 0.9, 0.2]))
    assert got.hits.lesions.tolist() == [0.6, 0.4]
    assert got.hits.false_positives.tolist() == [0.2]
    assert (got.on_excluded, got.repeated, got.shared) == (1, 1, 1)


def test_the_limit_of_candidates_and_its_ties():
    assert keep_best(np.arange(5.0), 5).tolist() == [0, 1, 2, 3, 4]
    assert keep_best(np.array([0.3, 0.9, 0.1, 0.5]), 2).tolist() == [1, 3]
    assert keep_best(np.array([0.5, 0.9, 0.5, 0.5]), 2).tolist() == [
        1
    ]  # three share the place after the last
    assert keep_best(np.full(101, 0.7)).tolist() == []
    with pytest.raises(UsageError, match="at most 0"):
        keep_best(np.ones(3), 0)


@pytest.mark.parametrize("protocol", ["official", "corrected", "luna16"])
def test_draws_equal_curves_of_the_drawn_cases(protocol):
    random = np.random.default_rng(3)
    cases = [
        CaseHits(
            str(i),
            np.where(random.random(i % 3) < 0.3, np.nan, random.integers(0, 21, i % 3) / 20),
            random.integers(0, 21, 6) / 20,
            ignored=int(i == 4),
        )
        for i in range(12)
    ]
    rates, band = (0.5, 2.0), (0.25, 1.0, 4.0)
    got = froc(cases, protocol, rates, resamples=60, seed=8, band=band)
    again = np.random.default_rng(8)
    values = []
    for _ in range(60):
        drawn = [cases[i] for i in again.integers(0, 12, 12)]
        values.append(froc(drawn, protocol, (*rates, *band), resamples=0).sensitivities)
    values = np.array(values)
    if protocol == "luna16":
        low, high = np.sort(values, axis=0)[[1, 58]]  # the places rounded down: 0.025 and 0.975 of 60
        score = np.sort(values[:, :2].mean(axis=1))[[1, 58]]
    else:
        low, high = np.quantile(values, [0.025, 0.975], axis=0)
        score = np.quantile(values[:, :2].mean(axis=1), [0.025, 0.975])
    np.testing.assert_allclose(np.transpose(got.intervals), [low[:2], high[:2]], atol=1e-12)
    np.testing.assert_allclose(got.interval, score, atol=1e-12)
    np.testing.assert_allclose(got.means, values[:, :2].mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(got.band.low, low[2:], atol=1e-12)
    np.testing.assert_allclose(got.band.high, high[2:], atol=1e-12)
    np.testing.assert_allclose(got.band.mean, values[:, 2:].mean(axis=0), atol=1e-12)
    assert got.band.false_positives.tolist() == list(band)


def test_probabilities_may_be_any_numbers_but_not_nan():
    case = CaseHits("a", np.array([12.0, np.nan]), np.array([-3.0]))
    assert froc([case], "luna16", LUNA16_RATES, resamples=0).score == 0.5
    with pytest.raises(UsageError, match=r"'b'.*finite"):
        froc([CaseHits("b", np.array([0.5]), np.array([np.inf]))], "luna16")
    nothing = froc([CaseHits("c", np.array([np.nan]), NONE)], "luna16", LUNA16_RATES, resamples=5)
    assert nothing.sensitivities == (0.0,) * 7
    assert nothing.interval == (0.0, 0.0)
