"""What a weights file says about itself: the input it wants, the classes it gives, how it was calibrated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Figure(BaseModel):
    """A measured figure of merit, with its 95% interval where one was estimated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    interval: tuple[float, float] | None = None
    protocol: str

    @field_validator("value")
    @classmethod
    def _rounded(cls, value: float) -> float:
        """Four digits: more would claim a precision that no such figure has."""
        return round(value, 4)

    @field_validator("interval")
    @classmethod
    def _rounded_interval(cls, interval: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if interval is None else (round(interval[0], 4), round(interval[1], 4))


class WeightsContract(BaseModel):
    """The metadata kept inside a safetensors file: everything that must not be guessed at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    classes: tuple[str, ...] = Field(min_length=2)
    positive: str | None = None
    window_px: int = Field(gt=0)
    spacing_um: float = Field(gt=0)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    temperature: float = Field(1.0, gt=0)
    calibration: str = "uncalibrated"
    precisions: tuple[str, ...] = ("float32",)
    version: str = ""
    figures: dict[str, Figure] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TemperedSoftmax:
    """Probabilities `(n, classes)` from logits: softmax of `logits / temperature` (Guo et al., ICML 2017)."""

    temperature: float = 1.0

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Rows that sum to 1."""
        return torch.softmax(logits / self.temperature, dim=1)
