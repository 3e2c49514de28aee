"""DSMIL: Li, Li & Eliceiri, "Dual-stream Multiple Instance Learning Network for Whole Slide Image Classification with
Self-supervised Contrastive Learning" (CVPR 2021).

One stream scores every window and takes the highest, the critical instance of a class. The other attends to each window
by how close its query is to the critical one's, and classifies the sum. A slide's probability is the mean of both
streams' (equation 8). Tensors have the names of the published aggregators, which load as they are.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from medvision.core.errors import WeightsError
from medvision.models.mil.contract import DESIGNS, Aggregator, BagOutput, Loss, MilDesign, MilOptions
from medvision.models.weights import State, apply_weights, read_weights

QUERY = 128
"""Length of a query vector in the published networks."""


class _InstanceStream(nn.Module):
    def __init__(self, dimension: int, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(dimension, outputs))


class _BagStream(nn.Module):
    def __init__(self, dimension: int, outputs: int, options: MilOptions, linear_query: bool) -> None:
        super().__init__()
        self.q: nn.Module = nn.Linear(dimension, QUERY)
        if not linear_query:
            self.q = nn.Sequential(nn.Linear(dimension, QUERY), nn.ReLU(), nn.Linear(QUERY, QUERY), nn.Tanh())
        self.v: nn.Module = nn.Identity()
        if options.passing_values:
            self.v = nn.Sequential(nn.Dropout(options.dropout), nn.Linear(dimension, dimension), nn.ReLU())
        self.fcc = nn.Conv1d(outputs, outputs, kernel_size=dimension)


class DualStreamMil(Aggregator):
    """Sigmoid logits, one for two classes (of the second), else one per class. `extra` holds the critical logits."""

    def __init__(self, dimension: int, outputs: int, options: MilOptions, linear_query: bool = False) -> None:
        super().__init__(dimension, outputs)
        self.i_classifier = _InstanceStream(dimension, outputs)
        self.b_classifier = _BagStream(dimension, outputs, options, linear_query)

    def bag(self, features: torch.Tensor) -> BagOutput:
        """Of instances `(n, d)`; the attention is that of the last output."""
        scores: torch.Tensor = self.i_classifier.fc(features)
        highest, critical = scores.max(dim=0)
        queries: torch.Tensor = self.b_classifier.q(features)
        distance = queries @ queries[critical].T / math.sqrt(QUERY)
        attention = torch.softmax(distance, dim=0)
        summed = attention.T @ self.b_classifier.v(features)
        logits = self.b_classifier.fcc(summed[None])[0, :, 0]
        return BagOutput(logits, attention[:, -1], (highest,))


def probabilities(output: BagOutput) -> torch.Tensor:
    """Mean of both streams' sigmoid: `(1 - p, p)` for one output, else one independent probability per output."""
    (highest,) = output.extra
    found = (torch.sigmoid(output.logits.float()) + torch.sigmoid(highest.float())) / 2
    return torch.cat([1 - found, found]) if len(found) == 1 else found


def dsmil_loss(_options: MilOptions) -> Loss:
    """Mean of the binary cross-entropies of both streams."""

    def loss(output: BagOutput, target: torch.Tensor) -> torch.Tensor:
        (highest,) = output.extra
        outputs = len(output.logits)
        wanted = (
            target[None].to(output.logits.dtype)
            if outputs == 1
            else functional.one_hot(target, outputs).to(output.logits.dtype)
        )
        streams = [
            functional.binary_cross_entropy_with_logits(logits, wanted) for logits in (output.logits, highest)
        ]
        return torch.stack(streams).mean()

    return loss


def load_published(path: Path) -> DualStreamMil:
    """An aggregator in the published layout (`i_classifier.fc.0.weight`, `b_classifier.q.0.weight`, ...).

    Sizes and variants are found from the tensors' names and shapes.

    Raises:
        WeightsError: if the file is unsafe, unreadable, of another layout, or holds only a part of an aggregator.
    """
    state, _ = read_weights(path)
    first, last = state.get("i_classifier.fc.0.weight"), state.get("b_classifier.fcc.weight")
    if first is None or last is None:
        held = ", ".join(sorted({name.rpartition(".")[0] for name in state})[:6])
        raise WeightsError(
            f"{path}: no whole DSMIL aggregator (i_classifier.fc.0 and b_classifier.fcc are needed; it holds {held}); "
            "such a file can be the start of a training"
        )
    net = published_network(state, first.shape[1], first.shape[0])
    own = {name: value for name, value in net.state_dict().items() if name.startswith("feature_")}
    apply_weights(net, own | state, path)
    return net.eval()


def published_network(state: State, dimension: int, outputs: int) -> DualStreamMil:
    """A network of the variant that the tensors' names belong to."""
    options = MilOptions(passing_values="b_classifier.v.1.weight" in state)
    return DualStreamMil(dimension, outputs, options, linear_query="b_classifier.q.weight" in state)


def _build(dimension: int, classes: int, options: MilOptions) -> DualStreamMil:
    return DualStreamMil(dimension, 1 if classes == 2 else classes, options)


DESIGNS.register("dsmil")(MilDesign(_build, probabilities, dsmil_loss))
