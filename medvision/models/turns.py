"""Test-time augmentation by the flips and rotations of a square window: probabilities averaged, and their spread.

Tissue has no up or down, so a classifier should not care; what it cares all the same averages out, and how much it did
says how far a score can be relied on.
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
"""Orientations of a square: four quarter turns, each as it is and flipped."""

SPREAD = "spread"
"""Name of the column that holds the standard deviation of the positive class's probability over the orientations."""


def turn(images: torch.Tensor, which: int) -> torch.Tensor:
    """Images `(..., rows, columns)` turned by `which % 4` quarters, and from 4 on flipped left to right after that."""
    quarters = which % 4
    # Not torch.rot90, which ONNX does not know: transposed and flipped, it runs on every backend.
    turned = images.transpose(-2, -1) if quarters % 2 else images
    axes = [axis for axis, flips in ((-2, quarters in (1, 2)), (-1, quarters in (2, 3))) if flips]
    if which >= 4:
        axes = axes[:-1] if axes and axes[-1] == -1 else [*axes, -1]
    return turned.flip(axes) if axes else turned


class TurnedNet(nn.Module):
    """Raw scores `(n, turns, classes)` of the first `turns` orientations of windows `(n, channels, side, side)`."""

    def __init__(self, net: nn.Module, turns: int = TURNS) -> None:
        super().__init__()
        self.net = net
        self.turns = turns

    @property
    def stride_px(self) -> int | None:
        """That of the network itself, where it states one."""
        found = getattr(self.net, "stride_px", None)
        return found if isinstance(found, int) else None

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """One orientation after the other, so that memory stays that of a batch."""
        return torch.stack([self.net(turn(windows, which)) for which in range(self.turns)], dim=1)


@dataclass(frozen=True, slots=True)
class MeanOfTurns:
    """Mean over the orientations of what `each` makes of raw scores `(n, turns, classes)`, and its spread.

    The spread is the standard deviation, with the number of orientations as divisor, of column `positive`.
    """

    each: Callable[[Any], ModelOutputs]
    positive: int

    def __call__(self, raw: torch.Tensor) -> torch.Tensor:
        """Probabilities and spread `(n, classes + 1)`."""
        scores = self.each(raw.flatten(0, 1))
        assert isinstance(scores, torch.Tensor), "a classifier gives one row of scores per window"
        views = scores.reshape(len(raw), raw.shape[1], -1)
        spread = views[:, :, self.positive].std(dim=1, correction=0, keepdim=True)
        return torch.cat([views.mean(dim=1), spread], dim=1)


def with_turns(model: PatchModel, turns: int = TURNS) -> PatchModel:
    """`model` with its probabilities averaged over orientations of each window, and a column `SPREAD` after them.

    Args:
        model: a classifier of square windows.
        turns: 4 for the quarter turns, 8 for those and their mirror images.

    Raises:
        UsageError: for a model whose windows are not square, or that does not give scores, or another number of turns.
    """
    if turns not in (4, TURNS):
        raise UsageError(
            f"{turns} orientations of a window; 4 (quarter turns) and 8 (flipped too) are possible"
        )
    if len(model.window) != 2 or model.window[0] != model.window[1] or model.output != "scores":
        raise UsageError(f"model {model.name!r} scores no square windows, so there is nothing to turn")
    return replace(
        model,
        net=TurnedNet(model.net, turns).eval(),
        digest=digest_json([model.digest, "turns", turns]),
        activation=MeanOfTurns(model.activation, model.classes.index(model.positive or model.classes[-1])),
        extras=(SPREAD,),
    )
