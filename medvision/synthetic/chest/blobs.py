"""Lumps with a measured shape: ellipsoids with bumps, drawn with an edge one voxel wide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medvision.synthetic.noise import Floats


@dataclass(frozen=True)
class Blob:
    """A lump at `centre` (z, y, x) whose points `p` fulfil `|axes @ (p - centre)| < bumps(direction)`.

    `axes` `(3, 3)` takes mm to the unit sphere. `bumps` are rows of direction (in the unit sphere's frame), height and
    sharpness, around a mean radius of `level`. `hu` is its density; `mottle` (HU) varies it. `edge_mm` is the least
    width of its rim.
    """

    centre: Floats
    axes: Floats
    hu: float
    bumps: Floats
    level: float = 1.0
    edge_mm: float = 0.0
    mottle: float = 0.0
    seed: int = 0

    @property
    def reach_mm(self) -> float:
        """No point of the blob is farther from its centre."""
        longest = 1 / float(np.linalg.svd(self.axes, compute_uv=False)[-1])
        return longest * (self.level + float(self.bumps[:, 3].clip(0, None).sum(initial=0.0)))

    def distance(self, z: Floats, y: Floats, x: Floats) -> Floats:
        """About the distance in mm to the surface, negative inside, at places that broadcast together."""
        q = [z - self.centre[0], y - self.centre[1], x - self.centre[2]]
        u = [self.axes[i, 0] * q[0] + self.axes[i, 1] * q[1] + self.axes[i, 2] * q[2] for i in range(3)]
        length = np.sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2)
        slope = np.sqrt(
            sum(
                (self.axes[0, j] * u[0] + self.axes[1, j] * u[1] + self.axes[2, j] * u[2]) ** 2
                for j in range(3)
            )
        )
        unit = [v / np.maximum(length, 1e-9) for v in u]
        surface = np.full(np.shape(length), self.level)
        for dz, dy, dx, height, sharp in self.bumps:
            surface = surface + height * np.exp(sharp * (dz * unit[0] + dy * unit[1] + dx * unit[2] - 1))
        k = length / surface
        # To first order, (k - 1) over the gradient of k; at the middle, where that has none, minus the least radius.
        return np.asarray((k - 1) * surface * np.maximum(length, 1e-9) / np.maximum(slope, 1e-9))

    def volume(self) -> float:
        """Volume in mm3, of the ellipsoid with its bumps."""
        directions = _sphere()
        surface = np.full(len(directions), self.level)
        for row in self.bumps:
            surface += row[3] * np.exp(row[4] * (directions @ row[:3] - 1))
        return float((surface**3).mean() * 4 / 3 * np.pi / abs(np.linalg.det(self.axes)))


def lump(
    centre: Floats,
    diameter_mm: float,
    hu: float,
    rng: np.random.Generator,
    *,
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0),
    turn: Floats | None = None,
    lobes: int = 0,
    height: float = 0.0,
    edge_mm: float = 0.0,
    mottle: float = 0.0,
) -> Blob:
    """A blob of the volume of a sphere of `diameter_mm`, whatever its `stretch`, `lobes` and their `height`."""
    if turn is None:
        turn = random_turn(rng)
    sides = np.asarray(stretch, np.float64) / np.cbrt(np.prod(stretch)) * diameter_mm / 2
    bumps = np.zeros((lobes, 5))
    if lobes:
        directions = rng.standard_normal((lobes, 3))
        bumps[:, :3] = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        bumps[:, 3] = height * rng.uniform(0.5, 1.0, lobes)
        bumps[:, 4] = rng.uniform(3.5, 8.0, lobes)
    blob = Blob(centre, np.diag(1 / sides) @ turn, hu, bumps, 1.0, edge_mm, mottle, int(rng.integers(2**31)))
    grown = np.cbrt(blob.volume() / (np.pi / 6 * diameter_mm**3))
    return Blob(centre, blob.axes * grown, hu, bumps, 1.0, edge_mm, mottle, blob.seed)


def random_turn(rng: np.random.Generator) -> Floats:
    """A rotation `(3, 3)` drawn evenly."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.asarray(q * np.sign(np.diag(r)))


def turn_to(normal: Floats, rng: np.random.Generator) -> Floats:
    """A rotation whose first row is `normal`, so that a stretch's first number is the thickness along it."""
    rows = rng.standard_normal((3, 3))
    rows[0] = normal
    q, r = np.linalg.qr(rows.T)
    return np.asarray((q * np.sign(np.diag(r))).T)


def _sphere() -> Floats:
    """Directions spread evenly: a Fibonacci lattice."""
    n = 4000
    k = np.arange(n) + 0.5
    height = 1 - 2 * k / n
    angle = np.pi * (1 + 5**0.5) * k
    ring = np.sqrt(1 - height**2)
    return np.stack([height, ring * np.sin(angle), ring * np.cos(angle)], axis=1)
