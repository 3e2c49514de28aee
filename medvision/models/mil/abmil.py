"""Attention-based MIL: Ilse, Tomczak & Welling, "Attention-based Deep Multiple Instance Learning" (ICML 2018).

The slide is the sum of its windows, each weighed by a gated attention that sums to 1. MONAI's `MILModel` has the form
without the gate, around a backbone that takes images; tables of features need the head alone.
"""

from __future__ import annotations

import torch
from torch import nn

from medvision.models.mil.contract import (
    DESIGNS,
    Aggregator,
    BagOutput,
    GatedAttention,
    MilDesign,
    MilOptions,
    cross_entropy,
    softmax_probabilities,
)


class AttentionMil(Aggregator):
    """Logits of the classes from the attention-weighted sum of the embedded windows."""

    def __init__(self, dimension: int, classes: int, options: MilOptions) -> None:
        super().__init__(dimension, classes)
        self.embed = nn.Sequential(
            nn.Linear(dimension, options.hidden), nn.ReLU(), nn.Dropout(options.dropout)
        )
        self.attention = GatedAttention(options.hidden, options.attention, 1, options.dropout)
        self.classify = nn.Linear(options.hidden, classes)

    def bag(self, features: torch.Tensor) -> BagOutput:
        """Of instances `(n, d)`."""
        embedded = self.embed(features)
        attention = torch.softmax(self.attention(embedded)[:, 0], dim=0)
        return BagOutput(self.classify(attention @ embedded), attention)


DESIGNS.register("abmil")(MilDesign(AttentionMil, softmax_probabilities, cross_entropy))
