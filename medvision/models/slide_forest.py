"""A random forest over features of a heatmap that gives a slide its probability (Wang et al. 2016).

On disk the trees are plain arrays in a safetensors file, so that nothing in it can run; the traversal here gives what
scikit-learn gives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError, WeightsError
from medvision.models.contract import Figure
from medvision.models.weights import State, digest_state, read_weights, write_weights
from medvision.ops.heatmap_features import FEATURES

_LEAF = -1


class ForestContract(BaseModel):
    """What a forest's file says about itself: which heatmaps it wants, and how it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["slide-forest"] = "slide-forest"
    name: str
    version: str = ""
    features: tuple[str, ...]
    positive: str
    model: str
    """Name of the model whose heatmaps it was trained on."""
    model_digest: str
    stride_um: float = Field(gt=0)
    trees: int = Field(gt=0)
    threshold: float = Field(0.5, ge=0, le=1)
    """Probability at which a slide is positive."""
    trained_on: str
    figures: dict[str, Figure] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known_features(self) -> ForestContract:
        if self.features != FEATURES:
            raise ValueError("its features are not those that this version computes")
        return self


@dataclass(frozen=True, eq=False)
class Trees:
    """All nodes of all trees, one after the other. `feature` is -1 in a leaf; `value` is the leaf's share of positives.

    A case goes to `left` where its feature, in single precision, is at most `threshold`, else to `right`. `roots` are
    the first nodes of the trees.
    """

    feature: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float64]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    roots: npt.NDArray[np.int64]

    def predict(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Mean over the trees of the share of positives, `(n,)`, for features `(n, features)`."""
        cases = features.astype(np.float32)
        rows = np.arange(len(cases))[:, None]
        node = np.broadcast_to(self.roots, (len(cases), len(self.roots))).copy()
        while (inner := self.feature[node] != _LEAF).any():
            goes_left = cases[rows, self.feature[node]] <= self.threshold[node]
            node = np.where(inner, np.where(goes_left, self.left[node], self.right[node]), node)
        return np.asarray(self.value[node].mean(axis=1), dtype=np.float64)

    def as_state(self) -> State:
        """As tensors by name."""
        return {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _ARRAYS}


_ARRAYS = tuple(Trees.__dataclass_fields__)


@dataclass(frozen=True, eq=False)
class SlideForest:
    """A forest and its contract. `digest` is the SHA-256 of both."""

    contract: ForestContract
    trees: Trees
    digest: str = field(default="")

    def probability(self, features: npt.NDArray[np.float64]) -> float:
        """Probability of one slide from its features `(28,)`."""
        return float(self.trees.predict(features[None])[0])

    def check_heatmap(self, model: str, digest: str, stride_um: float) -> None:
        """Refuse heatmaps of another model or stride than the forest knows.

        Raises:
            UsageError: naming both.
        """
        known = self.contract
        if digest != known.model_digest:
            raise UsageError(
                f"slide model {known.name!r} was trained on heatmaps of {known.model!r} ({known.model_digest[:12]}); "
                f"these are of {model!r} ({digest[:12]})"
            )
        if abs(stride_um / known.stride_um - 1) > 0.01:
            raise UsageError(
                f"slide model {known.name!r} was trained on heatmaps with cells of {known.stride_um:g} um; these have "
                f"{stride_um:g} um: pass the stride that it was trained with"
            )

    @property
    def rule(self) -> str:
        """The sentence that explains the slide's score in a report."""
        known = self.contract
        return (
            f"Random forest {known.name!r} of {known.trees} trees over {len(known.features)} features of the heatmap, "
            f"trained on {known.trained_on}; positive from {known.threshold:g}."
        )


def trees_of(forest: Any) -> Trees:
    """The trees of a fitted `RandomForestClassifier` of two classes, the second of which is positive."""
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in _ARRAYS}
    start = 0
    for estimator in forest.estimators_:
        tree = estimator.tree_
        leaf = tree.children_left < 0
        share = tree.value[:, 0, :]
        parts["feature"].append(np.where(leaf, _LEAF, tree.feature).astype(np.int64))
        parts["threshold"].append(np.where(leaf, 0.0, tree.threshold))
        parts["left"].append(np.where(leaf, 0, tree.children_left + start).astype(np.int64))
        parts["right"].append(np.where(leaf, 0, tree.children_right + start).astype(np.int64))
        parts["value"].append(share[:, 1] / share.sum(axis=1))
        parts["roots"].append(np.array([start], dtype=np.int64))
        start += tree.node_count
    return Trees(**{name: np.concatenate(arrays) for name, arrays in parts.items()})


def write_slide_forest(path: Path, trees: Trees, contract: ForestContract) -> None:
    """Write a forest as safetensors, whole or not at all. Equal input gives equal bytes."""
    write_weights(path, trees.as_state(), contract.model_dump(mode="json"))


def read_slide_forest(path: Path) -> SlideForest:
    """Read a forest.

    Raises:
        WeightsError: if the file is absent, damaged, holds something else, or its trees do not hang together.
    """
    state, metadata = read_weights(path)
    if metadata.get("kind") != "slide-forest" or set(state) != set(_ARRAYS):
        raise WeightsError(f"{path}: holds no slide forest as written by `medvision train slide-forest`")
    try:
        contract = ForestContract.model_validate(metadata)
    except ValidationError as error:
        raise WeightsError(f"{path}: its contract is wrong: {error.errors()[0]['msg']}") from error
    trees = Trees(**{name: tensor.numpy() for name, tensor in state.items()})
    _check_trees(path, trees, contract)
    said = contract.model_dump(mode="json", exclude={"figures", "version", "trained_on"})
    return SlideForest(contract, trees, digest_json([said, digest_state(state)]))


def _check_trees(path: Path, trees: Trees, contract: ForestContract) -> None:
    """Refuse arrays that are no trees: a child comes after its parent, so that every way down ends."""
    nodes = len(trees.feature)
    inner = trees.feature != _LEAF
    places = np.arange(nodes)
    sound = (
        all(getattr(trees, name).shape == (nodes,) for name in _ARRAYS if name != "roots")
        and len(trees.roots) == contract.trees
        and ((trees.roots >= 0) & (trees.roots < nodes)).all()
        and ((trees.feature >= _LEAF) & (trees.feature < len(contract.features))).all()
        and all(((child > places) & (child < nodes))[inner].all() for child in (trees.left, trees.right))
        and ((trees.value >= 0) & (trees.value <= 1)).all()
    )
    if not sound:
        raise WeightsError(f"{path}: its arrays are not the trees of a forest")
