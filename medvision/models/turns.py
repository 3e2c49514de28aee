"""Test-time augmentation by the eight flips and rotations of a square window, probabilities averaged.

Tissue has no up or down, so a classifier should not care; what it cares all the same averages out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.engine.contract import ModelOutputs, PatchModel

TURNS = 8


def turn(images: torch.Tensor, which: int) -> torch.Tensor:
    """Images `(..., rows, columns)` turned by `which % 4` quarters, and from 4 on flipped left to right after that."""
    turned = torch.rot90(images, which % 4, (-2, -1))
    return turned.flip(-1) if which >= 4 else turned


class TurnedNet(nn.Module):
    """Raw scores `(n, 8, classes)` of the eight orientations of windows `(n, channels, side, side)`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @property
    def stride_px(self) -> int | None:
        """That of the network itself, where it states one."""
        found = getattr(self.net, "stride_px", None)
        return found if isinstance(found, int) else None

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """One orientation after the other, so that memory stays that of a batch."""
        return torch.stack([self.net(turn(windows, which)) for which in range(TURNS)], dim=1)


@dataclass(frozen=True, slots=True)
class MeanOfTurns:
    """Mean over the orientations of what `each` makes of raw scores `(n, 8, classes)`."""

    each: Callable[[Any], ModelOutputs]

    def __call__(self, raw: torch.Tensor) -> torch.Tensor:
        """Probabilities `(n, classes)`."""
        scores = self.each(raw.flatten(0, 1))
        assert isinstance(scores, torch.Tensor), "a classifier gives one row of scores per window"
        return scores.reshape(len(raw), TURNS, -1).mean(dim=1)


def with_turns(model: PatchModel) -> PatchModel:
    """`model` with its probabilities averaged over the eight orientations of each window.

    Raises:
        UsageError: for a model whose windows are not square, or that does not give scores.
    """
    if len(model.window) != 2 or model.window[0] != model.window[1] or model.output != "scores":
        raise UsageError(f"model {model.name!r} scores no square windows, so there is nothing to turn")
    return replace(
        model,
        net=TurnedNet(model.net).eval(),
        digest=digest_json([model.digest, "turns", TURNS]),
        activation=MeanOfTurns(model.activation),
    )
