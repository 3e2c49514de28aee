"""SharpMask: a trunk's coarse answer, refined from scale to scale by the trunk's finer maps.

Pinheiro, Lin, Collobert & Dollár, ECCV 2016. The published network gives one mask for the object in the middle of a
window, with a score of whether there is one, and is slid over the image for proposals. This is its dense form: the
coarse answer is a map of all classes for each place instead of a dense layer's one mask, and there is no score. Trunk
(ResNet-50 up to stride 16), refinement modules and their channels are the paper's.

It is trained in two stages there: first the trunk with its coarse answer (`coarse`), then the refinement over a trunk
that stays as it is (`frozen_trunk`). Both stages, and the whole, have the same tensors, so that weights of one start
the next.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD
from medvision.models.segmentation.backbones import ResNet, begin, scaled
from medvision.models.segmentation.contract import SegmentContract, SegmentOptions
from medvision.models.segmentation.designs import register_segmenter
from medvision.models.segmentation.layers import Enlarge, refuse_unpooling, resized
from medvision.models.segmentation.trunk import TrunkNet

CHANNELS = (32, 16, 8, 4)
"""Of the mask encodings that the refinement modules take, the coarsest first; halved at each step, as published."""


class Coarse(nn.Module):
    """The trunk with the encoding of the mask at stride 16, and the coarse answer."""

    def __init__(self, trunk: ResNet, encoding: int, classes: int) -> None:
        super().__init__()
        self.maps = trunk
        self.encode = nn.Conv2d(trunk.channels[-1], encoding, 3, padding=1)
        self.head = nn.Conv2d(encoding, classes, 1)
        begin(self.encode)

    def forward(self, windows: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """The trunk's maps; the encoding; logits, both of stride 16."""
        found: list[torch.Tensor] = self.maps(windows)
        encoding = functional.relu(self.encode(found[-1]))
        return found, encoding, self.head(encoding)


class Refine(nn.Module):
    """A mask encoding and the trunk's maps of its scale to an encoding of twice the side.

    Convolving both joined is the sum of convolving each; so written it costs less for the same answer (section 3.2).
    """

    def __init__(self, before: int, across: int, after: int, contract: SegmentContract) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(across, before, 3, padding=1)
        self.of_maps = nn.Conv2d(before, after, 3, padding=1)
        self.of_mask = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.grow = Enlarge(2, after, after, contract.options.upsampling)

    def forward(self, mask: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """The finer encoding."""
        finer = self.of_maps(functional.relu(self.reduce(maps))) + self.of_mask(mask)
        grown: torch.Tensor = self.grow(functional.relu(finer))
        return grown


class SharpMask(TrunkNet):
    """Logits `(n, classes, *window)`; in training with deep supervision the coarse ones too, enlarged."""

    def __init__(self, contract: SegmentContract) -> None:
        refuse_unpooling(contract)
        options, classes = contract.options, len(contract.classes)
        maps = ResNet(options.trunk or "resnet50", contract.channels, options.width, stages=3)
        channels = [max(2, scaled(n, options.width)) for n in CHANNELS]
        super().__init__(contract, Coarse(maps, channels[0], classes))
        self.refine = nn.ModuleList(
            Refine(before, across, after, contract)
            for before, across, after in zip(
                channels, reversed(maps.channels), [*channels[1:], channels[-1]], strict=True
            )
        )
        self.head = nn.Conv2d(channels[-1], classes, 3, padding=1)
        begin(self.refine)
        self.coarse, self.supervised = options.coarse, options.deep_supervision
        if options.coarse:
            self.refine.requires_grad_(False)
            self.head.requires_grad_(False)

    def classifier(self) -> nn.Module:
        """The trunk without the coarse answer."""
        return self.trunk.get_submodule("maps")

    def forward(self, windows: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits."""
        found, encoding, logits = self.trunk(windows)
        coarse = resized(logits, windows)
        if self.coarse:
            return coarse
        for refine, maps in zip(self.refine, reversed(found), strict=True):
            encoding = refine(encoding, maps)
        refined: torch.Tensor = self.head(encoding)
        return (refined, coarse) if self.training and self.supervised else refined


register_segmenter(
    SegmentContract(
        architecture="sharpmask",
        classes=("background", "foreground"),
        channels=3,
        window=(256, 256),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        options=SegmentOptions(norm="batch", upsampling="resize-convolution", deep_supervision=True),
    ),
    SharpMask,
    home=f"{__name__}:SharpMask",
    family="SharpMask",
    paper="Pinheiro et al., ECCV 2016; a map of classes instead of one object's mask",
    parameters=9_243_432,
    multiple=lambda _contract: 16,
    reads=frozenset({"width", "trunk", "upsampling", "frozen_trunk", "coarse", "deep_supervision"}),
    slim={"window": (64, 64), "options": {"width": 0.125}},
)
