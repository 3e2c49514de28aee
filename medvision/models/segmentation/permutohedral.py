"""Gaussian filtering in many dimensions on the permutohedral lattice (Adams, Baek and Davis, Eurographics 2010).

The sum of each point's value over all points, weighted by a Gaussian of their distance, costs n² exactly. Here points
share their values among the corners of the simplex they lie in, the corners are blurred along the lattice's axes, and
points read the result from the same corners. Only corners near a point are kept, so that the cost follows the number
of points.

Vertices of the lattice in d dimensions have d + 1 whole coordinates that sum to 0 and leave the same remainder r when
divided by d + 1. A vertex is held as one number, made of r and of the quotients of its first d coordinates.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import embedding_bag

from medvision.core.errors import UsageError

_PASSES = 2
"""Blurs along each axis. One is the published filter; two on a lattice finer by a third halve the error."""
_MARGIN = 2
"""Steps from a corner of a filled simplex up to which vertices are kept, so that little is lost where points end."""
_LARGEST_CODE = 2**62


class PermutohedralLattice:
    """The filter `sum_j exp(-|f_i - f_j|² / 2) v_j` for points `f`, within a few per cent, in time linear in points.

    The result does not depend on threads: every sum is made in one order.

    Args:
        features: `(points, d)`, float32, each coordinate divided by its standard deviation.

    Raises:
        UsageError: if the points lie too far apart, in standard deviations, to be numbered.
    """

    def __init__(self, features: torch.Tensor) -> None:
        points, self.dimensions = features.shape
        d = self.dimensions
        quotients, ranks, weights = _enclosing_simplex(features)
        reach = _MARGIN + 1
        low = quotients.amin(dim=0)[:d] - reach - 1
        spans = (quotients.amax(dim=0)[:d] + reach + 1 - low).tolist()
        if math.prod(spans) * (d + 1) > _LARGEST_CODE:
            raise UsageError(
                f"features span {', '.join(f'{s}' for s in spans)} lattice steps, which is too many: take larger "
                "standard deviations"
            )
        radices = [(d + 1) * math.prod(spans[k + 1 :]) for k in range(d)]
        codes = torch.empty((points, d + 1), dtype=torch.int64, device=features.device)
        for r in range(d + 1):
            corner = quotients - (ranks + r > d).long()
            codes[:, r] = sum((corner[:, k] - low[k]) * radices[k] for k in range(d)) + r
        ordered, order = torch.sort(codes.flatten(), stable=True)
        filled, where, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
        vertices = filled
        for _ in range(_MARGIN):
            vertices = torch.unique(torch.cat([vertices, *_all_neighbours(vertices, radices)]))
        self.size = len(vertices)
        place = torch.searchsorted(vertices, filled)
        corners = torch.empty_like(order)
        corners[order] = place[where]
        self._weights = weights
        self._corners = corners.view(points, d + 1)
        self._givers = torch.div(order, d + 1, rounding_mode="floor")
        self._gifts = weights.flatten()[order]
        taken = torch.zeros(self.size + 1, dtype=torch.int64, device=features.device)
        taken[place + 1] = counts
        self._first = taken.cumsum(0)[:-1]
        self._axes = [_stencil(vertices, pair) for pair in _pairs(_all_neighbours(vertices, radices))]
        # The integral of the Gaussian over that of what one point spreads: the volume of a vertex's cell.
        self._scale = (2 * math.pi * _variance()) ** (d / 2) * math.sqrt(d + 1)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Weighted sums `(points, columns)` of `values` `(points, columns)`, each point's own value among them."""
        held = embedding_bag(
            self._givers, values, self._first, mode="sum", per_sample_weights=self._gifts
        )  # a bag of weighted rows, added in order
        for turn in range(_PASSES):
            # There and back, so that what i gives to j is what j gives to i, also where vertices end.
            for rows, weights in self._axes if turn % 2 == 0 else reversed(self._axes):
                held = embedding_bag(rows, held, mode="sum", per_sample_weights=weights)
        sums = embedding_bag(self._corners, held, mode="sum", per_sample_weights=self._weights)
        weighed: torch.Tensor = sums * self._scale
        return weighed

    def own_weights(self) -> torch.Tensor:
        """Weights `(points,)` that the filter gives to a point's own value; 1 in the exact filter."""
        d = self.dimensions
        spread = [_spread(distance, d) for distance in range(d + 1)]
        table = torch.tensor([[spread[abs(r - s)] for s in range(d + 1)] for r in range(d + 1)])
        own: torch.Tensor = ((self._weights @ table.to(self._weights)) * self._weights).sum(
            dim=1
        ) * self._scale
        return own


