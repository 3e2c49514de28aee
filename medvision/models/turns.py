"""Test-time augmentation by flips and quarter turns of a window: probabilities averaged, and their spread.

Tissue has no up or down, so a classifier should not care; what it cares all the same averages out, and how much it did
says how far a score can be relied on. A cube around a candidate in a scan turns in the plane of its slices, which are
often thicker than its pixels are wide, and flips along them too.
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

CUBE_TURNS = 16
"""Orientations of a cube of square slices: those of the square, each with the slices as they are and reversed."""

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


def turn_cube(cubes: torch.Tensor, which: int) -> torch.Tensor:
    """Cubes `(..., slices, rows, columns)` turned in the plane as by `turn`, and from 8 on with slices reversed."""
    turned = turn(cubes, which % TURNS)
    return turned.flip(-3) if which >= TURNS else turned


class TurnedNet(nn.Module):
    """Raw scores `(n, turns, classes)` of the first `turns` orientations of windows.

    Windows are `(n, channels, side, side)`, or `(n, channels, slices, side, side)` where `turned` is `turn_cube`.
    """

    def __init__(
        self,
        net: nn.Module,
        turns: int = TURNS,
        turned: Callable[[torch.Tensor, int], torch.Tensor] = turn,
    ) -> None:
        super().__init__()
        self.net = net
        self.turns = turns
        self.turned = turned

    @property
    def stride_px(self) -> int | None:
        """That of the network itself, where it states one."""
        found = getattr(self.net, "stride_px", None)
        return found if isinstance(found, int) else None

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """One orientation after the other, so that memory stays that of a batch."""
        return torch.stack([self.net(self.turned(windows, which)) for which in range(self.turns)], dim=1)


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
        model: a classifier of square windows, or of cubes of square slices.
        turns: 4 for the quarter turns, 8 for those and their mirror images; of cubes 16 for these with the slices
            reversed, too.

    Raises:
        UsageError: for a model of other windows, or that does not give scores, or another number of turns.
    """
    shape = model.window
    if len(shape) not in (2, 3) or shape[-1] != shape[-2] or model.output != "scores":
        raise UsageError(f"model {model.name!r} scores no square windows, so there is nothing to turn")
    cubes = len(shape) == 3
    if turns not in (4, TURNS) and not (cubes and turns == CUBE_TURNS):
        more = f", and {CUBE_TURNS} (slices reversed too)" if cubes else ""
        raise UsageError(
            f"{turns} orientations of a window; 4 (quarter turns), {TURNS} (flipped too){more} are possible"
        )
    return replace(
        model,
        net=TurnedNet(model.net, turns, turn_cube if cubes else turn).eval(),
        digest=digest_json([model.digest, "turns", turns]),
        activation=MeanOfTurns(model.activation, model.classes.index(model.positive or model.classes[-1])),
        extras=(SPREAD,),
    )
