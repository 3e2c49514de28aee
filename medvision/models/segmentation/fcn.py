"""Fully convolutional networks: a classifier whose dense layers are convolutions, and its scores enlarged.

Long, Shelhamer & Darrell, CVPR 2015; Shelhamer et al., TPAMI 2017. FCN-32s enlarges the scores of the coarsest maps at
once; 16s adds scores of the maps of stride 16 on the way, 8s of those of stride 8 too. Scores are 1x1 convolutions that
begin at zero, steps of two are transposed convolutions that begin as bilinear interpolation and learn, the last step is
bilinear interpolation and stays so.

The published networks pad the image by 100 pixels, since VGG's 7x7 layer has no padding, and cut the answer out with
an offset. Here that layer pads itself, so that windows of multiples of 32 need no offset and no 100 rows of zeros.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD
from medvision.models.segmentation.backbones import VGG, AlexNet, GoogLeNet, scaled
from medvision.models.segmentation.contract import SegmentContract, SegmentOptions
from medvision.models.segmentation.designs import register_segmenter
from medvision.models.segmentation.layers import bilinear_taps
from medvision.models.segmentation.trunk import TrunkNet
from medvision.models.weights import State

Trunk = Literal["alexnet", "vgg16", "googlenet"]
DENSE = 4096
"""Channels of the two dense layers of AlexNet and VGG."""


class FCN(TrunkNet):
    """Logits `(n, classes, *window)`. `finest` is the stride of the finest maps that are scored: 32, 16 or 8.

    The scored maps of stride 16 and 8 are VGG's and AlexNet's after their pools, and GoogLeNet's last of each stride.
    """

    taps: torch.Tensor

    def __init__(self, contract: SegmentContract, *, trunk: Trunk, finest: int) -> None:
        options, classes = contract.options, len(contract.classes)
        net: VGG | AlexNet | GoogLeNet
        if trunk == "vgg16":
            net = VGG(16, contract.channels, options.width, norm=options.norm)
        elif trunk == "alexnet":
            net = AlexNet(contract.channels, options.width)
        else:
            net = GoogLeNet(contract.channels, options.width)
        *finer, last = net.channels[-3:]
        dense = 0 if trunk == "googlenet" else scaled(DENSE, options.width)
        if dense:  # beside the trunk's convolutions, since a classifier's weights hold them too
            net.add_module("fc6", nn.Conv2d(last, dense, 7 if trunk == "vgg16" else 6))
            net.add_module("fc7", nn.Conv2d(dense, dense, 1))
            last = dense
        super().__init__(contract, net)
        self.dense = {"vgg16": 7, "alexnet": 6, "googlenet": 0}[trunk]
        self.finest = finest
        self.drop = nn.Dropout(options.dropout)
        self.score = _zero(nn.Conv2d(last, classes, 1))
        skips = [finer[1], finer[0]][: {32: 0, 16: 1, 8: 2}[finest]]
        self.scores = nn.ModuleList(_zero(nn.Conv2d(channels, classes, 1)) for channels in skips)
        self.grow = nn.ModuleList(_bilinear(classes) for _ in skips)
        self.register_buffer("taps", bilinear_taps(finest).repeat(classes, 1, 1, 1), persistent=False)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        found = [each[1] if isinstance(each, tuple) else each for each in self.trunk(windows)]
        maps = found[-1]
        if self.dense:
            around = functional.pad(maps, [(self.dense - 1) // 2, self.dense // 2] * 2)
            maps = self.drop(functional.relu(self.trunk.get_submodule("fc6")(around)))
            maps = functional.relu(self.trunk.get_submodule("fc7")(maps))
        scores: torch.Tensor = self.score(self.drop(maps))
        for grow, score, finer in zip(self.grow, self.scores, found[-2::-1], strict=False):
            scores = grow(scores) + score(finer)
        stride = self.finest
        return functional.conv_transpose2d(
            scores, self.taps, stride=stride, padding=stride // 2, groups=scores.shape[1]
        )

    def from_head(self, state: State) -> State:
        """The dense layers of a classifier as convolutions: one row of weights is one window of taps."""
        if not self.dense:
            return {}
        names = (("classifier.0", "fc6"), ("classifier.3", "fc7"))
        if self.dense == 6:
            names = (("classifier.1", "fc6"), ("classifier.4", "fc7"))
        own = self.trunk.state_dict()
        found = {
            f"{new}.{part}": state.get(f"{old}.{part}") for old, new in names for part in ("weight", "bias")
        }
        return {
            name: value.reshape(own[name].shape)
            for name, value in found.items()
            if value is not None and value.numel() == own[name].numel()
        }


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _bilinear(classes: int) -> nn.ConvTranspose2d:
    """Enlarges by two, each class by itself at first."""
    layer = nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(classes), range(classes)] = bilinear_taps(2)[0].to(layer.weight)
    return layer


_LEARNT: dict[Trunk, dict[int, int]] = {
    "alexnet": {32: 57_012_034, 16: 57_012_484, 8: 57_012_678},
    "vgg16": {32: 134_268_738, 16: 134_269_828, 8: 134_270_406},
    "googlenet": {32: 5_601_954, 16: 5_603_684, 8: 5_604_710},
}
_SLIM = {"alexnet": 0.125, "vgg16": 0.125, "googlenet": 0.25}
_READS: dict[Trunk, frozenset[str]] = {
    "alexnet": frozenset({"width", "dropout", "frozen_trunk"}),
    "vgg16": frozenset({"width", "dropout", "frozen_trunk", "norm"}),
    "googlenet": frozenset({"width", "dropout", "frozen_trunk"}),
}

for _trunk, _counts in _LEARNT.items():
    for _finest, _count in _counts.items():
        # torchvision's weights of GoogLeNet want values of -1 to 1, those of the others ImageNet's mean and deviation.
        _half = _trunk == "googlenet"
        register_segmenter(
            SegmentContract(
                architecture=f"fcn{_finest}s-{_trunk}",
                classes=("background", "foreground"),
                channels=3,
                window=(256, 256),
                mean=(0.5,) * 3 if _half else IMAGENET_MEAN,
                std=(0.5,) * 3 if _half else IMAGENET_STD,
                options=SegmentOptions(dropout=0.5),
            ),
            partial(FCN, trunk=_trunk, finest=_finest),
            home=f"{__name__}:FCN",
            family="FCN",
            paper="Shelhamer et al., TPAMI 2017; layers pad themselves instead of the image by 100",
            parameters=_count,
            multiple=lambda _contract: 32,
            reads=_READS[_trunk],
            slim={"window": (64, 64), "options": {"width": _SLIM[_trunk]}},
        )
