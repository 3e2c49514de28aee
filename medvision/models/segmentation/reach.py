"""How far a segmentation network looks: what its answers at the edge of a window depend on beyond that window.

Found by running the network, not by adding up its layers: everything beyond a line is set to "not a number", which any
arithmetic carries on, so that exactly those answers stay numbers that do not depend on it. The line lies on the
network's pooling grid, as the edges of windows do.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from medvision.core.errors import UsageError
from medvision.models.segmentation.contract import SegmentContract
from medvision.models.segmentation.designs import SEGMENTERS
from medvision.models.segmentation.model import build_segment_net

_SLIM = 1 / 64
"""Width at which the network is built to be asked: how far it looks does not depend on the number of channels."""
_FURTHEST = 2048
"""Side in pixels beyond which a network counts as one that looks at everything."""
_TRIES = 64


@dataclass(frozen=True, slots=True)
class Reach:
    """Of each axis, in pixels of the network.

    `margin` is what a window loses before each side to convolutions without padding. `influence` is the number of
    pixels from an edge of a window within which answers depend on what lies beyond it; None of a network whose every
    answer depends on the whole window, such as one with instance normalisation. Windows that lie a multiple of
    `multiple` apart have the same pooling grid, and `least` is the smallest window that gives an answer.
    """

    margin: tuple[int, ...]
    influence: tuple[int, ...] | None
    multiple: int
    least: int


def reach_of(contract: SegmentContract) -> Reach:
    """How far the network of a contract looks. Its weights play no part."""
    asked = contract.model_copy(update={"figures": {}, "version": "", "calibration": ""})
    return _reach(asked.model_dump_json())


@lru_cache(maxsize=16)
def _reach(contract_json: str) -> Reach:
    contract = SegmentContract.model_validate_json(contract_json)
    design = SEGMENTERS[contract.architecture]
    multiple, lost = design.multiple(contract), design.lost(contract)
    if "width" in design.reads:
        options = contract.options.model_copy(update={"width": _SLIM})
        contract = contract.model_copy(update={"options": options})
    axes = len(contract.window)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(), _plain_arithmetic():
        net = build_segment_net(contract).eval()
        least, margin = _least(net, contract.channels, axes, multiple, lost)
        found = [_influence(net, contract.channels, axes, axis, multiple, least) for axis in range(axes)]
    known = [one for one in found if one is not None]
    return Reach(margin, tuple(known) if len(known) == axes else None, multiple, least)


def _plain_arithmetic() -> AbstractContextManager[None]:
    """Without NNPACK, whose fast convolutions mix neighbouring answers and would spread what is no number."""
    return torch.backends.nnpack.flags(enabled=False)


def _least(net: nn.Module, channels: int, axes: int, multiple: int, lost: int) -> tuple[int, tuple[int, ...]]:
    """The side of the smallest window that gives an answer, and what that loses on each side."""
    side = lost + multiple
    for _ in range(_TRIES):
        try:
            shape = net(torch.zeros((1, channels, *(side,) * axes))).shape[2:]
        except (RuntimeError, ValueError):  # too small for a convolution or a pooling
            shape = torch.Size()
        if len(shape) == axes and min(shape) >= 1:
            return side, tuple((side - n) // 2 for n in shape)
        side += multiple
    raise UsageError(f"the network gives no answer for windows of up to {side - multiple} px")


def _influence(net: nn.Module, channels: int, axes: int, axis: int, multiple: int, least: int) -> int | None:
    """Pixels from a line across `axis` within which answers depend on what lies on its other side, the larger way."""
    length = least + multiple * max(4, -(-64 // multiple))
    while length <= max(_FURTHEST, least + 8 * multiple):
        line = length // 2 // multiple * multiple
        before = _touched(net, channels, axes, axis, length, least, slice(None, line))
        behind = _touched(net, channels, axes, axis, length, least, slice(line, None))
        margin = (length - len(before)) // 2
        clean, dirty = torch.nonzero(~before).flatten(), torch.nonzero(~behind).flatten()
        if len(clean) and len(dirty):
            after, until = int(clean[0]) + margin, int(dirty[-1]) + 1 + margin
            return max(0, after - line, line - until)
        length += (length - least) // multiple * multiple
    return None


def _touched(
    net: nn.Module, channels: int, axes: int, axis: int, length: int, least: int, beyond: slice
) -> torch.Tensor:
    """Along `axis`, the answers that depend on the pixels of `beyond`: bool `(answers,)`."""
    shape = [least] * axes
    shape[axis] = length
    window = torch.zeros((1, channels, *shape))
    window.movedim(2 + axis, 0)[beyond] = torch.nan
    lost = torch.isnan(net(window)).movedim(2 + axis, 0)
    return lost.flatten(1).any(dim=1)
