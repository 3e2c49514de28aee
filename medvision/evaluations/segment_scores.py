"""How one case is scored, by each of the three tasks: labels of pixels, objects, and cells parted by membranes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.evaluations.segment_cases import Case
from medvision.evaluations.segment_measures import (
    BACKGROUND,
    BOTH,
    IGNORED,
    INSTANCES,
    MEMBRANES,
    MISSED,
    OTHER,
    PREDICTED,
    SEMANTIC,
    Kind,
)
from medvision.metrics.instances import (
    THRESHOLDS,
    Matches,
    aggregated_jaccard,
    aggregated_jaccard_sums,
    instance_overlap,
    match,
    parts_of,
    tracking_jaccards,
)
from medvision.metrics.membranes import partition_scores, segments, thinned, warped, warping_error
from medvision.metrics.overlap import Floats, dice, iou, label_confusion, nan_mean, pixel_scores
from medvision.metrics.surfaces import (
    average_surface_distance,
    hausdorff,
    surface_dice,
    surface_distances,
)

Labels = npt.NDArray[np.int32]
Empty = Literal["skip", "one"]
Membranes = Literal["dark", "bright"]


@dataclass(frozen=True, eq=False)
class CaseScore:
    """`values` (classes, measures), NaN where a case has no such figure; `sizes` (classes, 2), of truth and prediction,
    in pixels or objects; `counts` (n,), which add up over cases to what pooled figures are made from."""

    values: Floats
    sizes: npt.NDArray[np.int64]
    counts: Floats


class Scorer(Protocol):
    """One task, with its options."""

    @property
    def kind(self) -> Kind:
        """What the task gives."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The rows of a case's values: classes, or thresholds."""

    def score(self, case: Case) -> CaseScore:
        """The figures of one case."""

    def pooled(self, counts: Floats) -> list[float]:
        """The figures of the cases whose `counts` were added up, those of `kind.pooled`."""

    def agreement(self, case: Case) -> npt.NDArray[np.uint8]:
        """A picture of the labels' shape, of the codes of `kind.legend`; of several thresholds at the first."""


@dataclass(frozen=True, slots=True)
class Target:
    """A class that is scored by itself: the pixels whose place in `SemanticScorer.labels` is one of `places`."""

    name: str
    places: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SemanticScorer:
    """Labels of pixels or voxels.

    `labels` and `names` are the rows of the confusion table, the first one's also being that of every label which is
    not listed. `whole` (truth, prediction): 255 stands for 1.
    """

    labels: tuple[int, ...]
    names: tuple[str, ...]
    targets: tuple[Target, ...]
    whole: tuple[bool, bool]
    ignore: int | None
    tolerance: float
    empty: Empty

    kind = SEMANTIC

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what is scored by itself."""
        return tuple(target.name for target in self.targets)

    def places(self, case: Case) -> tuple[Labels, Labels, npt.NDArray[np.bool_]]:
        """Of truth and prediction each pixel's place in `labels`, and where pixels count."""
        truth, prediction = case.labels
        counted = np.ones(truth.shape, dtype=bool) if self.ignore is None else truth != self.ignore
        return self._placed(truth, self.whole[0]), self._placed(prediction, self.whole[1]), counted

    def score(self, case: Case) -> CaseScore:
        """See `Scorer`."""
        truth, prediction, counted = self.places(case)
        table = label_confusion(truth, prediction, range(len(self.labels)), counted)
        rows, sizes = [], []
        for target in self.targets:
            p, t = (np.isin(image, target.places) & counted for image in (prediction, truth))
            rows.append(self._row(p, t, case))
            sizes.append((np.count_nonzero(t), np.count_nonzero(p)))
        return CaseScore(np.array(rows), np.array(sizes, dtype=np.int64), table.ravel().astype(np.float64))

    def pooled(self, counts: Floats) -> list[float]:
        """See `Scorer`."""
        scores = pixel_scores(self.table(counts))
        return [
            scores.pixel_accuracy, scores.mean_accuracy, scores.mean_iu, scores.frequency_weighted_iu,
        ]  # fmt: skip

    def agreement(self, case: Case) -> npt.NDArray[np.uint8]:
        """See `Scorer`."""
        truth, prediction, counted = self.places(case)
        codes = _codes(truth, prediction, truth == prediction)
        codes[~counted] = IGNORED
        return codes

    def table(self, counts: Floats) -> npt.NDArray[np.int64]:
        """The confusion table (labels, labels) of added counts."""
        return counts.reshape(len(self.labels), -1).astype(np.int64)

    def _placed(self, image: Labels, whole: bool) -> Labels:
        if whole:
            image = np.minimum(image, 1)
        table = np.array(self.labels)
        order = np.argsort(table)
        at = np.minimum(np.searchsorted(table, image, sorter=order), len(table) - 1)
        return np.where(table[order[at]] == image, order[at], 0).astype(np.int32)

    def _row(self, p: npt.NDArray[np.bool_], t: npt.NDArray[np.bool_], case: Case) -> list[float]:
        distances = surface_distances(p, t, case.spacing)
        if distances.both_empty:
            return [np.nan] * 5 if self.empty == "skip" else [1.0, 1.0, 0.0, 0.0, 1.0]
        lengths = [hausdorff(distances), average_surface_distance(distances)]
        if distances.one_empty:  # nothing is farther away within the image
            lengths = [case.diagonal] * 2
        return [dice(p, t), iou(p, t), *lengths, surface_dice(distances, self.tolerance)]


