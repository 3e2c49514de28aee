"""The two networks, the same for every tool: one that does nothing, and ResNet-18 with random weights.

Runs in the environment of each tool, so it imports torch and torchvision alone. Both take float32 `(n, 3, 224, 224)`,
normalised as for ImageNet, and both count the windows that they were really given.
"""

from __future__ import annotations

import torch
from torch import nn

WINDOW = 224
"""Side of what a network takes, in pixels at `SPACING_UM`."""

SPACING_UM = 0.5
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
NETWORKS = ("null", "resnet18")


def declare_missing_operators() -> None:
    """Let torchvision be imported where torch is built without CUDA and torchvision with it.

    Its compiled operators cannot be loaded then, and the import stops at the two that it describes. None of them
    is used here. Where the two fit each other, nothing is done: the operators are there.
    """
    import importlib.util

    spec = importlib.util.find_spec("torchvision")
    if torch.version.cuda is None and spec is not None and spec.origin is not None:
        for name in ("nms", "qnms"):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


class First(nn.Module):
    """A network that does nothing: what is left is everything but the network."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two values of each window `(n, 2)`, so that no tool takes the output for something else."""
        return x[:, :2, 0, 0]


def bare_network(name: str) -> nn.Module:
    """One of `NETWORKS`, in evaluation mode; the same weights in every environment with the same torch."""
    if name == "null":
        return First().eval()
    if name != "resnet18":
        raise ValueError(f"no network is called {name!r}; known: {', '.join(NETWORKS)}")
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18(num_classes=2).eval()


class Counted(nn.Module):
    """A network that counts what it is given, and refuses windows that are not as agreed."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.windows = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the network returns for float32 `(n, 3, 224, 224)`."""
        if x.shape[1:] != (3, WINDOW, WINDOW) or x.dtype != torch.float32:
            raise ValueError(f"a batch of {tuple(x.shape)} {x.dtype}, not float32 (n, 3, {WINDOW}, {WINDOW})")
        self.windows += x.shape[0]
        return self.net(x)


def transform() -> nn.Module:
    """One window, as a PIL image or uint8 `(rows, columns, 3)`, to what the networks take: as the tools do it."""
    from torchvision import transforms

    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
