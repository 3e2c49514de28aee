"""Labels of least energy on a Potts grid: by one minimum cut for two classes, by alpha expansion for more.

Greig, Porteous and Seheult (1989) showed that the two-label problem is a minimum cut; Boykov, Veksler and Zabih (PAMI
2001) expand one label at a time for more, to within a factor 2 of the least energy; the graph of an expansion follows
Kolmogorov and Zabih (PAMI 2004). The maximum flow is scipy's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.labels import Labels, as_labels
from medvision.ops.potts import Floats, PottsGrid, check_fit, energy

Mask = npt.NDArray[np.bool_]
_CAPACITY = 2**31 - 2
"""Flow is counted in int32."""
_FINEST = 1e6


def graph_cut(costs: Floats, grid: PottsGrid, rounds: int = 5) -> Labels:
    """Labels `(*shape)` of low energy: the least of all for two classes, up to rounding, a local one for more.

    Capacities are whole numbers. Costs are multiplied by the largest factor, up to a million, at which every sum still
    fits in 32 bits, so that each is rounded by at most half of its inverse.

    Args:
        costs: `(*shape, classes)`, as from `medvision.ops.potts.unary_costs`.
        grid: neighbours and weights.
        rounds: of expansions over all classes; it ends earlier where none helps. Two classes need one cut.

    Raises:
        UsageError: if the shapes do not fit, or without a round.
    """
    check_fit(costs, grid)
    if rounds < 1:
        raise UsageError(f"{rounds} rounds: at least 1")
    if costs.shape[-1] == 2:
        return as_labels(_cut(costs[..., 1] - costs[..., 0], [(w, w) for w in grid.weights], grid))
    labels = np.argmin(costs, axis=-1).astype(np.int32)
    least = energy(labels, costs, grid)
    for _ in range(rounds):
        before = least
        for alpha in range(costs.shape[-1]):
            proposed = np.where(_expansion(labels, alpha, costs, grid), np.int32(alpha), labels)
            found = energy(proposed, costs, grid)
            if found < least:
                labels, least = proposed, found
        if least >= before:
            break
    return as_labels(labels.astype(np.int64))


def _expansion(labels: npt.NDArray[np.int32], alpha: int, costs: Floats, grid: PottsGrid) -> Mask:
    """Which pixels turn to `alpha` in the best move in which each keeps its label or takes that one."""
    change = costs[..., alpha] - np.take_along_axis(costs, labels[..., None].astype(np.intp), axis=-1)[..., 0]
    capacities = []
    for first, second, weights in grid.pairs():
        # The cost of a pair by what its two pixels do: (keep, keep), (keep, turn), (turn, keep); both turn costs 0.
        stay = weights * (labels[first] != labels[second])
        second_turns = weights * (labels[first] != alpha)
        first_turns = weights * (labels[second] != alpha)
        change[first] += first_turns - stay
        change[second] -= first_turns
        capacities.append((np.zeros_like(weights), second_turns + first_turns - stay))
    return _cut(change, capacities, grid)


def _cut(change: Floats, capacities: list[tuple[Floats, Floats]], grid: PottsGrid) -> Mask:
    """The set of pixels that turn, of least cost.

    Args:
        change: what it costs that a pixel turns; below 0 it gains.
        capacities: for each offset of the grid, what it costs that only the first turns, and that only the second does.
        grid: which pixels are neighbours.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    # The source's side keeps; the sink's side turns. Cut edges run from the source's side to the sink's.
    nodes = np.arange(change.size, dtype=np.int32).reshape(grid.shape)
    source, sink = change.size, change.size + 1
    keep, turn = np.maximum(change, 0), np.maximum(-change, 0)
    total = min(float(keep.sum()), float(turn.sum()))
    largest = max(
        [float(np.abs(change).max()), *(float(c.max(initial=0)) for pair in capacities for c in pair)]
    )
    if total == 0:  # all are of one mind: a border could only cost
        return np.full(grid.shape, bool(turn.any()))
    scale = min(_FINEST, _CAPACITY / largest / 2, (_CAPACITY - change.size) / total)
    rows: list[npt.NDArray[Any]] = [np.full(change.size, source), nodes.ravel()]
    columns: list[npt.NDArray[Any]] = [nodes.ravel(), np.full(change.size, sink)]
    values = [keep.ravel(), turn.ravel()]
    for (first, second, _), (first_turns, second_turns) in zip(grid.pairs(), capacities, strict=True):
        rows += [nodes[second].ravel(), nodes[first].ravel()]
        columns += [nodes[first].ravel(), nodes[second].ravel()]
        values += [first_turns.ravel(), second_turns.ravel()]
    whole = np.rint(np.concatenate(values) * scale).astype(np.int32)
    held = whole > 0
    places = (np.concatenate(rows)[held].astype(np.int32), np.concatenate(columns)[held].astype(np.int32))
    graph = csr_array((whole[held], places), shape=(change.size + 2, change.size + 2))
    flow = maximum_flow(graph, source, sink, method="dinic").flow
    left = csr_array(graph - flow)
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = np.ones(change.size + 2, dtype=bool)
    reached[breadth_first_order(left, source, return_predecessors=False)] = False
    turned: Mask = reached[: change.size].reshape(grid.shape)
    return turned
