"""Calibration against scikit-learn, torchmetrics, and definitions spelt out."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.calibration
import sklearn.isotonic
import sklearn.metrics
import torch
from torchmetrics.functional.classification import binary_calibration_error

from medvision.core.errors import UsageError
from medvision.metrics.calibration import (
    brier,
    expected_calibration_error,
    fit_isotonic,
    fit_temperature,
    log_loss,
    margins_of,
    reliability,
)


def cases(seed, n=300):
    """Probabilities of many values and labels that come true less often than they say."""
    random = np.random.default_rng(seed)
    p = random.beta(0.6, 0.8, n)
    return (random.random(n) < p**1.7).astype(int), p


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_scikit_learn_and_torchmetrics(seed):
    y, p = cases(seed)
    assert brier(y, p) == pytest.approx(sklearn.metrics.brier_score_loss(y, p), abs=1e-12)
    assert log_loss(y, p) == pytest.approx(sklearn.metrics.log_loss(y, np.clip(p, 1e-6, 1 - 1e-6)), abs=1e-12)
    for bins in (5, 15):
        expected = binary_calibration_error(
            torch.tensor(p, dtype=torch.float64), torch.tensor(y), n_bins=bins, norm="l1"
        )
        assert expected_calibration_error(y, p, bins=bins) == pytest.approx(expected.item(), abs=1e-6)
        observed, predicted = sklearn.calibration.calibration_curve(y, p, n_bins=bins)
        table = reliability(y, p, bins)
        np.testing.assert_allclose(table.observed, observed, atol=1e-12)
        np.testing.assert_allclose(table.predicted, predicted, atol=1e-12)
        assert table.counts.sum() == len(y)
        assert ((table.edges[:, 0] <= table.predicted) & (table.predicted <= table.edges[:, 1])).all()


def test_the_ends_of_the_scale():
    assert expected_calibration_error([0, 1], [0.0, 1.0]) == 0
    assert expected_calibration_error([1, 0], [0.0, 1.0]) == 1
    assert brier([1, 0], [0.0, 1.0]) == 1
    assert log_loss([1], [0.0]) == pytest.approx(-np.log(1e-6))


def test_temperature_is_found_again():
    random = np.random.default_rng(0)
    margins = random.normal(0, 2, 20000)
    y = random.random(20000) < 1 / (1 + np.exp(-margins))
    for temperature in (0.5, 1.0, 3.0):
        assert fit_temperature(margins * temperature, y) == pytest.approx(temperature, rel=0.05)
    p = 1 / (1 + np.exp(-margins))
    np.testing.assert_allclose(margins_of(p), margins, atol=1e-6)


def test_isotonic_equals_scikit_learn_inside_its_bounds():
    y, p = cases(3)
    bound = 1 / (len(y) + 2)
    expected = sklearn.isotonic.IsotonicRegression(y_min=bound, y_max=1 - bound, out_of_bounds="clip").fit(
        p, y
    )
    found = fit_isotonic(p, y)
    fresh = np.linspace(0, 1, 501)
    np.testing.assert_allclose(found(fresh), expected.predict(fresh), atol=1e-9)
    assert (np.diff(found.x) > 0).all()
    assert (np.diff(found.y) >= 0).all()
    assert found.y.min() >= bound
    assert found.y.max() <= 1 - bound


def test_isotonic_makes_over_confident_scores_honest():
    y, p = cases(4, 4000)
    found = fit_isotonic(p[:2000], y[:2000])
    assert expected_calibration_error(y[2000:], p[2000:]) > 0.08
    assert expected_calibration_error(y[2000:], found(p[2000:])) < 0.04


def test_wrong_input_is_named():
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        brier([0, 1], [0.1, 1.2])
    with pytest.raises(UsageError, match="at least 1 bin"):
        reliability([0, 1], [0.1, 0.2], 0)
    with pytest.raises(UsageError, match="both classes"):
        fit_isotonic([0.1, 0.2], [1, 1])
    with pytest.raises(UsageError, match="1 of 2 scores are not finite"):
        reliability([0, 1], [0.1, np.nan])
