"""The 3-D network that Ding et al. (MICCAI 2017, arXiv:1706.04303) reduce false positives with.

A cube of 40 x 40 x 24 voxels around a candidate, of which 36 x 36 x 20 are seen: random in training, which makes 125
cubes of one, and the middle here. Six 3-D convolutions of kernel 3, a pool after every second, three dense layers. Not
verified, and so ours: the channels (64, 64, 128, 128, 256, 256), the lengths of the dense layers (512, 128), and voxels
of 1 mm.
"""

from __future__ import annotations

import torch
from torch import nn

from medvision.models.nodules.contract import ReductionContract, ReductionOptions
from medvision.models.nodules.designs import register_reduction
from medvision.models.nodules.reduction import CentreCrop

CHANNELS = (64, 128, 256)
"""Of the two convolutions before each pool, at width 1."""


class NoduleCnn(nn.Module):
    """Logits `(n, classes)` of cubes `(n, 1, slices, rows, columns)`."""

    def __init__(self, contract: ReductionContract) -> None:
        super().__init__()
        options = contract.options
        widths = [max(1, round(options.width * count)) for count in CHANNELS]
        layers: list[nn.Module] = []
        inward = 1
        for width in widths:
            for _ in range(2):
                layers.append(nn.Conv3d(inward, width, 3, padding=1, bias=not options.norm))
                layers.extend([nn.BatchNorm3d(width)] if options.norm else [])
                layers.append(nn.ReLU(inplace=True))
                inward = width
            layers.append(nn.MaxPool3d(2))
        cells = 1
        for side in contract.crop:
            cells *= side // 2 ** len(widths)
        if cells < 1:
            raise ValueError(f"a crop of {contract.crop} voxels vanishes in {len(widths)} pools")
        self.crop = CentreCrop(contract.crop)
        self.features = nn.Sequential(*layers)
        first, second = options.hidden
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(options.dropout),
            nn.Linear(inward * cells, first),
            nn.ReLU(inplace=True),
            nn.Dropout(options.dropout),
            nn.Linear(first, second),
            nn.ReLU(inplace=True),
            nn.Dropout(options.dropout),
            nn.Linear(second, len(contract.classes)),
        )
        for part in self.modules():
            if isinstance(part, (nn.Conv3d, nn.Linear)):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.head(self.features(self.crop(cubes)))
        return logits


def build(contract: ReductionContract) -> NoduleCnn:
    """The network of a contract."""
    return NoduleCnn(contract)


_FAMILY = "3-D CNN"
_PAPER = "Ding et al., MICCAI 2017 (channels and dense layers: ours)"

register_reduction(
    ReductionContract(
        architecture="nodule-cnn3d", spacing_mm=(1.0, 1.0, 1.0), window=(24, 40, 40), crop=(20, 36, 36)
    ),
    build,
    f"{__name__}:NoduleCnn",
    _FAMILY,
    _PAPER,
    parameters=7_691_714,
)
register_reduction(
    ReductionContract(
        architecture="nodule-cnn3d-slim",
        spacing_mm=(1.0, 1.0, 1.0),
        window=(24, 40, 40),
        crop=(20, 36, 36),
        options=ReductionOptions(width=0.25, hidden=(128, 32), norm=True),
    ),
    build,
    f"{__name__}:NoduleCnn",
    _FAMILY,
    f"{_PAPER}; a quarter as wide",
    parameters=481_618,
)
