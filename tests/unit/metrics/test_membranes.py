"""Cells parted by membranes: against scikit-image and scikit-learn, brute force over all warpings, and by hand."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import adapted_rand_error, variation_of_information
from sklearn.metrics import rand_score

from medvision.core.errors import UsageError
from medvision.metrics.membranes import partition_scores, segments, thinned, warped, warping_error

EIGHT = np.ones((3, 3))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shift", [0, 2])
def test_equal_to_scikit_image_and_scikit_learn(seed, shift):
    random = np.random.default_rng(seed)
    truth, _ = ndimage.label(ndimage.gaussian_filter(random.normal(size=(50, 40)), 2) > -0.05)
    given = np.roll(truth, shift, axis=1) // 2 + 1
    scores = partition_scores(truth, given)
    error, split, merge = adapted_rand_error(truth, given, ignore_labels=(0,))
    assert scores.rand_error == pytest.approx(error)
    inside = truth != 0
    t, g = truth[inside], given[inside]
    assert scores.rand_index_error == pytest.approx(1 - rand_score(t, g))
    # The same sums with a pixel paired with itself too, as the paper's probabilities have it.
    joint = np.histogram2d(t, g, bins=(np.arange(truth.max() + 2), np.arange(given.max() + 2)))[0] / t.size
    pp, tt, ss = (joint**2).sum(), (joint.sum(1) ** 2).sum(), (joint.sum(0) ** 2).sum()
    assert scores.v_rand_split == pytest.approx(pp / tt) == pytest.approx(split, abs=0.01)
    assert scores.v_rand_merge == pytest.approx(pp / ss) == pytest.approx(merge, abs=0.01)
    assert scores.v_rand == pytest.approx(2 * pp / (tt + ss))
    # Conditional entropies H(S|T) and H(T|S), in bits.
    over, under = variation_of_information(t, g)
    h_t, h_s = (-(p[p > 0] * np.log2(p[p > 0])).sum() for p in (joint.sum(1), joint.sum(0)))
    information = h_s - over
    assert information == pytest.approx(h_t - under)
    assert scores.v_info_split == pytest.approx(information / h_s)
    assert scores.v_info_merge == pytest.approx(information / h_t)
    assert scores.v_info == pytest.approx(2 * information / (h_s + h_t))


def test_each_pixel_of_a_predicted_membrane_is_a_segment_by_itself():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 2]])
    given = np.array([[1, 1, 0, 0, 0, 2, 2, 0]])
    alone = np.array([[1, 1, 3, 4, 9, 2, 2, 5]])
    np.testing.assert_allclose(
        astuple(partition_scores(truth, given)), astuple(partition_scores(truth, alone))
    )
    assert partition_scores(truth, given).rand_error == pytest.approx(adapted_rand_error(truth, alone)[0])


def test_splits_and_mergers_by_hand():
    truth, merged, split = np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]]), np.array([[1, 2, 3, 4]])
    scores = partition_scores(truth, merged)
    assert (scores.v_rand_split, scores.v_rand_merge, scores.v_rand) == (1, 0.5, pytest.approx(2 / 3))
    assert scores.rand_index_error == 4 / 6  # the 4 pairs across, of 6
    assert (scores.v_info, scores.v_info_split) == (0, 1)  # nothing is known, and H(S) is 0: 0 / 0
    scores = partition_scores(truth, split)
    assert (scores.v_rand_split, scores.v_rand_merge) == (0.5, 1)
    assert (scores.v_info_split, scores.v_info_merge) == (0.5, 1)
    assert scores.rand_error == 1  # no pair of different pixels is together
    same = partition_scores(truth, truth * 5)
    assert astuple(same) == (0, 0, 1, 1, 1, 1, 1, 1)
    one = partition_scores(np.ones((2, 2), dtype=int), np.ones((2, 2), dtype=int))
    assert astuple(one) == (0, 0, 1, 1, 1, 1, 1, 1)
    assert np.isnan(astuple(partition_scores(np.zeros((2, 2), dtype=int), truth.reshape(2, 2)))).all()
    with pytest.raises(UsageError, match="shapes"):
        partition_scores(truth, truth.T)


def test_cells_that_meet_at_a_corner_are_two():
    assert segments(np.eye(2, dtype=bool)).max() == 2
    with pytest.raises(UsageError, match="rows, columns"):
        segments(np.ones((2, 2, 2)))


def test_thinning_gives_membranes_to_the_nearest_cell():
    labels = np.array([[1, 0, 0, 0, 0, 2]])
    assert thinned(labels).tolist() == [[1, 1, 1, 2, 2, 2]]
    assert thinned(np.zeros((2, 2), dtype=int)).tolist() == [[0, 0], [0, 0]]


def topology(cells):
    """Numbers of cells, and of membranes where all beyond the image is one."""
    padded = np.pad(cells, 1)
    return ndimage.label(padded)[1], ndimage.label(~padded, structure=EIGHT)[1]


def flips(cells):
    """Every mask one flip of a simple pixel away, by the definition: the numbers of parts stay, and so does what
    touches what, which a flip of one pixel can only change together with the numbers in its neighbourhood."""
    for index in np.ndindex(cells.shape):
        flipped = cells.copy()
        flipped[index] ^= True
        row, column = index[0] + 1, index[1] + 1
        around = np.pad(cells, 1)[row - 1 : row + 2, column - 1 : column + 2]
        with_cell, with_membrane = around.copy(), around.copy()
        with_cell[1, 1], with_membrane[1, 1] = True, False
        # Locally: a cell put in the middle joins just one 4-connected part, a membrane one 8-connected part.
        sides = [(0, 1), (1, 0), (1, 2), (2, 1)]
        parts = ndimage.label(with_membrane)[0]
        joined = {int(parts[side]) for side in sides} - {0}
        outside = ~with_cell
        if len(joined) == 1 and ndimage.label(outside, structure=EIGHT)[1] == 1:
            yield flipped


def nearest_warping(reference, target):
    """Fewest pixels in which any mask of the reference's topology differs from the target, over all warpings."""
    seen, border = {reference.tobytes()}, [reference]
    least = np.sum(reference != target)
    while border:
        found = []
        for mask in border:
            for one in flips(mask):
                if (key := one.tobytes()) not in seen:
                    seen.add(key)
                    found.append(one)
                    least = min(least, np.sum(one != target))
        border = found
    return int(least)