def _variance() -> float:
    """Variance of the whole filter in units of (d + 1)²: splat and slice 1/12 each, each blur 1/2."""
    return _PASSES / 2 + 1 / 6


def _enclosing_simplex(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each point, the quotients of the simplex's vertex of remainder 0, the ranks, and the barycentric weights.

    All are `(points, d + 1)`. The vertex of remainder r has the quotient of the first, less 1 in the coordinates whose
    rank exceeds d - r. Computed in double precision, since rounding decides which simplex it is.
    """
    points, d = features.shape
    device = features.device
    norms = torch.tensor([math.sqrt((k + 1) * (k + 2)) for k in range(d)], dtype=torch.float64, device=device)
    scaled = features.double() * (math.sqrt(_variance()) * (d + 1)) / norms
    # An orthogonal basis of the plane of vectors that sum to 0: (1, ..., 1, -k, 0, ...).
    elevated = torch.zeros((points, d + 1), dtype=torch.float64, device=device)
    elevated[:, :d] = scaled.flip(1).cumsum(1).flip(1)
    elevated[:, 1:] -= scaled * torch.arange(1, d + 1, device=device)

    quotients = torch.round(elevated / (d + 1))
    offsets = elevated - quotients * (d + 1)
    ranks = torch.zeros((points, d + 1), dtype=torch.int64, device=device)
    for j in range(d + 1):
        for k in range(j):
            first = offsets[:, k] >= offsets[:, j]
            ranks[:, j] += first
            ranks[:, k] += ~first
    # The nearest multiples of d + 1 may not sum to 0: walk to the vertex that does.
    whole = quotients.long()
    ranks += whole.sum(dim=1, keepdim=True)
    turn = (ranks < 0).long() - (ranks > d).long()
    ranks += turn * (d + 1)
    whole += turn
    offsets = elevated / (d + 1) - whole
    weights = torch.zeros((points, d + 2), dtype=torch.float64, device=device)
    weights.scatter_add_(1, d - ranks, offsets)
    weights.scatter_add_(1, d + 1 - ranks, -offsets)
    weights[:, 0] += 1 + weights[:, d + 1]
    return whole, ranks, weights[:, : d + 1].to(features.dtype)


def _all_neighbours(codes: torch.Tensor, radices: list[int]) -> list[torch.Tensor]:
    """Codes of the neighbours of vertices: for each of the d + 1 axes the one before and the one after.

    A step along an axis adds 1 to all coordinates and takes d + 1 from one, which a code shows as the next remainder
    and one quotient less; from remainder d to 0 all quotients rise by 1.
    """
    d = len(radices)
    remainder = codes % (d + 1)
    wrap = sum(radices) - (d + 1)
    up = codes + 1 + torch.where(remainder == d, wrap, 0)
    down = codes - 1 - torch.where(remainder == 0, wrap, 0)
    found = []
    for radix in (*radices, 0):  # the last coordinate is not held: it follows from the others
        found += [down + radix, up - radix]
    return found


def _pairs(neighbours: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Those before and after of each axis."""
    return list(zip(neighbours[::2], neighbours[1::2], strict=True))


def _stencil(
    vertices: torch.Tensor, neighbours: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and weights `(vertices, 3)` of a blur (1, 2, 1) / 4 along an axis; a neighbour not held weighs 0."""
    rows = torch.arange(len(vertices), device=vertices.device).unsqueeze(1).repeat(1, 3)
    weights = torch.full(rows.shape, 0.25, device=vertices.device)
    weights[:, 0] = 0.5
    for column, codes in enumerate(neighbours, start=1):
        found = torch.searchsorted(vertices, codes).clamp_(max=len(vertices) - 1)
        held = vertices[found] == codes
        rows[:, column] = torch.where(held, found, 0)
        weights[:, column] *= held
    return rows, weights


def _spread(steps: int, d: int) -> float:
    """What the blurs carry between two corners of a simplex, `steps` remainders apart, on a lattice without ends.

    The d + 1 axis steps sum to nothing, so that one place is reached by as many paths as shifts along all axes.
    """
    taps = {k: math.comb(2 * _PASSES, _PASSES + k) / 4**_PASSES for k in range(-_PASSES, _PASSES + 1)}
    shifts = range(-_PASSES - 1, _PASSES + 1)
    return math.fsum(
        taps.get(shift + 1, 0.0) ** steps * taps.get(shift, 0.0) ** (d + 1 - steps) for shift in shifts
    )