@dataclass(frozen=True, eq=False)
class InstanceScorer:
    """Objects. `parts` (truth, prediction): the files hold masks, whose connected parts are the objects."""

    parts: tuple[bool, bool]
    ignore: int | None
    empty: Empty

    kind = INSTANCES
    classes = ("objects",)

    def objects(self, case: Case) -> tuple[Labels, Labels]:
        """Objects of the truth and of the prediction, 0 where pixels do not count."""
        truth, prediction = case.labels
        if self.ignore is not None:
            counted = truth != self.ignore
            truth, prediction = truth * counted, prediction * counted
        images = (
            parts_of(image != 0) if parts else image
            for image, parts in zip((truth, prediction), self.parts, strict=True)
        )
        return next(images), next(images)

    def score(self, case: Case) -> CaseScore:
        """See `Scorer`."""
        truth, prediction = self.objects(case)
        overlap = instance_overlap(truth, prediction)
        found = [match(overlap, threshold) for threshold in THRESHOLDS]
        jaccards = tracking_jaccards(overlap)
        aps = [one.precision for one in found]
        values = np.array([
            aps[0], float(np.mean(aps)), found[0].f1, found[0].panoptic_quality, aggregated_jaccard(overlap),
            float(nan_mean(jaccards)), dice(prediction != 0, truth != 0), *aps[1:],
        ])  # fmt: skip
        known, given = len(overlap.reference_sizes), len(overlap.predicted_sizes)
        if not known and not given:
            values[:] = np.nan if self.empty == "skip" else 1.0
        counts = [*aggregated_jaccard_sums(overlap), float(jaccards.sum()), float(known)]
        counts += [number for one in found for number in (one.tp, one.fp, one.fn, one.iou_sum)]
        return CaseScore(values[None], np.array([(known, given)], dtype=np.int64), np.array(counts))

    def agreement(self, case: Case) -> npt.NDArray[np.uint8]:
        """See `Scorer`."""
        truth, prediction = self.objects(case)
        overlap = instance_overlap(truth, prediction)
        known, given = np.unique(truth[truth != 0]), np.unique(prediction[prediction != 0])
        partner = np.zeros(int(truth.max(initial=0)) + 1, dtype=np.int64)
        found = overlap.iou > 0.5
        partner[known[overlap.rows[found]]] = given[overlap.columns[found]]
        return _codes(truth, prediction, partner[truth] == prediction)

    def pooled(self, counts: Floats) -> list[float]:
        """See `Scorer`: of the objects of all cases together."""
        above, below, jaccards, known = counts[:4]
        found = [Matches(int(tp), int(fp), int(fn), s) for tp, fp, fn, s in counts[4:].reshape(-1, 4)]
        first = found[0]
        return [
            first.f1,
            first.segmentation_quality,
            first.panoptic_quality,
            above / below if below else np.nan,
            jaccards / known if known else np.nan,
            *(one.precision for one in found),
        ]


@dataclass(frozen=True, eq=False)
class MembraneScorer:
    """Cells parted by membranes, at each of `thresholds`. `thin`: predicted segments grow over their membranes before
    `v_rand` and `v_info` are taken."""

    thresholds: tuple[float, ...]
    membranes: Membranes
    thin: bool

    kind = MEMBRANES

    @property
    def classes(self) -> tuple[str, ...]:
        """One per threshold."""
        return tuple(f"threshold {threshold:g}" for threshold in self.thresholds)

    def cells(self, case: Case, threshold: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Where the truth and the prediction have cells.

        Raises:
            UsageError: if the truth has other than two values, or a prediction is no probability.
        """
        values = case.truth.values
        if len(np.unique(values)) > 2:
            raise UsageError(f"{case.pair.truth}: more than two values; the truth of membranes is a mask")
        truth, given = values > values.min(), case.prediction.values
        if values.min() == values.max():
            truth = values > 0
        if case.pair.prediction is None:
            return (truth if self.membranes == "dark" else ~truth), np.zeros(truth.shape, dtype=bool)
        top = case.prediction.top if given.max(initial=0) > 1 else 1.0
        if not (given.min() >= 0 and given.max() <= top):  # NaN fails this too
            raise UsageError(
                f"{case.pair.prediction}: values from {given.min()} to {given.max()}; a probability is 0 to {top:g}"
            )
        share = given / top
        if self.membranes == "dark":
            return truth, share >= threshold
        return ~truth, share < 1 - threshold

    def score(self, case: Case) -> CaseScore:
        """See `Scorer`."""
        rows, sizes = [], []
        for threshold in self.thresholds:
            truth, given = self.cells(case, threshold)
            known, found = segments(truth), segments(given)
            plain = partition_scores(known, found)
            thin = partition_scores(known, thinned(found)) if self.thin else plain
            rows.append([
                thin.v_rand, thin.v_rand_split, thin.v_rand_merge, thin.v_info, thin.v_info_split,
                thin.v_info_merge, warping_error(truth, given), plain.rand_error, plain.rand_index_error,
                float(np.mean(truth != given)), dice(~given, ~truth),
            ])  # fmt: skip
            sizes.append((known.max(), found.max()))
        return CaseScore(np.array(rows), np.array(sizes, dtype=np.int64), np.zeros(1))

    def pooled(self, counts: Floats) -> list[float]:
        """See `Scorer`."""
        del counts  # planes are not pooled
        return []

    def agreement(self, case: Case) -> npt.NDArray[np.uint8]:
        """See `Scorer`."""
        truth, given = self.cells(case, self.thresholds[0])
        codes = _codes(~truth, ~given, truth == given)
        codes[warped(truth, given) != given] = OTHER
        return codes


def _codes(
    truth: npt.NDArray[np.generic], prediction: npt.NDArray[np.generic], same: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    known, given = truth != 0, prediction != 0
    codes = np.select(
        [known & given & same, known & given, given, known], [BOTH, OTHER, PREDICTED, MISSED], BACKGROUND
    )
    return codes.astype(np.uint8)
