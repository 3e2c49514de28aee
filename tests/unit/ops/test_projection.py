"""Vectors as points in a plane: groups stay together, equal seeds give equal points, and what cannot be is said."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.metrics.neighbours import chance_purity, neighbour_purity
from medvision.ops.projection import in_words, project


def blobs(per: int = 15, size: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Three groups far apart in `size` dimensions, and which of them each vector is of."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(3), per)
    return rng.normal(size=(3, size))[labels] * 6 + rng.normal(size=(3 * per, size)), labels


@pytest.mark.parametrize("method", ["tsne", "pca", "umap"])
def test_groups_stay_together_and_a_seed_repeats(method: str) -> None:
    if method == "umap":
        pytest.importorskip("umap", reason="umap-learn is not installed", exc_type=ImportError)
    vectors, labels = blobs()
    places = project(vectors, method, seed=1, neighbours=8)  # type: ignore[arg-type]
    assert places.shape == (45, 2) and np.isfinite(places).all()
    assert neighbour_purity(places, labels, 5).mean() > 0.95
    np.testing.assert_array_equal(places, project(vectors, method, seed=1, neighbours=8))  # type: ignore[arg-type]


def test_principal_components_are_those_of_the_covariance() -> None:
    vectors, _ = blobs(size=6)
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    expected = centred @ axes[:, ::-1][:, :2]
    found = project(vectors, "pca")
    for column in (0, 1):  # the direction of an axis is free
        sign = np.sign(found[:, column] @ expected[:, column])
        np.testing.assert_allclose(found[:, column], sign * expected[:, column], atol=1e-8)


def test_what_cannot_be_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="4 images are too few"):
        project(np.eye(4), "pca")
    with pytest.raises(UsageError, match="all images are the same"):
        project(np.ones((9, 3)), "tsne")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(
        UsageError, match=r"umap-learn, which is not installed: pip install 'medvision\[umap\]'"
    ):
        project(np.eye(9), "umap")
    assert in_words("tsne", 30, 500) == "t-SNE (perplexity 30)"
    assert in_words("tsne", 30, 24) == "t-SNE (perplexity 7.67)"
    assert in_words("umap", 30, 24) == "UMAP (23 neighbours)"


def test_few_vectors_take_what_neighbours_there_are() -> None:
    assert project(np.eye(6), "tsne").shape == (6, 2)


def test_purity_counts_the_nearest_others() -> None:
    points = np.array([[0.0, 0], [1, 0], [0, 1.5], [10, 10], [10, 11.5], [0, 3]])
    labels = np.array([0, 0, 1, 1, 1, 0])
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1)[:, :2]
    expected = (labels[nearest] == labels[:, None]).mean(axis=1)
    np.testing.assert_array_equal(neighbour_purity(points, labels, 2), expected)
    assert chance_purity(labels) == pytest.approx(12 / 30)
    with pytest.raises(UsageError, match="6 nearest others of 6 points: take 1 to 5"):
        neighbour_purity(points, labels, 6)


def test_purity_of_labels_by_lot_is_that_of_chance() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    assert neighbour_purity(rng.normal(size=(400, 2)), labels, 10).mean() == pytest.approx(
        chance_purity(labels), abs=0.03
    )
