"""Lesions and candidates of a detection map, matched by overlap as PI-CAI counts (Saha et al., Lancet Oncology 2024).

A detection map holds 0 and, in each connected part (26 neighbours in 3-D), one confidence: the candidate's.
Candidates and lesions are matched one to one, as many as can be, and of these ways in the one of the greatest total
overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from medvision.core.errors import UsageError
from medvision.metrics.froc import CaseHits

Overlap = Literal["iou", "dice"]
MIN_OVERLAP = 0.1
_EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class LesionLine:
    """One line of a case: a lesion found (confidence above 0), one missed (0), or a candidate that is none."""

    is_lesion: bool
    confidence: float
    overlap: float


@dataclass(frozen=True, eq=False)
class MapHits:
    """What a detection map came to: `lines`, and `confidence`, the map's highest, that the case is positive."""

    case: str
    lines: tuple[LesionLine, ...]
    confidence: float

    @property
    def hits(self) -> CaseHits:
        """The same as a case of a FROC."""
        lesions = [line.confidence or np.nan for line in self.lines if line.is_lesion]
        false = [line.confidence for line in self.lines if not line.is_lesion]
        return CaseHits(self.case, np.array(lesions, dtype=np.float64), np.array(false, dtype=np.float64))


def score_map(
    case: str,
    detections: npt.NDArray[np.float32],
    lesions: npt.NDArray[np.integer],
    min_overlap: float = MIN_OVERLAP,
    overlap: Overlap = "iou",
) -> MapHits:
    """Match the candidates of a detection map with the lesions of a label map.

    A candidate that overlaps a lesion enough and is not matched, because another one is, counts for nothing.

    Args:
        case: its name.
        detections: (planes, rows, columns) or (rows, columns), 0 or more.
        lesions: of the same shape, 0 outside lesions; connected parts are lesions whatever their number.
        min_overlap: in (0, 1], what a match takes at least.
        overlap: intersection over union, or Dice coefficient.

    Raises:
        UsageError: if the shapes differ, a confidence is negative or not finite, a connected part holds several, which
            is a map of probabilities and none of detections, or `min_overlap` or `overlap` are none.
    """
    if detections.shape != lesions.shape:
        raise UsageError(f"{case}: a detection map of shape {detections.shape} for labels of {lesions.shape}")
    if not 0 < min_overlap <= 1 or overlap not in get_args(Overlap):
        raise UsageError(
            f"least overlap {min_overlap:g} by {overlap!r}; it must be in (0, 1], by {' or '.join(get_args(Overlap))}"
        )
    candidates, confidences = _candidates(case, detections)
    structure = ndimage.generate_binary_structure(lesions.ndim, lesions.ndim)
    parts, count = ndimage.label(lesions != 0, structure=structure)
    found = _overlaps(parts, count, candidates, len(confidences), overlap)
    found[found < min_overlap] = 0
    found[found > 0] += 1  # any match outweighs any gain of overlap
    rows, columns = linear_sum_assignment(found, maximize=True)
    matched = found[rows, columns] > 0
    rows, columns = rows[matched], columns[matched]
    alone = np.flatnonzero(~(found > 0).any(axis=0))
    lines = [
        LesionLine(True, confidences[j], float(found[i, j] - 1)) for i, j in zip(rows, columns, strict=True)
    ]
    lines += [LesionLine(True, 0.0, 0.0)] * (count - len(rows))
    lines += [LesionLine(False, confidences[j], 0.0) for j in alone]
    return MapHits(case, tuple(lines), float(detections.max(initial=0)))


def _candidates(
    case: str, detections: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int32], tuple[float, ...]]:
    """Candidates labelled from 1, and their confidences."""
    if not np.isfinite(detections).all() or (detections < 0).any():
        raise UsageError(f"{case}: confidences must be finite and not negative")
    structure = ndimage.generate_binary_structure(detections.ndim, detections.ndim)
    labels, count = ndimage.label(detections, structure=structure)
    values = len(np.setdiff1d(detections, 0))
    if count < values:
        raise UsageError(
            f"{case}: {values} confidences in {count} connected parts; a detection map has one in each, this looks "
            "like a map of probabilities"
        )
    highest = ndimage.maximum(detections, labels, np.arange(1, count + 1)) if count else []
    return labels, tuple(float(value) for value in highest)


def _overlaps(
    lesions: npt.NDArray[np.int32], m: int, candidates: npt.NDArray[np.int32], n: int, overlap: Overlap
) -> npt.NDArray[np.float64]:
    """Overlap of each lesion with each candidate (m, n); the addend of the original, 1e-8, is kept."""
    pairs = np.bincount(
        (lesions.astype(np.int64) * (n + 1) + candidates).ravel(), minlength=(m + 1) * (n + 1)
    )
    pairs = pairs.reshape(m + 1, n + 1)
    common = pairs[1:, 1:]
    both = pairs.sum(axis=1)[1:, None] + pairs.sum(axis=0)[None, 1:]
    if overlap == "dice":
        return np.asarray((common * 2.0 + _EPSILON) / (both + _EPSILON))
    return np.asarray((common + _EPSILON) / (both - common + _EPSILON))
