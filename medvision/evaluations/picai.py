"""PI-CAI: lesions in detection maps (average precision) and cases that hold one (AUROC), as picai_eval counts them.

Saha et al., "Artificial intelligence and radiologists in prostate cancer detection on MRI (PI-CAI)", Lancet Oncology
2024. Nothing here is specific to the prostate: any detection maps with label maps are judged in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.evaluations.base import EVALUATIONS, RESAMPLES, Evaluation
from medvision.metrics.detection_maps import MIN_OVERLAP, MapHits, Overlap, score_map
from medvision.metrics.froc import Froc, froc
from medvision.metrics.ranking import RocCurve, average_precision, bootstrap_intervals, roc_auc, roc_curve
from medvision.sources.voxel_map import SUFFIXES, map_name, read_voxel_map

PICAI_EVAL = "1.4.x"
"""The version of picai_eval whose figures these are."""
RATES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
"""False positives per case at which the curve is read."""
DETECTIONS, LABELS = "_detection_map", "_label"
FEW_CASES = 30


@dataclass(frozen=True, eq=False)
class PicaiResult:
    """The figures. `auroc` and `roc` are None where all cases are of one class, and `froc` and `ap` without a lesion.

    `intervals` are those of the AUROC, the AP and their mean, which the challenge ranks by.
    """

    cases: tuple[MapHits, ...]
    auroc: float | None
    ap: float | None
    roc: RocCurve | None
    froc: Froc | None
    intervals: tuple[tuple[float, float] | None, ...]
    min_overlap: float
    overlap: Overlap
    notes: tuple[str, ...]
    resamples: int
    seed: int

    @property
    def score(self) -> float | None:
        """Mean of the AUROC and the AP."""
        return None if self.auroc is None or self.ap is None else (self.auroc + self.ap) / 2

    @property
    def targets(self) -> list[bool]:
        """Of each case, whether it holds a lesion."""
        return [any(line.is_lesion for line in case.lines) for case in self.cases]


def evaluate(
    predictions: Path,
    reference: Path | None = None,
    min_overlap: float = MIN_OVERLAP,
    overlap: Overlap = "iou",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PicaiResult:
    """Score a folder of detection maps against label maps.

    Args:
        predictions: folder of CASE_detection_map with one of `SUFFIXES`.
        reference: folder of CASE_label, or CASE, likewise; the same folder if not given.
        min_overlap: least overlap of a candidate with a lesion that it finds.
        overlap: intersection over union, or Dice coefficient.
        resamples: bootstrap draws of cases for the 95% intervals.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: if there is no map, a case lacks one of the two, their shapes do not fit, or a map is none of
            detections.
        UnreadableSourceError: if a file cannot be read.
    """
    maps = _maps(predictions, DETECTIONS, others=reference is not None)
    labels = _maps(reference or predictions, LABELS, others=reference is not None)
    if not maps:
        raise UsageError(f"{predictions}: holds no CASE{DETECTIONS} ({', '.join(SUFFIXES)})")
    if lacking := sorted(maps.keys() - labels):
        raise UsageError(f"{reference or predictions}: has no labels of {', '.join(lacking[:5])}")
    if lacking := sorted(labels.keys() - maps):
        raise UsageError(
            f"{predictions}: has no detection map of {', '.join(lacking[:5])}; a case without candidates needs one of "
            "zeros"
        )
    notes: list[str] = []
    cases = tuple(
        _score(name, maps[name], labels[name], min_overlap, overlap, notes) for name in sorted(maps)
    )
    targets = np.array([any(line.is_lesion for line in case.lines) for case in cases])
    scores = np.array([case.confidence for case in cases])
    both = bool(targets.any() and not targets.all())
    if not both:
        notes.append(f"no AUROC: all {len(cases)} cases are of one class")
    if not targets.any():
        notes.append("no average precision and no FROC: no case holds a lesion")
    if len(cases) < FEW_CASES:
        notes.append(f"{len(cases)} cases are too few for an interval to say much")
    return PicaiResult(
        cases,
        roc_auc(targets, scores) if both else None,
        lesion_ap(cases) if targets.any() else None,
        roc_curve(targets, scores) if both else None,
        froc([case.hits for case in cases], "corrected", RATES, resamples, seed) if targets.any() else None,
        _intervals(cases, targets, scores, resamples, seed),
        min_overlap,
        overlap,
        tuple(notes),
        resamples,
        seed,
    )


def lesion_ap(cases: Sequence[MapHits]) -> float:
    """Average precision over the lesions and candidates of all cases; missed lesions are found at no threshold.

    Raises:
        UsageError: if no case holds a lesion.
    """
    lines = [line for case in cases for line in case.lines]
    given = [line for line in lines if line.confidence > 0]
    return average_precision(
        [line.is_lesion for line in given], [line.confidence for line in given], len(lines) - len(given)
    )


def picai_metrics(result: PicaiResult) -> dict[str, Any]:
    """The figures under the names that picai_eval gives them, as in the file that it saves."""
    names = [case.case for case in result.cases]
    return {
        "auroc": result.auroc,
        "AP": result.ap,
        "num_cases": len(names),
        "num_lesions": sum(line.is_lesion for case in result.cases for line in case.lines),
        "picai_eval_version": PICAI_EVAL,
        "lesion_results": {
            case.case: [[int(line.is_lesion), line.confidence, line.overlap] for line in case.lines]
            for case in result.cases
        },
        "lesion_weight": {case.case: [1] * len(case.lines) for case in result.cases},
        "case_pred": {case.case: case.confidence for case in result.cases},
        "case_target": {name: int(target) for name, target in zip(names, result.targets, strict=True)},
        "case_weight": dict.fromkeys(names, 1),
    }


def _maps(folder: Path, ending: str, others: bool) -> dict[str, Path]:
    """The maps of a folder by case: those of this ending and, where it has a folder of its own, those without any."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of maps")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = map_name(path)
        if name is None or not (
            name.endswith(ending) or (others and not name.endswith((DETECTIONS, LABELS)))
        ):
            continue
        if (first := found.setdefault(name.removesuffix(ending), path)) != path:
            raise UsageError(f"{folder}: {first.name} and {path.name} are of one case; remove one of them")
    return found


