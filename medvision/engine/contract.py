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
    """`(v - mean) / std` per channel, where v is the value's place between `low` (0) and `high` (1).

    Bytes run from 0 to 255. Of other values `low` and `high` are a window, such as -1000 to 400 HU for lungs: what lies
    outside is cut to its ends first.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a window from {self.low} to {self.high} is empty")

    @property
    def window(self) -> tuple[float, float] | None:
        """Ends to which values are cut; None for bytes, which cannot lie outside."""
        return None if (self.low, self.high) == (0, 255) else (self.low, self.high)

    def rows(self, columns: int, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift, float32 `(columns * channels,)`: the normalised row is `row * scale + shift`."""
        width, low = self.high - self.low, self.low / (self.high - self.low)
        scale = torch.tensor([1 / (width * s) for s in self.std], dtype=torch.float32)
        shift = torch.tensor(
            [(-m - low) / s for m, s in zip(self.mean, self.std, strict=True)], dtype=torch.float32
        )
        return scale.repeat(columns).to(device), shift.repeat(columns).to(device)


def normalise(
    batch: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    window: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Float32 `(n, channels, *window)` from `(n, *window, channels)`, by one multiplication and addition a value.

    With `window`, values are cut to its ends before (`Normalisation.window`).

    The memory stays in the order of the batch, channels last, which is the order that convolutions compute in fastest.
    `scale` and `shift` hold one value per column and channel (`Normalisation.rows`): whole rows are long enough to be
    computed by vector instructions, three channels are not.
    """
    rows = batch.reshape(batch.shape[0], -1, scale.shape[0]).float()
    if window is not None:
        rows = rows.clamp(*window)
    values = torch.addcmul(shift, rows, scale).reshape(batch.shape)
    axes = batch.ndim
    return values.permute(0, axes - 1, *range(1, axes - 1))


class Normaliser:
    """`normalise` for one model and device, again and again: on the CPU into memory that is kept.

    A batch is tens of megabytes, which the allocator would take from the system and give back each time; touching them
    anew costs ten times as much as the arithmetic. What is returned is therefore overwritten by the next call.
    """

    def __init__(
        self, normalisation: Normalisation, columns: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._scale, self._shift = normalisation.rows(columns, device)
        self._window = normalisation.window
        self._dtype = dtype
        self._kept = torch.empty(0)
        self._cast = torch.empty(0, dtype=dtype)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """`(n, channels, *window)` in the wanted type from `(n, *window, channels)` on the device."""
        if batch.device.type != "cpu":
            return normalise(batch, self._scale, self._shift, self._window).to(self._dtype)
        if self._kept.numel() < batch.numel():
            with torch.inference_mode(False):  # so that it may be written to outside that mode as well
                self._kept = torch.empty(batch.numel())
                if self._dtype != torch.float32:
                    self._cast = torch.empty(batch.numel(), dtype=self._dtype)
        rows = self._kept[: batch.numel()].view(batch.shape[0], -1, self._scale.shape[0])
        rows.copy_(batch.reshape(rows.shape))
        if self._window is not None:
            rows.clamp_(*self._window)
        torch.addcmul(self._shift, rows, self._scale, out=rows)
        if self._dtype != torch.float32:
            rows = self._cast[: batch.numel()].view(rows.shape).copy_(rows)
        axes = batch.ndim
        return rows.view(batch.shape).permute(0, axes - 1, *range(1, axes - 1))

    def owns(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` lies in the memory that the next call overwrites."""
        mine = {part.untyped_storage().data_ptr() for part in (self._kept, self._cast) if part.numel()}
        return tensor.untyped_storage().data_ptr() in mine


@dataclass(frozen=True, eq=False)
class PatchModel:
    """A network and what it expects: n windows in, n outputs out, in the same order.

    `window` is in pixels at `spacing`, array order. Windows come in the type of their source: bytes of slides, or what
    `normalisation` has a window for, as int16 Hounsfield units. `net` takes float `(n, channels, *window)` after
    `normalisation` and returns `(n, ...)`. `activation` turns what it returns into outputs: probabilities for
    `output == "scores"`, one column per entry of `columns`. `digest` is the SHA-256 of the weights and of this
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
    close: tuple[tuple[str, str], ...] = ()
    """Backends with precisions that were measured, on labelled windows, to give the answers of eager float32. Among
    these, and float32 itself, "auto" chooses."""
    version: str = ""
    calibration: str = "uncalibrated"
    """How scores became probabilities, in words for the report."""
    card: str = ""
    """Path-free text of the model card: data, licence, measured performance, intended use."""
    extras: tuple[str, ...] = ()
    """Names of columns that follow those of the classes and are no probabilities of a class."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns of the scores."""
        return (*self.classes, *self.extras)

    def prepare(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalise a batch `(n, *window, channels)`, on the device already, to `(n, channels, *window)`."""
        scale, shift = self.normalisation.rows(self.window[-1], batch.device)
        return normalise(batch, scale, shift, self.normalisation.window)

    def __call__(self, batch: torch.Tensor) -> ModelOutputs:
        """Outputs `(n, ...)`, or one dictionary per window, for a batch `(n, *window, channels)`."""
        raw = self.net(self.prepare(batch))
        return self.activation(raw.float() if isinstance(raw, torch.Tensor) else raw)
