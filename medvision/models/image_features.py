"""What a classifier of images makes of them before its last layer: vectors, by which it tells its classes apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from medvision.core.digest import digest_json
from medvision.engine.engine import PatchEngine
from medvision.models.classifiers.start import head_of
from medvision.models.image_model import Floats, ImageModel, vectors_of
from medvision.models.trunks import dimension_of
from medvision.ops.resize import Pixels


@dataclass(frozen=True, eq=False)
class Described:
    """Images as the network sees them: `features` (n, d), the input of its last layer, and `logits` (n, classes)."""

    features: Floats
    logits: Floats


def describe(model: ImageModel, images: Iterable[Pixels], engine: PatchEngine) -> Described:
    """Features and logits of images of any size, in order, by one pass of the engine.

    Raises:
        UsageError: if the network has no layer that gives classes, or the engine cannot compute it.
    """
    classes = len(model.contract.classes)
    logits = model.patch_model
    network = replace(
        logits, net=BeforeHead(model.net).eval(), digest=digest_json(["features", logits.digest])
    )
    length = dimension_of(network)
    rows = vectors_of(model, network, length, images, engine)
    return Described(rows[:, : length - classes], rows[:, length - classes :])


class BeforeHead(nn.Module):
    """A classifier that also gives what goes into its last layer, averaged over the image where it is a map."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = head_of(net)[0]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Vectors `(n, d + classes)`: the features, then the logits."""
        held: list[torch.Tensor] = []
        hook = self.net.get_submodule(self.head).register_forward_pre_hook(
            lambda _module, given: held.append(given[0])
        )
        try:
            logits: torch.Tensor = self.net(inputs)
        finally:
            hook.remove()
        features = held[0]
        if features.ndim > 2:
            features = features.flatten(2).mean(dim=2)
        return torch.cat([features, logits], dim=1)
