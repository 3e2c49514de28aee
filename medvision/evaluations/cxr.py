"""Chest X-rays of children after Kermany et al., Cell 2018;172:1122: pneumonia or normal, then bacterial or viral."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from medvision.core.errors import UsageError
from medvision.evaluations.base import RESAMPLES, Evaluation, Published, register
from medvision.evaluations.classify import MEDMNIST_SOURCE
from medvision.evaluations.image_questions import ask
from medvision.evaluations.image_results import Drawing, Floats, ImageResult, Scoring
from medvision.evaluations.image_tasks import judge, read_readers
from medvision.evaluations.images import (
    TRUTH_TABLE,
    Predictions,
    Truth,
    align,
    check_sums,
    groups_of,
    join,
    ordered,
    read_predictions,
    read_truth,
)
from medvision.evaluations.oct import KERMANY

NORMAL, PNEUMONIA, BACTERIAL, VIRAL = "normal", "pneumonia", "bacterial", "viral"
LABELS = {name: name for name in (NORMAL, PNEUMONIA, BACTERIAL, VIRAL)} | {
    "bacteria": BACTERIAL,
    "virus": VIRAL,
}
COLUMNS = ((PNEUMONIA,), (NORMAL, PNEUMONIA), (NORMAL, BACTERIAL, VIRAL), (BACTERIAL, VIRAL))
PUBLISHED = (
    Published(
        "Inception-v3, pneumonia or normal",
        {"accuracy": 0.928, "sensitivity": 0.932, "specificity": 0.901, "auc": 0.968},
        KERMANY,
    ),
    Published("Inception-v3, bacterial or viral", {"kind_accuracy": 0.907, "kind_auc": 0.940}, KERMANY),
    Published("ResNet-18 at 28 px, PneumoniaMNIST", {"accuracy": 0.854, "auc": 0.944}, MEDMNIST_SOURCE),
)


def evaluate(
    predictions: Path, truth: Path, readers: Path | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> ImageResult:
    """Score probabilities of pneumonia, or of its kinds.

    The columns of the predictions say what is scored: `pneumonia`, or `normal,pneumonia`: pneumonia against normal;
    `bacterial,viral`: which of the two; `normal,bacterial,viral`: both. Of three columns, the probability of pneumonia
    is the sum of its kinds', and that of a bacterial one, scored on images of pneumonia alone, its share in this sum.

    Args:
        predictions: CSV `image` and the columns above.
        truth: CSV `image,label[,group]` with the labels normal, pneumonia, bacterial (bacteria) and viral (virus).
        readers: CSV `reader,sensitivity,specificity,task`, where a task is pneumonia or bacterial.
        resamples: bootstrap draws for intervals that have no formula, and for all where there are groups.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: as `images.read_cases` and `image_tasks.read_readers`, or for other columns or labels.
    """
    given, known = _renamed(read_predictions(predictions), read_truth(truth))
    check_sums(given)
    asked_kind, asked_normal = BACTERIAL in given.classes, NORMAL in given.classes
    persons = read_readers(readers, (PNEUMONIA,) * asked_normal + (BACTERIAL,) * asked_kind)
    probabilities, told = align(given, known), np.array(list(known.labels.values()))
    groups, few = groups_of(known)
    drawing = Drawing(resamples, seed, groups)
    scoring = Scoring("cxr", len(told), drawing, [*known.notes, *few])
    if asked_kind and asked_normal:
        if PNEUMONIA in told:
            scoring.notes.append(
                "no table of three classes: the truth does not tell the kind of every pneumonia"
            )
        else:
            scoring.add(ask("3 classes", join(given, known), drawing))
    if asked_normal:
        title, scores = "pneumonia against normal", probabilities[:, 1:].sum(axis=1)
        scoring.add(judge(PNEUMONIA, title, told != NORMAL, scores, drawing, readers=persons[PNEUMONIA]))
    if asked_kind and (of_kind := np.isin(told, (BACTERIAL, VIRAL))).any():
        share, unsaid = _share_of_bacterial(probabilities[of_kind, -2:])
        if unsaid:
            scoring.notes.append(
                f"{unsaid} images of pneumonia have no probability of either kind, taken for 0.5"
            )
        title, positive = "bacterial against viral pneumonia", told[of_kind] == BACTERIAL
        scoring.add(judge(BACTERIAL, title, positive, share, drawing.of(of_kind), readers=persons[BACTERIAL]))
    elif asked_kind:
        scoring.notes.append("no figures of bacterial against viral: the truth does not tell them apart")
    return scoring.result()


def _renamed(given: Predictions, known: Truth) -> tuple[Predictions, Truth]:
    """Both with the names of `LABELS`, the columns in the order of `COLUMNS`; `pneumonia` alone gets its contrary.

    Without columns of the kinds, their labels are pneumonia; without one of normal, they alone are known.
    """
    names = tuple(LABELS.get(name.lower(), name) for name in given.classes)
    columns = next((one for one in COLUMNS if sorted(one) == sorted(names)), None)
    if columns is None:
        choices = "; ".join(", ".join(one) for one in COLUMNS)
        raise UsageError(
            f"{given.path}: the classes must be one of {choices}; got {', '.join(given.classes)}"
        )
    given = ordered(replace(given, classes=names), columns)
    if columns == (PNEUMONIA,):
        given = replace(
            given, classes=(NORMAL, PNEUMONIA), scores=np.hstack([1 - given.scores, given.scores])
        )
    labels = {}
    for image, label in known.labels.items():
        name = LABELS.get(label.lower())
        if name is None or (columns == (BACTERIAL, VIRAL) and name not in columns):
            choices = ", ".join(LABELS if NORMAL in given.classes else columns)
            raise UsageError(
                f"{known.path}, line {known.lines[image]}: label {label!r} of image {image!r}; known: {choices}"
            )
        labels[image] = PNEUMONIA if BACTERIAL not in columns and name != NORMAL else name
    return given, replace(known, labels=labels)


def _share_of_bacterial(kinds: Floats) -> tuple[Floats, int]:
    """P(bacterial) / (P(bacterial) + P(viral)) of (n, 2), 0.5 where both are 0, and how many those are."""
    both = kinds.sum(axis=1)
    share = np.divide(kinds[:, 0], both, out=np.full(len(both), 0.5), where=both > 0)
    return share, int((both == 0).sum())


register(
    Evaluation(
        name="cxr",
        title="Chest X-rays: pneumonia",
        paper=KERMANY,
        data="ChestXRay2017 (CC BY 4.0); the published figures are for its 624 test images, or their 28 px copies",
        predictions="CSV with the columns image and pneumonia, or normal and its kinds bacterial and viral",
        reference=TRUTH_TABLE,
        published=PUBLISHED,
        evaluate=evaluate,
    )
)
