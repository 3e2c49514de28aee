"""The contract around a network: what one window must look like, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from medvision.core.geometry import Spacing

ModelOutputs = torch.Tensor | list[dict[str, torch.Tensor]]
OutputKind = Literal["scores", "vector", "image", "objects", "array"]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """`(value / 255 - mean) / std`, per channel, on values in 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def rows(self, columns: int, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift, float32 `(columns * channels,)`: the normalised row is `row * scale + shift`."""
        scale = torch.tensor([1 / (255 * s) for s in self.std], dtype=torch.float32)
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], dtype=torch.float32)
        return scale.repeat(columns).to(device), shift.repeat(columns).to(device)


def normalise(batch: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Float32 `(n, channels, *window)` from uint8 `(n, *window, channels)`, by one multiplication and addition a value.

    The memory stays in the order of the batch, channels last, which is the order that convolutions compute in fastest.
    `scale` and `shift` hold one value per column and channel (`Normalisation.rows`): whole rows are long enough to be
    computed by vector instructions, three channels are not.
    """
    rows = batch.reshape(batch.shape[0], -1, scale.shape[0]).float()
    values = torch.addcmul(shift, rows, scale).reshape(batch.shape)
    axes = batch.ndim
    return values.permute(0, axes - 1, *range(1, axes - 1))


@dataclass(frozen=True, eq=False)
class PatchModel:
    """A network and what it expects: n windows in, n outputs out, in the same order.

    `window` is in pixels at `spacing`, array order. `net` takes float `(n, channels, *window)` after
    `normalisation` and returns `(n, ...)`. `activation` turns what it returns into outputs: probabilities for
    `output == "scores"`, one column per entry of `classes`. `digest` is the SHA-256 of the weights and of this
    contract, so that results know what made them. `precisions` are the ones in which the catalogue allows it to run.
    """

    name: str
    net: nn.Module
    window: tuple[int, ...]
    spacing: Spacing | None
    normalisation: Normalisation
    output: OutputKind
    classes: tuple[str, ...]
    digest: str
    activation: Callable[[Any], ModelOutputs]
    positive: str | None = None
    precisions: tuple[str, ...] = ("float32",)
    close: tuple[str, ...] = ("float32",)
    """Precisions that were measured to give the same answers, on labelled windows: the ones "auto" chooses among."""
    version: str = ""
    calibration: str = "uncalibrated"
    """How scores became probabilities, in words for the report."""
    card: str = ""
    """Path-free text of the model card: data, licence, measured performance, intended use."""

    def prepare(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalise a uint8 batch `(n, *window, channels)`, on the device already, to `(n, channels, *window)`."""
        scale, shift = self.normalisation.rows(self.window[-1], batch.device)
        return normalise(batch, scale, shift)

    def __call__(self, batch: torch.Tensor) -> ModelOutputs:
        """Outputs `(n, ...)`, or one dictionary per window, for a uint8 batch `(n, *window, channels)`."""
        raw = self.net(self.prepare(batch))
        return self.activation(raw.float() if isinstance(raw, torch.Tensor) else raw)
