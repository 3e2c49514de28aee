"""Retinal OCT after Kermany et al., Cell 2018;172:1122: four classes, urgent referral, errors weighed by penalties."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from medvision.evaluations.base import RESAMPLES, Evaluation, Published, register
from medvision.evaluations.image_questions import Further, ask
from medvision.evaluations.image_results import Drawing, ImageResult, Scoring
from medvision.evaluations.image_tasks import judge, read_readers
from medvision.evaluations.images import TRUTH_TABLE, read_cases
from medvision.evaluations.page import PageTable
from medvision.metrics.agreement import confusion_counts
from medvision.metrics.classes import decide, weighted_error
from medvision.training.config_file import Strict, read_yaml_config

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
URGENT = ("CNV", "DME")
REFERRAL = "urgent"
KERMANY = "Kermany et al., Cell 2018;172:1122"
PUBLISHED = (
    Published(
        "Inception-v3, 108,312 training images",
        {"accuracy": 0.966, "sensitivity": 0.978, "specificity": 0.974, "auc": 0.999},
        KERMANY,
    ),
    Published(
        "Inception-v3, 1,000 training images per class",
        {"accuracy": 0.934, "sensitivity": 0.966, "specificity": 0.940},
        KERMANY,
    ),
)


Penalty = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PenaltyRow(Strict):
    """What each answer costs for images of one class."""

    CNV: Penalty
    DME: Penalty
    DRUSEN: Penalty
    NORMAL: Penalty


class Penalties(Strict):
    """What each answer costs, by the true class. The right one costs nothing."""

    CNV: PenaltyRow
    DME: PenaltyRow
    DRUSEN: PenaltyRow
    NORMAL: PenaltyRow

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """(4, 4) in the order of `CLASSES`, the true class in rows."""
        return np.array([[getattr(getattr(self, name), said) for said in CLASSES] for name in CLASSES])

    @model_validator(mode="after")
    def _right_is_free(self) -> Self:
        for name in CLASSES:
            if (cost := getattr(getattr(self, name), name)) != 0:
                raise ValueError(f"{name} called {name} is right and costs 0, not {cost:g}")
        return self


OURS = Penalties(
    CNV=PenaltyRow(CNV=0, DME=1, DRUSEN=3, NORMAL=4),
    DME=PenaltyRow(CNV=1, DME=0, DRUSEN=3, NORMAL=4),
    DRUSEN=PenaltyRow(CNV=1, DME=1, DRUSEN=0, NORMAL=2),
    NORMAL=PenaltyRow(CNV=2, DME=2, DRUSEN=1, NORMAL=0),
)
"""This project's penalties, not the paper's: 4 for sending an urgent case home, 3 for letting it wait, 2 for missing
drusen or alarming a healthy person, 1 for any other confusion."""


def evaluate(
    predictions: Path,
    truth: Path,
    penalties: Path | None = None,
    readers: Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ImageResult:
    """Score probabilities of CNV, DME, DRUSEN and NORMAL.

    Args:
        predictions: CSV `image,CNV,DME,DRUSEN,NORMAL`, in any order.
        truth: CSV `image,label[,group]`.
        penalties: `Penalties` in YAML; by default `OURS`.
        readers: CSV `reader,sensitivity,specificity` for urgent referral.
        resamples: bootstrap draws for intervals that have no formula, and for all where there are groups.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: as `images.read_cases`, `read_yaml_config` and `image_tasks.read_readers`.
    """
    matrix = (OURS if penalties is None else read_yaml_config(penalties, Penalties)).matrix
    whose = (
        "penalties of this project, not of the paper"
        if penalties is None
        else f"penalties of {penalties.name}"
    )
    persons = read_readers(readers, (REFERRAL,))
    cases = read_cases(predictions, truth, CLASSES)
    drawing = Drawing(resamples, seed, cases.groups)
    four = (len(CLASSES), len(CLASSES))
    error = Further(
        "weighted error",
        f"mean penalty of an image; {whose}",
        lambda y, _p, d: weighted_error(confusion_counts(y, d, four), matrix),
    )
    scoring = Scoring("oct", len(cases.images), drawing, [*cases.notes])
    scoring.add(ask("4 classes", cases, drawing, further=(error,)))
    urgent = np.isin(CLASSES, URGENT)
    scoring.add(
        judge(
            REFERRAL,
            "urgent referral (CNV or DME)",
            urgent[cases.labels],
            cases.probabilities[:, urgent].sum(axis=1),
            drawing,
            said=urgent[decide(cases.probabilities)],
            rule="where the most probable class is CNV or DME",
            readers=persons[REFERRAL],
        )
    )
    settings = {"penalties": {"source": whose, "classes": CLASSES, "reference in rows": matrix.tolist()}}
    return scoring.result(tables=(_penalty_table(matrix, whose),), settings=settings)


def _penalty_table(matrix: npt.NDArray[np.float64], whose: str) -> PageTable:
    rows = tuple(
        (name, *(f"{value:g}" for value in row)) for name, row in zip(CLASSES, matrix.tolist(), strict=True)
    )
    return PageTable(
        "Penalties: reference in rows, predicted in columns",
        ("reference", *CLASSES),
        rows,
        note=f"{whose[:1].upper()}{whose[1:]}.",
    )


register(
    Evaluation(
        name="oct",
        title="Retinal OCT",
        paper=KERMANY,
        data="OCT2017 (CC BY 4.0); the published figures are for its 1,000 test images of other patients",
        predictions="CSV with the columns image, CNV, DME, DRUSEN, NORMAL",
        reference=TRUTH_TABLE,
        published=PUBLISHED,
        evaluate=evaluate,
    )
)
