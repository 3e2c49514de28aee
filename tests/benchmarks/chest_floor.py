"""A naive nodule detector on synthetic scans: how far threshold and connected parts get, as the floor for networks.

    python tests/benchmarks/chest_floor.py COHORT --out candidates.csv
    medvision evaluate luna16 --candidates candidates.csv --annotations COHORT/annotations.csv \
        --excluded COHORT/annotations_excluded.csv --seriesuids COHORT/seriesuids.csv --out floor

It knows the true lung mask, which is kinder than what a detector has. Parts brighter than a threshold within the closed
mask are opened, to loosen nodules from vessels; each part is a candidate, whose score is how compact and large it is.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medvision.core.geometry import Box
from medvision.core.world import WorldFrame
from medvision.sources.volume import open_volume

THRESHOLDS_HU = (-650.0, -450.0, -250.0)
LEAST_MM, LARGEST_MM = 2.5, 34.0
KEPT = 100


def candidates(
    hu: npt.NDArray[np.int16], lungs: npt.NDArray[np.bool_], frame: WorldFrame
) -> list[tuple[float, float, float, float]]:
    """Centres (x, y, z) in the world and scores of compact bright parts, best first."""
    spacing = np.asarray(frame.spacing)
    smooth = ndimage.gaussian_filter(hu.astype(np.float32), 0.8 / spacing)
    around = ndimage.binary_dilation(lungs, iterations=2)
    found: list[tuple[float, float, float, float]] = []
    for threshold in THRESHOLDS_HU:
        bright = around & (smooth > threshold)
        for mask in (bright, ndimage.binary_opening(bright)):
            labels, count = ndimage.label(mask)
            for number, box in enumerate(ndimage.find_objects(labels, count), 1):
                extent = np.array([s.stop - s.start for s in box]) * spacing
                if extent.max() > LARGEST_MM * 1.3 or extent.max() < LEAST_MM:
                    continue
                part = labels[box] == number
                diameter = float(np.cbrt(6 * part.sum() * spacing.prod() / np.pi))
                if not LEAST_MM <= diameter <= LARGEST_MM:
                    continue
                centre = np.argwhere(part).mean(axis=0) + [s.start for s in box] + np.full(3, 0.5)
                x, y, z = frame.to_world(centre)
                compact = min(1.0, diameter / float(extent.max()))
                found.append((float(x), float(y), float(z), compact**2 * diameter / LARGEST_MM))
    return sorted(found, key=lambda c: -c[3])


def _read(path: Path) -> tuple[npt.NDArray[np.generic], WorldFrame]:
    source = open_volume(path)
    shape = source.levels[0].shape
    voxels = source.read(Box((0, 0, 0), shape))[..., 0]
    frame = source.frame
    source.close()
    assert frame is not None
    return voxels, frame


def main() -> None:
    """Write the candidates of every scan of a cohort, none nearer than 3 mm to a better one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with options.out.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("seriesuid", "coordX", "coordY", "coordZ", "probability"))
        for uid in (options.cohort / "seriesuids.csv").read_text().split():
            hu, frame = _read(next(options.cohort.glob(f"subset*/{uid}.mhd")))
            lungs, _ = _read(options.cohort / "masks" / "lungs" / f"{uid}.mhd")
            kept: list[tuple[float, float, float, float]] = []
            for one in candidates(hu.astype(np.int16), np.isin(lungs, (3, 4)), frame):
                if len(kept) < KEPT and all(np.linalg.norm(np.subtract(one[:3], k[:3])) > 3 for k in kept):
                    kept.append(one)
            writer.writerows((uid, *one) for one in kept)


if __name__ == "__main__":
    main()
