"""Points against points: how many of a reference are found within a radius, one to one, as evalutils counts them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.evaluations.base import EVALUATIONS, Evaluation
from medvision.metrics.classes import wilson_interval
from medvision.metrics.froc import match_points
from medvision.store.tables import read_number, read_table

Matching = Literal["reference", "nearest"]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ImagePoints:
    """The counts of one image."""

    image: str
    true_positives: int
    false_positives: int
    false_negatives: int


@dataclass(frozen=True, eq=False)
class PointsResult:
    """The counts of all images; a share without a case is None."""

    images: tuple[ImagePoints, ...]
    radius: float
    threshold: float | None
    matching: Matching
    notes: tuple[str, ...]

    @property
    def counts(self) -> tuple[int, int, int]:
        """True positives, false positives, false negatives."""
        return (
            sum(image.true_positives for image in self.images),
            sum(image.false_positives for image in self.images),
            sum(image.false_negatives for image in self.images),
        )

    @property
    def precision(self) -> float | None:
        """Share of the predictions that are hits."""
        tp, fp, _ = self.counts
        return tp / (tp + fp) if tp + fp else None

    @property
    def recall(self) -> float | None:
        """Share of the reference that is found."""
        tp, _, fn = self.counts
        return tp / (tp + fn) if tp + fn else None

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN)."""
        tp, fp, fn = self.counts
        return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None

    @property
    def intervals(self) -> tuple[Interval | None, Interval | None]:
        """Of precision and recall, by Wilson: points are taken for independent."""
        tp, fp, fn = self.counts
        return (
            wilson_interval(tp, tp + fp) if tp + fp else None,
            wilson_interval(tp, tp + fn) if tp + fn else None,
        )


def evaluate(
    predictions: Path,
    reference: Path,
    radius: float = 1.0,
    threshold: float | None = None,
    matching: Matching = "reference",
) -> PointsResult:
    """Match predicted points with those of a reference.

    Args:
        predictions: CSV with the columns x, y and, where there are any, z, image and score.
        reference: the same.
        radius: the greatest distance of a hit, in the unit of the files.
        threshold: predictions count whose score is above it; all without it.
        matching: see `medvision.metrics.froc.match_points`; "reference" is that of evalutils.

    Raises:
        UsageError: if a file cannot be read, is malformed or has other columns than the other, the radius is not above
            0, or a threshold is given and no score.
    """
    if not 0 < radius < math.inf:
        raise UsageError(f"a radius of {radius:g}; it must be above 0")
    given, given_axes = _read(predictions, threshold)
    known, known_axes = _read(reference, None)
    if given_axes != known_axes:
        raise UsageError(
            f"{predictions} has the axes {given_axes}, {reference} {known_axes}; they must be the same"
        )
    notes = []
    if strangers := sorted(given.keys() - known):
        notes.append(
            f"{len(strangers)} images have predictions and no reference: all of these are false positives"
        )
    images = []
    for name in sorted(given.keys() | known):
        none = np.empty((0, len(known_axes)))
        match = match_points(given.get(name, none), known.get(name, none), radius, matching)
        images.append(
            ImagePoints(name, len(match.pairs), len(match.false_positives), len(match.false_negatives))
        )
    return PointsResult(tuple(images), radius, threshold, matching, tuple(notes))


def _read(path: Path, threshold: float | None) -> tuple[dict[str, npt.NDArray[np.float64]], str]:
    """Points by image, and the names of their axes."""
    table = read_table(path, ("x", "y"), ("z", "image", "score"), may_be_empty=True)
    if threshold is not None and "score" not in table.columns:
        raise UsageError(f"{path}: has no column score to compare with the threshold {threshold:g}")
    axes = "xyz" if "z" in table.columns else "xy"
    points: dict[str, list[list[float]]] = {}
    for number, row in table.rows:
        point = [read_number(path, number, axis, row[axis], -1e12, 1e12) for axis in axes]
        found = points.setdefault(row.get("image", ""), [])
        if threshold is None or read_number(path, number, "score", row["score"], -1e300, 1e300) > threshold:
            found.append(point)
    return {name: np.array(p, dtype=np.float64).reshape(-1, len(axes)) for name, p in points.items()}, axes


EVALUATIONS.register("points")(
    Evaluation(
        name="points",
        title="Points within a radius",
        paper="evalutils (comic/evalutils), score_detection",
        data="any",
        predictions="CSV of x, y and, where there are any, z, image and score",
        reference="CSV of the same columns",
        published=(),
        evaluate=evaluate,
    )
)
