"""A forest as plain arrays: equal to scikit-learn, read without running anything, and refused where it is no forest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from medvision.core.errors import UsageError, WeightsError
from medvision.models.slide_forest import (
    ForestContract,
    read_slide_forest,
    trees_of,
    write_slide_forest,
)
from medvision.models.weights import read_weights, write_weights
from medvision.ops.heatmap_features import FEATURES

CONTRACT = ForestContract(
    name="f", features=FEATURES, positive="tumor", model="m", model_digest="d" * 64, stride_um=64, trees=40,
    trained_on="60 slides",
)  # fmt: skip


def fitted(seed: int, least_leaf: int = 1):
    random = np.random.default_rng(seed)
    x = random.normal(size=(60, len(FEATURES)))
    y = x[:, 0] + x[:, 3] * x[:, 5] + 0.3 * random.normal(size=60) > 0
    forest = RandomForestClassifier(
        40, min_samples_leaf=least_leaf, class_weight="balanced", random_state=seed
    )
    return forest.fit(x.astype(np.float32), y), random.normal(size=(500, len(FEATURES)))


@pytest.mark.parametrize(("seed", "least_leaf"), [(0, 1), (1, 2), (2, 5)])
def test_predictions_equal_scikit_learn(seed: int, least_leaf: int, tmp_path: Path) -> None:
    forest, fresh = fitted(seed, least_leaf)
    # Values exactly on a split, which single precision decides.
    splits = [
        (f, t)
        for e in forest.estimators_
        for f, t in zip(e.tree_.feature, e.tree_.threshold, strict=True)
        if f >= 0
    ]
    for row, (feature, threshold) in enumerate(splits[:200]):
        fresh[row, feature] = threshold
    expected = forest.predict_proba(fresh.astype(np.float32))[:, 1]
    np.testing.assert_allclose(trees_of(forest).predict(fresh), expected, atol=1e-12)
    path = tmp_path / "f.safetensors"
    write_slide_forest(path, trees_of(forest), CONTRACT)
    again = read_slide_forest(path)
    np.testing.assert_array_equal(again.trees.predict(fresh), trees_of(forest).predict(fresh))
    assert again.probability(fresh[0]) == pytest.approx(expected[0], abs=1e-12)
    assert again.contract == CONTRACT
    write_slide_forest(tmp_path / "g.safetensors", trees_of(forest), CONTRACT)
    assert (tmp_path / "g.safetensors").read_bytes() == path.read_bytes()


def test_heatmaps_of_another_model_or_stride_are_refused(tmp_path: Path) -> None:
    write_slide_forest(tmp_path / "f.safetensors", trees_of(fitted(0)[0]), CONTRACT)
    forest = read_slide_forest(tmp_path / "f.safetensors")
    forest.check_heatmap("m", "d" * 64, 64.2)
    with pytest.raises(UsageError, match=r"trained on heatmaps of 'm' \(dddddddddddd\); these are of 'n'"):
        forest.check_heatmap("n", "e" * 64, 64)
    with pytest.raises(UsageError, match="cells of 64 um; these have 32 um"):
        forest.check_heatmap("m", "d" * 64, 32)
    assert "40 trees over 28 features" in forest.rule


def test_what_is_no_forest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    trees = trees_of(fitted(0)[0])
    with pytest.raises(WeightsError, match="no such weights file"):
        read_slide_forest(path)
    write_weights(path, {"a": torch.zeros(2)}, {"kind": "other"})
    with pytest.raises(WeightsError, match="holds no slide forest"):
        read_slide_forest(path)
    said = CONTRACT.model_dump(mode="json")
    write_weights(path, trees.as_state(), {**said, "features": [*FEATURES[1:], "other"]})
    with pytest.raises(WeightsError, match="not those that this version computes"):
        read_slide_forest(path)
    write_weights(path, trees.as_state(), {**said, "trees": 39})
    with pytest.raises(WeightsError, match="not the trees of a forest"):
        read_slide_forest(path)
    state = trees.as_state()
    state["left"] = state["left"].clone()
    state["left"][0] = 0  # a node that is its own child would never end
    write_weights(path, state, said)
    with pytest.raises(WeightsError, match="not the trees of a forest"):
        read_slide_forest(path)
    assert set(read_weights(path)[0]) == set(state)
