"""Nodules of a scan and which candidates hit them, as LUNA16 counts (Setio et al., Medical Image Analysis 2017).

A candidate hits a finding if its squared distance is less than the square of the finding's radius, in world mm. Every
candidate that hits a nodule is taken by it, the most probable one gives the nodule its probability, and the others
count for nothing. What hits no nodule but an excluded finding counts neither way; the rest are false positives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.metrics.froc import CaseHits

Floats = npt.NDArray[np.float64]

CANDIDATES_PER_SCAN = 100
UNKNOWN_DIAMETER_MM = 10.0
"""Diameter of a finding that states a negative one."""


@dataclass(frozen=True, eq=False)
class Findings:
    """Spheres in a scan: `centres` (n, 3) as (x, y, z) in world mm, `diameters_mm` (n,), negative where unknown."""

    centres: Floats
    diameters_mm: Floats

    @property
    def radii_mm(self) -> Floats:
        """(n,), half of the diameter or of the default one."""
        return np.where(self.diameters_mm < 0, UNKNOWN_DIAMETER_MM, self.diameters_mm) / 2


NO_FINDINGS = Findings(np.empty((0, 3)), np.empty(0))


@dataclass(frozen=True, eq=False)
class NoduleHits:
    """What the candidates of one scan came to.

    `hits.lesions` is in the order of the nodules. `kept` are the indices of the candidates that were counted; of them
    `on_excluded` hit excluded findings only, `repeated` is how often a nodule had been hit already, and `shared` hit
    more than one nodule.
    """

    hits: CaseHits
    kept: npt.NDArray[np.intp]
    on_excluded: int
    repeated: int
    shared: int


def score_candidates(
    case: str,
    nodules: Findings,
    excluded: Findings,
    points: Floats,
    probabilities: Floats,
    limit: int = CANDIDATES_PER_SCAN,
) -> NoduleHits:
    """Which nodules the candidates of one scan find, and how many are false.

    Args:
        case: name of the scan.
        nodules: those to be found.
        excluded: findings that are neither right nor wrong to hit.
        points: (n, 3), (x, y, z) in world mm, of the same axes as the findings.
        probabilities: (n,), any finite numbers.
        limit: see `keep_best`.
    """
    kept = keep_best(probabilities, limit)
    points, probabilities = points[kept], probabilities[kept]
    on_nodule = inside(points, nodules)
    best = np.where(on_nodule, probabilities[:, None], -np.inf).max(axis=0, initial=-np.inf)
    taken = on_nodule.any(axis=1)
    ignored = inside(points, excluded).any(axis=1) & ~taken
    return NoduleHits(
        CaseHits(case, np.where(np.isneginf(best), np.nan, best), probabilities[~taken & ~ignored]),
        kept,
        int(ignored.sum()),
        int(np.maximum(on_nodule.sum(axis=0) - 1, 0).sum()),
        int((on_nodule.sum(axis=1) > 1).sum()),
    )


def keep_best(probabilities: Floats, limit: int = CANDIDATES_PER_SCAN) -> npt.NDArray[np.intp]:
    """Indices, in rising order, of the candidates of a scan that count: all, if they are not more than `limit`.

    Of more, those count that are more probable than the one at place `limit + 1`: as in the official script fewer than
    `limit` stay if several share its probability, and none if all do.

    Raises:
        UsageError: if `limit` is less than 1.
    """
    if limit < 1:
        raise UsageError(f"at most {limit} candidates per scan; it must be 1 or more")
    if len(probabilities) <= limit:
        return np.arange(len(probabilities))
    return np.flatnonzero(probabilities > np.sort(probabilities)[::-1][limit])


def inside(points: Floats, findings: Findings) -> npt.NDArray[np.bool_]:
    """Whether each point (n, 3) lies in each of m findings: bool (n, m)."""
    x, y, z = (points[:, None, axis] - findings.centres[None, :, axis] for axis in range(3))
    return np.asarray(x * x + y * y + z * z < findings.radii_mm**2)
