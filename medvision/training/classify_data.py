"""Batches of labelled images: drawn by class, changed at random, mixed; each a function of its step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from medvision.ops.resize import Pixels, Resize, fit_square
from medvision.training.classify_config import ImageAugmentation, TrainClassifyConfig
from medvision.training.images import LabelledImages
from medvision.training.loop import Batch

_KEPT_BYTES = 2_000_000_000
"""Of resized images that are kept in memory; a larger set is read anew for each batch."""


@dataclass(eq=False)
class ResizedImages:
    """The images of a set as the network takes them, kept in memory where they fit."""

    images: LabelledImages
    side: int
    resize: Resize

    def __post_init__(self) -> None:
        self._kept: list[Pixels | None] = [None] * len(self.images)
        self._keep = len(self.images) * self.side * self.side * 3 <= _KEPT_BYTES
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="medvision-images")

    def read(self, index: int) -> Pixels:
        """One image, uint8 `(side, side, 3)`."""
        found = self._kept[index]
        if found is None:
            found = fit_square(self.images.read(index), self.side, self.resize)
            if self._keep:
                self._kept[index] = found
        return found

    def batch(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """Images of these numbers, float32 `(n, 3, side, side)` in 0..1."""
        stacked = np.stack(list(self._pool.map(self.read, indices.tolist())))
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def drawer(
    images: LabelledImages, config: TrainClassifyConfig, seed: int
) -> Callable[[int], npt.NDArray[np.int64]]:
    """Which images a step learns from: balanced, a class and then one of its images; natural, each once an epoch."""
    count = len(images)
    by_class = [np.flatnonzero(images.labels == label) for label in range(len(images.classes))]
    by_class = [found for found in by_class if len(found)]

    def balanced(step: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng((seed, step))
        which = rng.permutation(np.arange(config.batch_size) % len(by_class))
        return np.array([rng.choice(by_class[label]) for label in which], np.int64)

    def natural(step: int) -> npt.NDArray[np.int64]:
        places = np.arange(step * config.batch_size, (step + 1) * config.batch_size)
        orders = {
            epoch: np.random.default_rng((seed, int(epoch))).permutation(count)
            for epoch in set(places // count)
        }
        return np.array([orders[place // count][place % count] for place in places], np.int64)

    return balanced if config.sampling == "balanced" else natural


def batches(
    data: ResizedImages,
    config: TrainClassifyConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
) -> Callable[[int], Batch]:
    """Normalised inputs `(n, 3, side, side)` and targets `(n, classes)` (rows sum to 1) by step."""
    draw = drawer(data.images, config, seed)
    classes = len(data.images.classes)
    labels = torch.from_numpy(data.images.labels)
    shift, scale = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (mean, std))

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = draw(step)
        inputs = change(data.batch(chosen), config.augmentation, generator)
        targets = functional.one_hot(labels[chosen], classes).float()
        if config.mixup > 0:
            inputs, targets = mixed(inputs, targets, config.mixup, np.random.default_rng((seed, step, 1)))
        return (inputs - shift) / scale, targets

    return batch


def mixed(
    inputs: torch.Tensor, targets: torch.Tensor, alpha: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image blended with another of the batch, and their targets alike (Zhang et al., mixup, ICLR 2018)."""
    count = len(inputs)
    share = torch.from_numpy(rng.beta(alpha, alpha, count).astype(np.float32))
    partner = torch.from_numpy(rng.permutation(count))
    wide = share[:, None, None, None]
    return (
        wide * inputs + (1 - wide) * inputs[partner],
        share[:, None] * targets + (1 - share[:, None]) * targets[partner],
    )


def change(images: torch.Tensor, how: ImageAugmentation, generator: torch.Generator) -> torch.Tensor:
    """Images `(n, 3, rows, columns)` in 0..1, each changed at random in place, size and tone."""
    count = len(images)

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape or (count,), generator=generator)

    angle = torch.deg2rad(between(-how.rotation_deg, how.rotation_deg))
    factor = torch.exp(between(-1, 1) * float(np.log1p(how.scale)))
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = torch.cos(angle) / factor, -torch.sin(angle) / factor
    theta[:, 1, 0], theta[:, 1, 1] = torch.sin(angle) / factor, torch.cos(angle) / factor
    theta[:, :, 2] = 2 * between(-how.shift, how.shift, count, 2)
    mirror = 1 - 2 * (between(0, 1, count, 2) < torch.tensor([how.flip, how.flip_rows])).float()
    theta[:, :, 0] *= mirror[:, :1]
    theta[:, :, 1] *= mirror[:, 1:]
    if not torch.equal(theta, torch.eye(2, 3).expand_as(theta)):
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        images = functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    gain = 1 + between(-how.contrast, how.contrast)[:, None, None, None]
    images = middle + (images - middle) * gain + between(-how.brightness, how.brightness)[:, None, None, None]
    if how.noise > 0:
        sigma = between(0, how.noise)[:, None, None, None]
        images = images + sigma * torch.randn(images.shape, generator=generator)
    return _erased(images.clamp(0, 1), how.erase, generator)


def _erased(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Some images with a rectangle in mid-grey (Zhong et al., random erasing, AAAI 2020)."""
    rows, columns = images.shape[2:]
    for index in torch.nonzero(torch.rand(len(images), generator=generator) < share).flatten().tolist():
        area, oblong, top, left = torch.rand(4, generator=generator).tolist()
        side = (0.02 + 0.18 * area) ** 0.5
        tall = min(rows, max(1, round(rows * side * 2 ** (2 * oblong - 1))))
        wide = min(columns, max(1, round(columns * side / 2 ** (2 * oblong - 1))))
        row, column = int(top * (rows - tall)), int(left * (columns - wide))
        images[index, :, row : row + tall, column : column + wide] = 0.5
    return images
