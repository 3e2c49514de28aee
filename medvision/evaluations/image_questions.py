"""One question with several classes: its figures, each class against the rest, and its calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medvision.core.errors import UsageError
from medvision.core.results import Score
from medvision.evaluations.image_results import (
    Bools,
    Drawing,
    Floats,
    Ints,
    Question,
    Ranking,
    Share,
    Statistics,
    Wanted,
    measure,
)
from medvision.evaluations.images import Cases
from medvision.metrics.agreement import confusion_counts
from medvision.metrics.calibration import Reliability, calibration_gap
from medvision.metrics.classes import (
    accuracy,
    balanced_accuracy,
    class_brier,
    confidence_reliability,
    decide,
    one_vs_rest_auc,
    sensitivities,
    specificities,
    tied,
)
from medvision.metrics.ranking import auc_above_sensitivity, roc_curve

UNDECIDED = "undecided"
BINS = 15


@dataclass(frozen=True, slots=True)
class Further:
    """A figure that a protocol adds: from labels (n,), probabilities (n, classes) and the classes decided on (n,)."""

    name: str
    words: str
    statistic: Callable[[Ints, Floats, Ints], float]


def ask(
    title: str,
    cases: Cases,
    drawing: Drawing,
    *,
    further: Sequence[Further] = (),
    undecided: bool = False,
    distribution: bool = True,
    above_sensitivity: float | None = None,
) -> tuple[Question, list[str]]:
    """The figures of a question, and notes on those that are missing.

    An image is given its most probable class. In a tie that is the first of them, as MedMNIST has it, or, with
    `undecided`, none, as the ISIC challenges have it.

    Args:
        title: what is asked.
        cases: images with labels and probabilities.
        drawing: of the intervals.
        further: figures that the protocol adds.
        undecided: whether images with a tie are given no class.
        distribution: whether probabilities sum to 1, without which there is no Brier score and no calibration.
        above_sensitivity: also score each class's AUC above this sensitivity, as ISIC does.
    """
    y, p = cases.labels, cases.probabilities
    count, ties = len(cases.classes), tied(p)
    said = np.where(ties & undecided, count, decide(p))
    shape = (count, count + undecided)
    whole = _of_all(cases, said, further, distribution)
    each = _of_each(cases, said, above_sensitivity)
    statistics = _statistics(shape, further, distribution, above_sensitivity)
    figures, notes = measure([*whole, *each], statistics, y, p, said, drawing)
    if ties.any():
        what = (
            "were given no class" if undecided else "count as the first of these, in the order of the columns"
        )
        notes.insert(0, f"{int(ties.sum())} images have several most probable classes: they {what}")
    by_name = {one.name: score for one, score in zip(whole, figures, strict=False)}
    reliable = confidence_reliability(y, p, BINS) if distribution else None
    if reliable is not None:
        by_name["expected calibration error"] = _calibration(reliable, len(y))
    own = list(zip(each, figures[len(whole) :], strict=True))
    made = Question(
        title,
        cases.classes,
        (*cases.classes, UNDECIDED) if undecided else cases.classes,
        confusion_counts(y, said, shape),
        by_name,
        tuple({_short(one.name): score for one, score in own[i::count]} for i in range(count)),
        tuple(roc_curve(y == i, p[:, i]) if 0 < (y == i).sum() < len(y) else None for i in range(count)),
        reliable,
    )
    return made, [f"{title}: {note}" for note in notes]


def wanted_above(sensitivity: float) -> Wanted:
    """The AUC above a sensitivity, as the ISIC challenges score it; see `above`."""
    words = (
        f"area under the part of the ROC curve that reaches a sensitivity of {sensitivity:.0%}, not rescaled"
    )
    return Wanted(above_name(sensitivity), words)


def above(positive: Bools, scores: Floats, sensitivity: float) -> float:
    """The AUC above a sensitivity, NaN where a class has no image."""
    return (
        auc_above_sensitivity(positive, scores, sensitivity)
        if 0 < positive.sum() < len(positive)
        else math.nan
    )


def above_name(sensitivity: float) -> str:
    """What the AUC above a sensitivity is called."""
    return f"AUC above {sensitivity:.0%} sensitivity"


def _of_all(cases: Cases, said: Ints, further: Sequence[Further], distribution: bool) -> list[Wanted]:
    """What is measured of the question as a whole; of scores that are no probabilities not the last."""
    of_last = "of the last class" if len(cases.classes) == 2 else "summed over classes"
    right = Share(int((cases.labels == said).sum()), len(said))
    wanted = [
        Wanted("accuracy", "share of images with the right class", right),
        Wanted("balanced accuracy", "mean sensitivity over the classes that have an image"),
        Wanted("macro AUC", "mean over the classes of the AUC against the rest"),
        *(Wanted(one.name, one.words) for one in further),
    ]
    if distribution:
        wanted.append(Wanted("Brier score", f"mean squared difference of probability and outcome, {of_last}"))
    return wanted


def _statistics(
    shape: tuple[int, int], further: Sequence[Further], distribution: bool, above_sensitivity: float | None
) -> Statistics:
    """The figures of `_of_all` and `_of_each`, in their order."""

    def statistics(y: Ints, p: Floats, d: Ints) -> list[float]:
        table = confusion_counts(y, d, shape)
        auc = one_vs_rest_auc(y, p)
        figures = [accuracy(table), balanced_accuracy(table), float(auc.mean())]
        figures += [_or_nan(one, y, p, d) for one in further]
        figures += [class_brier(y, p)] if distribution else []
        for one in (sensitivities(table), specificities(table), auc):
            figures += one.tolist()
        if above_sensitivity is not None:
            figures += [above(y == i, p[:, i], above_sensitivity) for i in range(len(auc))]
        return figures

    return statistics


def _of_each(cases: Cases, said: Ints, above_sensitivity: float | None) -> list[Wanted]:
    """What is measured of each class: each figure of all classes in turn. Names end in the class, for notes."""
    own = [cases.labels == i for i in range(len(cases.classes))]
    given = [said == i for i in range(len(cases.classes))]
    places = list(enumerate(cases.classes))
    wanted = [
        Wanted(
            f"sensitivity of {name}",
            "share of the class's images that were given it",
            Share(int((own[i] & given[i]).sum()), int(own[i].sum())),
        )
        for i, name in places
    ]
    wanted += [
        Wanted(
            f"specificity of {name}",
            "share of the other images that were not given it",
            Share(int((~own[i] & ~given[i]).sum()), int((~own[i]).sum())),
        )
        for i, name in places
    ]
    wanted += [
        Wanted(
            f"AUC of {name}",
            "area under the ROC curve of the class against the rest",
            Ranking(own[i], cases.probabilities[:, i]),
        )
        for i, name in places
    ]
    if above_sensitivity is not None:
        one = wanted_above(above_sensitivity)
        wanted += [Wanted(f"{one.name} of {name}", one.words) for name in cases.classes]
    return wanted


def _calibration(table: Reliability, images: int) -> Score:
    return Score(
        "expected calibration error",
        calibration_gap(table),
        None,
        f"mean gap of the highest probability and the share of right answers, {BINS} equal-width bins; interval: none, "
        "as resamples bias it upwards",
        images,
    )


def _short(name: str) -> str:
    return name.partition(" of ")[0]


def _or_nan(further: Further, labels: Ints, probabilities: Floats, said: Ints) -> float:
    try:
        return further.statistic(labels, probabilities, said)
    except UsageError:
        return math.nan
