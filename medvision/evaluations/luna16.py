"""LUNA16: lung nodules in CT, found among false positives (FROC), and the mean sensitivity that challenge ranks by.

Setio et al., "Validation, comparison, and combination of algorithms for automatic detection of pulmonary nodules in
computed tomography images: the LUNA16 challenge", Medical Image Analysis 2017. Any scans with annotated nodules,
synthetic ones included, are judged in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.evaluations.base import EVALUATIONS, RESAMPLES, Evaluation, Published
from medvision.metrics.froc import LUNA16_RATES, CaseHits, Froc, froc
from medvision.metrics.nodules import CANDIDATES_PER_SCAN, NoduleHits, score_candidates
from medvision.store.luna16_files import (
    ScanTable,
    read_annotations,
    read_candidates,
    read_folds,
    read_series,
)

_DING = (0.748, 0.853, 0.887, 0.922, 0.938, 0.944, 0.946)
PUBLISHED = (
    Published(
        "Ding et al. 2017, Faster R-CNN and 3-D CNN",
        {"cpm": 0.891, **{f"at {rate:g}": value for rate, value in zip(LUNA16_RATES, _DING, strict=True)}},
        "arXiv:1706.04303",
    ),
    Published("nnDetection, Baumgartner et al. 2021", {"cpm": 0.930}, "arXiv:2106.00817"),
    Published("MONAI RetinaNet", {"cpm": 0.936}, "MONAI tutorials, detection"),
    Published("Best entry", {"cpm": 0.952}, "luna16.grand-challenge.org"),
)
DIAMETERS_MM = (6.0, 8.0, 15.0)
"""Where one class of diameter ends and the next begins: the limits of solid nodules in Lung-RADS."""
BAND_RATES = tuple(np.linspace(0.125, 8, 10_000).tolist())
"""False positives per scan at which the official script writes the mean and bounds of its draws."""
FEW_SCANS = 30


@dataclass(frozen=True, slots=True)
class NoduleScore:
    """One nodule, its centre (x, y, z) in world mm; `probability` is that of its best hit, None if there was none."""

    scan: str
    centre: tuple[float, float, float]
    diameter_mm: float
    probability: float | None


@dataclass(frozen=True, slots=True)
class ScanScore:
    """What became of one scan. Of its `candidates`, `counted` are left by the limit for a scan."""

    scan: str
    nodules: int
    found: int
    candidates: int
    counted: int
    false_positives: int
    on_excluded: int
    repeated: int


@dataclass(frozen=True, slots=True)
class PartScore:
    """The figures of a part: the nodules of a class of diameter, beside all false positives, or the scans of a fold.

    `sensitivities` and `score`, their mean, are None where the part has no nodule.
    """

    name: str
    scans: int
    nodules: int
    found: int
    sensitivities: tuple[float, ...] | None
    score: float | None


@dataclass(frozen=True, eq=False)
class Luna16Result:
    """The challenge's figures: `froc.score` is the CPM. `folds` is empty where none were given."""

    froc: Froc
    scans: tuple[ScanScore, ...]
    nodules: tuple[NoduleScore, ...]
    diameters: tuple[PartScore, ...]
    folds: tuple[PartScore, ...]
    notes: tuple[str, ...]
    resamples: int
    seed: int

    @property
    def found(self) -> int:
        """Number of nodules that any counted candidate hit."""
        return sum(scan.found for scan in self.scans)


