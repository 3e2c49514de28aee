"""How well a classifier tells several classes apart.

Labels are places in the list of classes (n,), probabilities (n, classes). A confusion table has the reference in rows;
it may have one column more than rows, for images that were given no class. A figure that does not exist, such as the
sensitivity of a class without a case, is NaN. Everything is a pure function.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from medvision.core.errors import UsageError
from medvision.metrics.calibration import Reliability, reliability
from medvision.metrics.ranking import Bools, Floats, roc_auc

Ints = npt.NDArray[np.int64]


def decide(probabilities: Floats) -> Ints:
    """The most probable class of each image (n,); in a tie the first, as in the evaluator of MedMNIST."""
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


def tied(probabilities: Floats) -> Bools:
    """Whether several classes are the most probable one (n,)."""
    return np.asarray((probabilities == probabilities.max(axis=1, keepdims=True)).sum(axis=1) > 1)


def accuracy(table: Ints) -> float:
    """Share of images with the right class."""
    return float(np.trace(table) / table.sum())


def sensitivities(table: Ints) -> Floats:
    """Share of each class's images that were given it (classes,); also called recall."""
    return _share(np.diagonal(table), table.sum(axis=1))


def specificities(table: Ints) -> Floats:
    """Share of the other classes' images that were not given each class (classes,)."""
    own, given = table.sum(axis=1), table.sum(axis=0)[: len(table)]
    return _share(table.sum() - own - given + np.diagonal(table), table.sum() - own)


def balanced_accuracy(table: Ints) -> float:
    """Mean sensitivity over the classes that have a case: the ISIC challenges' score.

    >>> balanced_accuracy(np.array([[3, 1], [1, 1]]))
    0.625
    """
    return float(np.nanmean(sensitivities(table)))


def one_vs_rest_auc(labels: Ints, probabilities: Floats) -> Floats:
    """AUC of each class's probability for the class against all others (classes,), ties counting half."""
    own = np.eye(probabilities.shape[1], dtype=bool)[labels]
    positives = own.sum(axis=0)
    ranks = np.where(own, rankdata(probabilities, axis=0), 0).sum(axis=0)
    return _share(ranks - positives * (positives + 1) / 2, positives * (len(labels) - positives))


def macro_auc(labels: Ints, probabilities: Floats) -> float:
    """Mean of the one-vs-rest AUCs; NaN if a class has no case, because a mean over fewer would be another figure."""
    return float(one_vs_rest_auc(labels, probabilities).mean())


def medmnist_auc(labels: Ints, probabilities: Floats) -> float:
    """AUC as the evaluator of MedMNIST (Yang 2023) has it: for two classes of the last one's probability, else macro.

    Raises:
        UsageError: if a class has no case.
    """
    if probabilities.shape[1] == 2:
        return roc_auc(labels, probabilities[:, -1])
    if np.isnan(auc := macro_auc(labels, probabilities)):
        raise UsageError("the AUC of MedMNIST needs a case of every class")
    return auc


def medmnist_accuracy(labels: Ints, probabilities: Floats) -> float:
    """Accuracy as the evaluator of MedMNIST has it: for two classes the last one above 0.5, else the most probable."""
    two = probabilities.shape[1] == 2
    said = (probabilities[:, -1] > 0.5).astype(np.int64) if two else decide(probabilities)
    return float(np.mean(said == labels))


def class_brier(labels: Ints, probabilities: Floats) -> float:
    """Mean squared difference of probabilities and outcome (Brier 1950): 0 is perfect.

    Of two classes only the last one's probability counts, so that the worst is 1 as for a yes-or-no question; of more,
    all classes are summed, and the worst is 2.
    """
    gaps = (probabilities - np.eye(probabilities.shape[1])[labels]) ** 2
    return float((gaps[:, -1] if probabilities.shape[1] == 2 else gaps.sum(axis=1)).mean())


def confidence_reliability(labels: Ints, probabilities: Floats, bins: int = 15) -> Reliability:
    """How often the most probable class is right, by its probability (Guo et al., ICML 2017), over equal-width bins.

    `calibration.calibration_gap` makes the expected calibration error of it.
    """
    said = decide(probabilities)
    return reliability(said == labels, np.minimum(probabilities[np.arange(len(said)), said], 1), bins)


def weighted_error(table: Ints, penalties: Floats) -> float:
    """Mean penalty of an image: counts times `penalties` (classes, classes), reference in rows, over the images.

    Raises:
        UsageError: if the shapes differ.

    >>> weighted_error(np.array([[8, 2], [0, 10]]), np.array([[0, 4], [1, 0]]))
    0.4
    """
    if table.shape != penalties.shape:
        raise UsageError(f"penalties of shape {penalties.shape} for a confusion table of shape {table.shape}")
    return float((table * penalties).sum() / table.sum())


def wilson_interval(successes: int, cases: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), without correction for continuity; it takes cases for independent.

    Raises:
        UsageError: unless 0 <= successes <= cases and there is a case.
    """
    if not 0 <= successes <= cases or cases == 0:
        raise UsageError(f"no proportion: {successes} of {cases}")
    z = float(norm.ppf((1 + level) / 2))
    share, scale = successes / cases, 1 + z * z / cases
    middle = (share + z * z / (2 * cases)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / cases + z * z / (4 * cases * cases))
    # At 0 and at all cases the bound is exact, but for rounding.
    return (
        0.0 if successes == 0 else float(middle - half),
        1.0 if successes == cases else float(middle + half),
    )


def _share(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    counts, cases = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.asarray(np.divide(counts, cases, out=np.full(counts.shape, np.nan), where=cases > 0))
