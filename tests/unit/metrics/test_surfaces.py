"""Distances between borders against MONAI, brute force and figures by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from scipy import ndimage

from medvision.core.errors import UsageError
from medvision.metrics.surfaces import (
    average_surface_distance,
    hausdorff,
    surface_dice,
    surface_distances,
)


def blobs(seed, shape):
    """Two smooth masks that overlap in part; some touch the border of the image."""
    random = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(random.normal(size=(2, *shape)), (0, *[2] * len(shape)))
    return field[0] > 0.05, field[0] + field[1] * 0.5 > 0.05


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((40, 33), (1.0, 1.0)), ((28, 45), (0.3, 0.7)), ((9, 21, 17), (2.5, 0.8, 0.8))],
)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI of itself
def test_equal_to_monai(seed, shape, spacing):
    p, t = blobs(seed, shape)
    distances = surface_distances(p, t, spacing)
    a, b = (torch.tensor(mask)[None, None].float() for mask in (p, t))
    for percentile in (95, 50):
        theirs = compute_hausdorff_distance(a, b, percentile=percentile, spacing=spacing).item()
        assert hausdorff(distances, percentile) == pytest.approx(theirs, rel=1e-5)
    theirs = compute_hausdorff_distance(a, b, spacing=spacing).item()
    assert hausdorff(distances, 100) == pytest.approx(theirs, rel=1e-5)
    theirs = compute_average_surface_distance(a, b, symmetric=True, spacing=spacing).item()
    assert average_surface_distance(distances) == pytest.approx(theirs, rel=1e-5)
    # Not at a multiple of the spacing, where theirs compares in single precision.
    for tolerance in (0.35, 1.13):
        theirs = compute_surface_dice(a, b, [tolerance], spacing=spacing).item()
        assert surface_dice(distances, tolerance) == pytest.approx(theirs, rel=1e-5)


def test_nearest_by_brute_force():
    p, t = blobs(7, (15, 14))
    steps = np.array([0.3, 0.7])
    border = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * steps for mask in (p, t)]
    each = np.sqrt(((border[0][:, None] - border[1][None]) ** 2).sum(axis=2))
    distances = surface_distances(p, t, steps)
    np.testing.assert_allclose(distances.to_reference, each.min(axis=1))
    np.testing.assert_allclose(distances.to_prediction, each.min(axis=0))


def test_by_hand():
    """A line of three pixels and the same moved by two rows of 0.5 mm: every distance is 1 mm."""
    p, t = np.zeros((2, 6, 5), dtype=bool)
    p[1, 1:4], t[3, 1:4] = True, True
    distances = surface_distances(p, t, (0.5, 3.0))
    assert hausdorff(distances) == average_surface_distance(distances) == 1.0
    assert (surface_dice(distances, 1.0), surface_dice(distances, 0.99)) == (1.0, 0.0)
    # A tolerance that is a whole number of steps is met, though 4 x 0.3 - 3 x 0.3 is more than 0.3 in binary.
    for row in range(5):
        p, t = np.zeros((2, 6), dtype=bool)
        p[row], t[row + 1] = True, True
        assert surface_dice(surface_distances(p, t, (0.3,)), 0.3) == 1.0


def test_empty_masks():
    empty, full = np.zeros((4, 4)), np.ones((4, 4))
    both = surface_distances(empty, empty)
    assert both.both_empty and not both.one_empty
    assert np.isnan([hausdorff(both), average_surface_distance(both), surface_dice(both, 1)]).all()
    for pair in ((empty, full), (full, empty)):
        one = surface_distances(*pair)
        assert one.one_empty and not one.both_empty
        assert (hausdorff(one), average_surface_distance(one), surface_dice(one, 9)) == (np.inf, np.inf, 0)


def test_what_means_nothing_is_refused():
    mask = np.ones((3, 3))
    with pytest.raises(UsageError, match="shapes"):
        surface_distances(mask, np.ones((3, 4)))
    for spacing in ((1.0,), (1.0, 0.0), (1.0, np.nan)):
        with pytest.raises(UsageError, match="one positive number"):
            surface_distances(mask, mask, spacing)
    with pytest.raises(UsageError, match="tolerance of -1"):
        surface_dice(surface_distances(mask, mask), -1)
