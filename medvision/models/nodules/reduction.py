"""What the networks that judge candidates share: they see the middle of the cube around one."""

from __future__ import annotations

import torch
from torch import nn

from medvision.models.nodules.contract import Voxels


class CentreCrop(nn.Module):
    """The middle `crop` voxels of cubes `(n, channels, slices, rows, columns)`; those of that size stay as they are."""

    def __init__(self, crop: Voxels) -> None:
        super().__init__()
        self.crop = crop

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        """Cubes of `crop` voxels.

        Raises:
            ValueError: for cubes that are smaller, or have no middle of that size.
        """
        for axis, side in enumerate(self.crop, start=2):
            margin = cubes.shape[axis] - side
            if margin < 0 or margin % 2:
                raise ValueError(f"cubes of {tuple(cubes.shape[2:])} voxels have no middle of {self.crop}")
            cubes = cubes.narrow(axis, margin // 2, side)
        return cubes
