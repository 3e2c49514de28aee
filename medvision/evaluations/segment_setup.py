"""What a segmentation is scored by: the options, and the scorer that follows from them and from the labels found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medvision.core.errors import UsageError
from medvision.evaluations.segment_cases import CaseFiles, CasePair, read_case
from medvision.evaluations.segment_scores import (
    Empty,
    InstanceScorer,
    Membranes,
    MembraneScorer,
    Scorer,
    SemanticScorer,
    Target,
)

Task = Literal["semantic", "instances", "membranes"]
MAX_CLASSES = 64
BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """What is scored, and how.

    Of labels: `classes` ("1=liver", or "1") names those that are scored, all that occur if none; `regions`
    ("whole=1,2,4") are unions of them that are scored too; `tolerance` is that of the surface Dice, in the unit of the
    spacing. Of labels and objects: pixels whose truth is `ignore` do not count; `empty` says what a class is that is in
    neither truth nor prediction: left out of the mean, or 1. Of membranes: predictions are cells at `thresholds`, of
    which that with the best mean V Rand counts; `membranes` are the low or the high values of all files; `thin`: see
    `MembraneScorer`.
    """

    task: Task = "semantic"
    classes: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    tolerance: float = 1.0
    ignore: int | None = None
    empty: Empty = "skip"
    thresholds: tuple[float, ...] = (0.5,)
    membranes: Membranes = "dark"
    thin: bool = True


def prepare(
    pairs: Sequence[CasePair], options: SegmentOptions, files: CaseFiles
) -> tuple[Scorer, str, list[str]]:
    """The scorer that fits all files, the unit of their spacing, and notes.

    Every file is read once, so that a fault in the last one is found before the first is scored.

    Raises:
        UsageError: if an option does not fit the labels, or only some files state a spacing.
        UnreadableSourceError: if a file cannot be read as labels.
    """
    found: tuple[set[int], set[int]] = (set(), set())
    folders = [False, False]
    units: dict[str, str] = {}
    notes: list[str] = []
    for pair in pairs:
        case = read_case(pair, files)
        units.setdefault(case.unit, pair.name)
        notes += case.notes
        folders = [
            old or one.objects for old, one in zip(folders, (case.truth, case.prediction), strict=True)
        ]
        if options.task != "membranes":
            for values, labels in zip(found, case.labels, strict=True):
                values.update(np.unique(labels).tolist())
    if len(units) > 1:
        raise UsageError(
            f"distances of {' and '.join(f'{name} are in {unit}' for unit, name in units.items())}, as not every file "
            "states a spacing; --spacing supplies one for all"
        )
    scorer, more = _scorer(found, (folders[0], folders[1]), options)
    return scorer, next(iter(units)), [*notes, *more]


def _scorer(
    found: tuple[set[int], set[int]], folders: tuple[bool, bool], options: SegmentOptions
) -> tuple[Scorer, list[str]]:
    if not (np.isfinite(options.tolerance) and options.tolerance >= 0):
        raise UsageError(f"a tolerance of {options.tolerance:g}; it must be 0 or more")
    if options.task == "membranes":
        if not options.thresholds or not all(0 < t <= 1 for t in options.thresholds):
            raise UsageError("thresholds of membranes are above 0, and 1 at most")
        return MembraneScorer(tuple(sorted(set(options.thresholds))), options.membranes, options.thin), []
    sides = ("truth", "predictions")
    ignored = set() if options.ignore is None else {options.ignore}
    if options.task == "instances":
        parts = [
            not folder and len(values - ignored - {0}) <= 1 and bool(values - ignored - {0})
            for values, folder in zip(found, folders, strict=True)
        ]
        notes = [
            f"the {side} hold masks: their connected parts are the objects"
            for side, whole in zip(sides, parts, strict=True)
            if whole
        ]
        return InstanceScorer((parts[0], parts[1]), options.ignore, options.empty), notes
    given = [_named(text, "--classes") for text in options.classes]
    named = {label: name for name, labels in given for label in labels}
    if any(len(labels) != 1 for _, labels in given) or len(named) < len(given):
        raise UsageError(
            f"classes {' '.join(options.classes)}; each is one label, NUMBER=NAME or NUMBER, named once"
        )
    whole = [
        folder or (255 in values and values <= {0, 255} and 255 not in named.keys() | ignored)
        for values, folder in zip(found, folders, strict=True)
    ]
    notes = [
        f"255 is read as 1 in the {side}"
        for side, w, f in zip(sides, whole, folders, strict=True)
        if w and not f
    ]
    known, called = ({min(v, 1) for v in side} if w else side for side, w in zip(found, whole, strict=True))
    values = (known | called) - ignored
    if strange := sorted(called - known - ignored - {0}):
        notes.append(f"labels that are predicted and in no truth: {', '.join(map(str, strange[:10]))}")
    labels, names, more = _table(values, named)
    targets = [Target(n, (i,)) for i, (n, v) in enumerate(zip(names, labels, strict=True)) if v or v in named]
    for name, members in (_named(text, "--regions") for text in options.regions):
        if unknown := [v for v in members if v not in labels]:
            raise UsageError(f"region {name!r}: label {unknown[0]} is none of {', '.join(map(str, labels))}")
        targets.append(Target(name, tuple(labels.index(v) for v in members)))
    if not targets:
        raise UsageError(
            "no pixel has a label above 0 in truth or predictions; --classes names what to score"
        )
    return SemanticScorer(
        labels, names, tuple(targets), (whole[0], whole[1]), options.ignore, options.tolerance, options.empty
    ), [*notes, *more]


def _table(values: set[int], named: dict[int, str]) -> tuple[tuple[int, ...], tuple[str, ...], list[str]]:
    """Labels of the confusion table, the background first, their names, and notes."""
    notes = []
    if not named:
        if len(values) > MAX_CLASSES:
            raise UsageError(
                f"{len(values)} different labels; more than {MAX_CLASSES} look like objects (--task instances) or grey "
                "values; --classes names those that are classes"
            )
        named = {v: str(v) for v in sorted(values - {0})}
        if len(named) == 1:
            named = dict.fromkeys(named, "mask")
    elif others := sorted(values - named.keys() - {0}):
        if 0 in named:
            raise UsageError(
                f"label {others[0]} is not named, and 0 is a class: there is no background to count it as"
            )
        notes.append(f"labels that are not named count as background: {', '.join(map(str, others[:10]))}")
    if absent := [name for v, name in named.items() if v not in values]:
        notes.append(f"no pixel of truth or predictions is {', '.join(absent)}")
    labels = (*(() if 0 in named else (0,)), *sorted(named))
    return labels, tuple(named.get(v, BACKGROUND) for v in labels), notes


def _named(text: str, option: str) -> tuple[str, tuple[int, ...]]:
    """`1=liver` (a class), `whole=1,2` (a region), or `1`: the name and its labels."""
    left, _, right = (part.strip() for part in text.partition("="))
    name, numbers = (right or left, left) if option == "--classes" else (left, right)
    try:
        labels = tuple(dict.fromkeys(int(number) for number in numbers.split(",")))
    except ValueError:
        labels = ()
    if not labels or min(labels) < 0 or not name:
        example = "1=liver" if option == "--classes" else "whole=1,2,4"
        raise UsageError(f"{option} {text!r}: write it as {example}, with labels of 0 or more")
    return name, labels
