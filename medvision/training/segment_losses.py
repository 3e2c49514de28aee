"""What segmentation networks are trained to make small: cross-entropy, overlap, and sums of them.

Every term takes logits float `(n, classes, *out)`, labels int64 `(n, *out)` and weights float `(n, *out)`, and gives
one number. A pixel labelled `IGNORED` plays no part in any of them. Weights are those of a map, such as U-Net's
(`medvision.ops.border_weights`), which are added to the weight of the pixel's class; only cross-entropy has a use for
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from medvision.core.errors import UsageError
from medvision.training.segment_config import IGNORED, LossConfig, LossName

Term = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Logits = torch.Tensor | tuple[torch.Tensor, ...]


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    class_weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """The mean of -log p of the true class, each pixel weighted by its class's weight (1) plus its own.

    Ronneberger et al. (MICCAI 2015), equations 1 and 2, as a weighted mean where they have a sum, so that a learning
    rate fits windows of any size.
    """
    counted = labels != IGNORED
    kept = torch.where(counted, labels, 0)
    of_class = torch.ones(logits.shape[1]) if class_weights is None else torch.tensor(list(class_weights))
    whole = torch.where(counted, of_class.to(logits)[kept] + weights, 0)
    found = functional.cross_entropy(logits, kept, reduction="none")
    return (whole * found).sum() / whole.sum().clamp_min(1e-12)


def focal(logits: torch.Tensor, labels: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    """The mean of -(1 - p)^gamma log p of the true class (Lin et al., ICCV 2017); with gamma 0 the cross-entropy."""
    counted = labels != IGNORED
    found = functional.cross_entropy(logits, torch.where(counted, labels, 0), reduction="none")
    hard = (1 - torch.exp(-found)).clamp_min(0) ** gamma
    return (torch.where(counted, hard * found, 0)).sum() / counted.sum().clamp_min(1)


def overlap(name: LossName, *, background: bool = False, over_batch: bool = True) -> Term:
    """One minus an overlap of probabilities p and truth g, MONAI's, the mean of the classes.

    "dice": 2 sum p g / (sum p + sum g). "dice-squared": 2 sum p g / (sum p^2 + sum g^2), V-Net's (Milletari et al., 3DV
    2016). "jaccard": sum p g / (sum p + sum g - sum p g). "generalised-dice": the Dice of all classes at once, each
    weighted by 1 / (its pixels)^2 (Sudre et al., DLMIA 2017).

    Args:
        name: one of the four.
        background: whether the first class counts, too.
        over_batch: sums run over the whole batch, so that a class may be absent from a window; else over each window.
    """
    from monai.losses import DiceLoss, GeneralizedDiceLoss

    how: dict[str, Any] = {"include_background": background, "batch": over_batch}
    if name == "generalised-dice":
        measure = GeneralizedDiceLoss(**how)
    else:
        measure = DiceLoss(squared_pred=name == "dice-squared", jaccard=name == "jaccard", **how)

    def term(logits: torch.Tensor, labels: torch.Tensor, _weights: torch.Tensor) -> torch.Tensor:
        counted = labels != IGNORED
        classes = logits.shape[1]
        truth = functional.one_hot(torch.where(counted, labels, 0), classes).movedim(-1, 1).to(logits)
        mask = counted[:, None]
        found: torch.Tensor = measure(torch.softmax(logits, dim=1) * mask, truth * mask)
        return found

    return term


@dataclass(frozen=True, eq=False)
class SegmentLoss:
    """A weighted sum of terms, as the loop calls it: logits of a network and targets, see `pack`.

    Labels are cut to what the network answers for, the middle of a window. Where a network in training gives logits of
    several depths, those of depth k count 2^-k of the first, all together 1 (deep supervision, Lee et al., AISTATS
    2015); labels are taken at the middle of each coarser pixel.
    """

    terms: tuple[tuple[float, Term], ...]

    def __call__(self, logits: Logits, targets: torch.Tensor) -> torch.Tensor:
        """The loss of logits `(n, classes, *out)`, or a tuple of them, the finest first; targets as `pack` gives."""
        depths = logits if isinstance(logits, tuple) else (logits,)
        shares = [2.0**-k for k in range(len(depths))]
        found = [
            share * self._one(one.float(), at_depth(targets, one.shape[2:], depths[0].shape[2:]))
            for share, one in zip(shares, depths, strict=True)
        ]
        return torch.stack(found).sum() / sum(shares)

    def _one(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        labels, weights = targets[:, 0].long(), targets[:, 1]
        return torch.stack([weight * term(logits, labels, weights) for weight, term in self.terms]).sum()


def segment_loss(config: LossConfig, classes: int) -> SegmentLoss:
    """The loss that a configuration asks for.

    Raises:
        UsageError: if it has more or fewer class weights than there are classes.
    """
    if config.class_weights is not None and len(config.class_weights) != classes:
        raise UsageError(f"loss: {len(config.class_weights)} class weights for {classes} classes")

    def made(name: LossName) -> Term:
        if name == "cross-entropy":
            return lambda logits, labels, weights: cross_entropy(
                logits, labels, weights, config.class_weights
            )
        if name == "focal":
            return lambda logits, labels, _weights: focal(logits, labels, config.focal_gamma)
        return overlap(name, background=config.background, over_batch=config.over_batch)

    terms: Mapping[LossName, float] = config.terms
    return SegmentLoss(tuple((weight, made(name)) for name, weight in terms.items()))


def pack(labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Targets float32 `(n, 2, *window)`: labels `(n, *window)`, which stay exact, and the map of weights, or 0."""
    return torch.stack(
        [labels.float(), torch.zeros(labels.shape) if weights is None else weights.float()], dim=1
    )


def at_depth(targets: torch.Tensor, out: Sequence[int], finest: Sequence[int]) -> torch.Tensor:
    """The part of targets `(n, c, *window)` that logits of `out` pixels answer for, at their resolution.

    A pixel of theirs spans the power of two of pixels that brings `out` nearest to the `finest` logits.
    """
    for axis, (side, most) in enumerate(zip(out, finest, strict=True), 2):
        step = 2 ** round(math.log2(most / side))
        first = (targets.shape[axis] - side * step) // 2
        targets = targets.narrow(axis, first, side * step)
        targets = targets[(slice(None),) * axis + (slice(step // 2, None, step),)]
    return targets
