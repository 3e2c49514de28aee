"""What the segmentation networks are made of, on two axes or three: convolutions, pooling, ways to enlarge maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn
from torch.nn import functional

from medvision.core.errors import UsageError
from medvision.models.segmentation.contract import Norm, SegmentContract, Upsampling

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_MEAN = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_UNPOOL = {2: nn.MaxUnpool2d, 3: nn.MaxUnpool3d}
_BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_SMOOTH = {2: "bilinear", 3: "trilinear"}


def convolution(
    axes: int,
    before: int,
    after: int,
    side: int,
    *,
    padding: int = 0,
    stride: int = 1,
    rate: int = 1,
    bias: bool = True,
) -> nn.Module:
    """A convolution on `axes` axes; `rate` spreads its taps (atrous, or dilated, convolution)."""
    return _CONVOLUTION[axes](before, after, side, stride=stride, padding=padding, dilation=rate, bias=bias)


def doubling(axes: int, before: int, after: int, side: int = 2, *, bias: bool = True) -> nn.Module:
    """A transposed convolution that gives exactly twice the side, of taps 2, 3 or 4 wide."""
    padding, beside = {2: (0, 0), 3: (1, 1), 4: (1, 0)}[side]
    return _TRANSPOSED[axes](before, after, side, stride=2, padding=padding, output_padding=beside, bias=bias)


def max_pool(axes: int, *, indices: bool = False) -> nn.Module:
    """The largest of each 2 by 2 (by 2); with `indices` also where it was."""
    return _POOL[axes](2, return_indices=indices)


def average_pool(axes: int) -> nn.Module:
    """The mean of each 2 by 2 (by 2)."""
    return _MEAN[axes](2)


def normalisation(axes: int, channels: int, norm: Norm) -> nn.Module:
    """What `norm` names."""
    if norm == "batch":
        return _BATCH_NORM[axes](channels)
    if norm == "instance":
        return _INSTANCE_NORM[axes](channels, affine=True)
    return nn.Identity()


class Convolutions(nn.Sequential):
    """Two convolutions of side 3, each with its normalisation and ReLU."""

    def __init__(self, axes: int, before: int, after: int, norm: Norm, *, padded: bool) -> None:
        layers: list[nn.Module] = []
        for channels in (before, after):
            layers.append(convolution(axes, channels, after, 3, padding=int(padded)))
            if norm != "none":
                layers.append(normalisation(axes, after, norm))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


@dataclass(frozen=True, slots=True)
class Pooled:
    """Where max-pooling found its values: flat indices into maps of `sides`, `(n, channels, *pooled sides)`."""

    places: torch.Tensor
    sides: tuple[int, ...]

    def under(self, maps: torch.Tensor) -> torch.Tensor:
        """The indices under the middle that `maps` are of, into the part of twice their side that unpooling makes.

        Networks without padding come back with less than was pooled: an index into the whole is none into the part.
        """
        kept = crop_to(self.places, maps)
        flat, inside, step = kept, torch.zeros_like(kept), 1
        for axis in reversed(range(len(self.sides))):
            first = 2 * ((self.places.shape[2 + axis] - maps.shape[2 + axis]) // 2)
            inside = inside + (flat % self.sides[axis] - first) * step
            flat = torch.div(flat, self.sides[axis], rounding_mode="floor")
            step *= 2 * maps.shape[2 + axis]
        return inside


def refuse_unpooling(contract: SegmentContract) -> None:
    """Refuse max-unpooling in a network that does not pool, or pools other maps than it enlarges.

    Raises:
        UsageError: with the ways there are.
    """
    if contract.options.upsampling == "max-unpooling":
        known = ", ".join(how for how in get_args(Upsampling) if how != "max-unpooling")
        raise UsageError(
            f"network {contract.architecture!r} has no max-pooling to undo: upsampling is one of {known}"
        )


class Enlarge(nn.Module):
    """Maps of twice the side and `after` channels, in one of the five ways that are in use.

    "transposed": a transposed convolution of `side`. "nearest": every value repeated, then a convolution of side 1.
    "resize-convolution": (bi-, tri-)linear interpolation, then a convolution of side 3 (Odena et al., Distill 2016).
    "bed-of-nails": every value in the first corner of its cell among zeros, then a convolution of side 3.
    "max-unpooling": every value where the largest of its cell was on the way down, among zeros (Zeiler & Fergus, ECCV
    2014); a convolution of side 1 before brings the channels to those of the pooled maps.
    """

    def __init__(
        self, axes: int, before: int, after: int, how: Upsampling, *, side: int = 2, bias: bool = True
    ) -> None:
        super().__init__()
        self.how, self.axes = how, axes
        if how == "transposed":
            self.learnt = doubling(axes, before, after, side, bias=bias)
        elif how in ("nearest", "max-unpooling"):
            self.learnt = convolution(axes, before, after, 1, bias=bias)
        else:
            self.learnt = convolution(axes, before, after, 3, padding=1, bias=bias)
        self.unpool = _UNPOOL[axes](2)

    def forward(self, maps: torch.Tensor, pooled: Pooled | None = None) -> torch.Tensor:
        """The enlarged maps; `pooled`, of max-unpooling, is where the pooling found its values."""
        if self.how == "transposed":
            return self._learnt(maps)
        if self.how == "nearest":
            return functional.interpolate(self._learnt(maps), scale_factor=2.0, mode="nearest")
        if self.how == "max-unpooling":
            if pooled is None:
                raise ValueError("max-unpooling needs the places that the pooling on the way down gave")
            maps = self._learnt(maps)
            return self._unpooled(maps, pooled.under(maps))
        if self.how == "bed-of-nails":
            return self._learnt(bed_of_nails(maps))
        larger = functional.interpolate(maps, scale_factor=2.0, mode=_SMOOTH[self.axes], align_corners=False)
        return self._learnt(larger)

    def _learnt(self, maps: torch.Tensor) -> torch.Tensor:
        learnt: torch.Tensor = self.learnt(maps)
        return learnt

    def _unpooled(self, maps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        unpooled: torch.Tensor = self.unpool(maps, places)
        return unpooled


def bed_of_nails(maps: torch.Tensor) -> torch.Tensor:
    """`(n, c, *s)` to `(n, c, *2s)`: each value in the first corner of its cell, zeros beside it."""
    larger = maps.new_zeros((*maps.shape[:2], *(2 * n for n in maps.shape[2:])))
    corners: list[slice] = [slice(None), slice(None), *(slice(None, None, 2) for _ in maps.shape[2:])]
    larger[tuple(corners)] = maps
    return larger


def crop_to(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The middle of `maps` that is as large as `like`."""
    for axis in range(2, maps.ndim):
        side = like.shape[axis]
        maps = maps.narrow(axis, (maps.shape[axis] - side) // 2, side)
    return maps


def bilinear_taps(factor: int) -> torch.Tensor:
    """Weights `(1, 1, 2 factor, 2 factor)` with which a transposed convolution of that stride interpolates linearly.

    For even `factor`, with padding `factor / 2`: twice the side for 2, and so on. Each place that is `d` from a value's
    own takes `1 - d / factor` of it.
    """
    away = (torch.arange(2 * factor) - (2 * factor - 1) / 2).abs()
    line = 1 - away / factor
    return (line[:, None] * line)[None, None]


def resized(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`maps` linearly interpolated to the sides of `like`; cells, not their middles, lie in one another."""
    smooth = _SMOOTH[like.ndim - 2]
    return functional.interpolate(maps, size=like.shape[2:], mode=smooth, align_corners=False)
