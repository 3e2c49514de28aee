"""How far cases of one class lie together: the classes of each case's nearest neighbours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def neighbour_purity(points: Floats, labels: Ints, k: int) -> Floats:
    """Share `(n,)` of each case's k nearest others, by Euclidean distance, that are of its class.

    Args:
        points: `(n, d)`.
        labels: `(n,)`.
        k: 1 to n - 1.

    Raises:
        UsageError: if there are not more than `k` points.

    >>> neighbour_purity(np.array([[0.0], [1.0], [1.5], [9.0]]), np.array([0, 0, 1, 1]), 1).tolist()
    [1.0, 0.0, 0.0, 1.0]
    """
    if not 1 <= k < len(points):
        raise UsageError(f"{k} nearest others of {len(points)} points: take 1 to {len(points) - 1}")
    from sklearn.neighbors import NearestNeighbors  # a second to load

    nearest = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors(return_distance=False)
    return np.asarray((labels[nearest] == labels[:, None]).mean(axis=1), np.float64)


def chance_purity(labels: Ints) -> float:
    """What the mean of `neighbour_purity` would be if classes had nothing to do with places: the mean share of others.

    >>> chance_purity(np.array([0, 0, 1, 1]))
    0.3333333333333333
    """
    counts, n = np.bincount(labels), len(labels)
    return float((counts * (counts - 1)).sum() / (n * (n - 1)))
