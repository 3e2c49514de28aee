"""DeepLab v1 and v2: trunks with maps of stride 8, whose convolutions spread their taps instead of losing resolution.

Chen et al., ICLR 2015 (v1) and TPAMI 2018 (v2). v1 is VGG16 with its first dense layer as a 7x7 convolution of rate 4,
or, LargeFOV, a 3x3 one of rate 12; v2 sums the scores of four branches of rates 6, 12, 18 and 24 (ASPP) on VGG16 or
ResNet-101. Scores are enlarged by bilinear interpolation. Dense CRFs are no part of the networks.

Pools of stride 2 have windows of 2, as in VGG, where the published ones have 3: so cells lie in one another and windows
are multiples of 8. Answers over several sizes of the image, a part of v2's figures, are not part of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD
from medvision.models.segmentation.backbones import VGG, ResNet, scaled
from medvision.models.segmentation.contract import SegmentContract, SegmentOptions
from medvision.models.segmentation.designs import register_segmenter
from medvision.models.segmentation.layers import resized
from medvision.models.segmentation.trunk import TrunkNet

ASPP_RATES = (6, 12, 18, 24)
STRIDE = 8


def dense_branch(before: int, middle: int, classes: int, side: int, rate: int, dropout: float) -> nn.Module:
    """VGG's dense layers as convolutions, the first with spread taps, and the scores of the classes."""
    around = rate * (side // 2)
    return nn.Sequential(
        nn.Conv2d(before, middle, side, padding=around, dilation=rate),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(middle, middle, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(middle, classes, 1),
    )


class DeepLab(TrunkNet):
    """Logits `(n, classes, *window)`: the sum of what the branches make of the trunk's last maps, enlarged."""

    def __init__(self, contract: SegmentContract, trunk: nn.Module, branches: Sequence[nn.Module]) -> None:
        super().__init__(contract, trunk)
        self.branches = nn.ModuleList(branches)
        for branch in branches:
            *_, last = [part for part in branch.modules() if isinstance(part, nn.Conv2d)]
            nn.init.normal_(last.weight, std=0.01)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        found = self.trunk(windows)[-1]
        maps = found[1] if isinstance(found, tuple) else found
        first, *others = [branch(maps) for branch in self.branches]
        return resized(sum(others, start=first), windows)


def build_vgg(contract: SegmentContract, *, side: int, channels: int, rates: Sequence[int]) -> DeepLab:
    """On VGG16; a branch for each rate, whose first layer has taps `side` wide and `channels` maps."""
    options, classes = contract.options, len(contract.classes)
    trunk = VGG(16, contract.channels, options.width, norm=options.norm, stride=STRIDE)
    before, middle = trunk.channels[-1], scaled(channels, options.width)
    return DeepLab(
        contract,
        trunk,
        [dense_branch(before, middle, classes, side, rate, options.dropout) for rate in rates],
    )


def build_resnet(contract: SegmentContract) -> DeepLab:
    """v2 on a residual network: each branch is one convolution to scores."""
    options = contract.options
    trunk = ResNet(options.trunk or "resnet101", contract.channels, options.width, stride=STRIDE)
    before, classes = trunk.channels[-1], len(contract.classes)
    return DeepLab(
        contract, trunk, [nn.Conv2d(before, classes, 3, padding=r, dilation=r) for r in ASPP_RATES]
    )


_ON_VGG = frozenset({"width", "norm", "dropout", "frozen_trunk"})
_V1, _V2 = "Chen et al., ICLR 2015", "Chen et al., TPAMI 2018"


def _register(
    name: str,
    build: Callable[[SegmentContract], DeepLab],
    paper: str,
    parameters: int,
    reads: frozenset[str],
    slim: Mapping[str, Any],
) -> None:
    register_segmenter(
        SegmentContract(
            architecture=name,
            classes=("background", "foreground"),
            channels=3,
            window=(256, 256),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            options=SegmentOptions(dropout=0.5),
        ),
        build,
        home=f"{__name__}:DeepLab",
        family="DeepLab",
        paper=paper,
        parameters=parameters,
        multiple=lambda _contract: STRIDE,
        reads=reads,
        slim={"window": (64, 64), "options": slim},
    )


_large = partial(build_vgg, side=7, channels=4096, rates=(4,))
_field = partial(build_vgg, side=3, channels=1024, rates=(12,))
_pyramid = partial(build_vgg, side=3, channels=1024, rates=ASPP_RATES)
_eighth = {"width": 0.125}
_register("deeplab-v1", _large, _V1, 134_268_738, _ON_VGG, _eighth)
_register("deeplab-v1-largefov", _field, f"{_V1} (LargeFOV)", 20_485_954, _ON_VGG, _eighth)
_register("deeplab-v2-vgg16", _pyramid, f"{_V2} (ASPP)", 37_799_752, _ON_VGG, _eighth)
_register(
    "deeplab-v2-resnet101",
    build_resnet,
    f"{_V2} (ASPP)",
    42_647_624,
    frozenset({"width", "trunk", "frozen_trunk"}),
    {"width": 0.0625, "trunk": "resnet50"},
)
