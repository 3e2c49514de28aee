"""A slim residual network for windows of about 128 pixels: 0.4 million parameters, 0.1 GMAC per window.

Residual blocks as in He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), a quarter as wide, with the
instance/batch normalisation split of Pan et al., "Two at Once" (IBN-Net, ECCV 2018) in the shallow stages: half of the
channels are normalised per window, which takes the stain's colour and strength out of them, and half keep it. The head
pools by mean and by maximum, so that a small group of cells in a window of others still counts.
"""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (32, 64, 96)
BLOCKS = (1, 1, 1)


class SlimResNet(nn.Module):
    """Logits `(n, classes)` for float windows `(n, channels, rows, columns)`; each side at least 16 pixels."""

    def __init__(
        self,
        classes: int = 2,
        channels: int = 3,
        widths: tuple[int, ...] = WIDTHS,
        blocks: tuple[int, ...] = BLOCKS,
        dropout: float = 0.2,
    ):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 8, stride=4, padding=2, bias=False),
            SplitNorm(widths[0]),
            nn.ReLU(inplace=True),
        )
        stages: list[nn.Module] = []
        inward = widths[0]
        for depth, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for index in range(count):
                stride = 2 if index == 0 and depth > 0 else 1
                stages.append(Block(inward, width, stride, split=depth == 0))
                inward = width
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * inward, classes)

    def features(self, windows: torch.Tensor) -> torch.Tensor:
        """Pooled features `(n, 2 * width)`: means, then maxima."""
        maps = self.stages(self.stem(windows))
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.head(self.dropout(self.features(windows)))
        return logits


class Block(nn.Module):
    """Two 3 x 3 convolutions beside an identity, or beside a 1 x 1 projection where the shape changes."""

    def __init__(self, inward: int, outward: int, stride: int, split: bool):
        super().__init__()
        self.first = nn.Conv2d(inward, outward, 3, stride=stride, padding=1, bias=False)
        self.norm1: nn.Module = SplitNorm(outward) if split else nn.BatchNorm2d(outward)
        self.second = nn.Conv2d(outward, outward, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outward)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inward != outward:
            pool: nn.Module = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            self.shortcut = nn.Sequential(
                pool, nn.Conv2d(inward, outward, 1, bias=False), nn.BatchNorm2d(outward)
            )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps `(n, outward, rows / stride, columns / stride)`."""
        inner = torch.relu(self.norm1(self.first(maps)))
        return torch.relu(self.norm2(self.second(inner)) + self.shortcut(maps))


class SplitNorm(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the rest."""

    def __init__(self, channels: int):
        super().__init__()
        self.split = channels // 2
        self.instance = nn.InstanceNorm2d(self.split, affine=True)
        self.batch = nn.BatchNorm2d(channels - self.split)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps of the same shape."""
        first, second = maps[:, : self.split], maps[:, self.split :]
        return torch.cat([self.instance(first), self.batch(second)], dim=1)
