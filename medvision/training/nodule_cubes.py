"""Cubes that a reduction of false positives learns from: nodules, and places that are none, drawn by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from medvision.core.errors import UsageError
from medvision.core.geometry import Spacing
from medvision.metrics.nodules import inside
from medvision.models.nodules import ReductionContract
from medvision.models.turns import CUBE_TURNS, turn_cube
from medvision.sources.base import Values
from medvision.sources.spacing import require_spacing
from medvision.store.luna16_files import Points
from medvision.training.loop import Batch
from medvision.training.nodule_config import NoduleAugmentation, TrainNoduleFprConfig
from medvision.training.nodule_scans import NoduleScans, Part, Scan
from medvision.training.nodule_windows import drawn_scale, prepared

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NEAR_MM = 2.0
"""A candidate that misses a nodule by less shows most of it, and teaches nothing as a negative."""
_STILL = NoduleAugmentation(scale=0, shift_hu=0, noise_hu=0)
_MOST_NEGATIVES = 1000


@dataclass(frozen=True, eq=False)
class Pool:
    """Places in scans: `which` (n,) is the scan's number, `places` (n, 3) in mm from its corner, array order."""

    scans: tuple[Scan, ...]
    which: npt.NDArray[np.int64]
    places: Floats

    def __len__(self) -> int:
        return len(self.which)

    def take(self, chosen: npt.NDArray[np.integer] | Bools) -> Pool:
        """Those of these indices, or of this mask."""
        return Pool(self.scans, self.which[chosen], self.places[chosen])


def negatives(
    held: NoduleScans, points: dict[str, Points], part: Part, random_places: int, seed: int
) -> Pool:
    """Candidates that hit nothing, and places in the lungs at random, away from nodules and excluded findings."""
    scans = held.of(part)
    which, places = [], []
    for number, scan in enumerate(scans):
        rng = np.random.default_rng([seed, number])
        drawn = scan.lungs[rng.choice(len(scan.lungs), min(random_places, len(scan.lungs)), replace=False)]
        found = np.concatenate([candidates_mm(held, scan, points), drawn])
        clear = ~(
            _within(found, scan.nodules, scan.diameters_mm / 2 + NEAR_MM)
            | _within(found, scan.excluded, scan.excluded_mm / 2)
        )
        which.append(np.full(int(clear.sum()), number, np.int64))
        places.append(found[clear])
    return Pool(scans, np.concatenate(which), np.concatenate(places))


def nodules_of(held: NoduleScans, part: Part) -> tuple[Pool, Floats]:
    """The nodules themselves, and their diameters in mm."""
    scans = held.of(part)
    which = np.concatenate([np.full(len(scan.nodules), k, np.int64) for k, scan in enumerate(scans)])
    pool = Pool(scans, which, np.concatenate([scan.nodules for scan in scans]))
    return pool, np.concatenate([scan.diameters_mm for scan in scans])


def judged(held: NoduleScans, points: dict[str, Points], part: Part) -> tuple[Pool, Bools]:
    """Candidates that count in a score, and whether each hits a nodule; those on excluded findings are left out."""
    scans = held.of(part)
    which, places, hits = [], [], []
    for number, scan in enumerate(scans):
        centres = points[scan.uid].centres
        hit = np.any(inside(centres, scan.found), axis=1)
        counts = np.asarray(hit | ~np.any(inside(centres, scan.ignored), axis=1))
        which.append(np.full(int(counts.sum()), number, np.int64))
        places.append(candidates_mm(held, scan, points)[counts])
        hits.append(hit[counts])
    return Pool(scans, np.concatenate(which), np.concatenate(places)), np.concatenate(hits)


def candidates_mm(held: NoduleScans, scan: Scan, points: dict[str, Points]) -> Floats:
    """A scan's candidates `(n, 3)` in mm from its corner."""
    source = held.reader.source(scan.path)
    assert source.frame is not None, "scans without a place in the patient are refused when they are loaded"
    spacing = require_spacing(source, "mm").values
    return np.asarray(source.frame.to_voxels(points[scan.uid].centres) * spacing, np.float64)


