"""Calibrate a model: from its predictions of labelled windows to a copy of its weights that says what they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from medvision.core.errors import UsageError, WeightsError
from medvision.metrics.calibration import (
    brier,
    expected_calibration_error,
    fit_isotonic,
    fit_temperature,
    log_loss,
    margins_of,
    reliability,
)
from medvision.metrics.ranking import roc_auc
from medvision.models.contract import WeightsContract
from medvision.models.weights import State, read_weights, write_weights
from medvision.report.plots import Plot, draw, paint_reliability
from medvision.store.files import atomic_write, make_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["temperature", "isotonic"]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
FOLDS = 5
FEWEST = 50
"""Cases below which a calibration is refused: bins of a few cases show nothing."""


@dataclass(frozen=True, slots=True)
class Measures:
    """How far probabilities are from what came true."""

    brier: float
    log_loss: float
    calibration_error: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """A calibrated contract and what it was measured by.

    `after` is measured on cases that were left out of the fit, fold by fold, with all of one slide in one fold
    (`cross_fitted`), or, where too few slides of each class are there, on the fitted cases themselves.
    """

    contract: WeightsContract
    method: Method
    before: Measures
    after: Measures
    cross_fitted: bool
    files: dict[str, Path]


def calibrate(
    weights: Path,
    out: Path,
    labels: Bools,
    probabilities: Floats,
    slides: tuple[str, ...] | None,
    method: Method,
    data: str,
) -> Calibration:
    """Fit a calibration and write `out`, a copy of `weights` that carries it, with a reliability plot beside it.

    Args:
        weights: safetensors with its contract.
        out: safetensors to write; `STEM-calibration.json`, `STEM-reliability.png` and `.svg` come beside it.
        labels: (n,), whether each case is positive.
        probabilities: (n,), what the model gives for the positive class as it is now.
        slides: (n,) names; cases of one slide are kept together when the result is measured.
        method: "temperature" divides the logits by one number and keeps every ranking; "isotonic" maps probabilities
            through a monotone table, which may make cases equal.
        data: what the cases are, in words for the report.

    Raises:
        UsageError: with fewer than 50 cases or one class only, for probabilities that rank cases the wrong way round,
            a method that does not fit the model, or an `out` that is `weights` itself.
        WeightsError: if `weights` cannot be read or carries no contract.
    """
    if method not in get_args(Method):
        raise UsageError(f"no calibration method {method!r}; known: {', '.join(get_args(Method))}")
    _check_cases(labels, probabilities)
    state, contract = _read(weights, out, method)
    fit = _FITS[method]
    held_out = cross_fit(fit, labels, probabilities, slides)
    after = fit(labels, probabilities)(probabilities) if held_out is None else held_out
    before = measure(labels, probabilities)
    measured = measure(labels, after)
    words = _words(method, data, before, measured, held_out is not None)
    # How far rounding moves a probability depends on the calibration, so what was measured no longer holds.
    contract = contract.model_copy(
        update={
            **_fields(method, contract, labels, probabilities),
            "calibration": words,
            "differences": (),
        }
    )
    make_output(out.parent)
    write_weights(out, state, WeightsContract.model_validate(contract.model_dump()).model_dump(mode="json"))
    files = {"weights": out}
    plot = draw_reliability(labels, probabilities, after, held_out is not None)
    said = {
        "method": method,
        "data": data,
        "cases": len(labels),
        "positives": int(labels.sum()),
        "slides": None if slides is None else len(set(slides)),
        "before": _as_json(before),
        "after": {**_as_json(measured), "cross_fitted": held_out is not None},
        "temperature": contract.temperature,
        "isotonic": contract.isotonic,
    }
    for name, content in (
        (f"{out.stem}-calibration.json", (json.dumps(said, indent=1) + "\n").encode()),
        (f"{out.stem}-reliability.png", plot.png),
        (f"{out.stem}-reliability.svg", plot.svg),
    ):
        atomic_write(out.with_name(name), content)
        files[name.rpartition("-")[2]] = out.with_name(name)
    return Calibration(contract, method, before, measured, held_out is not None, files)


def measure(labels: Bools, probabilities: Floats) -> Measures:
    """Brier score, log loss and expected calibration error over 15 bins."""
    return Measures(
        brier(labels, probabilities),
        log_loss(labels, probabilities),
        expected_calibration_error(labels, probabilities),
    )


def cross_fit(
    fit: Callable[[Bools, Floats], Callable[[Floats], Floats]],
    labels: Bools,
    probabilities: Floats,
    slides: tuple[str, ...] | None,
) -> Floats | None:
    """Probabilities (n,) calibrated by fits to the other folds, all of one slide in one fold; None where it cannot be.

    It cannot be with fewer slides than folds, or where a fit would see one class only.
    """
    names = [str(i) for i in range(len(labels))] if slides is None else list(slides)
    order = sorted(set(names))
    if len(order) < FOLDS:
        return None
    # Slides are dealt out in a fixed shuffled order, so that the same cases give the same figures.
    places = np.random.default_rng(0).permutation(len(order)) % FOLDS
    fold_of = dict(zip(order, places.tolist(), strict=True))
    folds = np.array([fold_of[name] for name in names])
    found = np.empty(len(labels))
    for fold in range(FOLDS):
        away = folds == fold
        if labels[~away].all() or not labels[~away].any():
            return None
        found[away] = fit(labels[~away], probabilities[~away])(probabilities[away])
    return found


def draw_reliability(labels: Bools, before: Floats, after: Floats, cross_fitted: bool) -> Plot:
    """Reliability before and after."""

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for axes, name, p in ((left, "before", before), (right, "after", after)):
            error = expected_calibration_error(labels, p)
            paint_reliability(axes, reliability(labels, p), f"{name}: calibration error {error:.3f}")

    how = "cross-fitted" if cross_fitted else "on the fitted cases"
    alt = f"Share of positives against predicted probability, before calibration and after it ({how})"
    return draw("reliability", alt, (6.6, 3.5), paint)


def _temperature_map(labels: Bools, probabilities: Floats) -> Callable[[Floats], Floats]:
    temperature = fit_temperature(margins_of(probabilities), labels)
    return lambda p: 1 / (1 + np.exp(-margins_of(p) / temperature))


def _isotonic_map(labels: Bools, probabilities: Floats) -> Callable[[Floats], Floats]:
    return fit_isotonic(probabilities, labels)


_FITS: dict[Method, Callable[[Bools, Floats], Callable[[Floats], Floats]]] = {
    "temperature": _temperature_map,
    "isotonic": _isotonic_map,
}


def _check_cases(labels: Bools, probabilities: Floats) -> None:
    if len(labels) < FEWEST or labels.all() or not labels.any():
        raise UsageError(
            f"{int(labels.sum())} positive and {int((~labels).sum())} negative cases; a calibration needs both and at "
            f"least {FEWEST} in all"
        )
    if (auc := roc_auc(labels, probabilities)) < 0.5:
        # Both methods keep the order of cases, so all they could do is to make every case alike.
        raise UsageError(
            f"positive cases have the lower probabilities (AUC {auc:.3f}), which no calibration mends; is the label "
            "that counts as positive the model's positive class?"
        )


def _fields(
    method: Method, contract: WeightsContract, labels: Bools, probabilities: Floats
) -> dict[str, Any]:
    """What the fit to all cases changes in the contract."""
    if method == "temperature":
        # The probabilities were made at the present temperature: the new one multiplies it.
        factor = fit_temperature(margins_of(probabilities), labels)
        return {"temperature": round(contract.temperature * factor, 4)}
    fitted = fit_isotonic(probabilities, labels)
    knots: dict[float, float] = {}
    for x, y in zip(fitted.x.tolist(), fitted.y.tolist(), strict=True):
        knots[round(x, 6)] = round(y, 6)
    return {"isotonic": tuple(knots.items())}


def _read(weights: Path, out: Path, method: Method) -> tuple[State, WeightsContract]:
    if out.suffix != ".safetensors":
        raise UsageError(
            f"{out}: calibrated weights are written as .safetensors, which carries the calibration"
        )
    if out.exists() and out.samefile(weights):
        raise UsageError(f"{out} is the file to be calibrated; name another for the calibrated copy")
    state, metadata = read_weights(weights)
    if not metadata:
        raise WeightsError(f"{weights}: carries no contract, in which a calibration could be kept")
    try:
        contract = WeightsContract.model_validate(metadata)
    except ValidationError as error:
        raise WeightsError(f"{weights}: its contract cannot be read: {error}") from error
    if contract.isotonic is not None:
        raise UsageError(
            f"{weights}: carries an isotonic calibration already; calibrate the weights it was made from"
        )
    if method == "temperature" and len(contract.classes) != 2:
        raise UsageError(
            f"{weights}: the probability of one of {len(contract.classes)} classes gives no temperature; pass --method "
            "isotonic"
        )
    return state, contract


def _words(method: Method, data: str, before: Measures, after: Measures, cross_fitted: bool) -> str:
    name = "temperature scaling" if method == "temperature" else "isotonic calibration"
    how = "on cases left out of the fit" if cross_fitted else "on the same cases"
    return (
        f"{name} on {data}; expected calibration error {before.calibration_error:.3f} before, "
        f"{after.calibration_error:.3f} after, {how}"
    )


def _as_json(measures: Measures) -> dict[str, float]:
    return {
        "brier": measures.brier,
        "log_loss": measures.log_loss,
        "expected_calibration_error": measures.calibration_error,
    }