def _score(
    name: str, detections: Path, labels: Path, min_overlap: float, overlap: Overlap, notes: list[str]
) -> MapHits:
    known = read_voxel_map(labels)
    if not np.isfinite(known).all() or (known != np.round(known)).any():
        raise UsageError(f"{labels}: labels must be whole numbers")
    given = read_voxel_map(detections).astype(np.float32)
    if given.shape != known.shape and all(a <= b for a, b in zip(given.shape, known.shape, strict=True)):
        notes.append(f"{name}: its detection map of {given.shape} is padded to {known.shape} on all sides")
        given = _pad(given, known.shape)
    return score_map(name, given, known.astype(np.int64), min_overlap, overlap)


def _pad(array: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    before = [(b - a) // 2 for a, b in zip(array.shape, shape, strict=True)]
    return np.pad(array, [(n, b - a - n) for a, b, n in zip(array.shape, shape, before, strict=True)])


def _intervals(
    cases: Sequence[MapHits],
    targets: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float64],
    resamples: int,
    seed: int,
) -> tuple[tuple[float, float] | None, ...]:
    def figures(drawn: npt.NDArray[np.intp]) -> list[float]:
        auroc = roc_auc(targets[drawn], scores[drawn])
        ap = lesion_ap([cases[i] for i in drawn])
        return [auroc, ap, (auroc + ap) / 2]

    if not resamples or targets.all() or not targets.any():
        return None, None, None
    given = bootstrap_intervals(figures, np.arange(len(cases)), n=resamples, seed=seed)
    return tuple(None if isinstance(interval, str) else interval for interval in given)


EVALUATIONS.register("picai")(
    Evaluation(
        name="picai",
        title="PI-CAI: lesions in detection maps",
        paper="Saha et al., Lancet Oncology 2024;25(7):879-887",
        data="PI-CAI (CC BY-NC 4.0), prostate MRI",
        predictions="folder of CASE_detection_map (.nii.gz, .nii, .mha, .mhd, .nrrd, .npy)",
        reference="folder of CASE_label likewise",
        published=(),
        evaluate=evaluate,
    )
)
