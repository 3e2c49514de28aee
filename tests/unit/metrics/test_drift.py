"""Two samples are told apart by the stated rule, and by it alone."""

from __future__ import annotations

import numpy as np
import pytest

from medvision.metrics.drift import LEAST_SLIDES, compare, spread


def test_quartiles() -> None:
    found = spread([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (found.count, found.lowest, found.lower, found.median, found.upper, found.highest) == (
        5, 1.0, 2.0, 3.0, 4.0, 5.0,
    )  # fmt: skip


def test_the_gap_is_the_largest_difference_of_shares() -> None:
    """By hand: at 10 a share of 1 lies at or below in the earlier, 1/2 now."""
    now, earlier = [float(v) for v in range(1, 21)], [float(v) for v in range(1, 11)]
    drift = compare({"x": (now, earlier)})["x"]
    assert drift.gap == pytest.approx(0.5)


def test_p_against_a_permutation_count() -> None:
    """The exact p of samples that do not overlap is 2 / C(2n, n)."""
    now, earlier = list(np.arange(10.0)), list(np.arange(10.0) + 100)
    drift = compare({"x": (now, earlier)})["x"]
    assert drift.p_value == pytest.approx(2 / 184_756)
    assert drift.gap == 1
    assert drift.flagged


def test_equal_samples_have_not_drifted() -> None:
    values = list(np.random.default_rng(0).random(50))
    drift = compare({"x": (values, values[::-1])})["x"]
    assert (drift.gap, drift.p_value, drift.flagged) == (0, 1, False)


def test_few_slides_are_not_judged() -> None:
    few = [0.0] * (LEAST_SLIDES - 1)
    drift = compare({"x": (few, [1.0] * 100), "none": ([], [1.0])})
    assert list(drift) == ["x"]
    assert (drift["x"].gap, drift["x"].p_value, drift["x"].flagged) == (None, None, False)


def test_more_measures_ask_for_more_evidence() -> None:
    rng = np.random.default_rng(5)
    now, earlier = list(rng.normal(0.6, 1, 60)), list(rng.normal(0, 1, 60))
    alone = compare({"x": (now, earlier)})["x"]
    assert alone.p_value is not None
    assert 0.05 / 40 < alone.p_value < 0.05
    assert alone.flagged
    noise = {f"n{k}": (list(rng.random(60)), list(rng.random(60))) for k in range(39)}
    among = compare({"x": (now, earlier), **noise})
    assert among["x"].p_value == alone.p_value
    assert not among["x"].flagged
    assert not any(one.flagged for one in among.values())


def test_a_certain_but_tiny_shift_is_not_flagged() -> None:
    grid = list(np.linspace(0, 1, 5000))
    drift = compare({"x": ([value + 0.06 for value in grid], grid)})["x"]
    assert drift.p_value is not None
    assert drift.p_value < 1e-6
    assert not drift.flagged
