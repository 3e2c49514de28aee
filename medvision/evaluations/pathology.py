"""Patches of slides: how well their probabilities rank them (AUC), and how far they are probabilities (calibration)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.results import Score
from medvision.evaluations.base import Evaluation, Published, register
from medvision.evaluations.truth import LABELS
from medvision.metrics.calibration import (
    Reliability,
    brier,
    expected_calibration_error,
    log_loss,
    reliability,
)
from medvision.metrics.ranking import (
    RocCurve,
    average_precision,
    bootstrap_interval,
    delong_interval,
    roc_auc,
    roc_curve,
)
from medvision.store.tables import read_number, read_table

PUBLISHED = (
    Published("GDensenet, Veeling et al. 2018", {"auc": 0.963, "accuracy": 0.898}, "arXiv:1806.03962"),
)
FEW_SLIDES = 30


@dataclass(frozen=True, eq=False)
class PatchPredictions:
    """Labels and probabilities of patches (n,); `slides` (n,) where the file names each patch's slide."""

    positive: npt.NDArray[np.bool_]
    probabilities: npt.NDArray[np.float64]
    slides: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PathologyResult:
    """The figures. `auc`, `roc` and `delong` are None where a class is missing; `notes` say so.

    `delong` takes patches for independent, the other intervals draw whole slides. The expected calibration error has no
    interval: it is biased upwards in resamples, so a percentile interval would not cover it.
    """

    patches: int
    positives: int
    slides: int | None
    auc: Score | None
    delong: tuple[float, float] | None
    average_precision: Score | None
    accuracy: Score
    brier: Score
    log_loss: Score
    calibration_error: float
    roc: RocCurve | None
    reliability: Reliability
    notes: tuple[str, ...]
    bins: int
    resamples: int
    seed: int


def evaluate(
    predictions: Path, positive: str | None = None, bins: int = 15, resamples: int = 1000, seed: int = 0
) -> PathologyResult:
    """Score a table of patches.

    Args:
        predictions: see `read_patches`.
        positive: the label that counts as positive, where labels are other words than those known.
        bins: equal-width bins of the reliability table.
        resamples: bootstrap draws for the 95% intervals, of slides where they are known, else of patches.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: if the file is malformed, naming the line.
    """
    given = read_patches(predictions, positive)
    notes = list(given.notes)
    y, p = given.positive, given.probabilities
    groups = None if given.slides is None else np.array(given.slides)
    slides = None if given.slides is None else len(set(given.slides))
    if slides is None:
        notes.append(
            "no column slide: patches were drawn as if independent, which makes intervals too narrow"
        )
    elif slides < FEW_SLIDES:
        notes.append(f"{slides} slides are too few for an interval to say much")

    def score(name: str, statistic: object, protocol: str) -> Score:
        assert callable(statistic)
        interval = None
        try:
            if resamples:
                interval = bootstrap_interval(statistic, y, p, n=resamples, seed=seed, groups=groups)
        except UsageError as error:
            notes.append(f"no interval of the {name}: {error}")
        return Score(name, float(statistic(y, p)), interval, protocol, len(y))

    auc = delong = precision = roc = None
    if y.all() or not y.any():
        notes.append(f"no AUC: all {len(y)} patches are of one class")
    else:
        auc = score("patch AUC", roc_auc, "area under the ROC curve")
        precision = score("average precision", average_precision, "sum of precision over steps of recall")
        roc = roc_curve(y, p)
        if min(y.sum(), (~y).sum()) > 1:
            delong = delong_interval(y, p)
    return PathologyResult(
        patches=len(y),
        positives=int(y.sum()),
        slides=slides,
        auc=auc,
        delong=delong,
        average_precision=precision,
        accuracy=score("accuracy at 0.5", _accuracy, "share of patches on the right side of 0.5"),
        brier=score("Brier score", brier, "mean squared difference of probability and outcome"),
        log_loss=score("log loss", log_loss, "mean negative log-likelihood, nats"),
        calibration_error=expected_calibration_error(y, p, bins),
        roc=roc,
        reliability=reliability(y, p, bins),
        notes=tuple(notes),
        bins=bins,
        resamples=resamples,
        seed=seed,
    )


def read_patches(path: Path, positive: str | None = None) -> PatchPredictions:
    """Patches of a CSV with the columns label, probability and, where known, slide and patch.

    A label is 1 or 0, tumour or normal, positive or negative, or, with `positive`, any words of which that one is the
    positive. A patch's name may not come twice on one slide. A column `seed` may hold one value only: the same patch
    predicted by several networks is not several patches.

    Raises:
        UsageError: if the file is malformed, naming the line, or no row has the label `positive`.
    """
    table = read_table(path, ("label", "probability"), ("slide", "patch", "seed"))
    labels, probabilities, slides = [], [], []
    seen: set[tuple[str, str]] = set()
    for line, row in table.rows:
        labels.append(_is_positive(path, line, row["label"], positive))
        probabilities.append(read_number(path, line, "probability", row["probability"], 0, 1))
        slide = row.get("slide", "")
        if "slide" in row and not slide:
            raise UsageError(f"{path}, line {line}: the slide of the patch is not named")
        slides.append(slide)
        if "patch" in row:
            if (slide, row["patch"]) in seen:
                raise UsageError(f"{path}, line {line}: patch {row['patch']!r} for the second time")
            seen.add((slide, row["patch"]))
    if positive is not None and not any(labels):
        known = sorted({row["label"] for _, row in table.rows})
        raise UsageError(
            f"{path}: no patch has the positive label {positive!r}; its labels are {', '.join(known[:8])}"
            + (" ..." if len(known) > 8 else "")
        )
    if len(seeds := {row["seed"] for _, row in table.rows if "seed" in row}) > 1:
        raise UsageError(
            f"{path}: predictions of {len(seeds)} seeds; keep the rows of one, a patch may count once only"
        )
    notes = (f"columns not used: {', '.join(table.unused)}",) if table.unused else ()
    return PatchPredictions(
        np.array(labels, dtype=np.bool_),
        np.array(probabilities),
        tuple(slides) if "slide" in table.columns else None,
        notes,
    )


def _is_positive(path: Path, line: int, label: str, positive: str | None) -> bool:
    if positive is not None:
        return label.lower() == positive.lower()
    if label.lower() not in LABELS:
        raise UsageError(
            f"{path}, line {line}: label {label!r}; known: {', '.join(LABELS)}; for other words pass --positive"
        )
    return LABELS[label.lower()]


def _accuracy(labels: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.float64]) -> float:
    return float(np.mean((probabilities >= 0.5) == labels))


register(
    Evaluation(
        name="pathology",
        title="Patches: ranking and calibration",
        paper="DeLong et al., Biometrics 1988 (interval); Naeini et al., AAAI 2015 (calibration error)",
        data="any labelled patches; the published figures are for the test set of PatchCamelyon (CC0)",
        predictions="CSV with the columns label, probability and, where known, slide and patch",
        reference="the column label of the predictions",
        published=PUBLISHED,
        evaluate=evaluate,
    )
)