@dataclass(frozen=True, eq=False)
class CubeBatches:
    """`batch(step)`: cubes `(n, 1, *crop)`, normalised, and labels `(n,)`, 1 for a nodule. A function of the step.

    Of the negatives half are drawn from `hard`, where there are any.
    """

    held: NoduleScans
    config: TrainNoduleFprConfig
    contract: ReductionContract
    nodules: Pool
    diameters_mm: Floats
    others: Pool
    hard: npt.NDArray[np.int64] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.others):
            raise UsageError("nothing to learn from that is no nodule: no candidate misses all findings")

    def __call__(self, step: int) -> Batch:
        """The batch of one step."""
        rng = np.random.default_rng([self.seed, step])
        positives = max(1, round(self.config.nodule_share * self.config.batch_size))
        labels = (np.arange(self.config.batch_size) < positives).astype(np.int64)
        rng.shuffle(labels)
        cubes = []
        for label in labels:
            pool, index = (self.nodules, self._nodule(rng)) if label else (self.others, self._other(rng))
            place = pool.places[index]
            if label:
                place = place + rng.uniform(-1, 1, 3) * self.config.jitter * self.diameters_mm[index]
            values = self._cut(pool.scans[pool.which[index]], place, rng)
            window = torch.from_numpy(prepared(values, self.contract.hu, self.config.augmentation, rng))
            cubes.append(turn_cube(window, int(rng.integers(CUBE_TURNS))))
        inputs = (torch.stack(cubes)[:, None] - self.contract.mean) / self.contract.std
        return inputs, torch.from_numpy(labels)

    def _nodule(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.nodules)))

    def _other(self, rng: np.random.Generator) -> int:
        if self.hard is not None and len(self.hard) and rng.random() < 0.5:
            return int(self.hard[rng.integers(len(self.hard))])
        return int(rng.integers(len(self.others)))

    def _cut(self, scan: Scan, place: Floats, rng: np.random.Generator) -> Values:
        """A crop from anywhere in the cube about a place, larger or smaller in the plane."""
        scale = drawn_scale(self.config.augmentation, rng)
        z, y, x = np.array(self.contract.spacing_mm) * [1, scale, scale]
        margin = np.subtract(self.contract.window, self.contract.crop).astype(np.int64)
        start = _corner(place, np.array([z, y, x]), self.contract.window) + rng.integers(0, margin + 1)
        spacing = Spacing((float(z), float(y), float(x)), "mm", "supplied")
        return self.held.reader.window(scan.path, start.tolist(), self.contract.crop, spacing)


def still_cubes(held: NoduleScans, contract: ReductionContract, pool: Pool) -> torch.Tensor:
    """The cubes about places as they are, cut to what the network sees and normalised: `(n, 1, *crop)`."""
    rng = np.random.default_rng(0)
    spacing = Spacing(contract.spacing_mm, "mm", "supplied")
    cubes = torch.empty((len(pool), 1, *contract.crop))
    for row, which, place in zip(cubes, pool.which, pool.places, strict=True):
        start = _corner(place, np.array(contract.spacing_mm), contract.crop)
        values = held.reader.window(pool.scans[which].path, start.tolist(), contract.crop, spacing)
        row[0] = torch.from_numpy(prepared(values, contract.hu, _STILL, rng))
    return (cubes - contract.mean) / contract.std


def thinned(keep: Bools, seed: int) -> npt.NDArray[np.int64]:
    """Indices of all that is to be kept (n,), and of a thousand of the others at most."""
    rest = np.flatnonzero(~keep)
    if len(rest) > _MOST_NEGATIVES:
        rest = np.random.default_rng(seed).choice(rest, _MOST_NEGATIVES, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(keep), rest]))


def _corner(place: Floats, spacing: Floats, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """First voxel of a box centred on a place, as `engine.plan.around` centres it."""
    return np.floor(place / spacing - np.array(shape) / 2 + 0.5).astype(np.int64)


def _within(points: Floats, centres: Floats, radii_mm: Floats) -> Bools:
    apart = np.linalg.norm(points[:, None] - centres[None], axis=2)
    return np.asarray((apart < radii_mm).any(axis=1), np.bool_)
