"""Classifiers without their heads, as trunks: AlexNet, VGG, GoogLeNet and ResNet, of any width.

Made of torchvision's parts under torchvision's names, so that at width 1 its weights of each fit (`load_trunk`). Where
the published networks lose pixels at the borders, or pool where cells do not fit, paddings are chosen so that maps of
stride s have a side of exactly 1 / s of the window's, for windows of multiples of the largest stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.googlenet import BasicConv2d, Inception
from torchvision.models.resnet import BasicBlock, Bottleneck

from medvision.core.errors import UsageError
from medvision.models.segmentation.contract import Norm

VGG_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
"""In each of the five blocks, by the number of layers with weights."""

RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


def scaled(channels: int, width: float) -> int:
    """`channels` by `width`, at least one."""
    return max(1, round(channels * width))


class AlexNet(nn.Module):
    """The convolutions of AlexNet as in torchvision (Krizhevsky, arXiv:1404.5997): maps of strides 8, 16 and 32."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        first, second, third, fourth = (scaled(n, width) for n in (64, 192, 384, 256))
        relu = partial(nn.ReLU, inplace=True)
        # Windows of 3 with stride 2 lie half a cell left of the cells that they answer for where the padding is in
        # front (`padding=1`), half a cell right of them where it is behind (`ceil_mode`). The first convolution is half
        # a pixel left, the pools 2 right, 4 left and 8 right: 5.5 of 32 pixels are left of what would add up to 14.5.
        self.features = nn.Sequential(
            nn.Conv2d(channels, first, 11, stride=4),
            relu(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(first, second, 5, padding=2),
            relu(),
            nn.MaxPool2d(3, 2, padding=1),
            nn.Conv2d(second, third, 3, padding=1),
            relu(),
            nn.Conv2d(third, fourth, 3, padding=1),
            relu(),
            nn.Conv2d(fourth, fourth, 3, padding=1),
            relu(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
        )
        self.channels = (first, second, fourth)
        begin(self)

    def forward(self, windows: torch.Tensor) -> list[torch.Tensor]:
        """Maps after each pool."""
        maps, found = functional.pad(windows, (4, 3, 4, 3)), []
        for layer in self.features:
            maps = layer(maps)
            if isinstance(layer, nn.MaxPool2d):
                found.append(maps)
        return found


class VGG(nn.Module):
    """The convolutions of VGG (Simonyan & Zisserman, ICLR 2015): maps of five scales, before and after each pool.

    With `stride` 8 the last two pools keep the side, and the taps of the last three convolutions are two apart, so that
    each sees what it saw (the hole algorithm of Chen et al., ICLR 2015). `norm` "batch" gives torchvision's `vgg*_bn`.
    """

    def __init__(
        self, layers: int, channels: int, width: float, *, norm: Norm = "none", stride: int = 32
    ) -> None:
        super().__init__()
        if norm == "instance":
            raise UsageError("VGG has no instance normalisation; norm is one of none, batch")
        self.channels = tuple(scaled(n, width) for n in (64, 128, 256, 512, 512))
        parts: list[nn.Module] = []
        before = channels
        for block, (count, after) in enumerate(zip(VGG_CONVOLUTIONS[layers], self.channels, strict=True)):
            rate = 2 if stride == 8 and block == 4 else 1
            for _ in range(count):
                parts.append(nn.Conv2d(before, after, 3, padding=rate, dilation=rate))
                if norm == "batch":
                    parts.append(nn.BatchNorm2d(after))
                parts.append(nn.ReLU(inplace=True))
                before = after
            parts.append(nn.MaxPool2d(3, 1, 1) if stride == 8 and block > 2 else nn.MaxPool2d(2))
        self.features = nn.Sequential(*parts)
        begin(self)

    def forward(self, windows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of each block its maps, and those after its pool."""
        maps, found = windows, []
        for layer in self.features:
            before, maps = maps, layer(maps)
            if isinstance(layer, nn.MaxPool2d):
                found.append((before, maps))
        return found


_INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Channels of the paths 1, 3 (reduced, then), 5 (reduced, then) and pool. Szegedy et al., CVPR 2015."""


class GoogLeNet(nn.Module):
    """GoogLeNet as in torchvision, with batch normalisation: the last maps of strides 8, 16 and 32."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        first, second = scaled(64, width), scaled(192, width)
        self.conv1 = BasicConv2d(channels, first, kernel_size=7, stride=2, padding=3)
        self.conv2 = BasicConv2d(first, first, kernel_size=1)
        self.conv3 = BasicConv2d(first, second, kernel_size=3, padding=1)
        # One pool left of its cells between two right of theirs, as in AlexNet: 2.5 of 32 pixels are left of 6.5.
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.maxpool2 = nn.MaxPool2d(3, 2, padding=1)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.maxpool4 = nn.MaxPool2d(2)
        before, found = second, []
        for name, (one, *middle, pool) in _INCEPTIONS.items():
            widths = [scaled(n, width) for n in (one, *middle, pool)]
            self.add_module(f"inception{name}", Inception(before, *widths))
            before = widths[0] + widths[2] + widths[4] + widths[5]
            if name in ("3b", "4e", "5b"):
                found.append(before)
        self.channels = tuple(found)
        begin(self)

    def forward(self, windows: torch.Tensor) -> list[torch.Tensor]:
        """The last maps of each of the three strides."""
        maps = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(windows)))))
        found = []
        for pool, names in ((None, "3a 3b"), (self.maxpool3, "4a 4b 4c 4d 4e"), (self.maxpool4, "5a 5b")):
            maps = maps if pool is None else pool(maps)
            for name in names.split():
                maps = self.get_submodule(f"inception{name}")(maps)
            found.append(maps)
        return found


class ResNet(nn.Module):
    """A residual network (He et al., CVPR 2016): maps of the stem (stride 2) and of its four stages.

    `stride` is that of the last maps: 32, or 16 or 8, for which the last one or two stages keep the side and spread the
    taps of their convolutions instead. `grid` multiplies the rates in the blocks of the last stage (Chen et al.,
    arXiv:1706.05587); without it a stage's first block keeps the rate before it, as in torchvision.
    """

    def __init__(
        self,
        name: str,
        channels: int,
        width: float,
        *,
        stride: int = 32,
        grid: Sequence[int] | None = None,
        stages: int = 4,
    ) -> None:
        super().__init__()
        if name not in RESNETS:
            raise UsageError(f"no trunk is called {name!r} here; known: {', '.join(RESNETS)}")
        block, counts = RESNETS[name]
        before = scaled(64, width)
        self.conv1 = nn.Conv2d(channels, before, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        found, rate, reached = [before], 1, 4
        for stage in range(stages):
            earlier = rate
            step = 1 if stage == 0 else 2
            if reached * step > stride:
                step, rate = 1, rate * 2
            reached *= step
            rates = [earlier, *[rate] * (counts[stage] - 1)]
            if grid is not None and stage == 3:
                rates = [rate * factor for factor in grid]
            after = scaled(64 * 2**stage, width)
            self.add_module(f"layer{stage + 1}", residual_stage(block, before, after, step, rates))
            before = after * block.expansion
            found.append(before)
        self.channels, self.stages = tuple(found), stages
        begin(self)

    def forward(self, windows: torch.Tensor) -> list[torch.Tensor]:
        """Maps of strides 2, 4, 8, 16 and 32, the last ones as `stride` says."""
        maps = self.relu(self.bn1(self.conv1(windows)))
        found = [maps]
        maps = self.maxpool(maps)
        for stage in range(self.stages):
            maps = self.get_submodule(f"layer{stage + 1}")(maps)
            found.append(maps)
        return found


def residual_stage(
    block: type[BasicBlock] | type[Bottleneck], before: int, planes: int, stride: int, rates: Sequence[int]
) -> nn.Sequential:
    """Blocks of torchvision's, one of each rate, the first with `stride`; gives `planes * block.expansion` channels."""
    parts = []
    for place, rate in enumerate(rates):
        step = stride if place == 0 else 1
        after = planes * block.expansion
        shortcut = None
        if step != 1 or before != after:
            shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=step, bias=False), nn.BatchNorm2d(after)
            )
        if rate > 1 and block is BasicBlock:
            raise UsageError(
                "resnet18 and resnet34 cannot spread their taps here; take resnet50 or resnet101"
            )
        parts.append(block(before, planes, step, shortcut, dilation=rate))
        before = after
    return nn.Sequential(*parts)


def begin(net: nn.Module) -> None:
    """Draw the weights of convolutions so that ReLUs keep the variance (He et al., ICCV 2015); biases 0."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
