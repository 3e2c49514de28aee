"""`medvision calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medvision.cli.console import console, print_made, table


def calibrate(
    model: str,
    /,
    *,
    predictions: Path,
    out: Path,
    method: Literal["temperature", "isotonic"] = "temperature",
    data: str | None = None,
    positive: str | None = None,
) -> int:
    """Make a model's scores probabilities: a copy of its weights with a calibration fitted to labelled predictions.

    Example: medvision calibrate camelyon-mini --predictions patches.csv --method isotonic --out calibrated.safetensors

    The report of every analysis with these weights says what they were calibrated on. The weights come with a
    reliability plot, and with the figures before and after.

    Parameters
    ----------
    model
        A model of `medvision models` that has weights, or a safetensors file that carries its contract.
    predictions
        CSV with the columns label,probability and, where known, slide: the probability that this model gives the
        positive class of windows it was not trained on.
    out
        The calibrated weights, a .safetensors file.
    method
        "temperature" divides the logits by one number and keeps every ranking; "isotonic" maps probabilities through a
        monotone table, follows any shape, and may make scores equal.
    data
        What the windows are, for the report. Default: their number, the slides' number, and the name of the CSV.
    positive
        The label that is positive, where labels are not 0 and 1, normal and tumour, or negative and positive.
    """
    from medvision.core.errors import UsageError
    from medvision.evaluations.pathology import read_patches
    from medvision.models.catalogue import MODELS
    from medvision.pipelines.calibrate import calibrate as run

    weights: Path | None = Path(model)
    if not Path(model).is_file():
        weights = MODELS[model].path
    if weights is None:
        raise UsageError(f"model {model!r} comes without weights; name the file of those to calibrate")
    given = read_patches(predictions, positive)
    of_slides = "" if given.slides is None else f" of {len(set(given.slides))} slides"
    words = data or f"{len(given.positive)} windows{of_slides} ({predictions.name})"
    done = run(weights, out, given.positive, given.probabilities, given.slides, method, words)
    rows = [
        (name, f"{before:.4f}", f"{after:.4f}")
        for name, before, after in (
            ("Brier score", done.before.brier, done.after.brier),
            ("log loss", done.before.log_loss, done.after.log_loss),
            ("expected calibration error", done.before.calibration_error, done.after.calibration_error),
        )
    ]
    console.print(table("", ("figure", "before", "after"), rows))
    console.print(done.contract.calibration, markup=False)
    for note in given.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for name, path in done.files.items():
        print_made(name, path)
    return 0
