"""Files of the ISIC challenges: truth with a column of 0 and 1 per class (2018, 2019), and the two tasks of 2017."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from medvision.core.errors import UsageError
from medvision.core.one_hot import the_one
from medvision.evaluations.base import RESAMPLES, Published
from medvision.evaluations.image_results import Drawing, Floats, ImageResult, Ints, Scoring, Wanted, measure
from medvision.evaluations.image_tasks import judge, read_readers
from medvision.evaluations.images import (
    Predictions,
    Truth,
    align,
    image_name,
    keyed_table,
    read_predictions,
    read_truth,
)
from medvision.metrics.ranking import roc_auc
from medvision.store.tables import read_number

SENSITIVITY = 0.8
"""Above which the challenges score an AUC."""
PUBLISHED_2017 = (
    Published(
        "sample predictions beside a copy of the truth",
        {"mean_auc": 0.566, "melanoma_auc": 0.526, "seborrheic_keratosis_auc": 0.606},
        "README of udacity/dermatologist-ai",
    ),
)
KEYS = ("image", "image_id", "id")
TASKS_2017 = {
    "melanoma": "melanoma against nevus and seborrheic keratosis",
    "seborrheic_keratosis": "seborrheic keratosis against melanoma and nevus",
}
WEIGHTS = ("score_weight", "validation_weight")
LEFT_OUT = "ISIC_0035068"
"""An image of the 2018 test set that the challenge's own scorer gives no weight."""
_NAMES_2017 = {"task_1": "melanoma", "task_2": "seborrheic_keratosis"}


def is_2017(truth: Path) -> bool:
    """Whether a table of truth has the two columns of the 2017 challenge, by their names or as task_1 and task_2.

    Raises:
        UsageError: as `keyed_table`.
    """
    table, key = keyed_table(truth, KEYS)
    columns = {name for name in table.columns if name != key}
    return columns in (set(TASKS_2017), set(_NAMES_2017))


