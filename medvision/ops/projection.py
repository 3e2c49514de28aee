"""Vectors of many numbers as points in a plane, so that a person can see which lie close together."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError

Method = Literal["tsne", "umap", "pca"]
Floats = npt.NDArray[np.float64]

NEIGHBOURS = 30
_COMPONENTS = 50
_FEWEST = 5


def project(features: Floats, method: Method, seed: int = 0, neighbours: int = NEIGHBOURS) -> Floats:
    """Points `(n, 2)` of vectors `(n, d)`; equal input and seed give equal points.

    Vectors of more than 50 numbers are first brought to their 50 principal components, as van der Maaten & Hinton
    (JMLR 2008) do.

    Args:
        features: finite.
        method: tsne (van der Maaten & Hinton 2008, from the principal components), umap (McInnes et al. 2018), or pca,
            the two first principal components.
        seed: of what is drawn.
        neighbours: the perplexity of t-SNE, or the number of neighbours of UMAP; at most what n points allow is taken.

    Raises:
        UsageError: if there are fewer than 5 vectors, they are all the same, or the package umap-learn is absent.
    """
    count = len(features)
    if count < _FEWEST:
        raise UsageError(f"{count} images are too few for a picture of how they lie; at least {_FEWEST}")
    if np.ptp(features, axis=0).max() == 0:
        raise UsageError("the vectors of all images are the same: there is nothing to show")
    from sklearn.decomposition import PCA  # a second to load

    components = 2 if method == "pca" else _COMPONENTS
    if features.shape[1] > components:
        features = PCA(min(components, count), random_state=seed).fit_transform(features)
    if method == "pca":
        return np.asarray(features[:, :2], np.float64)
    near = _near(method, neighbours, count)
    return _tsne(features, seed, near) if method == "tsne" else _umap(features, seed, int(near))


def in_words(method: Method, neighbours: int, count: int) -> str:
    """The method for `count` vectors, and its parameter, for people."""
    near = f"{_near(method, neighbours, count):.3g}"
    return {
        "tsne": f"t-SNE (perplexity {near})",
        "umap": f"UMAP ({near} neighbours)",
        "pca": "PCA (first two components)",
    }[method]


def _near(method: Method, neighbours: int, count: int) -> float:
    """What so many vectors allow: a third of the others for a perplexity, all others for neighbours."""
    return min(float(neighbours), (count - 1) / 3 if method == "tsne" else count - 1)


def _tsne(features: Floats, seed: int, perplexity: float) -> Floats:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # Sums over several threads are added in any order, and t-SNE makes much of the last bit.
    with threadpool_limits(1):
        made = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(features)
    return np.asarray(made, np.float64)


def _umap(features: Floats, seed: int, neighbours: int) -> Floats:
    try:
        from umap import UMAP
    except ImportError as error:
        raise UsageError(
            "umap needs the package umap-learn, which is not installed: pip install 'medvision[umap]' (210 MB), or "
            "take tsne or pca"
        ) from error
    made = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(features)
    return np.asarray(made, np.float64)
