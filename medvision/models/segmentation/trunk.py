"""Networks on a trunk: a classifier's convolutions, which may come with weights of their own from a local file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import nn

from medvision.core.errors import UsageError, WeightsError
from medvision.models.classifiers.renamed import renamed
from medvision.models.classifiers.start import load_tensors
from medvision.models.segmentation.contract import SegmentContract
from medvision.models.weights import State, digest_state, read_weights


class TrunkNet(nn.Module):
    """A network whose `trunk` is a classifier without its head.

    A frozen trunk keeps its weights, and the means and variances of its normalisations, whatever the mode.
    """

    def __init__(self, contract: SegmentContract, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.frozen = contract.options.frozen_trunk
        if self.frozen:
            trunk.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode of all but a frozen trunk."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self

    def classifier(self) -> nn.Module:
        """The part of the trunk that a classifier has too: all of it by default."""
        return self.trunk

    def from_head(self, state: State) -> State:
        """Tensors of the network that a classifier's head gives, by their names in `trunk`; none by default."""
        del state
        return {}


def load_trunk(net: nn.Module, path: Path) -> str:
    """Give the trunk of `net` the weights of a classifier, without its head; returns the digest of the file's tensors.

    The file is a local one, of torchvision, timm or this project. Where windows have one channel and the file's network
    three, the weights of the three are summed: what a grey image repeated three times would give.

    Raises:
        UsageError: if the network has no trunk.
        WeightsError: if the weights are unsafe, unreadable, or of another trunk.
    """
    if not isinstance(net, TrunkNet):
        raise UsageError(
            f"{type(net).__name__} has no trunk that takes weights of a classifier; leave the trunk's weights out"
        )
    state, _ = read_weights(path)
    digest = digest_state(state)
    trunk = net.classifier()
    own = trunk.state_dict()
    state = _in_trunk(renamed(state, own), own)
    state = state | {name: value for name, value in net.from_head(state).items() if name in own}
    load_tensors(trunk, _fewer_channels(trunk, state, path), (), path)
    return digest


def _in_trunk(state: State, own: Mapping[str, torch.Tensor]) -> State:
    """The names of `own`: a library may keep a whole network under one name within its trunk."""
    if any(name in own for name in state):
        return state
    within = f"{next(iter(own)).partition('.')[0]}."
    return {within + name: value for name, value in state.items()}


def _fewer_channels(trunk: nn.Module, state: State, path: Path) -> State:
    """The first convolution for windows of one channel; other numbers than three and one have no such weights."""
    first, part = next((name, part) for name, part in trunk.named_modules() if isinstance(part, nn.Conv2d))
    key, wanted = f"{first}.weight", part.in_channels
    if key not in state or state[key].shape[1] == wanted:
        return state
    if wanted != 1:
        raise WeightsError(
            f"{path}: these weights are for windows of {state[key].shape[1]} channels, and this network is for {wanted}"
        )
    return state | {key: state[key].sum(dim=1, keepdim=True)}
