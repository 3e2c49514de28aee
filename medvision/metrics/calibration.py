"""How far scores are probabilities, and what makes them so: Brier score, ECE, reliability, temperature, isotonic map.

Labels are 0/1 or bool, probabilities are those of the positive class in [0, 1], both of shape (n,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.metrics.ranking import Bools, Floats, checked

EDGE = 1e-6
"""Probabilities are moved this far from 0 and 1 before a logarithm is taken; tables with 5 digits say no more."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability table, one entry per bin that holds a case: what was predicted and what came true.

    `edges` (m, 2) are the bins' bounds, `counts` (m,) the cases in them, `predicted` (m,) their mean probability and
    `observed` (m,) their share of positives.
    """

    edges: Floats
    counts: npt.NDArray[np.int64]
    predicted: Floats
    observed: Floats


@dataclass(frozen=True, eq=False)
class MonotoneMap:
    """Linear between knots `x` (k,), rising, with values `y` (k,), not falling; constant beyond the outer ones."""

    x: Floats
    y: Floats

    def __call__(self, probabilities: npt.ArrayLike) -> Floats:
        """Mapped probabilities, of the same shape."""
        return np.asarray(np.interp(np.asarray(probabilities, np.float64), self.x, self.y), dtype=np.float64)


def brier(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Mean squared difference of probability and outcome: 0 is perfect, 0.25 is what a constant 0.5 gets (Brier 1950).

    Raises:
        UsageError: if there is no case, shapes differ, or a probability lies outside [0, 1].
    """
    y, p = _checked(labels, probabilities)
    return float(np.mean((p - y) ** 2))


def log_loss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Mean negative log-likelihood in nats, with probabilities kept `EDGE` away from 0 and 1.

    Raises:
        UsageError: as `brier`.
    """
    y, p = _checked(labels, probabilities)
    kept = np.clip(p, EDGE, 1 - EDGE)
    return float(-np.mean(np.where(y, np.log(kept), np.log1p(-kept))))


def expected_calibration_error(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 15) -> float:
    """Mean gap of mean probability and share of positives over equal-width bins, weighted by cases (Naeini 2015).

    Bins are half-open [a, b), the last one closed. The probability is that of the positive class.

    Raises:
        UsageError: as `brier`, and if `bins` is below 1.
    """
    return calibration_gap(reliability(labels, probabilities, bins))


def calibration_gap(table: Reliability) -> float:
    """The expected calibration error of a reliability table: the gaps of its bins, weighted by cases."""
    gaps = np.abs(table.predicted - table.observed) * table.counts
    return float(gaps.sum() / table.counts.sum())


def reliability(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 15) -> Reliability:
    """The reliability table over equal-width bins, half-open [a, b), the last one closed; empty bins are left out.

    Raises:
        UsageError: as `brier`, and if `bins` is below 1.
    """
    y, p = _checked(labels, probabilities)
    if bins < 1:
        raise UsageError(f"calibration needs at least 1 bin; got {bins}")
    edges = np.linspace(0, 1, bins + 1)
    index = np.minimum(np.searchsorted(edges, p, side="right") - 1, bins - 1)
    counts = np.bincount(index, minlength=bins)
    held = np.flatnonzero(counts)
    predicted = np.bincount(index, weights=p, minlength=bins)[held] / counts[held]
    observed = np.bincount(index, weights=y, minlength=bins)[held] / counts[held]
    return Reliability(np.stack([edges[held], edges[held + 1]], axis=1), counts[held], predicted, observed)


def fit_temperature(margins: Floats, positive: Bools) -> float:
    """The temperature at which `sigmoid(margin / temperature)` is likeliest for the labels (Guo et al., ICML 2017).

    Args:
        margins: (n,), logit of the positive class over the rest.
        positive: (n,).
    """
    from scipy.optimize import minimize_scalar

    sign = np.where(positive, 1.0, -1.0)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -sign * margins / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2.3, 2.3), method="bounded").x))


def fit_softmax_temperature(logits: Floats, labels: npt.NDArray[np.integer]) -> float:
    """The temperature at which `softmax(logits / temperature)` is likeliest for the labels (Guo et al., ICML 2017).

    Args:
        logits: (n, classes).
        labels: (n,), places of the true classes.

    Raises:
        UsageError: if there is no case.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels):
        raise UsageError("a temperature needs at least 1 case; got 0")

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(labels)), labels]))

    return float(np.exp(minimize_scalar(loss, bounds=(-2.3, 2.3), method="bounded").x))


def fit_isotonic(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> MonotoneMap:
    """The monotone map of least squared error (pool adjacent violators; Zadrozny & Elkan, KDD 2002).

    Its values are kept inside the range that the sample can vouch for, 1 / (n + 2) to (n + 1) / (n + 2): no finite
    sample shows that something is impossible. Where it is flat, cases that the scores told apart become equal.

    Raises:
        UsageError: as `brier`, and if a class is absent.
    """
    from sklearn.isotonic import IsotonicRegression

    y, p = _checked(labels, probabilities)
    checked(y, p)
    bound = 1 / (len(y) + 2)
    fitted = IsotonicRegression(y_min=bound, y_max=1 - bound, out_of_bounds="clip").fit(
        p, y.astype(np.float64)
    )
    return MonotoneMap(
        np.asarray(fitted.X_thresholds_, dtype=np.float64), np.asarray(fitted.y_thresholds_, dtype=np.float64)
    )


def margins_of(probabilities: npt.ArrayLike) -> Floats:
    """Logits of probabilities kept `EDGE` away from 0 and 1."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), EDGE, 1 - EDGE)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


def _checked(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[Bools, Floats]:
    y, p = checked(labels, probabilities, both_classes=False)
    if p.min() < 0 or p.max() > 1:
        raise UsageError(f"probabilities must lie in [0, 1]; got {p.min():g} to {p.max():g}")
    return y, p