def evaluate(
    candidates: Path,
    annotations: Path,
    excluded: Path,
    seriesuids: Path,
    folds: Path | None = None,
    diameters_mm: Sequence[float] = DIAMETERS_MM,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Luna16Result:
    """Score candidates against annotated nodules by the protocol of the challenge's script.

    Args:
        candidates: CSV of seriesuid, coordX, coordY, coordZ (world mm) and probability, any number; or a folder of such
            files, say one per fold, which are pooled.
        annotations: CSV of seriesuid, coordX, coordY, coordZ, diameter_mm: the nodules to be found.
        excluded: the same of findings that count neither way.
        seriesuids: CSV without header whose first column names the scans; their number divides the false positives.
        folds: CSV of seriesuid, fold, or a folder with a folder of scans per fold. The figures stay those of all scans
            together, as the challenge has them; each fold's own are added.
        diameters_mm: rising limits of the classes of diameter.
        resamples: bootstrap draws of scans for the 95% intervals.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: if a file cannot be read or is malformed, no scan holds a nodule, or the limits do not rise.
    """
    edges = [0.0, *diameters_mm, math.inf]
    if any(not a < b for a, b in pairwise(edges)):
        raise UsageError(
            f"limits of diameters {' '.join(f'{d:g}' for d in diameters_mm)}; they must rise from 0"
        )
    series, notes = read_series(seriesuids)
    nodules, irrelevant = (
        read_annotations(p, series, e) for p, e in ((annotations, False), (excluded, True))
    )
    given = read_candidates(candidates, series)
    fold_of = read_folds(folds, series) if folds else {}
    hits = {uid: _score(uid, nodules, irrelevant, given) for uid in series}
    cases = [one.hits for one in hits.values()]
    curve = froc(cases, "luna16", LUNA16_RATES, resamples, seed, BAND_RATES)
    scores = tuple(_scan_score(one, given) for one in hits.values())
    sizes = [nodules.findings(uid).radii_mm * 2 for uid in series]
    return Luna16Result(
        curve,
        scores,
        tuple(score for uid in series for score in _nodule_scores(hits[uid], nodules)),
        tuple(_diameter_class(cases, sizes, low, high) for low, high in pairwise(edges)),
        _fold_scores(hits, fold_of),
        (*notes, *nodules.notes, *irrelevant.notes, *given.notes, *_notes(hits, scores)),
        resamples,
        seed,
    )


def _score(uid: str, nodules: ScanTable, excluded: ScanTable, candidates: ScanTable) -> NoduleHits:
    given = candidates.scans.get(uid)
    points = np.empty((0, 3)) if given is None else given.centres
    values = np.empty(0) if given is None else given.values
    return score_candidates(uid, nodules.findings(uid), excluded.findings(uid), points, values)


def _found(case: CaseHits) -> int:
    return int(np.count_nonzero(~np.isnan(case.lesions)))


def _scan_score(one: NoduleHits, candidates: ScanTable) -> ScanScore:
    case = one.hits
    given = candidates.scans.get(case.case)
    return ScanScore(
        scan=case.case,
        nodules=len(case.lesions),
        found=_found(case),
        candidates=0 if given is None else len(given.values),
        counted=len(one.kept),
        false_positives=len(case.false_positives),
        on_excluded=one.on_excluded,
        repeated=one.repeated,
    )


def _nodule_scores(one: NoduleHits, nodules: ScanTable) -> list[NoduleScore]:
    known = nodules.findings(one.hits.case)
    rows = zip(known.centres.tolist(), (known.radii_mm * 2).tolist(), one.hits.lesions.tolist(), strict=True)
    return [
        NoduleScore(one.hits.case, (c[0], c[1], c[2]), d, None if math.isnan(p) else p) for c, d, p in rows
    ]


def _diameter_class(
    cases: Sequence[CaseHits], sizes: Sequence[npt.NDArray[np.float64]], low: float, high: float
) -> PartScore:
    """The nodules of at least `low` and less than `high` mm, beside the false positives of all scans."""
    name = f"{low:g} mm and over" if math.isinf(high) else f"under {high:g} mm"
    if low and not math.isinf(high):
        name = f"{low:g} to under {high:g} mm"
    part = [
        replace(case, lesions=case.lesions[(size >= low) & (size < high)])
        for case, size in zip(cases, sizes, strict=True)
    ]
    return _part(name, part)


def _fold_scores(hits: Mapping[str, NoduleHits], fold_of: Mapping[str, str]) -> tuple[PartScore, ...]:
    names = sorted(set(fold_of.values()), key=lambda name: (len(name), name))  # fold9 before fold10
    return tuple(
        _part(name, [hits[uid].hits for uid, fold in fold_of.items() if fold == name]) for name in names
    )


def _part(name: str, cases: Sequence[CaseHits]) -> PartScore:
    nodules = sum(len(case.lesions) for case in cases)
    curve = froc(cases, "luna16", LUNA16_RATES, resamples=0) if nodules else None
    return PartScore(
        name,
        len(cases),
        nodules,
        sum(_found(case) for case in cases),
        curve.sensitivities if curve else None,
        curve.score if curve else None,
    )


def _notes(hits: Mapping[str, NoduleHits], scans: Sequence[ScanScore]) -> list[str]:
    notes = []
    if none := sum(scan.candidates == 0 for scan in scans):
        notes.append(f"{none} of {len(scans)} scans have no candidate")
    if many := [scan for scan in scans if scan.candidates > CANDIDATES_PER_SCAN]:
        notes.append(
            f"{len(many)} scans have more than {CANDIDATES_PER_SCAN} candidates; of their "
            f"{sum(scan.candidates for scan in many):,} the {sum(scan.counted for scan in many):,} most probable count"
        )
    if tied := [scan for scan in many if scan.counted < CANDIDATES_PER_SCAN]:
        notes.append(
            f"in {len(tied)} of these scans fewer than {CANDIDATES_PER_SCAN} count, as several candidates share the "
            "probability at which the official script cuts"
        )
    if shared := sum(one.shared for one in hits.values()):
        notes.append(
            f"{shared} candidates hit more than one nodule and count for each, as in the official script"
        )
    if not sum(scan.found for scan in scans):
        notes.append("no nodule was found: the official script gives no figures then, not 0")
    if len(scans) < FEW_SCANS:
        notes.append(f"{len(scans)} scans are too few for an interval to say much")
    return notes


EVALUATIONS.register("luna16")(
    Evaluation(
        name="luna16",
        title="LUNA16: lung nodules in CT",
        paper="Setio et al., Medical Image Analysis 2017;42:1-13",
        data="LUNA16 (CC BY 4.0): 888 scans of LIDC-IDRI with 1,186 nodules; the published figures are for these",
        predictions="CSV of seriesuid, coordX, coordY, coordZ, probability",
        reference="annotations.csv, annotations_excluded.csv and seriesuids.csv",
        published=PUBLISHED,
        evaluate=evaluate,
    )
)
