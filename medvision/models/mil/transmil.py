"""TransMIL: Shao et al., "TransMIL: Transformer based Correlated Multiple Instance Learning for Whole Slide Image
Classification" (NeurIPS 2021).

Windows attend to each other in two transformer layers, with convolutions between them over the sequence laid out as a
square (PPEG). The paper approximates the softmax attention after Nystrom, to save memory. Here it is exact: PyTorch's
fused kernels hold no n x n matrix, so that memory grows with n alone, and nothing is left to approximate. Time grows
with the square of n.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from medvision.core.errors import UsageError
from medvision.models.mil.contract import (
    DESIGNS,
    Aggregator,
    BagOutput,
    MilDesign,
    MilOptions,
    cross_entropy,
    softmax_probabilities,
)

_LOCAL = 33
"""Taps of the convolution over the values that is added to the attention (Xiong et al., AAAI 2021)."""


class SelfAttention(nn.Module):
    """Multi-head softmax attention over tokens `(n, d)`, and a convolution of the values along the sequence."""

    def __init__(self, dimension: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dimension % heads:
            raise UsageError(f"{heads} heads do not divide vectors of {dimension}")
        self.heads = heads
        self.to_qkv = nn.Linear(dimension, 3 * dimension, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dimension, dimension), nn.Dropout(dropout))
        self.res_conv = nn.Conv2d(
            heads, heads, (_LOCAL, 1), padding=(_LOCAL // 2, 0), groups=heads, bias=False
        )

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `(n, d)`, and what the first token attends to `(n,)`, the mean over the heads."""
        query, key, value = (
            part.reshape(len(tokens), self.heads, -1).transpose(0, 1)
            for part in self.to_qkv(tokens).chunk(3, dim=1)
        )
        # The kernels that hold no n x n matrix take four axes.
        mixed = functional.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        mixed = mixed + self.res_conv(value[None])[0]
        found: torch.Tensor = self.to_out(mixed.transpose(0, 1).flatten(1))
        scores = query[:, :1] @ key.transpose(1, 2) / math.sqrt(query.shape[2])
        return found, torch.softmax(scores.float(), dim=2)[:, 0].mean(dim=0)


class TransLayer(nn.Module):
    """Normalisation and attention, added to what came in."""

    def __init__(self, dimension: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)
        self.attn = SelfAttention(dimension, heads, dropout)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens, and the first one's attention."""
        found, attention = self.attn(self.norm(tokens))
        return tokens + found, attention


class PositionEncoding(nn.Module):
    """PPEG: depthwise convolutions of 7, 5 and 3 places over the tokens as a square, but for the class token."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.proj, self.proj1, self.proj2 = (
            nn.Conv2d(dimension, dimension, side, padding=side // 2, groups=dimension) for side in (7, 5, 3)
        )

    def forward(self, tokens: torch.Tensor, side: int) -> torch.Tensor:
        """Tokens `(1 + side * side, d)`."""
        square = tokens[1:].T.reshape(1, -1, side, side)
        square = square + self.proj(square) + self.proj1(square) + self.proj2(square)
        return torch.cat([tokens[:1], square[0].flatten(1).T])


class TransMil(Aggregator):
    """Logits of the classes from the class token."""

    def __init__(self, dimension: int, classes: int, options: MilOptions) -> None:
        super().__init__(dimension, classes)
        hidden = options.hidden
        self.embed = nn.Sequential(nn.Linear(dimension, hidden), nn.ReLU())
        self.cls_token = nn.Parameter(torch.randn(1, hidden))
        self.layer1 = TransLayer(hidden, options.heads, options.dropout)
        self.pos_layer = PositionEncoding(hidden)
        self.layer2 = TransLayer(hidden, options.heads, options.dropout)
        self.norm = nn.LayerNorm(hidden)
        self.classify = nn.Linear(hidden, classes)

    def bag(self, features: torch.Tensor) -> BagOutput:
        """Of instances `(n, d)` in reading order. The square is filled up with the first windows once more."""
        n = len(features)
        side = math.isqrt(n - 1) + 1
        # A bag of two fills a square of four: the first windows come round as often as needed.
        order = torch.arange(side * side, device=features.device) % n
        tokens = torch.cat([self.cls_token, self.embed(features)[order]])
        tokens, _ = self.layer1(tokens)
        tokens, seen = self.layer2(self.pos_layer(tokens, side))
        attention = torch.zeros(n, dtype=seen.dtype, device=seen.device).index_add(0, order, seen[1:])
        return BagOutput(self.classify(self.norm(tokens[0])), attention / attention.sum())


DESIGNS.register("transmil")(MilDesign(TransMil, softmax_probabilities, cross_entropy))
