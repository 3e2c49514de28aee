"""Skin lesions: scoring as in the ISIC challenges, coarser classes of a taxonomy, and a task beside readers.

ISIC: Codella et al. 2019 (arXiv:1902.03368) and the challenges' scorer, isic-challenge-scoring. Taxonomy and readers:
Esteva et al., Nature 2017;542:115.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medvision.core.errors import UsageError
from medvision.core.names import find_name
from medvision.core.taxonomy import INFERENCE_LEVELS, Taxonomy, coarser, read_taxonomy, sum_descendants
from medvision.evaluations.base import RESAMPLES, Evaluation, Published, register
from medvision.evaluations.image_questions import ask
from medvision.evaluations.image_results import Bools, Drawing, ImageResult, ReaderPoint, Scoring, Task
from medvision.evaluations.image_tasks import judge, read_readers
from medvision.evaluations.images import TRUTH_TABLE, Cases, Truth, join, sums_to_one
from medvision.evaluations.isic import (
    PUBLISHED_2017,
    SENSITIVITY,
    evaluate_2017,
    is_2017,
    read_skin_predictions,
    read_skin_truth,
)

MALIGNANT = "malignant"
ESTEVA = "Esteva et al., Nature 2017;542:115"
PUBLISHED = (
    Published("Inception-v3 with a taxonomy", {"3-way": 0.721, "9-way": 0.554}, ESTEVA),
    Published(
        "Inception-v3, on biopsy-proven images",
        {"AUC of carcinoma": 0.96, "AUC of melanoma": 0.94, "AUC of melanoma, dermoscopic": 0.91},
        ESTEVA,
    ),
    Published(
        "EfficientNets, first of ISIC 2019, its test set", {"balanced_accuracy": 0.636}, "arXiv:1910.03910"
    ),
)


@dataclass(frozen=True, eq=False)
class _Names:
    """The names that classes, labels and `--positive` may have: nodes of a taxonomy, or the classes themselves."""

    taxonomy: Taxonomy | None
    classes: tuple[str, ...]

    def find(self, name: str, where: str) -> str:
        return find_name(name, self.classes if self.taxonomy is None else self.taxonomy.parents, where)

    def holder(self, name: str, nodes: Sequence[str]) -> str | None:
        if self.taxonomy is None:
            return name if name in nodes else None
        return self.taxonomy.holder(name, nodes)


def evaluate(
    predictions: Path,
    truth: Path,
    taxonomy: Path | None = None,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
    readers: Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ImageResult:
    """Score a table of probabilities as the ISIC challenges do, and at coarser levels of a taxonomy.

    Truth with the columns of the 2017 challenge makes it `isic.evaluate_2017`.

    Args:
        predictions: CSV `image,<a score per class>`. As in the challenges, scores need not sum to 1; if they do not,
            what needs probabilities is left out, with a note.
        truth: CSV `image,label[,group]`, or with a column of 0 and 1 per class. With a taxonomy, a label may also be a
            node within a class.
        taxonomy: YAML whose nodes hold the classes; see `core.taxonomy`.
        positive: classes or nodes that are positive in a yes-or-no task; by default the node "malignant", if any.
        negative: those that are negative; images of neither are left out of the task. By default all others.
        readers: CSV `reader,sensitivity,specificity` of the same task.
        resamples: bootstrap draws for intervals that have no formula, and for all where there are groups.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: if a file is malformed, an image is missing, extra or named twice, a name is unknown, or a sum of
            scores is wanted that are no probabilities.
    """
    if is_2017(truth):
        if taxonomy or positive or negative:
            raise UsageError(
                f"{truth}: truth of ISIC 2017 has two fixed tasks, without taxonomy, positive or negative"
            )
        return evaluate_2017(predictions, truth, readers, resamples, seed)
    known = read_skin_truth(truth)
    given = read_skin_predictions(predictions, known)
    tree = None if taxonomy is None else read_taxonomy(taxonomy)
    names = _Names(tree, given.classes)
    renamed = tuple(names.find(name, f"{predictions}, header") for name in given.classes)
    given = replace(given, classes=renamed)
    known, labels = _labelled(known, names, given.classes)
    cases = join(given, known)
    asked = _Asked(names, cases, labels, bool(sums_to_one(given).all()))
    scoring = Scoring("skin", len(cases.images), Drawing(resamples, seed, cases.groups), [*cases.notes])
    if not asked.distribution:
        scoring.notes.append(
            f"scores of {int((~sums_to_one(given)).sum())} images do not sum to 1: ranked and compared as they are, as "
            "ISIC does; no calibration, and no sums over classes"
        )
    _ask_classes(asked, scoring)
    positive, negative = _sides(asked, positive, negative)
    persons = read_readers(readers, positive[:1])
    if positive:
        scoring.add(_task(asked, positive, negative, scoring.drawing, persons[positive[0]]))
    return scoring.result()


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is scored: `labels` (n,) as the taxonomy names them; `distribution` says whether all scores sum to 1."""

    names: _Names
    cases: Cases
    labels: list[str]
    distribution: bool


