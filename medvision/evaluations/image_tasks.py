"""One yes-or-no task about images: AUC, sensitivity and specificity, and the readers who answered it too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medvision.core.errors import UsageError
from medvision.core.results import Score
from medvision.evaluations.image_questions import above, wanted_above
from medvision.evaluations.image_results import (
    Bools,
    Drawing,
    Floats,
    Ints,
    Ranking,
    ReaderPoint,
    Share,
    Task,
    Wanted,
    measure,
)
from medvision.metrics.agreement import confusion_counts
from medvision.metrics.classes import accuracy, sensitivities
from medvision.metrics.ranking import RocCurve, roc_auc, roc_curve, sensitivity_at
from medvision.store.tables import read_number, read_table


def judge(
    name: str,
    title: str,
    positive: Bools,
    scores: Floats,
    drawing: Drawing,
    *,
    said: Bools | None = None,
    rule: str = "at a probability above 0.5",
    readers: Sequence[ReaderPoint] = (),
    above_sensitivity: float | None = None,
) -> tuple[Task, list[str]]:
    """The figures of a yes-or-no task, and notes on those that are missing.

    Args:
        name: short, as in a file of readers.
        title: for people.
        positive: the truth (n,).
        scores: what ranks the images (n,).
        drawing: of the intervals.
        said: which of them the predictions call positive (n,); by default those with a score above 0.5.
        rule: when they do, in words.
        readers: persons who did the same task.
        above_sensitivity: also score the AUC above this sensitivity, as ISIC does.
    """
    said = scores > 0.5 if said is None else said
    right = said == positive
    wanted = [
        Wanted("AUC", "area under the ROC curve", Ranking(positive, scores)),
        Wanted(
            "sensitivity",
            f"share of the positive images that were called so: {rule}",
            Share(int((right & positive).sum()), int(positive.sum())),
        ),
        Wanted(
            "specificity",
            f"share of the negative images that were called so: {rule}",
            Share(int((right & ~positive).sum()), int((~positive).sum())),
        ),
        Wanted(
            "accuracy",
            f"share of the images that were called rightly: {rule}",
            Share(int(right.sum()), len(right)),
        ),
    ]
    if above_sensitivity is not None:
        wanted.append(wanted_above(above_sensitivity))

    def statistics(truth: Ints, scores: Floats, said: Ints) -> list[float]:
        further = [] if above_sensitivity is None else [above(truth == 1, scores, above_sensitivity)]
        return [*_figures(truth, scores, said), *further]

    found, notes = measure(
        wanted, statistics, positive.astype(np.int64), scores, said.astype(np.int64), drawing
    )
    figures: dict[str, Score | None] = {one.name: score for one, score in zip(wanted, found, strict=True)}
    curve = None if figures["AUC"] is None else roc_curve(positive, scores)
    points = tuple(_beside(reader, curve) for reader in readers)
    made = Task(name, title, len(positive), int(positive.sum()), figures, curve, points)
    return made, [f"{title}: {note}" for note in notes]


def read_readers(path: Path | None, tasks: Sequence[str]) -> dict[str, tuple[ReaderPoint, ...]]:
    """Readers of each task, from a CSV with the columns reader,sensitivity,specificity and, of several tasks, task.

    Raises:
        UsageError: if the file is malformed, names a task that is none of `tasks`, or a reader twice in one.
    """
    found: dict[str, tuple[ReaderPoint, ...]] = dict.fromkeys(tasks, ())
    if path is None:
        return found
    if not tasks:
        raise UsageError(f"{path}: there is no yes-or-no task that readers could stand beside")
    required = ("reader", "sensitivity", "specificity", *(("task",) if len(tasks) > 1 else ()))
    for line, row in read_table(path, required, ("task",)).rows:
        name = row.get("task", tasks[0])
        if name not in found:
            raise UsageError(f"{path}, line {line}: no task is called {name!r}; known: {', '.join(tasks)}")
        if not row["reader"]:
            raise UsageError(f"{path}, line {line}: the reader is not named")
        if row["reader"] in {reader.name for reader in found[name]}:
            raise UsageError(f"{path}, line {line}: reader {row['reader']!r} for the second time")
        sensitivity, specificity = (
            read_number(path, line, key, row[key], 0, 1) for key in ("sensitivity", "specificity")
        )
        found[name] += (ReaderPoint(row["reader"], sensitivity, specificity),)
    return found


def _beside(reader: ReaderPoint, curve: RocCurve | None) -> ReaderPoint:
    return replace(reader, predictions=None if curve is None else sensitivity_at(curve, reader.specificity))


def _figures(truth: Ints, scores: Floats, said: Ints) -> list[float]:
    """AUC, sensitivity, specificity and accuracy, NaN where a class is absent."""
    table = confusion_counts(truth, said, (2, 2))
    auc = roc_auc(truth, scores) if table.sum(axis=1).all() else math.nan
    specificity, sensitivity = sensitivities(table).tolist()
    return [auc, sensitivity, specificity, accuracy(table)]
