"""Segmentations against their truth: labels of pixels and voxels, objects, and cells parted by membranes.

No challenge's protocol but the definitions that the field shares: Long et al. 2015 (pixels), MONAI (surfaces), the 2018
Data Science Bowl and the Cell Tracking Challenge (objects), ISBI 2012 (membranes). See docs/evaluate-segment.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from medvision.evaluations.base import EVALUATIONS, RESAMPLES, Evaluation, Published
from medvision.evaluations.segment_cases import Case, CaseFiles, CasePair, pair_cases, patients_of, read_case
from medvision.evaluations.segment_measures import Kind, Measure
from medvision.evaluations.segment_scores import CaseScore, MembraneScorer, Scorer, SemanticScorer
from medvision.evaluations.segment_setup import SegmentOptions, Task, prepare
from medvision.metrics.overlap import Floats, nan_mean
from medvision.metrics.ranking import bootstrap_intervals

Interval = tuple[float, float] | None
FEW_CASES = 30
PUBLISHED = (
    Published(
        "U-Net, Ronneberger et al. 2015",
        {"warping_error": 0.000353, "rand_error": 0.0382},
        "arXiv:1505.04597",
    ),
    Published(
        "a second human, in the same table",
        {"warping_error": 0.000005, "rand_error": 0.0021},
        "arXiv:1505.04597",
    ),
)
PUBLISHED_NOTE = "published, ISBI 2012, its 30 test slices"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of all cases, with its 95% interval. `how`: "mean" over cases (and classes), or "pooled" over them."""

    measure: Measure
    how: Literal["mean", "pooled"]
    value: float
    interval: Interval


@dataclass(frozen=True, eq=False)
class Picture:
    """Where truth and prediction agree in one case: `codes` (rows, columns), of `plane` if it is a volume.

    `aspect` is the height of a pixel over its width.
    """

    case: str
    value: float
    codes: npt.NDArray[np.uint8]
    aspect: float
    plane: int | None


@dataclass(frozen=True, eq=False)
class SegmentResult:
    """Every figure. `values` (cases, classes, measures) are NaN where a case has none; `means` (classes, measures) over
    the cases that have, whose number is `known`. `sizes` (cases, classes, 2) are of truth and prediction, in
    what `kind.sized` says. `chosen` are the classes of which `figures` are made. `confusion` is that of all
    pixels, or None.
    """

    options: SegmentOptions
    files: CaseFiles
    cases: tuple[str, ...]
    classes: tuple[str, ...]
    values: Floats
    sizes: npt.NDArray[np.int64]
    kind: Kind
    means: Floats
    intervals: tuple[tuple[Interval, ...], ...]
    known: npt.NDArray[np.int64]
    chosen: tuple[int, ...]
    figures: tuple[Figure, ...]
    confusion: tuple[tuple[str, ...], npt.NDArray[np.int64]] | None
    pictures: tuple[Picture, ...]
    unit: str
    notes: tuple[str, ...]
    patients: int | None
    """How many, where intervals draw them; None where they draw cases."""
    resamples: int
    seed: int


