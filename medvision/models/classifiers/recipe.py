"""How a named classifier is built, before it is known for how many classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True, slots=True)
class Recipe:
    """A network of `library` for any number of classes, and the input size it was designed for, where there is one.

    `mean` and `std` are those of the published weights' normalisation: ImageNet's for most networks, not for all.
    """

    library: str
    build: Callable[[int], nn.Module]
    window_px: int | None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def choose(recipes: Sequence[Recipe], state: dict[str, torch.Tensor]) -> Recipe:
    """The recipe whose network has tensors of the names in `state`; the first where none or all have.

    Two libraries may call networks of one design by one name, but their tensors differently.
    """
    if len(recipes) > 1:
        for recipe in recipes:
            if recipe.build(2).state_dict().keys() == state.keys():
                return recipe
    return recipes[0]


def drop_auxiliaries(net: nn.Module) -> tuple[str, ...]:
    """Take away auxiliary classifiers, which help only a training from scratch; returns the modules that went."""
    if not getattr(net, "aux_logits", False):
        return ()
    net.aux_logits = False  # type: ignore[assignment]
    gone = tuple(part for part in ("AuxLogits", "aux1", "aux2") if hasattr(net, part))
    for part in gone:
        setattr(net, part, None)
    return gone
