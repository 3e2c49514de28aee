"""The U-Nets of nnU-Net, plain and with a residual way down: today's baseline, on images and volumes.

Isensee et al., Nature Methods 2021 (plain); Isensee et al., MICCAI 2024, arXiv:2404.09556 (residual encoder). Two
convolutions a stage, instance normalisation, leaky ReLU, strided convolutions instead of pooling, channels doubled up
to 512 on images and 320 in volumes, answers at every scale but the coarsest two in training. nnU-Net chooses depth,
window and spacing by the data, and strides less along thick slices; here depth is an option, and all axes are halved.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from medvision.models.segmentation.backbones import scaled
from medvision.models.segmentation.contract import SegmentContract, SegmentOptions
from medvision.models.segmentation.designs import register_segmenter
from medvision.models.segmentation.layers import (
    Enlarge,
    average_pool,
    convolution,
    normalisation,
    refuse_unpooling,
)

CHANNELS, MOST = 32, {2: 512, 3: 320}
"""Of the first stage, doubled at each halving; and the most, on two axes and on three."""

BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6)
"""Residual blocks of each stage."""

SLOPE = 0.01


class Convolution(nn.Sequential):
    """A convolution of side 3, its instance normalisation (which makes a bias needless), and leaky ReLU if `active`."""

    def __init__(self, axes: int, before: int, after: int, stride: int = 1, *, active: bool = True) -> None:
        super().__init__(
            convolution(axes, before, after, 3, padding=1, stride=stride, bias=False),
            normalisation(axes, after, "instance"),
            *([nn.LeakyReLU(SLOPE, inplace=True)] if active else []),
        )


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is averaged over what a stride takes, and projected to new channels."""

    def __init__(self, axes: int, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.both = nn.Sequential(
            Convolution(axes, before, after, stride), Convolution(axes, after, after, active=False)
        )
        beside: list[nn.Module] = [average_pool(axes)] if stride == 2 else []
        if before != after:
            beside += [
                convolution(axes, before, after, 1, bias=False),
                normalisation(axes, after, "instance"),
            ]
        self.beside = nn.Sequential(*beside)
        self.active = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """`(n, before, *s)` to `(n, after, *s / stride)`."""
        found: torch.Tensor = self.active(self.both(maps) + self.beside(maps))
        return found


class NNUNet(nn.Module):
    """Logits `(n, classes, *window)`; in training with deep supervision those of the coarser scales too."""

    def __init__(self, contract: SegmentContract, *, residual: bool) -> None:
        super().__init__()
        refuse_unpooling(contract)
        axes, options = len(contract.window), contract.options
        width = [scaled(min(CHANNELS * 2**n, MOST[axes]), options.width) for n in range(options.depth + 1)]
        stages: list[nn.Module] = []
        before = contract.channels
        if residual:
            self.stem: nn.Module = Convolution(axes, before, width[0])
            before = width[0]
        else:
            self.stem = nn.Identity()
        for level, after in enumerate(width):
            stride = 2 if level else 1
            if residual:
                more = [Residual(axes, after, after) for _ in range(BLOCKS[level] - 1)]
                stages.append(nn.Sequential(Residual(axes, before, after, stride), *more))
            else:
                stages.append(
                    nn.Sequential(Convolution(axes, before, after, stride), Convolution(axes, after, after))
                )
            before = after
        self.down = nn.ModuleList(stages)
        pairs = list(zip(width[:0:-1], width[-2::-1], strict=True))
        self.grow = nn.ModuleList(
            Enlarge(axes, coarse, fine, options.upsampling, bias=False) for coarse, fine in pairs
        )
        again = (
            0 if residual else 1
        )  # one convolution a stage on the way up is enough beside a strong way down
        self.up = nn.ModuleList(
            nn.Sequential(
                Convolution(axes, 2 * fine, fine), *(Convolution(axes, fine, fine) for _ in range(again))
            )
            for _, fine in pairs
        )
        answering = max(1, options.depth - 1) if options.deep_supervision else 1
        self.heads = nn.ModuleList(
            convolution(axes, fine, len(contract.classes), 1) for _, fine in pairs[-answering:]
        )

    def forward(self, windows: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits; in training with deep supervision, finest first."""
        maps, kept = self.stem(windows), []
        for block in self.down:
            maps = block(maps)
            kept.append(maps)
        coarser = []
        for level, (grow, block) in enumerate(zip(self.grow, self.up, strict=True)):
            maps = block(torch.cat([grow(maps), kept[-2 - level]], dim=1))
            head = level - (len(self.up) - len(self.heads))
            if self.training and 0 <= head < len(self.heads) - 1:
                coarser.append(self.heads[head](maps))
        logits: torch.Tensor = self.heads[-1](maps)
        return (logits, *reversed(coarser)) if coarser else logits


for _name, _residual, _paper, _count in (
    ("nnunet", False, "Isensee et al., Nature Methods 2021 (plain)", 33_462_250),
    ("nnunet-residual", True, "Isensee et al., MICCAI 2024 (residual encoder)", 105_889_770),
):
    register_segmenter(
        SegmentContract(
            architecture=_name,
            classes=("background", "foreground"),
            channels=1,
            window=(256, 256),
            options=SegmentOptions(norm="instance", depth=6, deep_supervision=True),
        ),
        partial(NNUNet, residual=_residual),
        home=f"{__name__}:NNUNet",
        family="nnU-Net",
        paper=_paper,
        parameters=_count,
        axes=(2, 3),
        multiple=lambda contract: 2**contract.options.depth,
        reads=frozenset({"width", "depth", "upsampling", "deep_supervision"}),
        slim={"window": (64, 64), "options": {"width": 0.25, "depth": 4}},
    )
