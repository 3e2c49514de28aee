"""Great vessels, the airways with their walls, and the arteries and veins that fill the lungs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medvision.synthetic.chest.body import Body, Patient, placed
from medvision.synthetic.chest.frame import Frame
from medvision.synthetic.chest.trees import grow
from medvision.synthetic.chest.tubes import joined, polyline
from medvision.synthetic.noise import Floats

_LEAF_MM = 9.4
"""Distance of the ends of neighbouring arteries in an adult."""
_THIN_MM = 0.47
"""Radius of the last arteries and veins that are drawn, whatever the patient's size."""
_RIGHT, _LEFT = (-40.0, 12.0, 18.0), (42.0, 16.0, 14.0)
"""Roots of the lungs in the adult's frame."""


@dataclass(frozen=True, slots=True)
class Pipes:
    """Tubes `(n, 8)`: `great` vessels outside the lungs, `blood` within them, airways' outer `wall` and `lumen`.

    `trachea` holds those lumina that are no part of a lung: the windpipe and the main bronchi.
    """

    great: Floats
    blood: Floats
    wall: Floats
    lumen: Floats
    trachea: Floats


def build(frame: Frame, who: Patient, body: Body) -> Pipes:
    """Every vessel and airway of a patient."""
    rng = frame.recipe.rng(5)
    # A child's vessels are thinner and closer, but by less than the body is smaller.
    thick = who.scale**0.35
    # Twigs closer than a few pixels would be a blur.
    spacing = max(_LEAF_MM * who.scale**0.5, 5.2 * frame.step[1])
    arteries, veins = (_lobes(frame, body, spacing, rng) for _ in range(2))
    blood, wall, lumen = [], [], []
    for side, root in ((0, _RIGHT), (3, _LEFT)):
        start = placed(frame, who, np.array([root]))[0]
        heading = np.array([-0.3, 0.1, -0.9 if side == 0 else 0.9])
        bundle = grow(arteries[side : side + 3], start, heading, rng)
        beside = np.array([0.35, -0.75, 0.55 if side == 0 else -0.55])
        blood.append(bundle.tubes(_THIN_MM * thick, beside))
        outer = bundle.tubes(0.95 * _THIN_MM * thick, thinnest_mm=1.15 * thick)
        wall.append(outer)
        lumen.append(_lumen(outer))
        low = placed(frame, who, np.array([[root[0], root[1] + 4, root[2] - 22]]))[0]
        vein = grow(veins[side : side + 3], low, heading, rng)
        blood.append(vein.tubes(_THIN_MM * thick))
    branches = joined(blood)
    trunk_wall, trunk_lumen = _trachea(frame, who)
    return Pipes(
        great=joined([_line(frame, who, points, radius) for points, radius in _great()]),
        blood=np.concatenate([branches, _bulges(branches)]),
        wall=joined([trunk_wall, *wall]),
        lumen=joined([trunk_lumen, *lumen]),
        trachea=trunk_lumen,
    )


def _lobes(frame: Frame, body: Body, spacing: float, rng: np.random.Generator) -> list[Floats]:
    """Ends of vessels in each lobe: three of the right lung, then upper, none, lower of the left."""
    inside = np.argwhere(body.lung < -2.0)
    voxel = float(np.prod(frame.lattice_step))
    count = min(len(inside), max(30, round(len(inside) * voxel / spacing**3)))
    chosen = inside[rng.choice(len(inside), count, replace=False)]
    lobe = body.lower[tuple(chosen.T)].astype(np.int64)
    places = (chosen + rng.uniform(0, 1, chosen.shape)) * frame.lattice_step
    return [places[lobe == k] for k in range(6)]


def _lumen(outer: Floats) -> Floats:
    inner = outer.copy()
    inner[:, 6:] -= 0.28 + 0.13 * inner[:, 6:]
    return inner


def _bulges(tubes: Floats) -> Floats:
    """Where larger vessels divide they are a little wider: short tubes at the start of each."""
    wide = tubes[(tubes[:, 6] > 1.0) & (tubes[:, 6] < 4.0)]
    bulge = wide.copy()
    bulge[:, 3:6] = wide[:, :3] + 0.15 * (wide[:, 3:6] - wide[:, :3])
    bulge[:, 6:] = 1.16 * wide[:, 6:7]
    return bulge


def _trachea(frame: Frame, who: Patient) -> tuple[Floats, Floats]:
    """Walls and lumina of the windpipe and the main bronchi."""
    lines = [
        (np.array([[0, 12, 160], [0, 14, 100], [1, 18, 60], [1, 19, 40]], float), 9.0),
        (np.array([[1, 19, 41], [-16, 18, 29], _RIGHT], float), 6.8),
        (np.array([[1, 19, 41], [20, 22, 24], _LEFT], float), 6.2),
    ]
    lumina = [_line(frame, who, points, radius) for points, radius in lines]
    walls = [_line(frame, who, points, radius + 1.6) for points, radius in lines]
    return joined(walls), joined(lumina)


def _great() -> list[tuple[Floats, float]]:
    """Points (x, y, z) and radius of the vessels between the lungs, and of the gullet, in the adult's frame."""
    arch = [
        [6, -10, -15],
        [-12, -18, 28],
        [-9, -14, 54],
        [3, 2, 68],
        [18, 28, 62],
        [23, 46, 44],
        [22, 50, -20],
    ]
    lines = [
        ([*arch, [18, 54, -145]], 12.5),
        ([[-26, -10, 92], [-26, -8, 40], [-22, -4, -5]], 8.5),
        ([[14, -30, 2], [13, -12, 22], [30, 8, 27], [44, 16, 22]], 11.0),
        ([[13, -12, 22], [-8, 0, 20], [-36, 6, 20]], 9.5),
        ([[-8, -12, 66], [-18, -4, 100], [-22, -4, 150]], 6.0),
        ([[4, -2, 68], [8, 4, 100], [12, 2, 150]], 4.2),
        ([[14, 16, 66], [20, 18, 100], [34, 8, 130]], 4.8),
        ([[-26, -10, 92], [-34, -16, 115], [-44, -20, 150]], 6.5),
        ([[-26, -10, 88], [0, -26, 88], [26, -22, 106], [40, -20, 150]], 6.5),
        ([[3, 34, 160], [4, 36, 30], [8, 38, -60], [14, 24, -120]], 6.5),
    ]
    return [(np.array(points, float), radius) for points, radius in lines]


def _line(frame: Frame, who: Patient, points: Floats, radius: float) -> Floats:
    """A smooth tube through `points`."""
    from scipy.interpolate import PchipInterpolator

    along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    fine = np.linspace(0, along[-1], max(4, int(along[-1] / 7)))
    smooth = PchipInterpolator(along, points)(fine)
    return polyline(placed(frame, who, smooth), np.full(len(fine), radius * who.scale))
