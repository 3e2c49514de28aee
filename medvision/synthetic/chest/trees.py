"""Branching trees that fill a cloud of points, after Tawhai, Pullan and Hunter, "Generation of an anatomically based
three-dimensional model of the conducting airways", Ann. Biomed. Eng. 28 (2000) 793-802.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medvision.synthetic.noise import Floats, Ints

_FRACTION = 0.42
"""How far a branch goes towards the middle of what it supplies."""
_MURRAY = 2.8
"""Exponent of the law by which radii of branches add up to their parent's."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Branches: `start`, `end` and the parent's direction `(n, 3)`, and how many ends each supplies `(n,)`."""

    start: Floats
    end: Floats
    heading: Floats
    supplies: Ints

    def radii(self, leaf_mm: float) -> Floats:
        """Radius of each branch by Murray's law, `leaf_mm` for the last ones."""
        return np.asarray(leaf_mm * self.supplies ** (1 / _MURRAY), dtype=np.float64)

    def tubes(self, leaf_mm: float, offset: Floats | None = None, thinnest_mm: float = 0.0) -> Floats:
        """Curved, tapering tubes `(m, 8)`; branches thinner than `thinnest_mm` are left out.

        `offset` `(3,)` is the direction in which the tubes run beside the tree's own lines, at their radius.
        """
        radii = self.radii(leaf_mm)
        kept = radii >= thinnest_mm
        start, end, radii = self.start[kept], self.end[kept], radii[kept]
        length = np.linalg.norm(end - start, axis=1)
        control = start + self.heading[kept] * (0.35 * length)[:, None]
        if offset is not None:
            beside = (1.1 * radii + 0.4)[:, None] * offset
            start, control, end = start + beside, control + beside, end + 0.9 * beside
        thick = np.stack([1.04 * radii, 0.9 * radii], axis=1)
        tubes = []
        # The last branches are straight; a bend of a few pieces is seen in larger ones alone.
        for low, high, pieces in ((0, 2, 1), (2, 12, 2), (12, np.inf, 4)):
            of = (self.supplies[kept] >= low) & (self.supplies[kept] < high)
            times = np.linspace(0, 1, pieces + 1)
            points = [
                (1 - t) ** 2 * start[of] + 2 * t * (1 - t) * control[of] + t**2 * end[of] for t in times
            ]
            radius = [thick[of] @ np.array([[1 - t], [t]]) for t in times]
            tubes += [
                np.concatenate([points[k], points[k + 1], radius[k], radius[k + 1]], axis=1)
                for k in range(pieces)
            ]
        return np.concatenate(tubes)


def grow(clouds: list[Floats], root: Floats, heading: Floats, rng: np.random.Generator) -> Tree:
    """A tree from `root` that ends at every point of every cloud `(n, 3)`.

    Each cloud (a lobe) has a branch of its own from the root. A branch goes part of the way to the middle of its cloud;
    there the cloud is cut in two by a plane through the branch, across the cloud's greatest breadth, a little off the
    middle, and each half is supplied in the same way.
    """
    stack = [(cloud, root, heading) for cloud in clouds if len(cloud)]
    starts, ends, headings, supplies = [], [], [], []
    while stack:
        cloud, at, before = stack.pop()
        single = len(cloud) == 1
        way = cloud.mean(axis=0) - at
        end = cloud[0] if single else at + _FRACTION * way
        starts.append(at)
        ends.append(end)
        headings.append(before)
        supplies.append(len(cloud))
        if single:
            continue
        unit = way / max(float(np.sqrt(way @ way)), 1e-6)
        spread = cloud - cloud.mean(axis=0)
        across = spread - (spread @ unit)[:, None] * unit
        axis = np.linalg.eigh(across.T @ across)[1][:, -1]
        order = np.argsort(across @ axis, kind="stable")
        cut = min(max(1, round(len(cloud) * rng.uniform(0.32, 0.68))), len(cloud) - 1)
        stack.append((cloud[order[:cut]], end, unit))
        stack.append((cloud[order[cut:]], end, unit))
    if not starts:
        empty = np.zeros((0, 3))
        return Tree(empty, empty, empty, np.zeros(0, np.int64))
    return Tree(np.array(starts), np.array(ends), np.array(headings), np.array(supplies, np.int64))