def evaluate_2017(
    predictions: Path, truth: Path, readers: Path | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> ImageResult:
    """Two separate tasks and the mean of their AUCs, as Codella et al. 2018 (arXiv:1710.05006) score part 3.

    Args:
        predictions: CSV of images and two scores in [0, 1], which need not sum to 1.
        truth: CSV of images and two columns of 0 and 1; a nevus has 0 in both.
        readers: CSV `reader,sensitivity,specificity,task` with the tasks melanoma and seborrheic_keratosis.
        resamples: bootstrap draws for the interval of the mean AUC.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: if a file is malformed, an image is missing, extra or named twice, or one has a 1 in both columns.
    """
    given, answers = (
        _named_2017(read_predictions(predictions, KEYS)),
        _named_2017(read_predictions(truth, KEYS)),
    )
    wrong = np.flatnonzero(~np.isin(answers.scores, (0, 1)).all(axis=1) | (answers.scores.sum(axis=1) > 1))
    if len(wrong):
        raise UsageError(
            f"{truth}: image {answers.images[int(wrong[0])]!r} must have 0 or 1, and 1 at most once"
        )
    persons = read_readers(readers, tuple(TASKS_2017))
    scores = align(given, Truth(truth, dict.fromkeys(answers.images, ""), {}, None))
    positive, said = answers.scores == 1, scores > 0.5
    drawing = Drawing(resamples, seed)
    scoring = Scoring("skin", len(answers.images), drawing)
    rule = "at a score above 0.5"
    for i, (name, title) in enumerate(TASKS_2017.items()):
        scoring.add(
            judge(
                name,
                title,
                positive[:, i],
                scores[:, i],
                drawing,
                rule=rule,
                readers=persons[name],
                above_sensitivity=SENSITIVITY,
            )
        )
    mean = Wanted("mean AUC", "mean of the AUCs of both tasks")
    (figure,), notes = measure(
        (mean,), _mean_auc, positive.astype(np.int64), scores, said.astype(np.int64), drawing
    )
    scoring.notes += notes
    return scoring.result(figures={mean.name: figure})


def read_skin_truth(path: Path) -> Truth:
    """Truth as `image,label[,group]`, or with a column of 0 and 1 per class as the challenges have it since 2018.

    Images lose a suffix .jpg, as in the challenges' scorer. Those with a score_weight of 0, and `LEFT_OUT`, are left
    out, and a note says so.

    Raises:
        UsageError: if the file is malformed, names an image twice, does not give each exactly one class, or has a
            weight that is neither 0 nor 1.
    """
    table, key = keyed_table(path, KEYS)
    if "label" in table.columns:
        return _without_suffix(read_truth(path))
    classes = [name for name in table.columns if name not in (key, *WEIGHTS)]
    labels: dict[str, str] = {}
    lines: dict[str, int] = {}
    dropped = []
    for line, row in table.rows:
        image = _bare(image_name(path, line, row[key], lines))
        image_name(path, line, image, lines)
        lines[image] = line
        label = the_one({name: row[name] for name in classes}, f"{path}, line {line}: image {image!r}")
        weight = read_number(path, line, WEIGHTS[0], row.get(WEIGHTS[0], "1"), 0, 1)
        if weight not in (0, 1):
            raise UsageError(f"{path}, line {line}: {WEIGHTS[0]} {weight:g} is neither 0 nor 1")
        if weight == 0 or image == LEFT_OUT:
            dropped.append(image)
        else:
            labels[image] = label
    note = f"left out, as the challenge's scorer gives them no weight: {', '.join(dropped[:5])}"
    more = f" and {len(dropped) - 5} more" if len(dropped) > 5 else ""
    if not labels:
        raise UsageError(f"{path}: no image has a weight")
    return Truth(path, labels, lines, None, (note + more,) if dropped else ())


def read_skin_predictions(path: Path, truth: Truth) -> Predictions:
    """Images and a score per class, without a suffix .jpg, and without the images that the truth left out.

    Raises:
        UsageError: as `read_predictions`.
    """
    given = read_predictions(path, KEYS)
    images = [_bare(image) for image in given.images]
    if len(set(images)) < len(images):
        twice = next(image for image in images if images.count(image) > 1)
        raise UsageError(f"{path}: image {twice!r} for the second time, with and without .jpg")
    kept = [i for i, image in enumerate(images) if image in truth.labels or image not in truth.lines]
    return replace(given, images=tuple(images[i] for i in kept), scores=given.scores[kept])


def _mean_auc(truth: Ints, scores: Floats, _said: Ints) -> list[float]:
    return [float(np.mean([roc_auc(truth[:, i], scores[:, i]) for i in range(len(TASKS_2017))]))]


def _named_2017(table: Predictions) -> Predictions:
    names = tuple(_NAMES_2017.get(name.lower(), name.lower()) for name in table.classes)
    if sorted(names) != sorted(TASKS_2017):
        raise UsageError(
            f"{table.path}: ISIC 2017 has columns {', '.join(TASKS_2017)}, or task_1, task_2; not {', '.join(names)}"
        )
    order = [names.index(name) for name in TASKS_2017]
    return replace(table, classes=tuple(TASKS_2017), scores=table.scores[:, order])


def _without_suffix(truth: Truth) -> Truth:
    labels = {_bare(image): label for image, label in truth.labels.items()}
    if len(labels) < len(truth.labels):
        raise UsageError(f"{truth.path}: an image comes twice, with and without .jpg")
    lines = {_bare(image): line for image, line in truth.lines.items()}
    groups = None if truth.groups is None else {_bare(image): group for image, group in truth.groups.items()}
    return replace(truth, labels=labels, lines=lines, groups=groups)


def _bare(image: str) -> str:
    return image[:-4] if image.lower().endswith(".jpg") else image
