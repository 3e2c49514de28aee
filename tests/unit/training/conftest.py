"""Scans of a few voxels in LUNA16's layout: a body, two lungs, balls for nodules, and bars for what is none."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from medvision.core.world import WorldFrame
from medvision.sources.write_volume import write_metaimage

SHAPE = (36, 72, 72)
SPACING = (2.5, 1.8, 1.8)
LEFT_BACK_UP = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
RIGHT_FRONT_DOWN = ((0.0, 0.0, -1.0), (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0))
Floats = npt.NDArray[np.float64]


def toy_scan(seed: int, frame: WorldFrame) -> tuple[npt.NDArray[np.int16], Floats, Floats, Floats]:
    """Voxels in HU; centres `(n, 3)` in voxels and diameters in mm of nodules; centres of the bars."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in SHAPE), indexing="ij"), axis=-1)
    places = places * SPACING
    middle = np.array(SHAPE) * SPACING / 2
    body = (((places - middle)[..., 1:] / (50, 60)) ** 2).sum(axis=-1) < 1
    voxels = np.where(body, 40.0, -1000.0)
    centres, diameters, bars = [], [], []
    for side in (-1, 1):
        lung = middle + np.array([0, 0, side * 28])
        inside = (((places - lung) / (38, 36, 22)) ** 2).sum(axis=-1) < 1
        voxels[inside] = -850
        for k in (-1, 1):
            centre = lung + np.array([k * 10, k * rng.uniform(16, 20), rng.uniform(-6, 6)])
            diameter = rng.uniform(9, 13)
            voxels[np.linalg.norm(places - centre, axis=-1) < diameter / 2] = 40
            centres.append(centre / SPACING)
            diameters.append(diameter)
        bar = lung + np.array([0, rng.uniform(-2, 2), rng.uniform(-5, 5)])
        apart = np.abs(places - bar)
        voxels[(apart[..., 0] < 16) & (apart[..., 1:].max(axis=-1) < 2.2)] = 40
        bars.append(bar / SPACING)
    voxels += rng.normal(0, 12, SHAPE)
    return np.rint(voxels).astype(np.int16), np.array(centres), np.array(diameters), np.array(bars)


def write_toy_cohort(folder: Path, scans: int = 4) -> Path:
    """Scans in a fold each, every second one stored the other way round; the bars are excluded findings in scan 0."""
    nodules: list[list[object]] = []
    excluded: list[list[object]] = []
    for number in range(scans):
        directions = RIGHT_FRONT_DOWN if number % 2 else LEFT_BACK_UP
        frame = WorldFrame((-60.0 + number, 20.0, -310.0), SPACING, directions)
        voxels, centres, diameters, bars = toy_scan(number, frame)
        uid = f"1.2.{number}"
        place = folder / f"subset{number}"
        place.mkdir(parents=True)
        write_metaimage(place / f"{uid}.mhd", voxels, frame)
        world = frame.to_world(centres)
        nodules += [[uid, *point, size] for point, size in zip(world.tolist(), diameters, strict=True)]
        if number == 0:
            excluded += [[uid, *point, -1] for point in frame.to_world(bars).tolist()]
    for name, rows in (("annotations.csv", nodules), ("annotations_excluded.csv", excluded)):
        with (folder / name).open("w", newline="") as stream:
            csv.writer(stream).writerows([["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"], *rows])
    return folder


@pytest.fixture(scope="session")
def toy_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans in four folds, with tables. Nobody writes into it."""
    return write_toy_cohort(tmp_path_factory.mktemp("toy"))
