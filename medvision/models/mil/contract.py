"""The contract of every aggregator: the vectors of a slide in, its probabilities and one attention per window out.

A bag is float `(n, d)`: the rows of a feature table. Several bags travel as `(b, n, d)`, the shorter ones filled up
with rows of NaN; a row of NaN is no instance, whether it fills up or stands for a window that could not be read.
Networks never see such rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional

from medvision.core.registry import Registry


class BagOutput(NamedTuple):
    """What a network says of one bag.

    `logits` (outputs,). `attention` (n,) sums to 1 over the instances, of NaN where there is none; `nan` throughout for
    networks that have no attention. `extra` is what the network's own loss needs.
    """

    logits: torch.Tensor
    attention: torch.Tensor
    extra: tuple[torch.Tensor, ...] = ()


class Aggregator(nn.Module):
    """Base of the networks: standardises features, leaves out missing rows, and does one bag after the other.

    `feature_mean` and `feature_std` (d,) are those of the training features, 0 and 1 unless they were set. Bags are
    never padded for computing, so that a bag's result cannot depend on its neighbours.
    """

    has_attention = True

    def __init__(self, dimension: int, outputs: int) -> None:
        super().__init__()
        self.dimension, self.outputs = dimension, outputs
        self.feature_mean: torch.Tensor
        self.feature_std: torch.Tensor
        self.register_buffer("feature_mean", torch.zeros(dimension))
        self.register_buffer("feature_std", torch.ones(dimension))

    def bag(self, features: torch.Tensor) -> BagOutput:
        """The output for standardised instances `(n, d)`, n at least 1."""
        raise TypeError(f"{type(self).__name__} has no result for a bag of {len(features)}")

    def forward(self, bags: torch.Tensor) -> list[BagOutput]:
        """One output per bag of `(b, n, d)`; attention is (n,), NaN for missing rows.

        Raises:
            ValueError: if a bag has no instance, or vectors are of another length.
        """
        if bags.ndim != 3 or bags.shape[2] != self.dimension:
            raise ValueError(f"bags of shape {tuple(bags.shape)} are not (b, n, {self.dimension})")
        return [self._placed(features) for features in bags]

    def standardised(self, features: torch.Tensor) -> torch.Tensor:
        """Features with the training set's mean and deviation taken out."""
        return (features - self.feature_mean) / self.feature_std

    def _placed(self, features: torch.Tensor) -> BagOutput:
        present = ~torch.isnan(features).any(dim=1)
        if not bool(present.any()):
            raise ValueError("a bag without any instance has no result")
        found = self.bag(self.standardised(features[present]))
        attention = features.new_full((len(features),), torch.nan)
        attention[present] = found.attention.to(attention.dtype)
        return BagOutput(found.logits, attention, found.extra)


class MilOptions(BaseModel):
    """Sizes of a network; each architecture reads those it has. They are part of the trained model's contract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: Annotated[
        int, Field(ge=1, description="Length of the vectors after the first layer, or of an LSTM's state.")
    ] = 128
    attention: Annotated[
        int, Field(ge=1, description="Length of the vectors that attention is computed from.")
    ] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25
    heads: Annotated[int, Field(ge=1, description="Attention heads; transmil.")] = 8
    layers: Annotated[int, Field(ge=1, description="Layers of the LSTM; cnn-lstm.")] = 3
    readout: Annotated[
        Literal["last", "max"],
        Field(description="Final states of both directions, or the largest of all states; cnn-lstm."),
    ] = "last"
    instances: Annotated[
        int, Field(ge=1, description="Windows of highest and of lowest attention to cluster; clam.")
    ] = 8
    bag_weight: Annotated[
        float, Field(gt=0, le=1, description="Of the bag's loss beside the instances'; clam.")
    ] = 0.7
    subtyping: Annotated[bool, Field(description="Classes exclude each other in every window; clam.")] = False
    passing_values: Annotated[
        bool, Field(description="A layer before the values that are summed; dsmil.")
    ] = False


Probabilities = Callable[[BagOutput], torch.Tensor]
Loss = Callable[[BagOutput, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class MilDesign:
    """How one architecture is built, trained and read.

    `build(dimension, classes, options)` gives the network; `probabilities` turns an output into `(classes,)`; `loss`
    makes, from the options, the loss of one bag with its class (an integer tensor without axes).
    """

    build: Callable[[int, int, MilOptions], Aggregator]
    probabilities: Probabilities
    loss: Callable[[MilOptions], Loss]


DESIGNS: Registry[MilDesign] = Registry("aggregator")


def softmax_probabilities(output: BagOutput) -> torch.Tensor:
    """Probabilities `(classes,)` of classes that exclude each other."""
    return torch.softmax(output.logits.float(), dim=0)


def cross_entropy(_options: MilOptions) -> Loss:
    """Cross-entropy of one bag."""

    def loss(output: BagOutput, target: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(output.logits[None], target[None])

    return loss


class GatedAttention(nn.Module):
    """Attention scores before the softmax, `(n, branches)`, of instances `(n, d)`.

    `w (tanh(V h) * sigmoid(U h))`, equation 9 of Ilse et al., "Attention-based Deep Multiple Instance Learning"
    (ICML 2018).
    """

    def __init__(self, dimension: int, hidden: int, branches: int, dropout: float) -> None:
        super().__init__()
        self.value = nn.Linear(dimension, hidden)
        self.gate = nn.Linear(dimension, hidden)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(hidden, branches)

    def forward(self, instances: torch.Tensor) -> torch.Tensor:
        """Scores."""
        gated = torch.tanh(self.value(instances)) * torch.sigmoid(self.gate(instances))
        scores: torch.Tensor = self.score(self.dropout(gated))
        return scores
