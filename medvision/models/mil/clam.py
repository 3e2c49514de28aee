"""CLAM: Lu et al., "Data-efficient and weakly supervised computational pathology on whole-slide images" (Nature
Biomedical Engineering 2021).

Gated attention, with one branch (clam-sb) or one per class (clam-mb), and beside the slide's loss one of its windows:
those of highest attention for the slide's class shall be told from those of lowest by a classifier of that class, under
the smooth top-1 SVM loss of Berrada et al. (ICLR 2018). With `subtyping`, the windows that other classes attend to most
are also taught not to be of those classes.
"""

from __future__ import annotations

import torch
from torch import nn

from medvision.models.mil.contract import (
    DESIGNS,
    Aggregator,
    BagOutput,
    GatedAttention,
    Loss,
    MilDesign,
    MilOptions,
    cross_entropy,
    softmax_probabilities,
)


class Clam(Aggregator):
    """`extra` holds attention scores `(branches, n)` and, per class, logits `(classes, n, 2)` of the windows."""

    def __init__(self, dimension: int, classes: int, options: MilOptions, branches: int) -> None:
        super().__init__(dimension, classes)
        self.embed = nn.Sequential(
            nn.Linear(dimension, options.hidden), nn.ReLU(), nn.Dropout(options.dropout)
        )
        self.attention = GatedAttention(options.hidden, options.attention, branches, options.dropout)
        self.classify = nn.ModuleList(
            nn.Linear(options.hidden, classes if branches == 1 else 1) for _ in range(branches)
        )
        self.cluster = nn.ModuleList(nn.Linear(options.hidden, 2) for _ in range(classes))

    def bag(self, features: torch.Tensor) -> BagOutput:
        """Of instances `(n, d)`; with several branches the attention is that of the last class."""
        embedded = self.embed(features)
        scores = self.attention(embedded).T
        attention = torch.softmax(scores, dim=1)
        slides = attention @ embedded
        logits = torch.cat([layer(slide) for layer, slide in zip(self.classify, slides, strict=True)])
        windows = torch.stack([layer(embedded) for layer in self.cluster])
        return BagOutput(logits, attention[-1], (scores, windows))


def instance_loss(output: BagOutput, target: torch.Tensor, count: int, subtyping: bool) -> torch.Tensor:
    """Mean smooth SVM loss of the windows of highest (1) and lowest (0) attention, `count` each, at most half a bag."""
    scores, windows = output.extra
    classes, n = windows.shape[:2]
    count = min(count, n // 2)
    if count == 0:
        return output.logits.new_zeros(())
    losses = []
    for k in range(classes):
        order = torch.argsort(scores[k if len(scores) > 1 else 0], descending=True, stable=True)
        top, bottom = order[:count], order[n - count :]
        if k == int(target):
            losses.append(smooth_top1_svm(windows[k, top], 1))
            losses.append(smooth_top1_svm(windows[k, bottom], 0))
        elif subtyping:
            losses.append(smooth_top1_svm(windows[k, top], 0))
    return torch.cat(losses).mean()


def smooth_top1_svm(logits: torch.Tensor, label: int) -> torch.Tensor:
    """Losses `(n,)` of logits `(n, classes)`: log-sum-exp of `s_j + [j != label]`, minus `s_label`.

    The top-1 case, temperature 1 and margin 1, of Berrada, Zisserman & Kumar, "Smooth Loss Functions for Deep Top-k
    Classification" (ICLR 2018).
    """
    margin = torch.ones_like(logits)
    margin[:, label] = 0
    return torch.logsumexp(logits + margin, dim=1) - logits[:, label]


def clam_loss(options: MilOptions) -> Loss:
    """`bag_weight` of the slide's cross-entropy and the rest of the windows' loss."""
    of_slide = cross_entropy(options)

    def loss(output: BagOutput, target: torch.Tensor) -> torch.Tensor:
        of_windows = instance_loss(output, target, options.instances, options.subtyping)
        return options.bag_weight * of_slide(output, target) + (1 - options.bag_weight) * of_windows

    return loss


def _single(dimension: int, classes: int, options: MilOptions) -> Clam:
    return Clam(dimension, classes, options, 1)


def _multiple(dimension: int, classes: int, options: MilOptions) -> Clam:
    return Clam(dimension, classes, options, classes)


DESIGNS.register("clam-sb")(MilDesign(_single, softmax_probabilities, clam_loss))
DESIGNS.register("clam-mb")(MilDesign(_multiple, softmax_probabilities, clam_loss))
