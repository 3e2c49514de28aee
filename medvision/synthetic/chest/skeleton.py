"""Ribs, cartilage, breastbone, collar bones and the arches of the vertebrae as tubes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medvision.synthetic.chest.body import Body, Patient, placed
from medvision.synthetic.chest.frame import Frame
from medvision.synthetic.chest.tubes import joined, polyline
from medvision.synthetic.noise import Floats

FLAT = 0.62
"""Ribs are taller than thick."""
_RIBS = 12
_RIB_MM = 4.6


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Tubes `(n, 8)`: `flat` bones are drawn with `FLAT`; `marrow` shrinks any of them by the cortex."""

    flat: Floats
    round: Floats
    cartilage: Floats


def build(frame: Frame, who: Patient, body: Body) -> Skeleton:
    """The bones of a patient, ribs on the very wall of the chest that the lungs touch."""
    ribs, cartilage = [], []
    for number in range(_RIBS):
        for side in (-1, 1):
            bone, soft = _rib(frame, who, body, number, side)
            ribs.append(bone)
            cartilage.append(soft)
    rounds = [_tube(frame, who, points, radius) for points, radius in _rods()]
    front = _wall(frame, who, body, np.full(14, np.pi), np.linspace(72, -52, 14), gap=5.5)
    for shift in np.arange(-12.0, 13.0, 3.0):
        points = front + who.scale * shift * who.turn[:, 0][::-1]
        rounds.append(polyline(points, np.full(14, 5.2 * who.scale)))
    return Skeleton(joined(ribs), joined(rounds), joined(cartilage))


def shrunk(tubes: Floats, by: float) -> Floats:
    """The same tubes, thinner by `by` mm; those that vanish are left out."""
    inner = tubes.copy()
    inner[:, 6:] -= by
    return inner[(inner[:, 6:] > 0).all(axis=1)]


def _rib(frame: Frame, who: Patient, body: Body, number: int, side: int) -> tuple[Floats, Floats]:
    """Bone and cartilage of one rib: from the spine around the chest, falling to the front."""
    last = 178 - 6 * number if number < 7 else 150 - 14 * (number - 7)
    angles = np.radians(np.linspace(13, last, 30))
    back = 116 - 21.0 * number
    drop = 26 + 66 * np.sin(np.pi * min(number, 7) / 9)
    heights = back - drop * (1 - np.cos(angles.clip(None, 2.4))) / 2 + 26 * (angles - 2.2).clip(0, None)
    points = _wall(frame, who, body, side * angles, heights, gap=5.0)
    tubes = polyline(points, np.full(30, _RIB_MM * who.scale * (0.8 if number == 0 else 1.0)))
    bony = np.degrees(angles[1:]) < (140 if number else 155)
    return tubes[bony], tubes[~bony] if number < 10 else tubes[:0]


def _wall(frame: Frame, who: Patient, body: Body, angles: Floats, heights: Floats, gap: float) -> Floats:
    """Places `(n, 3)` a `gap` (adult's mm) outside the chest's inner wall, at angles from the back and heights."""
    reach = np.linspace(20, 190, 120)
    x = np.sin(angles)[:, None] * reach
    y = np.cos(angles)[:, None] * reach
    z = np.broadcast_to(heights[:, None], x.shape)
    places = placed(frame, who, np.stack([x, y, z], axis=-1).reshape(-1, 3)).reshape(*x.shape, 3)
    out = frame.at(body.cage, places) > gap * who.scale
    first = np.where(out.any(axis=1), out.argmax(axis=1), len(reach) - 1)
    return np.asarray(places[np.arange(len(angles)), first])


def _rods() -> list[tuple[Floats, float]]:
    """Straight pieces (x, y, z) and radius: the vertebrae's processes, collar bones."""
    rods: list[tuple[Floats, float]] = []
    for level in range(-6, 6):
        z = 24.0 * level + 4
        rods.append((np.array([[0, 110, z], [0, 124, z - 9]]), 3.4))
        for side in (-1, 1):
            rods.append((np.array([[side * 10, 100, z], [side * 30, 104, z + 2]]), 3.8))
    for side in (-1, 1):
        line = np.array([[side * 16, -66, 92], [side * 60, -68, 108], [side * 120, -22, 122]])
        rods.append((line, 5.5))
    return rods


def _tube(frame: Frame, who: Patient, points: Floats, radius: float) -> Floats:
    return polyline(placed(frame, who, points), np.full(len(points), radius * who.scale))
