"""By how much one table of candidates has a higher CPM than another on the same scans, with a paired interval.

    python tests/benchmarks/nodule_difference.py COHORT detector/candidates.csv reduction/candidates.csv \
        --seriesuids detector/seriesuids.csv

Scans are drawn with replacement, the same ones for both tables. The interval holds 95% of the differences.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from medvision.metrics.froc import LUNA16_RATES, CaseHits, froc
from medvision.metrics.nodules import score_candidates
from medvision.store.luna16_files import read_annotations, read_candidates

DRAWS = 1000


def hits(cohort: Path, candidates: Path, uids: list[str]) -> list[CaseHits]:
    """What the candidates of each scan came to."""
    nodules = read_annotations(cohort / "annotations.csv", uids, False)
    excluded = read_annotations(cohort / "annotations_excluded.csv", uids, True)
    found = read_candidates(candidates, uids).scans
    return [
        score_candidates(
            uid, nodules.findings(uid), excluded.findings(uid), found[uid].centres, found[uid].values
        ).hits
        for uid in uids
    ]


def cpm(cases: list[CaseHits]) -> float:
    """The mean sensitivity over LUNA16's rates."""
    return froc(cases, "luna16", LUNA16_RATES, resamples=0).score


def main() -> None:
    """Print both figures, their difference and its interval."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--seriesuids", type=Path, required=True)
    options = parser.parse_args()
    uids = options.seriesuids.read_text().split()
    first, second = (hits(options.cohort, table, uids) for table in (options.first, options.second))
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        drawn = rng.integers(len(uids), size=len(uids))
        if any(len(first[k].lesions) for k in drawn):
            draws.append(cpm([second[k] for k in drawn]) - cpm([first[k] for k in drawn]))
    low, high = np.percentile(draws, [2.5, 97.5])
    print(
        f"CPM {cpm(first):.3f} and {cpm(second):.3f}: {cpm(second) - cpm(first):+.3f} [{low:.3f}, {high:.3f}], "
        f"higher in {np.mean(np.array(draws) > 0):.1%} of {len(draws):,} draws of {len(uids)} scans"
    )


if __name__ == "__main__":
    main()
