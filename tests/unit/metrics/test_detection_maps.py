"""Candidates and lesions against every possible matching, and the average precision against scikit-learn."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import precision_recall_curve

from medvision.core.errors import UsageError
from medvision.evaluations.picai import lesion_ap
from medvision.metrics.detection_maps import LesionLine, MapHits, score_map
from medvision.metrics.overlap import dice, iou


def blocks(random, count, values):
    """A map of boxes; what touches or overlaps gets one value."""
    array = np.zeros((3, 12, 12), dtype=np.float32)
    for _ in range(count):
        at = random.integers(0, [2, 10, 10])
        size = random.integers(1, [3, 5, 5])
        array[tuple(slice(a, a + s) for a, s in zip(at, size, strict=True))] = 1
    labels, n = ndimage.label(array, np.ones((3, 3, 3)))
    for i in range(1, n + 1):
        array[labels == i] = random.choice(values)
    return array


def best_matching(overlaps):
    """Number of pairs and their total overlap, by trying all."""
    m, n = overlaps.shape
    if m > n:
        return best_matching(overlaps.T)
    return max(
        ((sum(p > 0 for p in pairs), sum(pairs)) for pairs in ([overlaps[i, j] for i, j in enumerate(order)]
         for order in permutations(range(n), m))),
        default=(0, 0.0),
    )  # fmt: skip


@pytest.mark.parametrize("overlap", ["iou", "dice"])
def test_matching_is_the_best_of_all(overlap):
    random = np.random.default_rng(5)
    measure = {"iou": iou, "dice": dice}[overlap]
    pairs = 0
    for _ in range(80):
        detections = blocks(random, random.integers(1, 7), [0.25, 0.5, 0.75, 1.0])
        lesions = (blocks(random, random.integers(0, 6), [1]) > 0).astype(int)
        got = score_map("c", detections, lesions, overlap=overlap)
        candidates, n = ndimage.label(detections, np.ones((3, 3, 3)))
        parts, m = ndimage.label(lesions, np.ones((3, 3, 3)))
        table = np.array(
            [[measure(candidates == j, parts == i) for j in range(1, n + 1)] for i in range(1, m + 1)]
        ).reshape(m, n)
        table[table < 0.1] = 0
        hits = [line for line in got.lines if line.is_lesion and line.confidence > 0]
        count, total = best_matching(table)
        assert len(hits) == count
        assert sum(line.overlap for line in hits) == pytest.approx(total, abs=1e-6)
        assert sum(line.is_lesion for line in got.lines) == m
        false = [line.confidence for line in got.lines if not line.is_lesion]
        assert len(false) == n - (table > 0).any(axis=0).sum()
        assert got.confidence == detections.max()
        pairs += count
    assert pairs > 20


def test_a_second_candidate_on_a_lesion_counts_for_nothing():
    lesions = np.zeros((1, 5, 9), dtype=int)
    lesions[0, :, 1:8] = 1
    detections = np.zeros((1, 5, 9), dtype=np.float32)
    detections[0, :, 0:3], detections[0, :, 4:9] = 0.9, 0.3
    got = score_map("c", detections, lesions)
    assert [(line.is_lesion, round(line.confidence, 2)) for line in got.lines] == [(True, 0.3)]
    assert got.hits.lesions == pytest.approx([0.3])
    assert len(got.hits.false_positives) == 0
    assert got.confidence == pytest.approx(0.9)


def test_average_precision_equals_scikit_learn_with_misses_at_zero():
    random = np.random.default_rng(2)
    for _ in range(20):
        lines = [
            LesionLine(bool(random.random() < 0.5), float(random.integers(1, 9) / 8), 0.5) for _ in range(12)
        ]
        lines += [LesionLine(True, 0.0, 0.0)] * int(random.integers(1, 5))
        precision, recall, thresholds = precision_recall_curve(
            [line.is_lesion for line in lines], [line.confidence for line in lines]
        )
        precision[:-1][thresholds == 0] = 0
        expected = -np.sum(np.diff(recall) * precision[:-1])
        cases = [MapHits("a", tuple(lines[:5]), 1.0), MapHits("b", tuple(lines[5:]), 1.0)]
        assert lesion_ap(cases) == pytest.approx(expected, abs=1e-12)
    assert lesion_ap([MapHits("a", (LesionLine(True, 0.0, 0.0),), 0.0)]) == 0
    with pytest.raises(UsageError, match="needs a positive case"):
        lesion_ap([MapHits("a", (LesionLine(False, 0.5, 0.0),), 0.5)])


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        (np.linspace(0, 1, 27, dtype=np.float32).reshape(3, 3, 3), "26 confidences in 1 .*probabilities"),
        (np.full((3, 3, 3), -1, np.float32), "not negative"),
        (np.full((3, 3, 3), np.nan, np.float32), "finite"),
        (np.zeros((3, 3, 4), np.float32), r"shape \(3, 3, 4\) for labels of \(3, 3, 3\)"),
    ],
)  # fmt: skip
def test_what_is_no_detection_map_is_refused(detections, message):
    with pytest.raises(UsageError, match=f"case 7: .*{message}"):
        score_map("case 7", detections, np.zeros((3, 3, 3), int))


def test_what_cannot_be_an_overlap_is_refused():
    empty = np.zeros((2, 2, 2), np.float32)
    with pytest.raises(UsageError, match="must be in"):
        score_map("c", empty, empty.astype(int), min_overlap=0)
    with pytest.raises(UsageError, match="iou or dice"):
        score_map("c", empty, empty.astype(int), overlap="volume")
