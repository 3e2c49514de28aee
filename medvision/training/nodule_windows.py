"""Windows that a detector of nodules learns from: drawn by step, cut at the network's spacing, turned and scaled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from medvision.core.geometry import Spacing
from medvision.models.nodules import DetectorContract
from medvision.models.nodules.slices import SLICES
from medvision.models.turns import CUBE_TURNS, turn_cube
from medvision.ops.candidates import ball_sections
from medvision.sources.base import Values
from medvision.training.loop import WideBatch
from medvision.training.nodule_config import NoduleAugmentation, TrainNodulesConfig
from medvision.training.nodule_scans import NoduleScans, Scan

Floats = npt.NDArray[np.float64]

_TRIES = 8
_VISIBLE = 0.4
"""Share of a nodule's box that must lie in a window for the box to be asked for."""


@dataclass(frozen=True, eq=False)
class DetectorBatches:
    """`batch(step)`: windows `(n, 1, slices, rows, columns)`, normalised, and their boxes `(n, most, 2, 3)`.

    Boxes are in voxels of the window, array order; rows of NaN fill up. The targets of the loop are the numbers of
    boxes `(n,)`. A batch is a function of the step alone.
    """

    held: NoduleScans
    config: TrainNodulesConfig
    contract: DetectorContract

    def __call__(self, step: int) -> WideBatch:
        """The batch of one step."""
        rng = np.random.default_rng([self.config.seed, step])
        scans = self.held.of("train")
        nodules = [(scan, k) for scan in scans for k in range(len(scan.nodules))]
        windows, boxes = [], []
        for _ in range(self.config.batch_size):
            if rng.random() < self.config.nodule_share:
                scan, nodule = nodules[rng.integers(len(nodules))]
                values, found = self._on_nodule(scan, nodule, rng)
            else:
                values, found = self._anywhere(scans[rng.integers(len(scans))], rng)
            window = prepared(values, self.contract.hu, self.config.augmentation, rng)
            which = int(rng.integers(CUBE_TURNS))
            boxes.append(turn_boxes(found, window.shape, which))
            windows.append(turn_cube(torch.from_numpy(window), which))
        most = max(1, *(len(found) for found in boxes))
        padded = np.full((len(boxes), most, 2, 3), np.nan, np.float32)
        for row, found in zip(padded, boxes, strict=True):
            row[: len(found)] = found
        inputs = (torch.stack(windows)[:, None] - self.contract.mean) / self.contract.std
        return (inputs, torch.from_numpy(padded)), torch.tensor([len(found) for found in boxes])

    @property
    def _shape(self) -> npt.NDArray[np.int64]:
        return np.array([self.contract.window[0], self.config.crop_px, self.config.crop_px], np.int64)

    def _spacing(self, rng: np.random.Generator) -> Floats:
        """The network's, larger or smaller in the plane."""
        return np.array(self.contract.spacing_mm) * [1, *[drawn_scale(self.config.augmentation, rng)] * 2]

    def _on_nodule(self, scan: Scan, nodule: int, rng: np.random.Generator) -> tuple[Values, Floats]:
        """A window in which the nodule is cut, through its inner half along the slices."""
        spacing = self._spacing(rng)
        reach = np.array([scan.diameters_mm[nodule] / 4, 0, 0])
        centre = (scan.nodules[nodule] + rng.uniform(-1, 1) * reach) / spacing
        radius = scan.diameters_mm[nodule] / 2 / spacing
        room = np.maximum(self._shape / 2 - radius - 2, 0) * [0, 1, 1]
        return self._cut(scan, centre + rng.uniform(-1, 1, 3) * room, spacing)

    def _anywhere(self, scan: Scan, rng: np.random.Generator) -> tuple[Values, Floats]:
        """A window about a place in the lungs, clear of findings that count neither way if that can be had."""
        spacing = self._spacing(rng)
        for _ in range(_TRIES):
            place = scan.lungs[rng.integers(len(scan.lungs))]
            apart = np.abs(scan.excluded - place) - scan.excluded_mm[:, None] / 2
            if (apart > self._shape * spacing / 2).any(axis=1).all():
                break
        return self._cut(scan, place / spacing, spacing)

    def _cut(self, scan: Scan, centre: Floats, spacing: Floats) -> tuple[Values, Floats]:
        """The window about a voxel, and the boxes of nodules in it."""
        start = np.floor(centre - (self._shape - 1) / 2).astype(np.int64)
        z, y, x = spacing.tolist()
        values = self.held.reader.window(
            scan.path, start.tolist(), self._shape.tolist(), Spacing((z, y, x), "mm", "supplied")
        )
        centres = scan.nodules / spacing
        if self._shape[0] == SLICES:
            boxes, owners = ball_sections(centres, scan.diameters_mm, int(start[0]) + SLICES // 2, (z, y, x))
            owned = scan.diameters_mm[owners]
        else:
            radii = scan.diameters_mm[:, None] / 2 / spacing
            boxes, owned = np.stack([centres - radii, centres + radii], axis=1), scan.diameters_mm
        return values, clipped(boxes - start, self._shape, self.config.smallest_px, owned / y)


def clipped(boxes: Floats, shape: npt.NDArray[np.int64], smallest_px: float, diameters_px: Floats) -> Floats:
    """Boxes `(k, 2, 3)` cut to a window, without those that are hardly in it or of a nodule's very ends."""
    inside = np.clip(boxes, 0, shape)
    size, seen = boxes[:, 1] - boxes[:, 0], inside[:, 1] - inside[:, 0]
    across = size[:, 1:].mean(axis=1)
    keep = (seen.prod(axis=1) >= _VISIBLE * size.prod(axis=1)) & (seen[:, 1:].min(axis=1) >= 1)
    keep &= (across >= smallest_px) & (across >= diameters_px / 3)
    return np.asarray(inside[keep], np.float64)


def drawn_scale(how: NoduleAugmentation, rng: np.random.Generator) -> float:
    """A factor of sizes, as likely above 1 as below."""
    return float((1 + how.scale) ** rng.uniform(-1, 1))


def prepared(
    values: Values, hu: tuple[float, float], how: NoduleAugmentation, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Values in HU with shift and noise, cut to the window `hu` and on a scale from 0 to 1."""
    changed = values.astype(np.float32) + np.float32(rng.uniform(-how.shift_hu, how.shift_hu))
    changed += rng.standard_normal(values.shape, np.float32) * np.float32(rng.uniform(0, how.noise_hu))
    return np.asarray((changed.clip(*hu) - hu[0]) / (hu[1] - hu[0]), np.float32)


def turn_boxes(boxes: Floats, shape: tuple[int, ...], which: int) -> Floats:
    """Boxes `(k, 2, 3)` in a window of `shape` turned as `turn_cube(..., which)` turns the window.

    Which corner of a voxel grid goes where is read off the grid itself, so that there is one definition of a turn.
    """
    edges = [torch.arange(2.0).reshape([-1 if k == axis else 1 for k in range(3)]) for axis in range(3)]
    marks = torch.stack([edge.expand(2, 2, 2) for edge in edges])  # (axis, plane, row, column)
    turned = turn_cube(marks, which)
    out = np.empty_like(boxes)
    for axis in range(3):
        step = turned.select(axis + 1, 1) - turned.select(axis + 1, 0)
        came = int(step.abs().flatten(1).sum(dim=1).argmax())
        if float(step[came].mean()) > 0:
            out[:, :, axis] = boxes[:, :, came]
        else:
            out[:, :, axis] = shape[came] - boxes[:, ::-1, came]
    return out
