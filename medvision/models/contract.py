"""What a weights file says about itself: the input it wants, the classes it gives, how it was calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_UP, Context
from itertools import pairwise

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_TWO_DIGITS = Context(prec=2, rounding=ROUND_UP)


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


class Difference(BaseModel):
    """How far a backend in a precision is from eager float32: largest change of a probability, change of the AUC.

    `probability` and `auc` were measured on labelled `windows`; `heatmap` and `heatmap_mean` are the largest and the
    mean change over the `cells` of heatmaps, where slides were analysed both ways.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    precision: str
    probability: float = Field(ge=0)
    auc: float = Field(ge=0)
    windows: int = Field(gt=0)
    heatmap: float | None = Field(default=None, ge=0)
    heatmap_mean: float | None = Field(default=None, ge=0)
    cells: int = Field(default=0, ge=0)

    @field_validator("probability", "auc", "heatmap", "heatmap_mean")
    @classmethod
    def _rounded_up(cls, value: float | None) -> float | None:
        """Two digits, upwards, so that rounding never brings a difference within a bound."""
        return None if value is None else float(_TWO_DIGITS.create_decimal(repr(value)))

    @property
    def is_close(self) -> bool:
        """Probabilities and heatmap within 0.01, and the AUC the same to three decimals."""
        return max(self.probability, self.heatmap or 0.0) <= 0.01 and self.auc < 0.0005


class CellGrid(BaseModel):
    """The cells of an NCRF, in pixels at the contract's spacing.

    A region is 3 x 3 cells of `cell_px`, and the network sees the centre crop of `crop_px` of each. `stride_px` is from
    one heatmap cell to the next, unless another is asked for. Without `crf` a window is one crop.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell_px: int = Field(gt=0)
    crop_px: int = Field(gt=0)
    stride_px: int = Field(gt=0)
    crf: bool = True

    @field_validator("crop_px")
    @classmethod
    def _centred(cls, crop: int, info: ValidationInfo) -> int:
        """A crop that lies in the middle of its cell by whole pixels, however the region is turned."""
        cell = info.data.get("cell_px", crop)
        if crop > cell or (cell - crop) % 2:
            raise ValueError(f"a crop of {crop} px has no place in the middle of a cell of {cell} px")
        return crop

    @property
    def margin_px(self) -> int:
        """From the edge of a cell to its crop."""
        return (self.cell_px - self.crop_px) // 2

    @property
    def window_px(self) -> int:
        """Side of what one answer looks at."""
        return 3 * self.cell_px if self.crf else self.crop_px


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
    isotonic: tuple[tuple[float, float], ...] | None = None
    """Knots (tempered probability, calibrated probability) of the positive class's calibration, where there is one."""
    calibration: str = "uncalibrated"
    precisions: tuple[str, ...] = ("float32",)
    version: str = ""
    figures: dict[str, Figure] = Field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    """Of the ways to compute it that were measured. Others than float32 run only when they are asked for."""
    grid: CellGrid | None = None
    """Of an NCRF: its cells."""

    @property
    def close(self) -> tuple[tuple[str, str], ...]:
        """Backends with precisions that were measured to give the same answers."""
        return tuple((found.backend, found.precision) for found in self.differences if found.is_close)

    @field_validator("grid")
    @classmethod
    def _one_window(cls, grid: CellGrid | None, info: ValidationInfo) -> CellGrid | None:
        """The window follows from the cells."""
        window = info.data.get("window_px")
        if grid is not None and window is not None and grid.window_px != window:
            raise ValueError(f"the window of these cells is {grid.window_px} px, not {window}")
        return grid

    @field_validator("isotonic")
    @classmethod
    def _monotone(
        cls, knots: tuple[tuple[float, float], ...] | None
    ) -> tuple[tuple[float, float], ...] | None:
        """A table of probabilities that rises along its first column and does not fall along its second."""
        if knots == ():
            raise ValueError("a table needs at least 1 knot")
        for (x0, y0), (x1, y1) in pairwise(knots or ()):
            if not (x0 < x1 and y0 <= y1):
                raise ValueError(f"knots ({x0:g}, {y0:g}) and ({x1:g}, {y1:g}) are not in rising order")
        if any(not 0 <= value <= 1 for knot in knots or () for value in knot):
            raise ValueError("knots must be probabilities, in [0, 1]")
        return knots


@dataclass(frozen=True, slots=True)
class TemperedSoftmax:
    """Probabilities `(n, classes)` from logits: softmax of `logits / temperature` (Guo et al., ICML 2017)."""

    temperature: float = 1.0

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Rows that sum to 1."""
        return torch.softmax(logits / self.temperature, dim=1)


@dataclass(frozen=True, slots=True)
class IsotonicSoftmax:
    """Tempered probabilities `(n, classes)` with the positive class's mapped through a monotone table.

    Linear between the knots, constant beyond them (Zadrozny & Elkan, KDD 2002). The other classes share what is left in
    the proportion that they had.
    """

    temperature: float
    knots: tuple[tuple[float, float], ...]
    positive: int

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Rows that sum to 1."""
        tempered = torch.softmax(logits / self.temperature, dim=1)
        table = torch.tensor(self.knots, dtype=tempered.dtype, device=tempered.device)
        after = _interpolated(tempered[:, self.positive], table[:, 0].contiguous(), table[:, 1])
        others = tempered.clone()
        others[:, self.positive] = 0
        # Summed, not taken from 1: where the network is nearly certain, the difference would be rounding noise.
        rest = others.sum(dim=1, keepdim=True)
        # Where it is wholly certain, the others have no proportion: each gets the same.
        even = torch.full_like(others, 1 / (logits.shape[1] - 1))
        share = torch.where(rest > 0, others / rest.clamp_min(torch.finfo(rest.dtype).tiny), even)
        mapped = share * (1 - after)[:, None]
        mapped[:, self.positive] = after
        return mapped


def _interpolated(values: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`numpy.interp` for tensors: linear between the points, constant beyond them."""
    if len(x) == 1:
        return y.expand_as(values)
    right = torch.searchsorted(x, values.contiguous()).clamp(1, len(x) - 1)
    left = right - 1
    share = ((values - x[left]) / (x[right] - x[left])).clamp(0, 1)
    return y[left] + share * (y[right] - y[left])
