"""FC-DenseNet, the hundred layers Tiramisu: dense blocks all the way down and up.

Jégou et al., CVPR Workshops 2017. In a dense block every layer gives `growth` maps and sees those of all before it. On
the way up only the maps that a block has added are enlarged, so that their number stays bounded.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from medvision.models.segmentation.backbones import begin, scaled
from medvision.models.segmentation.contract import SegmentContract, SegmentOptions
from medvision.models.segmentation.designs import register_segmenter
from medvision.models.segmentation.layers import (
    Enlarge,
    convolution,
    crop_to,
    max_pool,
    normalisation,
    refuse_unpooling,
)

FIRST = 48
"""Channels of the first convolution, as published."""


class Layer(nn.Sequential):
    """Normalisation, ReLU, convolution, dropout: the order that all layers have."""

    def __init__(self, axes: int, before: int, after: int, side: int, dropout: float) -> None:
        super().__init__(
            normalisation(axes, before, "batch"),
            nn.ReLU(inplace=True),
            convolution(axes, before, after, side, padding=side // 2),
            nn.Dropout(dropout),
        )


class DenseBlock(nn.Module):
    """`(n, before, *s)` to the maps it adds, `(n, layers * growth, *s)`."""

    def __init__(self, axes: int, before: int, layers: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(axes, before + place * growth, growth, 3, dropout) for place in range(layers)
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """The new maps of all layers."""
        new: list[torch.Tensor] = []
        for layer in self.layers:
            new.append(layer(torch.cat([maps, *new], dim=1)))
        return torch.cat(new, dim=1)


class FCDenseNet(nn.Module):
    """Logits `(n, classes, *window)`. `layers` are those of each block on the way down, and at the bottom."""

    def __init__(self, contract: SegmentContract, *, layers: tuple[int, ...], growth: int) -> None:
        super().__init__()
        refuse_unpooling(contract)
        axes, options = len(contract.window), contract.options
        first, growth = scaled(FIRST, options.width), scaled(growth, options.width)
        *down, bottom = layers
        self.first = convolution(axes, contract.channels, first, 3, padding=1)
        self.down, self.shrink, kept = nn.ModuleList(), nn.ModuleList(), []
        channels = first
        for count in down:
            self.down.append(DenseBlock(axes, channels, count, growth, options.dropout))
            channels += count * growth
            kept.append(channels)
            self.shrink.append(
                nn.Sequential(Layer(axes, channels, channels, 1, options.dropout), max_pool(axes))
            )
        self.bottom = DenseBlock(axes, channels, bottom, growth, options.dropout)
        self.grow, self.up = nn.ModuleList(), nn.ModuleList()
        new = bottom * growth
        for count, across in zip(reversed(down), reversed(kept), strict=True):
            self.grow.append(Enlarge(axes, new, new, options.upsampling, side=3))
            self.up.append(DenseBlock(axes, across + new, count, growth, options.dropout))
            channels, new = across + new + count * growth, count * growth
        self.head = convolution(axes, channels, len(contract.classes), 1)
        begin(self)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        maps, kept = self.first(windows), []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            maps = torch.cat([maps, block(maps)], dim=1)
            kept.append(maps)
            maps = shrink(maps)
        new = self.bottom(maps)
        for grow, block, across in zip(self.grow, self.up, reversed(kept), strict=True):
            maps = torch.cat([across, crop_to(grow(new), across)], dim=1)
            new = block(maps)
        logits: torch.Tensor = self.head(torch.cat([maps, new], dim=1))
        return logits


def _register(depth: int, layers: tuple[int, ...], growth: int, parameters: int) -> None:
    register_segmenter(
        SegmentContract(
            architecture=f"fc-densenet{depth}",
            classes=("background", "foreground"),
            channels=3,
            window=(224, 224),
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            options=SegmentOptions(norm="batch", dropout=0.2),
        ),
        partial(FCDenseNet, layers=layers, growth=growth),
        home=f"{__name__}:FCDenseNet",
        family="FC-DenseNet",
        paper="Jégou et al., CVPR Workshops 2017",
        parameters=parameters,
        axes=(2, 3),
        multiple=lambda _contract: 32,
        reads=frozenset({"width", "upsampling", "dropout"}),
        slim={"window": (64, 64), "options": {"width": 0.25}},
    )


_register(56, (4,) * 6, 12, 1_375_058)
_register(67, (5,) * 6, 16, 3_460_642)
_register(103, (4, 5, 7, 10, 12, 15), 16, 9_319_778)
