"""V-Net: residual stages of 5x5x5 convolutions on volumes, strided convolutions between them.

Milletari, Navab & Ahmadi, 3DV 2016, of the parts that MONAI ships. As there, and unlike the paper, every convolution
is followed by batch normalisation, and the stages have 1, 1, 2, 3, 2 convolutions on the way down, 2, 2, 1, 1 back.
Activations are PReLU as published. MONAI's own network has one width; here it is an option, and images are taken too.
"""

from __future__ import annotations

import torch
from torch import nn

from medvision.models.segmentation.contract import SegmentContract, SegmentOptions
from medvision.models.segmentation.designs import register_segmenter

CHANNELS = 16
"""Of the first stage, as published; doubled at each halving."""


class VNet(nn.Module):
    """Logits `(n, classes, *window)`. At width 1 its tensors are named as those of `monai.networks.nets.VNet`."""

    def __init__(self, contract: SegmentContract) -> None:
        super().__init__()
        from monai.networks.nets import vnet

        axes, options = len(contract.window), contract.options
        # The first stage adds the window itself to each of its maps, so that these are a multiple of its channels.
        groups = max(1, round(CHANNELS * options.width / contract.channels))
        if (groups * contract.channels) % 2:
            groups += 1
        first = groups * contract.channels
        some = options.dropout or None
        act = "prelu"
        self.in_tr = vnet.InputTransition(axes, contract.channels, first, act)
        self.down_tr32 = vnet.DownTransition(axes, first, 1, act)
        self.down_tr64 = vnet.DownTransition(axes, 2 * first, 2, act)
        self.down_tr128 = vnet.DownTransition(axes, 4 * first, 3, act, some, axes)
        self.down_tr256 = vnet.DownTransition(axes, 8 * first, 2, act, some, axes)
        both, after = (some, options.dropout), (None, options.dropout)
        self.up_tr256 = vnet.UpTransition(axes, 16 * first, 16 * first, 2, act, both, axes)
        self.up_tr128 = vnet.UpTransition(axes, 16 * first, 8 * first, 2, act, both, axes)
        self.up_tr64 = vnet.UpTransition(axes, 8 * first, 4 * first, 1, act, after, axes)
        self.up_tr32 = vnet.UpTransition(axes, 4 * first, 2 * first, 1, act, after, axes)
        self.out_tr = vnet.OutputTransition(axes, 2 * first, len(contract.classes), act)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        maps = self.in_tr(windows)
        kept = []
        for down in (self.down_tr32, self.down_tr64, self.down_tr128, self.down_tr256):
            kept.append(maps)
            maps = down(maps)
        for up, across in zip(
            (self.up_tr256, self.up_tr128, self.up_tr64, self.up_tr32), reversed(kept), strict=True
        ):
            maps = up(maps, across)
        logits: torch.Tensor = self.out_tr(maps)
        return logits


register_segmenter(
    SegmentContract(
        architecture="vnet",
        classes=("background", "foreground"),
        channels=1,
        window=(64, 128, 128),
        options=SegmentOptions(norm="batch", dropout=0.5),
    ),
    VNet,
    home=f"{__name__}:VNet",
    family="V-Net",
    paper="Milletari et al., 3DV 2016; MONAI's form, with batch normalisation",
    parameters=45_601_516,
    axes=(2, 3),
    multiple=lambda _contract: 16,
    reads=frozenset({"width", "dropout"}),
    slim={"window": (32, 32, 32), "options": {"width": 0.25}},
)
