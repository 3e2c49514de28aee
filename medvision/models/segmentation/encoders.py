"""Networks of segmentation-models-pytorch on any of its encoders: U-Net, FPN, PSPNet, LinkNet, DeepLab v3+.

U-Net, Ronneberger et al., MICCAI 2015; FPN, Lin et al., CVPR 2017, as Kirillov et al., CVPR 2019, take it for pixels;
PSPNet, Zhao et al., CVPR 2017; LinkNet, Chaurasia & Culurciello, VCIP 2017; DeepLab v3+, Chen et al., ECCV 2018. The
library (MIT) builds them without weights; `width` is that of the decoder, the encoder is as its name says. `unet-fpn`
joins two of its parts: the way up of a U-Net, with its maps of every scale brought together as in an FPN.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from medvision.core.errors import UsageError
from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD
from medvision.models.segmentation.backbones import begin, scaled
from medvision.models.segmentation.contract import SegmentContract, SegmentOptions
from medvision.models.segmentation.designs import register_segmenter
from medvision.models.segmentation.layers import resized
from medvision.models.segmentation.trunk import TrunkNet

UNET_CHANNELS = (256, 128, 64, 32, 16)
"""Of the way up, the coarsest first."""

OTHER_LICENCE = "mit_"
"""Encoders whose code is for research and evaluation only."""


class EncoderNet(TrunkNet):
    """Logits `(n, classes, *window)`: an encoder (`trunk`), a decoder, a head, and interpolation to the window."""

    def __init__(self, contract: SegmentContract, built: Any, *, coarser: bool) -> None:
        super().__init__(contract, built.encoder)
        self.decoder: nn.Module = built.decoder
        self.head: nn.Module = built.segmentation_head
        self.coarser = coarser

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.head(self.decoder(self.trunk(windows)))
        return resized(logits, windows) if self.coarser else logits


class UNetPyramid(nn.Module):
    """The way up of a U-Net; its maps of every scale, each brought to `channels` and the finest side, side by side."""

    def __init__(self, up: nn.Module, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.up = up
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(n, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
            )
            for n in widths
        )
        self.join = nn.Sequential(
            nn.Conv2d(channels * len(widths), widths[-1], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
        )
        begin(self.levels)
        begin(self.join)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """`(n, widths[-1], *window)` of the encoder's maps, the window itself first."""
        maps, levels = features[-1], []
        blocks = list(self.up.get_submodule("blocks").children())
        for place, (block, level) in enumerate(zip(blocks, self.levels, strict=True)):
            finer = features[-2 - place]
            across = finer if place < len(blocks) - 1 else None  # the window itself is not handed across
            maps = block(maps, finer.shape[2], finer.shape[3], skip_connection=across)
            levels.append(level(maps))
        joined: torch.Tensor = self.join(torch.cat([resized(each, features[0]) for each in levels], dim=1))
        return joined


def build_unet(contract: SegmentContract) -> EncoderNet:
    """The library's U-Net."""
    import segmentation_models_pytorch as smp

    channels = [scaled(n, contract.options.width) for n in UNET_CHANNELS]
    how = _interpolation(contract)
    built = smp.Unet(**_common(contract, "resnet34"), decoder_channels=channels, decoder_interpolation=how)
    return EncoderNet(contract, built, coarser=False)


def build_unet_fpn(contract: SegmentContract) -> EncoderNet:
    """Its way up with a pyramid."""
    found = build_unet(contract)
    width = contract.options.width
    widths = tuple(scaled(n, width) for n in UNET_CHANNELS)
    found.decoder = UNetPyramid(found.decoder, widths, scaled(32, width))
    return found


def build_fpn(contract: SegmentContract) -> EncoderNet:
    """The library's FPN; its channels are multiples of 32, the groups that it normalises."""
    import segmentation_models_pytorch as smp

    width = contract.options.width
    built = smp.FPN(
        **_common(contract, "resnet50"),
        decoder_pyramid_channels=scaled(256, width),
        decoder_segmentation_channels=32 * scaled(4, width),
        decoder_interpolation=_interpolation(contract),
        upsampling=1,
    )
    return EncoderNet(contract, built, coarser=True)


def build_pspnet(contract: SegmentContract) -> EncoderNet:
    """The library's PSPNet on all stages of its encoder with maps of stride 8, as published, not on the first three."""
    import segmentation_models_pytorch as smp

    built = smp.PSPNet(
        **_common(contract, "resnet50"),
        encoder_depth=5,
        psp_out_channels=scaled(512, contract.options.width),
        upsampling=1,
    )
    built.encoder.make_dilated(8)
    return EncoderNet(contract, built, coarser=True)


