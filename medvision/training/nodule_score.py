"""Candidates of many scans, and how good they are where the nodules are known, by LUNA16's protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvision.core.errors import UsageError
from medvision.engine.contract import PatchModel
from medvision.engine.engine import PatchEngine
from medvision.metrics.froc import LUNA16_RATES, Froc, froc
from medvision.metrics.nodules import score_candidates
from medvision.models.contract import Figure
from medvision.models.nodules.run import detect_candidates
from medvision.store.luna16_files import Points, write_candidates
from medvision.training.nodule_scans import NoduleScans, Scan


@dataclass(frozen=True, eq=False)
class Scored:
    """Candidates of some scans by uid, in the patient, and how many windows could not be read."""

    points: dict[str, Points]
    unread: int


def detect_in(
    held: NoduleScans,
    scans: Sequence[Scan],
    model: PatchModel,
    engine: PatchEngine,
    most: int,
    on_scan: Callable[[int, int], None] | None = None,
) -> Scored:
    """The most certain candidates of each scan, `most` at most."""
    runner = engine.prepare(model)
    points, unread = {}, 0
    for number, scan in enumerate(scans, 1):
        source = held.reader.source(scan.path)
        found = detect_candidates(runner, source, engine)
        best = found.candidates.take(np.arange(min(most, len(found.candidates))))
        frame = source.frame
        assert frame is not None, "scans without a place in the patient are refused when they are loaded"
        points[scan.uid] = Points(frame.to_world(best.centres), best.scores)
        unread += found.unread
        if on_scan is not None:
            on_scan(number, len(scans))
    return Scored(points, unread)


def froc_of(
    scans: Sequence[Scan],
    points: dict[str, Points],
    rates: tuple[float, ...] = LUNA16_RATES,
    resamples: int = 0,
) -> Froc:
    """The FROC of candidates in scans, those without any included.

    Raises:
        UsageError: if no scan has a nodule.
    """
    cases = [
        score_candidates(
            scan.uid, scan.found, scan.ignored, points[scan.uid].centres, points[scan.uid].values
        ).hits
        for scan in scans
    ]
    return froc(cases, "luna16", rates, resamples)


def froc_figures(
    scans: Sequence[Scan], points: dict[str, Points], what: str, suffix: str = ""
) -> dict[str, Figure]:
    """CPM, and the share of nodules that any candidate hit, for a contract; none where no scan has a nodule."""
    try:
        found = froc_of(scans, points, resamples=1000)
    except UsageError:
        return {}
    how = f"{what}: {found.cases} scans, {found.lesions} nodules"
    return {
        f"cpm{suffix}": Figure(
            value=found.score, interval=found.interval, protocol=f"LUNA16 protocol, {how}; scans resampled"
        ),
        f"sensitivity_of_all_candidates{suffix}": Figure(
            value=float(found.sensitivity[-1]),
            protocol=f"{how}; at {found.false_positives[-1]:.1f} false positives per scan",
        ),
    }


def write_points(path: Path, scans: Sequence[Scan], points: dict[str, Points]) -> None:
    """The candidates of some scans as LUNA16 has them."""
    write_candidates(path, {scan.uid: points[scan.uid] for scan in scans})
