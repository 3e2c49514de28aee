"""TernausNet: a U-Net whose way down is VGG11's convolutions.

Iglovikov & Shvets, arXiv:1801.05746.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD
from medvision.models.segmentation.backbones import VGG, begin, scaled
from medvision.models.segmentation.contract import SegmentContract
from medvision.models.segmentation.designs import register_segmenter
from medvision.models.segmentation.layers import Enlarge, refuse_unpooling
from medvision.models.segmentation.trunk import TrunkNet


class Grow(nn.Sequential):
    """A convolution of side 3 with ReLU, then maps of twice the side with ReLU."""

    def __init__(self, before: int, middle: int, after: int, contract: SegmentContract) -> None:
        super().__init__(
            nn.Conv2d(before, middle, 3, padding=1),
            nn.ReLU(inplace=True),
            Enlarge(2, middle, after, contract.options.upsampling, side=3),
            nn.ReLU(inplace=True),
        )


class TernausNet(TrunkNet):
    """Logits `(n, classes, *window)`."""

    def __init__(self, contract: SegmentContract) -> None:
        refuse_unpooling(contract)
        width, norm = contract.options.width, contract.options.norm
        super().__init__(contract, VGG(11, contract.channels, width, norm=norm))
        middles = [scaled(n, width) for n in (512, 512, 512, 256, 128)]
        afters = [scaled(n, width) for n in (256, 256, 128, 64, 32)]
        kept = [scaled(n, width) for n in (512, 512, 256, 128, 64)]
        befores = [kept[0], *(after + across for after, across in zip(afters, kept, strict=True))]
        self.grow = nn.ModuleList(
            Grow(before, middle, after, contract)
            for before, middle, after in zip(befores[:-1], middles, afters, strict=True)
        )
        self.last = nn.Conv2d(befores[-1], afters[-1], 3, padding=1)
        self.head = nn.Conv2d(afters[-1], len(contract.classes), 1)
        begin(self.grow)
        begin(self.last)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        found = self.trunk(windows)
        maps = found[-1][1]
        for grow, (across, _) in zip(self.grow, reversed(found), strict=True):
            maps = torch.cat([grow(maps), across], dim=1)
        logits: torch.Tensor = self.head(functional.relu(self.last(maps)))
        return logits


register_segmenter(
    SegmentContract(
        architecture="ternausnet",
        classes=("background", "foreground"),
        channels=3,
        window=(256, 256),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    TernausNet,
    home=f"{__name__}:TernausNet",
    family="U-Net on a classifier",
    paper="Iglovikov & Shvets, arXiv:1801.05746 (VGG11)",
    parameters=22_927_426,
    multiple=lambda _contract: 32,
    reads=frozenset({"width", "norm", "upsampling", "frozen_trunk"}),
    slim={"window": (64, 64), "options": {"width": 0.125}},
)
