"""A segmentation network as a scorer of cells: the mean probability of each class in the middle of a window.

So it can make the heatmap of a slide, and whatever is made of heatmaps: regions, the slide's score, reports.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.core.geometry import Spacing
from medvision.engine.contract import Normalisation, PatchModel
from medvision.models.segmentation.model import SegmentModel, TemperedClasses


class CellMeans(nn.Module):
    """Probabilities `(n, classes)`: means over the cell of `stride_px` in the middle of each window."""

    def __init__(self, net: nn.Module, temperature: float, stride_px: int) -> None:
        super().__init__()
        self.net = net
        self.stride_px = stride_px
        self._activation = TemperedClasses(temperature)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """The means, in float32."""
        maps = self._activation(self.net(windows))
        for axis in (2, 3):
            side = min(self.stride_px, maps.shape[axis])
            maps = maps.narrow(axis, (maps.shape[axis] - side) // 2, side)
        return maps.mean(dim=(2, 3))


def heatmap_model(
    model: SegmentModel, positive: str | None = None, stride_px: int | None = None
) -> PatchModel:
    """The network as a model of heatmaps; a cell is half as long as what a window answers for, or `stride_px`.

    Raises:
        UsageError: for a network of volumes, one without a spacing or with a range from each source, or a class that
            it does not have.
    """
    contract = model.contract
    if contract.axes != "yx" or contract.spacing is None or contract.intensity == "source":
        raise UsageError(
            f"model {model.name!r} makes no heatmaps of slides: that needs images, a spacing and a fixed range"
        )
    if positive is not None and positive not in contract.classes:
        raise UsageError(
            f"model {model.name!r} has no class {positive!r}; its classes: {', '.join(contract.classes)}"
        )
    answered = min(side - 2 * lost for side, lost in zip(contract.window, model.margin, strict=True))
    stride = max(1, answered // 2) if stride_px is None else stride_px
    return PatchModel(
        name=model.name,
        net=CellMeans(model.net, contract.temperature, stride).eval(),
        window=contract.window,
        spacing=Spacing(contract.spacing, contract.unit, "supplied"),
        normalisation=Normalisation(contract.mean, contract.std, *contract.range),
        output="scores",
        classes=contract.classes,
        digest=digest_json([model.digest, "cell means", stride]),
        activation=_as_it_is,
        positive=positive or contract.classes[-1],
        version=contract.version,
        calibration=contract.calibration,
        card=model.card,
    )


def _as_it_is(probabilities: object) -> torch.Tensor:
    return cast("torch.Tensor", probabilities)