def build_linknet(contract: SegmentContract) -> EncoderNet:
    """The library's LinkNet."""
    import segmentation_models_pytorch as smp

    return EncoderNet(contract, smp.Linknet(**_common(contract, "resnet18")), coarser=False)


def build_deeplab(contract: SegmentContract) -> EncoderNet:
    """The library's DeepLab v3+."""
    import segmentation_models_pytorch as smp

    options = contract.options
    stride = options.output_stride
    built = smp.DeepLabV3Plus(
        **_common(contract, "resnet101"),
        encoder_output_stride=stride,
        decoder_channels=scaled(256, options.width),
        decoder_atrous_rates=[rate * 16 // stride for rate in (6, 12, 18)],
        upsampling=1,
    )
    return EncoderNet(contract, built, coarser=True)


def _common(contract: SegmentContract, trunk: str) -> dict[str, Any]:
    """What all of the library's networks are told; no weights are fetched."""
    from segmentation_models_pytorch import encoders

    name = contract.options.trunk or trunk
    if name.startswith(OTHER_LICENCE):
        raise UsageError(
            f"encoder {name!r} is not for use here: its code is for research and evaluation only"
        )
    if name not in encoders.encoders and not name.startswith("tu-"):
        close = ", ".join(get_close_matches(name, encoders.encoders, 5)) or "resnet34, mobilenet_v2"
        raise UsageError(
            f"segmentation-models-pytorch has no encoder {name!r}; close to it or common: {close}; those of timm are "
            "called tu-NAME"
        )
    return {
        "encoder_name": name,
        "encoder_weights": None,
        "in_channels": contract.channels,
        "classes": len(contract.classes),
    }


def _interpolation(contract: SegmentContract) -> str:
    """The library enlarges by repeating values, or by linear interpolation."""
    ways = {"nearest": "nearest", "resize-convolution": "bilinear"}
    how = contract.options.upsampling
    if how not in ways:
        raise UsageError(
            f"network {contract.architecture!r}: upsampling is one of {', '.join(ways)}, not {how}"
        )
    return ways[how]


_TRUNK = frozenset({"width", "trunk", "frozen_trunk"})
_ENLARGED = _TRUNK | {"upsampling"}
_UNET = "Ronneberger et al., MICCAI 2015"
_ON = "U-Net on a classifier"


def _register(
    name: str,
    build: Callable[[SegmentContract], EncoderNet],
    family: str,
    paper: str,
    parameters: int,
    reads: frozenset[str],
    multiple: Callable[[SegmentContract], int] = lambda _contract: 32,
) -> None:
    slim: dict[str, Any] = {"trunk": "mobilenet_v2"} | ({"width": 0.25} if "width" in reads else {})
    register_segmenter(
        SegmentContract(
            architecture=name,
            classes=("background", "foreground"),
            channels=3,
            window=(256, 256),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            options=SegmentOptions(norm="batch", upsampling="nearest"),
        ),
        build,
        home=f"{__name__}:EncoderNet",
        family=family,
        paper=f"{paper} (segmentation-models-pytorch)",
        parameters=parameters,
        multiple=multiple,
        reads=reads,
        slim={"window": (64, 64), "options": slim},
        licence="Apache-2.0; library MIT",
    )


_register("unet-resnet34", build_unet, _ON, _UNET, 24_436_514, _ENLARGED)
_register("unet-fpn", build_unet_fpn, _ON, f"{_UNET}; Lin et al., CVPR 2017", 24_602_754, _ENLARGED)
_register("fpn", build_fpn, "FPN", "Lin et al., CVPR 2017; Kirillov et al., CVPR 2019", 26_116_162, _ENLARGED)
_register(
    "linknet", build_linknet, "LinkNet", "Chaurasia & Culurciello, VCIP 2017", 11_663_810, _TRUNK - {"width"}
)
_register("pspnet", build_pspnet, "PSPNet", "Zhao et al., CVPR 2017", 29_813_314, _TRUNK, lambda _contract: 8)
_register(
    "deeplab-v3-plus",
    build_deeplab,
    "DeepLab",
    "Chen et al., ECCV 2018",
    45_669_970,
    _TRUNK | {"output_stride"},
    lambda contract: contract.options.output_stride,
)
