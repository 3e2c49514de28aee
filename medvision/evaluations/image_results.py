"""What an evaluation of classified images finds, and the rule by which each figure gets its interval.

Where images belong to groups (patients, lesions), whole groups are drawn, as images of one are not independent.
Otherwise a proportion has Wilson's interval, an AUC DeLong's, and any other figure one by drawing images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.results import Score
from medvision.evaluations.page import PageTable
from medvision.metrics.calibration import Reliability
from medvision.metrics.classes import wilson_interval
from medvision.metrics.ranking import RocCurve, bootstrap_intervals, delong_interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Interval = tuple[float, float]

Statistics = Callable[[Ints, Floats, Ints], Sequence[float]]
"""Figures from the truth (n,), scores (n,) or (n, classes), and what was decided (n,). One that does not exist is
NaN; a `UsageError` says that none does."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """How intervals are drawn; `groups` (n,) are those of the cases. Without resamples only formulas give any."""

    resamples: int
    seed: int
    groups: npt.NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        if self.resamples < 0:
            raise UsageError(f"bootstrap draws are a number from 0; got {self.resamples}")

    def of(self, kept: Bools) -> Drawing:
        """The same of the cases where `kept` (n,) is true."""
        return Drawing(self.resamples, self.seed, None if self.groups is None else self.groups[kept])


@dataclass(frozen=True, eq=False)
class Question:
    """The figures of one question with several classes.

    `table` (classes, columns) has the reference in rows; `columns` are the classes and, where images may be given none,
    "undecided". `figures` are of the whole, `per_class` of each class, by name, None where one does not exist; `curves`
    are those of each class against the rest.
    """

    title: str
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    table: Ints
    figures: Mapping[str, Score | None]
    per_class: tuple[Mapping[str, Score | None], ...]
    curves: tuple[RocCurve | None, ...]
    reliability: Reliability | None


@dataclass(frozen=True, slots=True)
class ReaderPoint:
    """A person who answered the same task; `predictions` is the predictions' sensitivity at that specificity."""

    name: str
    sensitivity: float
    specificity: float
    predictions: float | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """The figures of one yes-or-no task, None where a class is absent. `name` is what readers' files call it."""

    name: str
    title: str
    cases: int
    positives: int
    figures: Mapping[str, Score | None]
    curve: RocCurve | None
    readers: tuple[ReaderPoint, ...] = ()


@dataclass(frozen=True, eq=False)
class ImageResult:
    """Everything that one evaluation found. `figures`, `tables` and `settings` are those of its own protocol."""

    name: str
    images: int
    drawing: Drawing
    questions: tuple[Question, ...]
    tasks: tuple[Task, ...]
    notes: tuple[str, ...]
    figures: Mapping[str, Score | None] = field(default_factory=dict)
    tables: tuple[PageTable, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Scoring:
    """An evaluation under way: what its questions and tasks found, in the order in which they were asked."""

    name: str
    images: int
    drawing: Drawing
    notes: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)

    def add(self, made: tuple[Question | Task, Sequence[str]]) -> None:
        """Take the figures of a question or a task, and the notes on them."""
        found, notes = made
        if isinstance(found, Question):
            self.questions.append(found)
        else:
            self.tasks.append(found)
        self.notes += notes

    def result(
        self,
        figures: Mapping[str, Score | None] | None = None,
        tables: tuple[PageTable, ...] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> ImageResult:
        """All of it, with the protocol's own figures, tables and settings."""
        asked = tuple(self.questions), tuple(self.tasks), tuple(self.notes)
        return ImageResult(
            self.name, self.images, self.drawing, *asked, figures or {}, tables, settings or {}
        )


@dataclass(frozen=True, slots=True)
class Share:
    """Marks a figure as a proportion, `hits` of `cases`."""

    hits: int
    cases: int


@dataclass(frozen=True, eq=False)
class Ranking:
    """Marks a figure as the AUC of `scores` (n,) for `positive` (n,)."""

    positive: Bools
    scores: Floats


@dataclass(frozen=True, eq=False)
class Wanted:
    """A figure's name and definition, and what kind of figure it is if its interval has a formula."""

    name: str
    words: str
    kind: Share | Ranking | None = None


def measure(
    wanted: Sequence[Wanted],
    statistics: Statistics,
    truth: Ints,
    scores: Floats,
    decided: Ints,
    drawing: Drawing,
) -> tuple[list[Score | None], list[str]]:
    """Each figure with its interval, None where it does not exist, and notes on what is missing.

    Args:
        wanted: the figures.
        statistics: computes them, in this order.
        truth: (n,), places of classes or 0 and 1.
        scores: (n,) or (n, classes).
        decided: (n,), what the predictions call each case.
        drawing: of the intervals; all come from the same resamples.
    """
    arrays = truth, scores, decided
    try:
        values = statistics(*arrays)
    except UsageError:
        values = [math.nan] * len(wanted)
    drawn: Sequence[Interval | str | None] = [None] * len(wanted)
    if drawing.resamples and not all(map(math.isnan, values)):
        drawn = bootstrap_intervals(
            statistics, *arrays, n=drawing.resamples, seed=drawing.seed, groups=drawing.groups
        )
    made: list[Score | None] = []
    notes: list[str] = []
    for one, value, interval in zip(wanted, values, drawn, strict=True):
        if math.isnan(value):
            made.append(None)
            notes.append(f"no {one.name}, because a class has no image")
            continue
        how = f"bootstrap over {'images' if drawing.groups is None else 'groups'}"
        if drawing.groups is None and one.kind is not None:
            interval, how = _by_formula(one.kind)
            if isinstance(one.kind, Ranking) and interval[0] == interval[1]:
                notes.append(
                    f"{one.name}: DeLong's interval is a point where all are ranked right; it proves nothing"
                )
        if isinstance(interval, str):
            notes.append(f"no interval of the {one.name}: {interval}")
            interval = None
        cases = one.kind.cases if isinstance(one.kind, Share) else len(truth)
        protocol = f"{one.words}; interval: {how if interval else 'none'}"
        made.append(Score(one.name, float(value), interval, protocol, cases))
    return made, notes


def _by_formula(kind: Share | Ranking) -> tuple[Interval | str, str]:
    if isinstance(kind, Share):
        return wilson_interval(kind.hits, kind.cases), "Wilson"
    try:
        return delong_interval(kind.positive, kind.scores), "DeLong"
    except UsageError as error:
        return str(error), "DeLong"
