"""Dice, IoU and pixel scores against torchmetrics, MONAI and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix
from sklearn.metrics.cluster import contingency_matrix
from torchmetrics.functional.classification import (
    binary_f1_score,
    binary_jaccard_index,
    multiclass_jaccard_index,
)

from medvision.core.errors import UsageError
from medvision.metrics.overlap import dice, iou, label_confusion, label_pairs, nan_mean, pixel_scores


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_torchmetrics_and_monai(seed):
    random = np.random.default_rng(seed)
    p, r = random.random((2, 17, 23)) < 0.4
    tp, tr = torch.tensor(p), torch.tensor(r)
    assert dice(p, r) == pytest.approx(binary_f1_score(tp.int(), tr.int()).item(), abs=1e-6)
    assert iou(p, r) == pytest.approx(binary_jaccard_index(tp.int(), tr.int()).item(), abs=1e-6)
    assert dice(p, r) == pytest.approx(
        compute_dice(tp[None, None].float(), tr[None, None].float()).item(), abs=1e-6
    )
    assert iou(p, r) == pytest.approx(
        compute_iou(tp[None, None].float(), tr[None, None].float()).item(), abs=1e-6
    )


def test_empty_masks_have_the_value_asked_for():
    empty, full = np.zeros((3, 3)), np.ones((3, 3))
    assert dice(empty, empty) == iou(empty, empty) == 1
    assert dice(empty, empty, empty=0) == iou(empty, empty, empty=0) == 0
    assert dice(empty, full) == dice(full, empty) == iou(empty, full) == 0


def test_shapes_must_agree():
    with pytest.raises(UsageError, match=r"\(2,\) and \(1, 2\)"):
        dice([1, 0], [[1, 0]])


@pytest.mark.parametrize("seed", range(3))
def test_pixel_scores_against_torchmetrics_and_scikit_learn(seed):
    random = np.random.default_rng(seed)
    truth, called = random.integers(0, 5, (2, 9, 31))
    table = label_confusion(truth, called, range(5))
    assert table.tolist() == confusion_matrix(truth.ravel(), called.ravel()).tolist()
    scores = pixel_scores(table)
    t, c = torch.tensor(truth), torch.tensor(called)
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(truth.ravel(), called.ravel()))
    assert scores.mean_accuracy == pytest.approx(balanced_accuracy_score(truth.ravel(), called.ravel()))
    assert scores.mean_iu == pytest.approx(multiclass_jaccard_index(c, t, 5).item(), abs=1e-6)
    assert scores.frequency_weighted_iu == pytest.approx(
        multiclass_jaccard_index(c, t, 5, average="weighted").item(), abs=1e-6
    )
    for i in range(5):
        assert scores.iu[i] == pytest.approx(iou(called == i, truth == i))
        assert scores.dice[i] == pytest.approx(dice(called == i, truth == i))


def test_pixel_scores_by_hand():
    """Truth has 4 of class 0 and 4 of class 1; one of class 0 was called 1. Class 2 is nowhere, class 3 only called."""
    scores = pixel_scores(np.array([[3, 1, 0, 0], [0, 3, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert scores.pixel_accuracy == 6 / 8
    assert scores.mean_accuracy == 3 / 4
    np.testing.assert_allclose(scores.iu, [3 / 4, 3 / 5, np.nan, 0])
    assert scores.mean_iu == pytest.approx((3 / 4 + 3 / 5 + 0) / 3)
    assert scores.frequency_weighted_iu == pytest.approx((4 * 3 / 4 + 4 * 3 / 5) / 8)
    none = pixel_scores(np.zeros((2, 2), dtype=int))
    assert np.isnan([none.pixel_accuracy, none.mean_accuracy, none.mean_iu, none.frequency_weighted_iu]).all()


def test_label_confusion_takes_labels_in_any_order_and_leaves_pixels_out():
    truth, called = np.array([[7, 7, 0, 255]]), np.array([[7, 0, 0, 3]])
    counted = truth != 255
    assert label_confusion(truth, called, (7, 0), counted).tolist() == [[1, 1], [0, 1]]
    with pytest.raises(UsageError, match=r"labels \[255\] are none of \[7, 0, 3\]"):
        label_confusion(truth, called, (7, 0, 3))
    with pytest.raises(UsageError, match="shapes"):
        label_confusion(truth, called.T, (0, 7))


def test_label_pairs_are_those_of_scikit_learn():
    truth, called = np.random.default_rng(0).integers(0, 4, (2, 5, 6, 7)) * 1000
    pairs = label_pairs(truth, called)
    table = np.zeros((4, 4), dtype=int)
    table[pairs.rows, pairs.columns] = pairs.counts
    assert table.tolist() == contingency_matrix(truth.ravel(), called.ravel()).tolist()
    assert pairs.reference.tolist() == pairs.predicted.tolist() == [0, 1000, 2000, 3000]


def test_nan_mean():
    got = nan_mean(np.array([[1, np.nan], [3, np.nan]]), axis=0)
    np.testing.assert_array_equal(got, [2, np.nan])
