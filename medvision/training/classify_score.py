"""How good a classifier of images is on those that it never saw: figures with intervals, for card and contract."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.metrics.agreement import confusion_counts
from medvision.metrics.classes import (
    balanced_accuracy,
    decide,
    medmnist_accuracy,
    medmnist_auc,
    wilson_interval,
)
from medvision.metrics.ranking import bootstrap_intervals, delong_interval
from medvision.models.class_tree import ClassTree
from medvision.models.contract import Figure
from medvision.training.images import LabelledImages

Floats = npt.NDArray[np.float64]


def figures_of(
    images: LabelledImages, probabilities: Floats, positive: str | None, where: str, draws: int = 1000
) -> dict[str, Figure]:
    """AUC and accuracy as MedMNIST's evaluator has them, and balanced accuracy, each with its 95% interval.

    Without `draws` of the bootstrap only intervals that have a formula are there. Resampled are groups (patients,
    lesions), where they are known. The AUC of two classes is of `positive`; a figure that the images do not allow, such
    as an AUC where a class is absent, is left out.
    """
    labels, scores, count = images.labels, probabilities, len(images.classes)
    if count == 2 and positive == images.classes[0]:
        labels, scores = 1 - labels, scores[:, ::-1]
    grouped = images.groups is not None and len(set(images.groups)) < len(images)
    groups = np.asarray(images.groups) if grouped else None
    unit = f"bootstrap over {len(set(images.groups or ()))} groups" if grouped else "bootstrap over images"
    unit = unit if draws else "none"
    cases = f"{len(images)} {where} images" if where == "test" else f"{len(images)} {where}"

    def all_three(y: npt.NDArray[np.int64], p: Floats) -> list[float]:
        table = confusion_counts(y, decide(p), (count, count))
        try:
            auc = medmnist_auc(y, p)
        except UsageError:
            auc = float("nan")
        return [auc, medmnist_accuracy(y, p), balanced_accuracy(table)]

    values = all_three(labels, scores)
    intervals: list[tuple[float, float] | str] = [unit] * len(values)
    if draws:
        intervals = bootstrap_intervals(all_three, labels, scores, n=draws, groups=groups)
    how = [unit, unit, unit]
    if count == 2 and not grouped and len(set(labels.tolist())) == 2:
        intervals[0], how[0] = delong_interval(labels, scores[:, 1]), "DeLong"
    if not grouped:
        right = round(values[1] * len(images))
        intervals[1], how[1] = wilson_interval(right, len(images)), "Wilson"
    names = ("auc", "accuracy", "balanced_accuracy")
    means = ("AUC" if count == 2 else "mean one-vs-rest AUC", "accuracy", "mean sensitivity of the classes")
    found = {}
    for name, value, interval, by, meaning in zip(names, values, intervals, how, means, strict=True):
        if value == value:
            kept = None if isinstance(interval, str) else interval
            found[name] = Figure(value=value, interval=kept, protocol=f"{meaning}, {cases}; interval: {by}")
    return found


def figures_of_levels(
    images: LabelledImages, probabilities: Floats, tree: ClassTree, where: str
) -> dict[str, Figure]:
    """Accuracy and balanced accuracy at each level of a taxonomy, of summed probabilities. See `figures_of`."""
    found: dict[str, Figure] = {}
    for level in tree.levels:
        holders = [tree.taxonomy.holder(name, level.classes) for name in images.classes]
        place = np.array([level.classes.index(str(holder)) for holder in holders], np.int64)
        coarse = replace(images, classes=level.classes, labels=place[images.labels])
        figures = figures_of(coarse, level.sum(probabilities), None, where)
        found |= {f"{level.title}_{name}": one for name, one in figures.items() if "accuracy" in name}
    return found