def evaluate(
    predictions: Path,
    truth: Path,
    options: SegmentOptions | None = None,
    files: CaseFiles | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SegmentResult:
    """Score a folder of segmentations against one of truth.

    Args:
        predictions: label images (PNG, TIFF, volumes, NumPy), or for objects folders of masks; a file per case.
        truth: the same, named alike.
        options: what is scored, and how.
        files: how files are found and paired.
        resamples: bootstrap draws of cases, or of patients where `files` tells them, for the 95% intervals.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: if a case lacks one of the two or their shapes differ, or an option does not fit the labels.
        UnreadableSourceError: if a file cannot be read as labels.
    """
    options, files = options or SegmentOptions(), files or CaseFiles()
    pairs, notes = pair_cases(predictions, truth, files, objects=options.task == "instances")
    patients_of([pair.name for pair in pairs], files.patient)  # said before every file is read
    scorer, unit, more = prepare(pairs, options, files)
    names: list[str] = []
    scores: list[CaseScore] = []
    for pair in pairs:
        for case in _parts(read_case(pair, files), options.task):
            names.append(case.pair.name)
            scores.append(scorer.score(case))
    values = np.stack([score.values for score in scores])
    sizes = np.stack([score.sizes for score in scores])
    counts = np.stack([score.counts for score in scores])
    means = nan_mean(values, axis=0)
    chosen = _chosen(scorer, means, options)
    patients = patients_of(names, files.patient)
    intervals = _intervals(scorer, values, counts, chosen, patients, resamples, seed)
    figures = _figures(scorer, means, counts, chosen, intervals[means.size :])
    per_class = [intervals[i : i + means.shape[1]] for i in range(0, means.size, means.shape[1])]
    table = (scorer.names, scorer.table(counts.sum(axis=0))) if isinstance(scorer, SemanticScorer) else None
    return SegmentResult(
        options=options,
        files=files,
        cases=tuple(names),
        classes=scorer.classes,
        values=values,
        sizes=sizes,
        kind=scorer.kind,
        means=means,
        intervals=tuple(tuple(row) for row in per_class),
        known=np.count_nonzero(~np.isnan(values), axis=0),
        chosen=chosen,
        figures=figures,
        confusion=table,
        pictures=_pictures(scorer, pairs, files, names, values, chosen, options),
        unit=unit,
        notes=(*notes, *more, *_notes(scorer, sizes, options, unit, patients)),
        patients=None if patients is None else len(set(patients)),
        resamples=resamples,
        seed=seed,
    )


def _parts(case: Case, task: Task) -> Iterator[Case]:
    """The case; of membranes the planes of a stack one by one, as they were drawn in planes."""
    if task != "membranes" or case.truth.values.ndim == 2:
        yield case
        return
    digits = len(str(len(case.truth.values) - 1))
    for i, (truth, prediction) in enumerate(zip(case.truth.values, case.prediction.values, strict=True)):
        yield replace(
            case,
            pair=replace(case.pair, name=f"{case.pair.name} {i:0{digits}d}"),
            truth=replace(case.truth, values=truth),
            prediction=replace(case.prediction, values=prediction),
            spacing=case.spacing[1:],
        )


def _chosen(scorer: Scorer, means: Floats, options: SegmentOptions) -> tuple[int, ...]:
    if isinstance(scorer, SemanticScorer):
        return tuple(range(len(scorer.classes) - len(options.regions)))
    best = means[:, 0]
    return (0 if np.isnan(best).all() else int(np.nanargmax(best)),)


def _intervals(
    scorer: Scorer,
    values: Floats,
    counts: Floats,
    chosen: tuple[int, ...],
    patients: tuple[str, ...] | None,
    resamples: int,
    seed: int,
) -> list[Interval]:
    """Of the means of each class, their mean over the chosen ones, and the pooled figures, from the same draws of
    cases, or of `patients` with all their cases."""
    rows = list(chosen)

    def figures(drawn: Floats, added: Floats) -> list[float]:
        means = nan_mean(drawn, axis=0)
        return [*means.ravel(), *nan_mean(means[rows], axis=0), *scorer.pooled(added.sum(axis=0))]

    size = values[0].size + values.shape[2] + len(scorer.kind.pooled)
    if not resamples or len(values if patients is None else set(patients)) < 2:
        return [None] * size
    found = bootstrap_intervals(figures, values, counts, n=resamples, seed=seed, groups=patients)
    return [None if isinstance(interval, str) else interval for interval in found]


def _figures(
    scorer: Scorer, means: Floats, counts: Floats, chosen: tuple[int, ...], intervals: Sequence[Interval]
) -> tuple[Figure, ...]:
    overall = nan_mean(means[list(chosen)], axis=0)
    first = [
        Figure(measure, "mean", float(value), interval)
        for measure, value, interval in zip(scorer.kind.measures, overall, intervals, strict=False)
    ]
    pooled = scorer.pooled(counts.sum(axis=0))
    rest = [
        Figure(measure, "pooled", value, interval)
        for measure, value, interval in zip(scorer.kind.pooled, pooled, intervals[len(first) :], strict=True)
    ]
    return (*first, *rest)


def _pictures(
    scorer: Scorer,
    pairs: Sequence[CasePair],
    files: CaseFiles,
    names: Sequence[str],
    values: Floats,
    chosen: tuple[int, ...],
    options: SegmentOptions,
) -> tuple[Picture, ...]:
    """The worst case, that in the middle, and the best, by the first measure."""
    if isinstance(scorer, MembraneScorer):
        scorer = replace(scorer, thresholds=(scorer.thresholds[chosen[0]],))
    by_case = nan_mean(values[:, list(chosen), 0], axis=1)
    order = [i for i in np.argsort(by_case, kind="stable").tolist() if not np.isnan(by_case[i])]
    wanted = dict.fromkeys(order[i] for i in (0, len(order) // 2, len(order) - 1)) if order else {}
    shown: dict[str, Picture] = {}
    needed = {names[i]: float(by_case[i]) for i in wanted}
    for pair in pairs:
        if not any(name == pair.name or name.startswith(f"{pair.name} ") for name in needed):
            continue
        for case in _parts(read_case(pair, files), options.task):
            if (name := case.pair.name) in needed:
                shown[name] = _picture(case, scorer.agreement(case), needed[name])
    return tuple(shown[names[i]] for i in wanted)


def _picture(case: Case, codes: npt.NDArray[np.uint8], value: float) -> Picture:
    plane = None
    if codes.ndim == 3:
        plane = int(np.argmax(np.count_nonzero(codes, axis=(1, 2))))
        codes = codes[plane]
    return Picture(case.pair.name, value, codes, case.spacing[-2] / case.spacing[-1], plane)


def _notes(
    scorer: Scorer,
    sizes: npt.NDArray[np.int64],
    options: SegmentOptions,
    unit: str,
    patients: tuple[str, ...] | None,
) -> list[str]:
    notes = []
    neither, just_one = (sizes == 0).all(axis=2), (sizes == 0).any(axis=2) & ~(sizes == 0).all(axis=2)
    if options.task != "membranes":
        for i, name in enumerate(scorer.classes):
            if count := int(neither[:, i].sum()):
                what = "are left out of its means" if options.empty == "skip" else "count as full agreement"
                notes.append(
                    f"{name}: {count} of {len(sizes)} cases have none in truth and prediction, and {what}"
                )
    if options.task == "semantic" and (count := int(just_one.sum())):
        notes.append(
            f"{count} times a class is in the truth or the prediction alone: Dice, IoU and surface Dice are 0 there, "
            "and distances the diagonal of the image"
        )
    if options.task == "semantic" and unit == "px":
        notes.append("distances are in pixels: the files state no spacing in mm, and none was given")
    if len(getattr(scorer, "thresholds", ())) > 1:
        notes.append(
            "the threshold was chosen by these figures themselves, as ISBI 2012 did, which flatters them"
        )
    drawn = len(sizes) if patients is None else len(set(patients))
    if drawn < FEW_CASES:
        what = "cases" if patients is None else "patients"
        notes.append(f"{drawn} {what} are too few for an interval to say much")
    return notes


EVALUATIONS.register("segment")(
    Evaluation(
        name="segment",
        title="Segmentations: labels, objects, membranes",
        paper="Long et al., CVPR 2015; Nikolov et al. 2018; Caicedo et al. 2019; Arganda-Carreras et al. 2015",
        data="any; published figures of membranes are for the test slices of ISBI 2012",
        predictions="folder of label images",
        reference="folder of label images of the same names",
        published=PUBLISHED,
        evaluate=evaluate,
    )
)
