"""The Potts grid, its mean field and its cuts, against enumeration of every labelling of small grids."""

import itertools
import math

import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.ops.graph_cut import graph_cut
from medvision.ops.potts import PottsGrid, energy, free_energy, mean_field, potts_grid, unary_costs

SHAPES = [((3, 4), 4), ((3, 4), 8), ((2, 2, 3), 6), ((2, 2, 3), 18), ((2, 2, 3), 26)]


def beliefs(shape: tuple[int, ...], classes: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).gamma(0.7, size=(*shape, classes)) + 1e-3
    return (drawn / drawn.sum(-1, keepdims=True)).astype(np.float32)


def model(shape: tuple[int, ...], neighbours: int, weight: float, seed: int) -> PottsGrid:
    image = np.random.default_rng(100 + seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return potts_grid(image, weight, neighbours=neighbours)


def slow_energy(labels: np.ndarray, costs: np.ndarray, image: np.ndarray, weight: float, reach: int) -> float:
    """The formula in two plain loops over all pairs of pixels."""
    places = list(np.ndindex(labels.shape))
    near = [
        (p, q)
        for p, q in itertools.combinations(places, 2)
        if max(abs(a - b) for a, b in zip(p, q, strict=True)) == 1
        and sum(a != b for a, b in zip(p, q, strict=True)) <= reach
    ]
    square = {(p, q): float(((image[p].astype(float) - image[q]) ** 2).sum()) for p, q in near}
    variance = sum(square.values()) / len(near)
    total = sum(float(costs[(*p, labels[p])]) for p in places)
    for p, q in near:
        if labels[p] != labels[q]:
            total += weight * math.exp(-square[p, q] / (2 * variance)) / math.dist(p, q)
    return total


@pytest.mark.parametrize(("shape", "neighbours"), SHAPES)
def test_energy_is_the_formula(shape: tuple[int, ...], neighbours: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    costs = unary_costs(beliefs(shape, 3, 1))
    labels = rng.integers(0, 3, shape).astype(np.uint8)
    reach = {4: 1, 6: 1, 8: 2, 18: 2, 26: 3}[neighbours]
    expected = slow_energy(labels, costs, image, 1.7, reach)
    assert energy(labels, costs, potts_grid(image, 1.7, neighbours=neighbours)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("shape", "neighbours"), SHAPES)
def test_two_labels_are_cut_at_the_least_energy_of_all(
    shape: tuple[int, ...], neighbours: int, seed: int
) -> None:
    costs, grid = unary_costs(beliefs(shape, 2, seed)), model(shape, neighbours, 0.8, seed)
    every = np.array(list(itertools.product((0, 1), repeat=math.prod(shape)))).reshape(-1, *shape)
    total = np.where(every == 1, costs[..., 1], costs[..., 0]).reshape(len(every), -1).sum(1)
    for first, second, weights in grid.pairs():
        apart = every[(slice(None), *first)] != every[(slice(None), *second)]
        total += (apart * weights).reshape(len(every), -1).sum(1)
    best = every[np.argmin(total)]
    assert (best != costs.argmin(-1)).any()  # the borders decide somewhere, or nothing is shown
    found = graph_cut(costs, grid)
    assert found.dtype == np.uint8
    assert energy(found, costs, grid) == pytest.approx(total.min(), abs=1e-4)
    np.testing.assert_array_equal(found, best)


@pytest.mark.parametrize("seed", range(8))
def test_expansion_is_within_its_bound_and_mostly_at_the_least(seed: int) -> None:
    shape = (2, 4)
    costs, grid = unary_costs(beliefs(shape, 3, seed)), model(shape, 8, 0.8, seed)
    least = min(
        energy(np.array(labels).reshape(shape), costs, grid)
        for labels in itertools.product(range(3), repeat=math.prod(shape))
    )
    start = energy(costs.argmin(-1), costs, grid)
    found = energy(graph_cut(costs, grid), costs, grid)
    assert least - 1e-4 <= found <= min(2 * least, start) + 1e-4
    assert found <= least * 1.05  # far nearer than the bound on problems of this kind


def test_without_borders_the_cheapest_label_stays() -> None:
    for classes in (2, 4):
        costs = unary_costs(beliefs((5, 6), classes, 3))
        grid = model((5, 6), 8, 0.0, 0)
        np.testing.assert_array_equal(graph_cut(costs, grid), costs.argmin(-1))
        np.testing.assert_array_equal(mean_field(costs, grid).argmax(-1), costs.argmin(-1))


def test_all_of_one_mind_stay_so() -> None:
    grid = model((4, 4), 4, 5.0, 0)
    for label in (0, 1):
        costs = np.zeros((4, 4, 2))
        costs[..., 1 - label] = 3
        assert (graph_cut(costs, grid) == label).all()


def test_mean_field_lowers_the_free_energy_and_bounds_the_partition_sum() -> None:
    shape = (3, 3)
    costs, grid = unary_costs(beliefs(shape, 2, 5)), model(shape, 8, 0.6, 5)
    energies = np.array(
        [
            energy(np.array(labels).reshape(shape), costs, grid)
            for labels in itertools.product((0, 1), repeat=math.prod(shape))
        ]
    )
    least = -np.log(np.exp(-energies).sum())
    course = [free_energy(mean_field(costs, grid, sweeps), costs, grid) for sweeps in (1, 2, 4, 30)]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(course))
    assert course[-1] >= least
    assert course[-1] < free_energy(np.exp(-costs), costs, grid)


def test_mean_field_of_weak_ties_is_near_the_true_marginals() -> None:
    shape = (2, 3)
    costs, grid = unary_costs(beliefs(shape, 3, 6)), model(shape, 4, 0.15, 6)
    every = np.array(list(itertools.product(range(3), repeat=6))).reshape(-1, *shape)
    weight = np.exp([-energy(labels, costs, grid) for labels in every])
    exact = np.stack([(weight[:, None, None] * (every == k)).sum(0) / weight.sum() for k in range(3)], -1)
    unary = np.exp(-costs)
    found = mean_field(costs, grid, 30)
    assert np.abs(found - exact).max() < 0.002
    assert np.abs(unary - exact).max() > 0.02  # which the ties moved
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


def test_borders_are_cheap_where_the_image_changes() -> None:
    image = np.zeros((4, 6, 1), np.uint8)
    image[:, 3:] = 200
    grid = potts_grid(image, 2.0, neighbours=4, contrast=20)
    along_rows = dict(zip(grid.offsets, grid.weights, strict=True))[0, 1]
    np.testing.assert_allclose(along_rows[:, 2], 2 * math.exp(-(200**2) / 800))
    np.testing.assert_allclose(np.delete(along_rows, 2, axis=1), 2.0)
    # and a far plane of a volume is tied less
    volume = potts_grid(np.zeros((2, 2, 2, 1)), 2.0, neighbours=6, spacing=(4.0, 1.0, 1.0))
    assert [float(w.max()) for w in volume.weights] == [2.0, 2.0, 0.5]


def test_wrong_parameters_are_named() -> None:
    image = np.zeros((4, 4, 1), np.uint8)
    for given, words in (
        ({"weight": -1.0}, "weight -1"),
        ({"weight": 1.0, "neighbours": 6}, "known in 2 axes are 4, 8"),
        ({"weight": 1.0, "contrast": 0.0}, "contrast 0"),
        ({"weight": 1.0, "spacing": (1.0,)}, "spacing of 2 lengths"),
    ):
        with pytest.raises(UsageError, match=words):
            potts_grid(image, **given)
    grid = potts_grid(image, 1.0)
    with pytest.raises(UsageError, match="on a grid of shape"):
        graph_cut(np.zeros((4, 5, 2)), grid)
    with pytest.raises(UsageError, match="finite"):
        mean_field(np.full((4, 4, 2), np.inf), grid)
    with pytest.raises(UsageError, match="rounds"):
        graph_cut(np.zeros((4, 4, 2)), grid, rounds=0)
