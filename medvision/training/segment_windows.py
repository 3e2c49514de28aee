"""Windows that a segmentation network learns from: drawn by step, deformed with their labels, changed in their values.

The draws of a window come from the seed, the step and its place in the batch alone, so that a training that goes on
sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from medvision.models.segmentation import SegmentContract
from medvision.ops.deform import (
    Field,
    Floats,
    field_displacement,
    grid_displacement,
    sample,
    window_places,
)
from medvision.training.loop import Batch
from medvision.training.segment_config import SegmentAugmentation, TrainSegmentConfig
from medvision.training.segment_data import SegmentImage
from medvision.training.segment_losses import pack

Weights = Mapping[str, npt.NDArray[np.float32]]
"""U-Net's map of each image by its name, `(*shape)`; empty without."""


@dataclass(frozen=True, eq=False)
class SegmentBatches:
    """`batch(step)`: windows `(n, channels, *window)`, normalised, and targets `(n, 2, *window)` as `pack` has them.

    `answered` is what the network answers for in a window, which random windows keep inside the image where they can.
    """

    images: Sequence[SegmentImage]
    weights: Weights
    config: TrainSegmentConfig
    contract: SegmentContract
    answered: tuple[int, ...]

    def __call__(self, step: int) -> Batch:
        """The batch of one step."""
        windows, labels, weights = [], [], []
        for item in range(self.config.batch_size):
            rng = np.random.default_rng([self.config.seed, step, item])
            image = self.images[int(rng.integers(len(self.images)))]
            places = drawn_places(
                self.contract.window,
                self._centre(image, rng),
                self.config.augmentation,
                self.contract.spacing,
                rng,
            )
            low, high = image.range
            found = np.stack([sample(image.values[..., k], places) for k in range(image.values.shape[-1])])
            scaled = ((found - np.float32(low)) / np.float32(high - low)).clip(0, 1)
            windows.append(changed_values(scaled, self.config.augmentation, rng))
            labels.append(sample(image.truth, places, nearest=True))
            if image.name in self.weights:
                weights.append(sample(self.weights[image.name], places))
        shape = (-1, *(1,) * len(self.contract.window))
        mean, std = (np.array(v, np.float32).reshape(shape) for v in (self.contract.mean, self.contract.std))
        inputs = torch.from_numpy((np.stack(windows) - mean) / std)
        truth = torch.from_numpy(np.stack(labels))
        return inputs, pack(truth, torch.from_numpy(np.stack(weights)) if weights else None)

    def _centre(self, image: SegmentImage, rng: np.random.Generator) -> Floats:
        """The index in the middle of a window: of a pixel of some class, each as likely, or of any place."""
        if image.places and rng.random() < self.config.foreground_share:
            of_class = image.places[rng.integers(len(image.places))]
            found: Floats = of_class[int(rng.integers(len(of_class)))].astype(np.float64)
            return found
        middle = [
            (n - 1) / 2 + rng.integers(-(room := max(0, n - side) // 2), room + 1)
            for n, side in zip(image.truth.shape, self.answered, strict=True)
        ]
        return np.array(middle)


def drawn_places(
    shape: tuple[int, ...],
    centre: Floats,
    how: SegmentAugmentation,
    spacing: tuple[float, ...] | None,
    rng: np.random.Generator,
) -> Floats:
    """Where the pixels of a window are looked up, `(axes, *shape)`: mirrored, rotated, scaled and displaced.

    Rotation and scale are those of space: of pixels that are longer along one axis than another, `spacing` tells it.
    """
    axes = len(shape)
    side = np.ones(axes) if spacing is None else np.array(spacing) / min(spacing)
    matrix = np.eye(axes)
    displacement: Field | None = None
    if rng.random() < how.deformed:
        turned = _rotation(axes, np.deg2rad(how.rotate_degrees), rng) * (1 + how.scale) ** rng.uniform(-1, 1)
        matrix = turned * side[None, :] / side[:, None]
        if how.elastic == "grid":
            displacement = grid_displacement(shape, rng, how.elastic_px, how.elastic_nodes)
        elif how.elastic == "field":
            displacement = field_displacement(shape, rng, how.elastic_px, how.elastic_smooth_px)
        if displacement is not None:
            displacement /= side.astype(np.float32).reshape(-1, *(1,) * axes)
    flips = (how.flip,) * axes if isinstance(how.flip, bool) else how.flip
    matrix = matrix * np.where(flips, rng.choice([-1.0, 1.0], axes), 1.0)[None, :]
    # A window with an even side has its middle between two pixels, and so has an undeformed one its pixels on them.
    settled = np.round(centre - (np.array(shape) - 1) / 2) + (np.array(shape) - 1) / 2
    return window_places(shape, settled.tolist(), matrix, displacement)


def changed_values(
    values: npt.NDArray[np.float32], how: SegmentAugmentation, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Values 0 to 1 `(channels, *window)` with other gamma, contrast and brightness, and with noise; not cut again."""
    power = (1 + how.gamma) ** rng.uniform(-1, 1)
    changed = values if how.gamma == 0 else values ** np.float32(power)
    mean = changed.mean(dtype=np.float64)
    gain, shift = 1 + how.contrast * rng.uniform(-1, 1), how.brightness * rng.uniform(-1, 1)
    changed = (changed - np.float32(mean)) * np.float32(gain) + np.float32(mean + shift)
    if how.noise:
        changed = changed + rng.standard_normal(changed.shape, np.float32) * np.float32(
            rng.uniform(0, how.noise)
        )
    return np.asarray(changed, np.float32)


def _rotation(axes: int, most: float, rng: np.random.Generator) -> Floats:
    """A rotation by up to `most` radians about each axis: one in the plane, three in space."""
    if axes == 2:
        c, s = np.cos(angle := rng.uniform(-most, most)), np.sin(angle)
        return np.array([[c, -s], [s, c]])
    turned = np.eye(3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = rng.uniform(-most, most)
        one = np.eye(3)
        one[[first, second], [first, second]] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        turned = turned @ one
    return turned
