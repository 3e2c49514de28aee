"""3-D residual networks that judge candidates in place of Ding's: MONAI's ResNet-10 and ResNet-18.

He et al., "Deep residual learning" (CVPR 2016), in space as Chen et al., "Med3D" (arXiv:1904.00625), have it. They see
the same cubes as the 3-D CNN.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from medvision.models.nodules.contract import ReductionContract
from medvision.models.nodules.designs import register_reduction
from medvision.models.nodules.reduction import CentreCrop


class NoduleResNet(nn.Module):
    """Logits `(n, classes)` of cubes `(n, 1, slices, rows, columns)`. `net` has the names of MONAI's ResNet."""

    def __init__(self, layers: tuple[int, int, int, int], contract: ReductionContract) -> None:
        # Only here: MONAI takes seconds to import, which whoever lists the networks should not wait for.
        from monai.networks.nets.resnet import ResNet, get_inplanes

        super().__init__()
        self.crop = CentreCrop(contract.crop)
        self.net = ResNet(
            "basic",
            list(layers),
            get_inplanes(),
            spatial_dims=3,
            n_input_channels=1,
            num_classes=len(contract.classes),
            widen_factor=contract.options.width,
        )

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.net(self.crop(cubes))
        return logits


def build(layers: tuple[int, int, int, int], contract: ReductionContract) -> NoduleResNet:
    """The network of a contract, with so many blocks in each of its four stages."""
    return NoduleResNet(layers, contract)


for _name, _layers, _parameters in (
    ("nodule-resnet10", (1, 1, 1, 1), 14_357_442),
    ("nodule-resnet18", (2, 2, 2, 2), 33_161_922),
):
    register_reduction(
        ReductionContract(
            architecture=_name, spacing_mm=(1.0, 1.0, 1.0), window=(24, 40, 40), crop=(20, 36, 36)
        ),
        partial(build, _layers),
        f"{__name__}:NoduleResNet",
        "3-D ResNet",
        "He et al., CVPR 2016; Chen et al., arXiv:1904.00625 (in space)",
        parameters=_parameters,
    )