def _ask_classes(asked: _Asked, scoring: Scoring) -> None:
    """The question with the classes of the predictions, and those at the levels of the taxonomy."""
    cases, tree = asked.cases, asked.names.taxonomy
    title = f"{len(cases.classes)} classes"
    scoring.add(
        ask(
            title,
            cases,
            scoring.drawing,
            undecided=True,
            distribution=asked.distribution,
            above_sensitivity=SENSITIVITY,
        )
    )
    if tree is None or not asked.distribution:
        return
    for depth in INFERENCE_LEVELS:
        _ask_level(depth, tree, asked, scoring)


def _ask_level(depth: int, tree: Taxonomy, asked: _Asked, scoring: Scoring) -> None:
    """The question at a level of the taxonomy, unless it was asked already or cannot be."""
    cases = asked.cases
    try:
        nodes = tree.level(depth)
        held = [tree.holder(label, nodes) for label in asked.labels]
        made = coarser(tree, cases.classes, depth, [node for node in held if node is not None])
    except UsageError as error:
        scoring.notes.append(f"no level {depth}: {error}")
        return
    if above := sorted(label for label, node in zip(asked.labels, held, strict=True) if node is None):
        scoring.notes.append(f"no level {depth}: the label {above[0]!r} lies above it")
        return
    if len(made.classes) < 2 or any(set(made.classes) == set(one.classes) for one in scoring.questions):
        return
    place = {node: i for i, node in enumerate(made.classes)}
    labels = np.array([place[str(node)] for node in held], dtype=np.int64)
    summed = replace(cases, classes=made.classes, labels=labels, probabilities=made.sum(cases.probabilities))
    scoring.add(ask(f"{made.title} (level {depth})", summed, scoring.drawing))
    if made.absent:
        absent = ", ".join(sorted(made.absent))
        scoring.notes.append(f"level {depth}: neither a class nor an image lies in {absent}: left out")


def _sides(
    asked: _Asked, positive: Sequence[str], negative: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The nodes that are positive and negative in the yes-or-no task, none if there is no task."""
    tree = asked.names.taxonomy
    if not positive and tree is not None and MALIGNANT in tree.parents and asked.distribution:
        positive = (MALIGNANT,)
    if negative and not positive:
        raise UsageError("--negative says nothing without --positive")
    yes, no = (
        tuple(asked.names.find(name, option) for name in side)
        for option, side in (("--positive", positive), ("--negative", negative))
    )
    return yes, no


def _labelled(known: Truth, names: _Names, classes: Sequence[str]) -> tuple[Truth, list[str]]:
    """The truth with each label's class in place of it, and the labels as the taxonomy names them (n,)."""
    labels, held = [], {}
    for image, label in known.labels.items():
        where = f"{known.path}, line {known.lines[image]}"
        labels.append(names.find(label, where))
        holder = names.holder(labels[-1], classes)
        if holder is None:
            raise UsageError(
                f"{where}: label {label!r} of image {image!r} lies in no class of the predictions"
            )
        held[image] = holder
    return replace(known, labels=held), labels


def _task(
    asked: _Asked,
    positive: tuple[str, ...],
    negative: tuple[str, ...],
    drawing: Drawing,
    persons: tuple[ReaderPoint, ...],
) -> tuple[Task, list[str]]:
    """The yes-or-no task whose score is the summed probability of the positive nodes."""
    names, cases, labels = asked.names, asked.cases, asked.labels
    if names.taxonomy is not None:
        sum_descendants(
            names.taxonomy, cases.classes, positive
        )  # for its error, where a node is a part of a class
    summed = np.array([names.holder(name, positive) is not None for name in cases.classes])
    if not summed.any():
        raise UsageError(f"--positive: no class of the predictions lies in {', '.join(positive)}")
    if summed.sum() > 1 and not asked.distribution:
        raise UsageError("--positive: scores that do not sum to 1 cannot be added up over several classes")

    def within(nodes: Sequence[str]) -> Bools:
        return np.array([names.holder(label, nodes) is not None for label in labels])

    yes, no = within(positive), within(negative) if negative else ~within(positive)
    if (both := yes & no).any():
        raise UsageError(f"--negative: {labels[int(np.flatnonzero(both)[0])]!r} is positive too")
    kept = yes | no
    scores = cases.probabilities[kept][:, summed].sum(axis=1)
    title = f"{', '.join(positive)} against {', '.join(negative) or 'all others'}"
    return judge(positive[0], title, yes[kept], scores, drawing.of(kept), readers=persons)


register(
    Evaluation(
        name="skin",
        title="Skin lesions",
        paper=f"Codella et al. 2019, arXiv:1902.03368 (ISIC); {ESTEVA} (taxonomy)",
        data="HAM10000, ISIC (CC BY-NC 4.0); the published figures are for other images and the test set of ISIC 2019",
        predictions="CSV with the columns image and one score per class",
        reference=f"{TRUTH_TABLE}; or ISIC's with 0 and 1 per class",
        published=(*PUBLISHED, *PUBLISHED_2017),
        evaluate=evaluate,
    )
)
