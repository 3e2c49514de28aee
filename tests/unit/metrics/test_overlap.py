"""Dice and IoU against torchmetrics and MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

from medvision.core.errors import UsageError
from medvision.metrics.overlap import dice, iou


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
