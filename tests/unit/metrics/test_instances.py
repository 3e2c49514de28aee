"""Objects against brute force, torchmetrics' panoptic quality and figures by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchmetrics.functional.detection import panoptic_quality

from medvision.core.errors import UsageError
from medvision.metrics.instances import (
    THRESHOLDS,
    Matches,
    aggregated_jaccard,
    instance_overlap,
    match,
    parts_of,
    tracking_jaccards,
)


def nuclei(seed, shape=(60, 70)):
    """Label images of one field, the second one moved and with some objects lost; labels are not consecutive."""
    random = np.random.default_rng(seed)
    labels, _ = ndimage.label(ndimage.gaussian_filter(random.normal(size=shape), 2) > 0.12)
    moved = np.roll(labels, random.integers(0, 3), axis=0) * 7
    moved[np.isin(moved, random.choice(np.unique(moved), 3))] = 0
    return labels, moved


def by_definition(truth, predicted, threshold):
    """Counts and sum of IoU by comparing every object with every other."""
    known, given = ([image == i for i in np.unique(image) if i] for image in (truth, predicted))
    ious = [[np.sum(a & b) / np.sum(a | b) for b in given] for a in known]
    pairs = [value for row in ious for value in row if value > threshold]
    return len(pairs), len(given) - len(pairs), len(known) - len(pairs), sum(pairs)


@pytest.mark.parametrize("seed", range(4))
def test_matches_by_brute_force(seed):
    truth, predicted = nuclei(seed)
    overlap = instance_overlap(truth, predicted)
    for threshold in THRESHOLDS:
        got = match(overlap, threshold)
        assert (got.tp, got.fp, got.fn, pytest.approx(got.iou_sum)) == by_definition(
            truth, predicted, threshold
        )
    assert match(overlap).tp  # the fields have something to match


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_quality_is_that_of_torchmetrics(seed):
    truth, predicted = nuclei(seed)
    images = [torch.tensor(np.stack([image != 0, image], axis=-1))[None] for image in (predicted, truth)]
    # Objects are things of category 1; the background is stuff.
    theirs = panoptic_quality(*images, things={1}, stuffs={0}, return_per_class=True)
    assert match(instance_overlap(truth, predicted)).panoptic_quality == pytest.approx(theirs[0, 0].item())


def test_by_hand():
    """Object 1 is met but for a pixel (IoU 3/4), 2 is split into halves, 3 is missed, and one is nowhere."""
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 2, 2, 0, 3, 3, 0, 0]])
    given = np.array([[5, 5, 5, 0, 0, 6, 6, 8, 8, 0, 0, 0, 0, 9]])
    overlap = instance_overlap(truth, given)
    assert match(overlap) == Matches(tp=1, fp=3, fn=2, iou_sum=0.75)
    assert match(overlap).precision == 1 / 6
    assert match(overlap).f1 == 2 / 7
    assert match(overlap).segmentation_quality == 0.75
    assert match(overlap).panoptic_quality == pytest.approx(0.75 / (1 + 3 / 2 + 2 / 2))
    assert match(overlap, 0.75).tp == 0  # above the threshold, not at it
    # 3 of 4, 2 of 4 (the second half is left over: 2), 0 of 2, and 1 that nobody took.
    assert aggregated_jaccard(overlap) == pytest.approx((3 + 2) / (4 + 4 + 2 + 2 + 1))
    # Just half of object 2 is not more than half.
    assert tracking_jaccards(overlap).tolist() == [0.75, 0, 0]
    assert match(overlap) + match(overlap) == Matches(2, 6, 4, 1.5)


def test_one_prediction_over_two_objects():
    """SEG counts a merged pair twice, once for each object; the aggregated Jaccard index takes it twice."""
    truth, given = np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]])
    overlap = instance_overlap(truth, given)
    assert tracking_jaccards(overlap).tolist() == [0.5, 0.5]
    assert aggregated_jaccard(overlap) == 4 / 8
    assert match(overlap).tp == 0


@pytest.mark.parametrize("seed", range(3))
def test_aggregated_jaccard_and_seg_by_definition(seed):
    truth, given = nuclei(seed, (8, 30, 30))
    known, others = ([image == i for i in np.unique(image) if i] for image in (truth, given))
    above = below = 0
    used, scores = set(), []
    for one in known:
        ious = [np.sum(one & other) / np.sum(one | other) for other in others]
        best = int(np.argmax(ious))
        if ious[best]:
            above, below = above + np.sum(one & others[best]), below + np.sum(one | others[best])
            used.add(best)
        else:
            below += np.sum(one)
        most = [i for i, other in enumerate(others) if np.sum(one & other) > np.sum(one) / 2]
        scores.append(ious[most[0]] if most else 0)
    below += sum(np.sum(other) for i, other in enumerate(others) if i not in used)
    overlap = instance_overlap(truth, given)
    assert aggregated_jaccard(overlap) == pytest.approx(above / below)
    np.testing.assert_allclose(tracking_jaccards(overlap), scores)


def test_without_objects():
    none, one = np.zeros((3, 3), dtype=int), np.eye(3, dtype=int)
    empty = instance_overlap(none, none)
    assert match(empty) == Matches(0, 0, 0, 0.0)
    assert np.isnan([match(empty).precision, match(empty).panoptic_quality, aggregated_jaccard(empty)]).all()
    assert len(tracking_jaccards(empty)) == 0
    missed, false = instance_overlap(one, none), instance_overlap(none, one)
    assert (match(missed).fn, match(missed).precision, aggregated_jaccard(missed)) == (1, 0, 0)
    assert (match(false).fp, match(false).f1, aggregated_jaccard(false)) == (1, 0, 0)
    assert tracking_jaccards(missed).tolist() == [0]


def test_a_threshold_below_a_half_is_refused():
    with pytest.raises(UsageError, match=r"0\.4"):
        match(instance_overlap(np.eye(2, dtype=int), np.eye(2, dtype=int)), 0.4)


def test_parts_touch_at_corners():
    assert parts_of(np.eye(3, dtype=bool)).max() == 1
    assert parts_of(np.array([[1, 0, 1]], dtype=bool)).tolist() == [[1, 0, 2]]