def test_warping_against_all_warpings_of_tiny_images():
    """The descent may stop early where whole cells would have to move: of such random images, in two of twelve."""
    found = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        reference, target = random.random((2, 3, 3)) < 0.6
        got = warped(reference, target)
        assert topology(got) == topology(reference)
        left, least = int(np.sum(got != target)), nearest_warping(reference, target)
        assert least <= left
        assert not any(np.sum(one != target) < left for one in flips(got))  # no single flip comes nearer
        found += left == least
    assert found == 10


def test_warping_leaves_mistakes_of_topology_only():
    """Two cells and a membrane between them: moved or thickened it costs nothing, broken or with a hole one pixel."""
    truth = np.ones((9, 11), dtype=bool)
    truth[:, 5] = False
    assert warping_error(truth, np.roll(truth, 1, axis=1)) == 0
    # Farther than it is thick it cannot be moved by flipping wrong pixels alone.
    assert warping_error(truth, np.roll(truth, 2, axis=1)) > 0
    thick = truth.copy()
    thick[:, 3:8] = False
    assert warping_error(truth, thick) == 0
    broken = truth.copy()
    broken[4, 5] = True
    assert warping_error(truth, broken) == 1 / 99
    hole = truth.copy()
    hole[3, 2] = False
    assert warping_error(truth, hole) == 1 / 99
    assert warping_error(truth, truth) == 0
    assert warping_error(truth, np.ones_like(truth)) >= 1 / 99


def test_a_warped_field_keeps_its_topology_and_has_no_simple_mistake():
    random = np.random.default_rng(3)
    field = ndimage.gaussian_filter(random.normal(size=(60, 60)), 2)
    truth, target = np.abs(field) > 0.02, np.abs(np.roll(field, 2, 0)) > 0.03
    got = warped(truth, target)
    assert topology(got) == topology(truth)
    assert 0 < np.sum(got != target) < np.sum(truth != target)
    assert np.array_equal(warped(got, target), got)
    assert warping_error(truth, target) == np.mean(got != target)
    with pytest.raises(UsageError, match="warped"):
        warped(truth, target[1:])
