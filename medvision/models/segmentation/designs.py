"""The segmentation networks by name. Each file of the family registers its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from medvision.core.registry import Registry
from medvision.models.architectures import ARCHITECTURES, Architecture
from medvision.models.segmentation.contract import SegmentContract


@dataclass(frozen=True, slots=True)
class SegmentDesign:
    """How a network is built, and the contract that it has where nobody asked for another.

    `build` gives a network of float `(n, channels, *window)` to logits `(n, classes, *out)`. `out` is the window itself
    or, of a network without padding, the middle of it. In training mode it may give a tuple: those logits, then
    logits of the same form from other depths, for losses alone.

    `axes` are the numbers of axes it is defined on; `multiple` is what the sides of windows are multiples of, after
    `lost` pixels of each side are taken off (`(side - lost) % multiple == 0`); `reads` names the options it reads;
    `slim` are the fields of a contract by which it is small enough to be trained on a few cores.
    """

    build: Callable[[SegmentContract], nn.Module]
    usual: SegmentContract
    axes: tuple[int, ...]
    multiple: Callable[[SegmentContract], int]
    lost: Callable[[SegmentContract], int]
    reads: frozenset[str]
    slim: Mapping[str, Any]


SEGMENTERS: Registry[SegmentDesign] = Registry("segmentation network")


def register_segmenter(
    usual: SegmentContract,
    build: Callable[[SegmentContract], nn.Module],
    *,
    home: str,
    family: str,
    paper: str,
    parameters: int,
    axes: tuple[int, ...] = (2,),
    multiple: Callable[[SegmentContract], int] = lambda _contract: 1,
    lost: Callable[[SegmentContract], int] = lambda _contract: 0,
    reads: frozenset[str] = frozenset(),
    slim: Mapping[str, Any],
    licence: str = "Apache-2.0",
) -> None:
    """Add a network under its contract's name, here and to the list of architectures.

    `home` is `module:object` of the network; `parameters` is how many it has to learn by its usual contract.
    """
    SEGMENTERS.register(usual.architecture)(SegmentDesign(build, usual, axes, multiple, lost, reads, slim))
    task = "what each pixel is"
    entry = Architecture(family, task, paper, home, "train segment", licence, parameters, usual)
    ARCHITECTURES.register(usual.architecture)(entry)
