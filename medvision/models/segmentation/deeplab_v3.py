"""DeepLab v3: spread taps in the last stage of a residual network, one after another (cascaded) or side by side.

Chen, Papandreou, Schroff & Adam, arXiv:1706.05587. Cascaded: three copies of the last stage follow it, and the taps of
each are twice as far apart as those before. Parallel: convolutions of rates 6, 12 and 18 (twice these with maps of
stride 8), one of side 1, and the mean of the whole window, joined; torchvision's part. Blocks within a stage multiply
its rate: 1, 2, 1 cascaded, 1, 2, 4 parallel. The mean over the window makes its answers depend on all of the window.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck
from torchvision.models.segmentation.deeplabv3 import ASPP

from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD
from medvision.models.segmentation.backbones import ResNet, begin, residual_stage, scaled
from medvision.models.segmentation.contract import SegmentContract, SegmentOptions
from medvision.models.segmentation.designs import register_segmenter
from medvision.models.segmentation.layers import resized
from medvision.models.segmentation.trunk import TrunkNet

CASCADED_GRID = (1, 2, 1)
PARALLEL_GRID = (1, 2, 4)
RATES = (6, 12, 18)
"""Of the parallel convolutions on maps of stride 16."""


class Cascaded(TrunkNet):
    """Logits `(n, classes, *window)`."""

    def __init__(self, contract: SegmentContract) -> None:
        options = contract.options
        trunk = _trunk(contract, CASCADED_GRID)
        super().__init__(contract, trunk)
        channels, planes = trunk.channels[-1], scaled(512, options.width)
        # The last stage of the trunk has rate 2 with maps of stride 16, 4 with stride 8.
        rates = [32 // options.output_stride * 2**further for further in (1, 2, 3)]
        self.further = nn.Sequential(
            *(
                residual_stage(Bottleneck, channels, planes, 1, [rate * factor for factor in CASCADED_GRID])
                for rate in rates
            )
        )
        begin(self.further)
        self.head = nn.Conv2d(channels, len(contract.classes), 1)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return resized(self.head(self.further(self.trunk(windows)[-1])), windows)


class Parallel(TrunkNet):
    """Logits `(n, classes, *window)`. In training, batches of at least two: the mean of a window is normalised too."""

    def __init__(self, contract: SegmentContract) -> None:
        options = contract.options
        trunk = _trunk(contract, PARALLEL_GRID)
        super().__init__(contract, trunk)
        middle = scaled(256, options.width)
        rates = [rate * 16 // options.output_stride for rate in RATES]
        self.aspp = ASPP(trunk.channels[-1], rates, middle)
        begin(self.aspp)
        self.head = nn.Conv2d(middle, len(contract.classes), 1)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return resized(self.head(self.aspp(self.trunk(windows)[-1])), windows)


def _trunk(contract: SegmentContract, grid: tuple[int, ...]) -> ResNet:
    options = contract.options
    return ResNet(
        options.trunk or "resnet101",
        contract.channels,
        options.width,
        stride=options.output_stride,
        grid=grid,
    )


def _register(build: type[Cascaded] | type[Parallel], name: str, form: str, parameters: int) -> None:
    register_segmenter(
        SegmentContract(
            architecture=name,
            classes=("background", "foreground"),
            channels=3,
            window=(256, 256),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            options=SegmentOptions(norm="batch"),
        ),
        build,
        home=f"{__name__}:{build.__name__}",
        family="DeepLab",
        paper=f"Chen et al., arXiv:1706.05587 ({form})",
        parameters=parameters,
        multiple=lambda contract: contract.options.output_stride,
        reads=frozenset({"width", "trunk", "output_stride", "frozen_trunk"}),
        slim={"window": (64, 64), "options": {"width": 0.0625, "trunk": "resnet50"}},
    )


_register(Cascaded, "deeplab-v3-cascaded", "cascaded", 82_667_586)
_register(Parallel, "deeplab-v3", "parallel, image-level features", 58_035_778)
