"""A grid of pixels whose neighbours prefer one label: contrast-sensitive Potts model, its energy and its mean field.

    E(x) = sum_i -log p_i(x_i) + sum_{neighbours i, j} w_ij [x_i != x_j]
    w_ij = weight * exp(-|c_i - c_j|² / 2σ²) / |s_i - s_j|

Boykov and Jolly (ICCV 2001): a border is cheap where the image changes. `medvision.ops.graph_cut` finds labels of least
energy; `mean_field` finds probabilities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.labels import Labels, Probabilities

Floats = npt.NDArray[np.float64]
Slices = tuple[slice, ...]
LEAST_PROBABILITY = 1e-6
"""What a probability of 0 counts as: nothing is beyond being overruled."""
_STEPS_OFF = {2: {4: 1, 8: 2}, 3: {6: 1, 18: 2, 26: 3}}
"""In how many axes a neighbour may differ, by axes and number of neighbours."""


@dataclass(frozen=True, eq=False)
class PottsGrid:
    """Neighbours and what a border between them costs.

    `offsets` are half of the neighbourhood, each pair once; `weights` the cost of each pair of that offset, with the
    shape that the two shifted views have in common.
    """

    shape: tuple[int, ...]
    offsets: tuple[tuple[int, ...], ...]
    weights: tuple[Floats, ...]

    def pairs(self) -> Iterator[tuple[Slices, Slices, Floats]]:
        """For each offset, where its first and its second pixels lie, and the weights."""
        for offset, weights in zip(self.offsets, self.weights, strict=True):
            yield *_views(offset), weights


def potts_grid(
    image: npt.NDArray[Any],
    weight: float,
    *,
    contrast: float | None = None,
    neighbours: int | None = None,
    spacing: tuple[float, ...] | None = None,
) -> PottsGrid:
    """The model of one image.

    Args:
        image: `(*shape, channels)`, of two or three axes, any number.
        weight: cost of a border between two pixels of one colour, one pixel (or unit of the spacing) apart.
        contrast: σ of the colours, in the image's values; None takes the root mean square difference of neighbours,
            as GrabCut does; infinity makes all borders equal.
        neighbours: 4 or 8 in a plane, 6, 18 or 26 in a volume; None takes 8, or 26.
        spacing: between pixels along each axis.

    Raises:
        UsageError: for another shape or a parameter out of range, with the choices.
    """
    axes = image.ndim - 1
    if axes not in _STEPS_OFF or 0 in image.shape:
        raise UsageError(f"an image has shape (*two or three axes, channels), not {image.shape}")
    choices = _STEPS_OFF[axes]
    count = max(choices) if neighbours is None else neighbours
    if count not in choices:
        known = ", ".join(str(choice) for choice in choices)
        raise UsageError(f"{count} neighbours: known in {axes} axes are {known}")
    if not (math.isfinite(weight) and weight >= 0):
        raise UsageError(f"weight {weight:g} must be 0 or above")
    if contrast is not None and not contrast > 0:
        raise UsageError(f"contrast {contrast:g} must be above 0")
    steps = np.ones(axes) if spacing is None else np.asarray(spacing, np.float64)
    if steps.shape != (axes,) or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise UsageError(f"a spacing of {axes} lengths above 0 is needed, not {spacing}")
    colours = image.astype(np.float64)
    if not np.isfinite(colours).all():
        raise UsageError("an image with NaN or infinite values has no contrast")

    offsets = [
        offset
        for offset in itertools.product((-1, 0, 1), repeat=axes)
        if offset > (0,) * axes and np.count_nonzero(offset) <= choices[count]
    ]
    squares = [_squared_step(colours, offset) for offset in offsets]
    total, number = sum(float(s.sum()) for s in squares), sum(s.size for s in squares)
    variance = contrast**2 if contrast is not None else total / number if total > 0 else math.inf
    lengths = [float(np.linalg.norm(np.multiply(offset, steps))) for offset in offsets]
    weights = [
        weight * np.exp(square / (-2 * variance)) / length
        for square, length in zip(squares, lengths, strict=True)
    ]
    return PottsGrid(image.shape[:-1], tuple(offsets), tuple(weights))


def unary_costs(probabilities: Probabilities) -> Floats:
    """What each class costs each pixel, `(*shape, classes)`: minus the logarithm of its probability."""
    return -np.log(np.maximum(probabilities.astype(np.float64), LEAST_PROBABILITY))


def energy(labels: Labels, costs: Floats, grid: PottsGrid) -> float:
    """Energy of a labelling: the costs of its labels and of its borders.

    Raises:
        UsageError: if the shapes do not fit.
    """
    check_fit(costs, grid)
    if labels.shape != grid.shape:
        raise UsageError(f"labels of shape {labels.shape} on a grid of shape {grid.shape}")
    total = float(np.take_along_axis(costs, labels[..., None].astype(np.intp), axis=-1).sum())
    for first, second, weights in grid.pairs():
        total += float(weights[labels[first] != labels[second]].sum())
    return total


def mean_field(costs: Floats, grid: PottsGrid, sweeps: int = 10) -> Probabilities:
    """Class probabilities of the independent distribution nearest to the model's, by coordinate descent.

    Pixels that are no neighbours of each other are updated together, so that each update lowers the free energy.

    Args:
        costs: `(*shape, classes)`, as from `unary_costs`.
        grid: neighbours and weights.
        sweeps: updates of every pixel.

    Raises:
        UsageError: if the shapes do not fit, or without a sweep.
    """
    check_fit(costs, grid)
    if sweeps < 1:
        raise UsageError(f"{sweeps} sweeps: at least 1")
    belief = _softmax(-costs)
    for _ in range(sweeps):
        # Pixels of like parity in all axes are two steps apart, and so never neighbours.
        for parity in itertools.product((0, 1), repeat=len(grid.shape)):
            chosen = tuple(slice(p, None, 2) for p in parity)
            belief[chosen] = _softmax(_support(belief, grid)[chosen] - costs[chosen])
    return belief.astype(np.float32)


def free_energy(belief: npt.NDArray[np.floating], costs: Floats, grid: PottsGrid) -> float:
    """Expected energy under independent probabilities, less their entropy: at least -log of the partition sum."""
    q = belief.astype(np.float64)
    total = float((q * (costs + np.log(np.maximum(q, np.finfo(np.float64).tiny)))).sum())
    for first, second, weights in grid.pairs():
        total += float((weights * (1 - (q[first] * q[second]).sum(axis=-1))).sum())
    return total


def check_fit(costs: Floats, grid: PottsGrid) -> None:
    """Raise `UsageError` unless there are finite costs of two classes or more for each pixel of the grid."""
    if costs.shape[:-1] != grid.shape or costs.shape[-1] < 2:
        raise UsageError(
            f"costs of shape {costs.shape} on a grid of shape {grid.shape}: (*shape, two classes or more) are needed"
        )
    if not np.isfinite(costs).all():
        raise UsageError("costs must be finite")


def _support(belief: Floats, grid: PottsGrid) -> Floats:
    """Weighted probability of each class among each pixel's neighbours."""
    found = np.zeros_like(belief)
    for first, second, weights in grid.pairs():
        found[first] += weights[..., None] * belief[second]
        found[second] += weights[..., None] * belief[first]
    return found


def _squared_step(colours: Floats, offset: tuple[int, ...]) -> Floats:
    first, second = _views(offset)
    return np.asarray(((colours[first] - colours[second]) ** 2).sum(axis=-1), np.float64)


def _views(offset: tuple[int, ...]) -> tuple[Slices, Slices]:
    """Where the first and the second pixel of each pair lie: the grid cut by the offset at one end or the other."""
    first = tuple(slice(max(-o, 0), -o if o > 0 else None) for o in offset)
    second = tuple(slice(max(o, 0), o if o < 0 else None) for o in offset)
    return first, second


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), np.float64)
