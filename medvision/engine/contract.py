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
    version: str = ""
    calibration: str = "uncalibrated"
    """How scores became probabilities, in words for the report."""
    card: str = ""
    """Path-free text of the model card: data, licence, measured performance, intended use."""

    def prepare(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalise a uint8 batch `(n, *window, channels)`, on the device already, to `(n, channels, *window)`."""
        return _normalised(batch, self.normalisation)

    def __call__(self, batch: torch.Tensor) -> ModelOutputs:
        """Outputs `(n, ...)`, or one dictionary per window, for a uint8 batch `(n, *window, channels)`."""
        raw = self.net(self.prepare(batch))
        return self.activation(raw.float() if isinstance(raw, torch.Tensor) else raw)


def _normalised(batch: torch.Tensor, by: Normalisation) -> torch.Tensor:
    """Two passes over whole rows: broadcasting along a last axis of three channels would take five times as long."""
    size = batch.shape[-2]
    scale = [1 / (255 * std) for std in by.std] * size
    offset = [-mean / std for mean, std in zip(by.mean, by.std, strict=True)] * size
    rows = batch.reshape(*batch.shape[:-2], -1).float()
    torch.addcmul(rows.new_tensor(offset), rows, rows.new_tensor(scale), out=rows)
    values = rows.reshape(batch.shape)
    return values.permute(0, batch.ndim - 1, *range(1, batch.ndim - 1))
