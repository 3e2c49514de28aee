"""Data of a few pixels. In LUNA16's layout scans with a body, two lungs, balls for nodules, and bars for what is none;
for segmentation, bright discs and nested balls among noise, with their labels, in every layout."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from medvision.core.world import WorldFrame
from medvision.sources.write_labels import write_labels
from medvision.sources.write_volume import write_metaimage, write_nifti

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


Bytes = npt.NDArray[np.uint8]


def draw_picture(seed: int, side: int = 48) -> tuple[Bytes, npt.NDArray[np.int32]]:
    """Grey values, and discs numbered from 1 which do not touch."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    objects = np.zeros((side, side), np.int32)
    for number, (row, column) in enumerate(((13, 12), (14, 34), (35, 24)), 1):
        away = (rows - row - rng.integers(-2, 3)) ** 2 + (columns - column - rng.integers(-2, 3)) ** 2
        objects[away < rng.integers(5, 8) ** 2] = number
    grey = np.where(objects, 170, 70) + rng.normal(0, 15, objects.shape)
    return grey.clip(0, 255).astype(np.uint8), objects


def write_pictures(folder: Path, count: int = 6) -> Path:
    """images/ and labels/ of 0 and 1; two of them show one patient each by their names."""
    for number in range(count):
        grey, objects = draw_picture(number)
        write_labels(folder / "images", f"p{number // 2}_{number}", grey)
        write_labels(folder / "labels", f"p{number // 2}_{number}", (objects > 0).astype(np.uint8))
    return folder


def write_objects(folder: Path, count: int = 4) -> Path:
    """A folder for each image, with images/ and masks/."""
    for number in range(count):
        grey, objects = draw_picture(number)
        name = f"image{number}"
        write_labels(folder / "train" / name / "images", name, grey)
        for k in range(1, objects.max() + 1):
            write_labels(folder / "train" / name / "masks", f"m{k}", (objects == k).astype(np.uint8) * 255)
    return folder


def write_volumes(folder: Path, count: int = 6) -> Path:
    """imagesTr/ and labelsTr/ with slices twice as thick as wide, every second file stored the other way round."""
    shape, spacing = (12, 22, 20), (2.0, 1.0, 1.0)
    for number in range(count):
        rng = np.random.default_rng(number)
        at = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij"), -1) * spacing
        away = np.linalg.norm(at - np.array([12, 11, 10]) - rng.uniform(-1, 1, 3), axis=-1)
        truth = np.where(away < 4, 1, np.where(away < 7.5, 2, 0)).astype(np.uint8)
        gain = rng.uniform(1, 20)  # values without a unit
        voxels = gain * (np.choose(truth, [20.0, 80.0, 50.0]) + rng.normal(0, 4, shape))
        turn = number % 2 == 1
        directions = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (-1.0 if turn else 1.0, 0.0, 0.0))
        frame = WorldFrame((0.0, 0.0, 0.0), spacing, directions)
        stored = (voxels[..., ::-1], truth[..., ::-1]) if turn else (voxels, truth)
        write_nifti(folder / "imagesTr" / f"v{number}.nii.gz", np.rint(stored[0]).astype(np.int16), frame)
        write_nifti(folder / "labelsTr" / f"v{number}.nii.gz", np.ascontiguousarray(stored[1]), frame)
    return folder


@pytest.fixture(scope="session")
def toy_picture() -> Callable[[int], tuple[Bytes, npt.NDArray[np.int32]]]:
    """Grey values and objects of the picture of a number."""
    return draw_picture


@pytest.fixture(scope="session")
def toy_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of three patients with labels. Nobody writes into it."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def toy_objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures with a mask for each object. Nobody writes into it."""
    return write_objects(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="session")
def toy_volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six volumes with labels. Nobody writes into it."""
    return write_volumes(tmp_path_factory.mktemp("volumes"))
