"""U-Net: a contracting path, an expanding path, and the maps of each scale handed across.

Ronneberger, Fischer & Brox, MICCAI 2015. `unet-original` is the published network: convolutions without padding, so
that 572 pixels give 388, and every answer rests on pixels that were seen. `unet` pads, so that a window answers for all
of itself. Both take images and volumes.
"""

from __future__ import annotations

import torch
from torch import nn

from medvision.models.segmentation.contract import SegmentContract, SegmentOptions
from medvision.models.segmentation.designs import register_segmenter
from medvision.models.segmentation.layers import (
    Convolutions,
    Enlarge,
    Pooled,
    convolution,
    crop_to,
    max_pool,
)

CHANNELS = 64
"""Of the first scale, as published; doubled at each halving."""


class UNet(nn.Module):
    """Logits `(n, classes, *out)` of windows `(n, channels, *window)`; `padded` keeps `out` the window."""

    def __init__(self, contract: SegmentContract, *, padded: bool) -> None:
        super().__init__()
        axes, options = len(contract.window), contract.options
        width = [max(1, round(CHANNELS * options.width * 2**level)) for level in range(options.depth + 1)]
        unpooled = options.upsampling == "max-unpooling"
        self.down = nn.ModuleList(
            Convolutions(axes, before, after, options.norm, padded=padded)
            for before, after in zip([contract.channels, *width[:-1]], width, strict=True)
        )
        self.pool = max_pool(axes, indices=unpooled)
        self.unpooled = unpooled
        self.drop = nn.Dropout(options.dropout)
        self.grow = nn.ModuleList(
            Enlarge(axes, coarse, fine, options.upsampling)
            for coarse, fine in zip(width[:0:-1], width[-2::-1], strict=True)
        )
        self.up = nn.ModuleList(
            Convolutions(axes, 2 * fine, fine, options.norm, padded=padded) for fine in width[-2::-1]
        )
        self.heads = nn.ModuleList(
            convolution(axes, fine, len(contract.classes), 1)
            for fine in (width[-2::-1] if options.deep_supervision else width[:1])
        )

    def forward(self, windows: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits; in training with deep supervision, those of every scale, finest first."""
        maps, kept = windows, []
        places: list[Pooled] = []
        for level, block in enumerate(self.down):
            if level and self.unpooled:
                sides = tuple(maps.shape[2:])
                maps, at = self.pool(maps)
                places.append(Pooled(at, sides))
            elif level:
                maps = self.pool(maps)
            maps = block(maps)
            kept.append(maps)
        maps = self.drop(maps)
        outputs = []
        for level, (grow, block) in enumerate(zip(self.grow, self.up, strict=True)):
            across = kept[-2 - level]
            maps = grow(maps, places[-1 - level] if self.unpooled else None)
            maps = block(torch.cat([crop_to(across, maps), maps], dim=1))
            if self.training and len(self.heads) > 1:
                outputs.append(self.heads[level](maps))
        if outputs:
            return tuple(reversed(outputs))
        logits: torch.Tensor = self.heads[-1](maps)
        return logits


def build_original(contract: SegmentContract) -> UNet:
    """Without padding."""
    return UNet(contract, padded=False)


def build_padded(contract: SegmentContract) -> UNet:
    """With padding."""
    return UNet(contract, padded=True)


def lost_pixels(contract: SegmentContract) -> int:
    """The largest side of a window from which nothing is left, of those with as much left at every scale.

    Two convolutions of 3 take 4 off a side, at each scale on the way down, which is 4 (2^(depth + 1) - 1) pixels of the
    window. The coarsest maps must keep so many that the way up, which takes off 4 (2^depth - 1), leaves some.
    """
    coarsest = 2**contract.options.depth
    down, up = 4 * (2 * coarsest - 1), 4 * (coarsest - 1)
    return down + up // coarsest * coarsest


_PAPER = "Ronneberger et al., MICCAI 2015"
_READS = frozenset({"width", "depth", "norm", "upsampling", "dropout", "deep_supervision"})

register_segmenter(
    SegmentContract(
        architecture="unet-original",
        classes=("background", "foreground"),
        channels=1,
        window=(572, 572),
        options=SegmentOptions(dropout=0.5),
    ),
    build_original,
    home=f"{__name__}:UNet",
    family="U-Net",
    paper=f"{_PAPER}: no padding, 572 to 388",
    parameters=31_030_658,
    axes=(2, 3),
    multiple=lambda contract: 2**contract.options.depth,
    lost=lost_pixels,
    reads=_READS,
    slim={"window": (220, 220), "options": {"width": 0.125}},
)
register_segmenter(
    SegmentContract(
        architecture="unet",
        classes=("background", "foreground"),
        channels=1,
        window=(256, 256),
        options=SegmentOptions(norm="batch"),
    ),
    build_padded,
    home=f"{__name__}:UNet",
    family="U-Net",
    paper=f"{_PAPER}; padded, with batch normalisation",
    parameters=31_042_434,
    axes=(2, 3),
    multiple=lambda contract: 2**contract.options.depth,
    reads=_READS,
    slim={"window": (64, 64), "options": {"width": 0.125}},
)
