"""The trunk as fields on a coarse lattice: signed distances in mm (negative inside) and HU of what varies smoothly.

Shapes are written in the frame of an adult about 345 mm wide, in mm: x to the patient's left, y to posterior, z to
superior, zero in the middle of the thorax. A scan turns, scales and gently warps that frame. Distances are divided
by their own gradient, so that an edge can be drawn as a ramp one voxel wide whatever the lattice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medvision.synthetic.chest.frame import Frame
from medvision.synthetic.noise import Floats, Image, key

ADULT_MM = 345.0
"""Width of the body in whose frame the shapes are written."""
BLOOD_HU, MUSCLE_HU, FAT_HU = 42.0, 52.0, -102.0
_REACH = 60.0
"""Distances beyond this are cut off: nothing is drawn from them."""


@dataclass(frozen=True, slots=True)
class Patient:
    """What differs between patients: lengths in the adult's frame, in mm; densities in HU."""

    scale: float
    turn: Floats
    cage: tuple[float, float, float]
    fat: float
    muscle: float
    heart: float
    domes: tuple[float, float]
    apex: float
    mediastinum: float
    lung_hu: float
    gravity_hu: float
    emphysema: float


@dataclass(frozen=True, slots=True)
class Body:
    """Fields `(z, y, x)` on the frame's lattice.

    `skin`, `cage` (inner wall of the chest), `lung`, `bone` (spine and shoulder blades) and `fissure` are distances,
    `soft` and `parenchyma` HU, `haze` how much more noise a place has than air (natural logarithm).
    """

    skin: Image
    cage: Image
    lung: Image
    bone: Image
    fissure: Image
    soft: Image
    parenchyma: Image
    haze: Image
    lower: Image


def patient(frame: Frame) -> Patient:
    """The patient that the recipe's seed makes."""
    recipe = frame.recipe
    rng = recipe.rng(2)
    cage = (
        float(rng.uniform(126, 137)),
        float(rng.uniform(80, 94)),
        float(rng.uniform(2.1, 2.5)),
    )
    fat, muscle = float(rng.uniform(7, 22)), float(rng.uniform(14, 22))
    angles = np.radians(recipe.tilt_deg)
    scale = recipe.width_mm / (2 * (cage[0] + fat + muscle + 9))
    return Patient(
        scale=scale,
        turn=_rotation(*angles),
        cage=cage,
        fat=fat,
        muscle=muscle,
        heart=float(rng.uniform(0.88, 1.12)),
        domes=(float(rng.uniform(-80, -62)), float(rng.uniform(-90, -74))),
        apex=float(rng.uniform(118, 130)),
        mediastinum=float(rng.uniform(0.85, 1.15)),
        lung_hu=float(rng.uniform(-890, -835)),
        gravity_hu=float(rng.uniform(40, 120)),
        emphysema=float(rng.uniform(0, 1)) if rng.random() < 0.3 else 0.0,
    )


def middle(frame: Frame) -> Floats:
    """Place of the adult frame's zero."""
    z, y, x = frame.recipe.extent_mm
    sway = frame.recipe.rng(3).uniform(-0.012, 0.012, 2) * x
    return np.array([0.492 * z, 0.47 * y + sway[0], 0.5 * x + sway[1]])


def placed(frame: Frame, who: Patient, points: Floats) -> Floats:
    """Places of points `(n, 3)` given as (x, y, z) in the adult's frame."""
    return np.asarray(middle(frame) + who.scale * (points @ who.turn.T)[:, ::-1])


def build(frame: Frame, who: Patient) -> Body:
    """Every field of the trunk."""
    x, y, z = _adult_coordinates(frame, who)
    blobs, grain = (_noise(frame, k, sigma) for k, sigma in ((1, 3.0), (2, 1.0)))
    wide = _noise(frame, 3, 9.0)

    def distance(value: Image) -> Image:
        return _distance(value, frame.lattice_step)

    scale = who.scale
    a, b, power = who.cage
    rise = ((z + 30) / (who.apex + 30)).clip(0, 1)
    narrow = np.sqrt((1 - rise**2.6).clip(0.004, 1)) * (1 - 0.05 * ((-z - 40) / 90).clip(0, 1))
    cage = distance(_ellipse(x, y + 3, a * narrow, b * (0.25 + 0.75 * narrow), power).clip(-1, 2.5))
    shoulder = ((z - 55) / 75).clip(0, 1)
    outer = who.fat + who.muscle
    across = a + outer + 9 + 14 * shoulder
    deep = b + outer * 0.9 + 4 - 16 * shoulder
    skin = distance(_ellipse(x, y + 1 - 4 * shoulder, across, deep, 2.5) + 0.012 * wide)
    fat = who.fat * who.scale * (1 + 0.22 * wide + 0.25 * (np.abs(x) / 150).clip(0, 1))
    fascia = _single(skin + fat)

    dome_right, dome_left = who.domes
    lift = np.where(
        x < 6,
        dome_right - 0.0088 * ((x + 66) ** 2 + 0.9 * (y + 6) ** 2),
        dome_left - 0.0088 * ((x - 66) ** 2 + 0.9 * (y + 2) ** 2),
    ).clip(-128, None)
    diaphragm = distance((lift - z + 1.5 * blobs).astype(np.float32))
    heart = distance(_heart(x, y, z, who))
    middle_part = _mediastinum(x, y, z, heart, who, scale)
    lung = _smooth_max(_smooth_max(cage, -middle_part, 5 * scale), diaphragm, 4 * scale)

    bone = _bone(x, y, z, cage, skin, who)
    oblique = distance((y - 12 - 0.85 * (z - 8) + 0.0012 * x**2 * np.sign(y) + 3 * wide).astype(np.float32))
    horizontal = distance((z - 12 - 0.14 * (y + 60) - 4 * wide).astype(np.float32))
    front = (x < 0) & (oblique < 0)
    fissure = np.where(front & (np.abs(horizontal) < np.abs(oblique)), horizontal, oblique)
    lower = np.where(oblique > 0, 2, np.where((x < 0) & (horizontal < 0), 1, 0)) + np.where(x < 0, 0, 3)

    soft = _soft(x, y, z, who, cage, fascia, middle_part, heart, diaphragm, blobs, grain)
    parenchyma = (
        who.lung_hu
        + who.gravity_hu * ((y + 70) / 150)
        + 20 * wide
        + 14 * blobs
        + 12 * grain
        + 90 * np.exp(-(((lung + 1.5 * scale) / (3 * scale)) ** 2)) * ((y - 35) / 45).clip(0, 1)
        - 70 * who.emphysema * (blobs - 0.6).clip(0, 1.2) * ((z + 40) / 120).clip(0, 1)
    )
    return Body(
        skin=_single(skin),
        cage=_single(cage),
        lung=_single(lung),
        bone=_single(bone),
        fissure=_single(fissure),
        soft=_single(soft),
        parenchyma=_single(parenchyma.clip(-985, -600)),
        haze=_haze(frame, skin, lung, bone),
        lower=lower.astype(np.float32),
    )


def _adult_coordinates(frame: Frame, who: Patient) -> tuple[Image, Image, Image]:
    """x, y, z in the adult's frame of every node, warped by a few millimetres."""
    z, y, x = frame.nodes()
    cz, cy, cx = middle(frame)
    from_middle = (x - cx, y - cy, z - cz)
    inverse = who.turn.T / who.scale
    adult = [sum(np.float32(inverse[i, j]) * from_middle[j] for j in range(3)) for i in range(3)]
    rng = frame.recipe.rng(4)
    warped = []
    for axis in range(3):
        push = np.zeros(frame.lattice_shape, np.float32)
        for _ in range(3):
            wave = rng.normal(0, 2 * np.pi / 190, 3).astype(np.float32)
            phase = wave[0] * adult[0] + wave[1] * adult[1] + wave[2] * adult[2] + rng.uniform(0, 2 * np.pi)
            push += np.float32(rng.uniform(1.0, 2.2)) * np.sin(phase)
        warped.append(np.asarray(adult[axis] + push, np.float32))
    return warped[0], warped[1], warped[2]


def _heart(x: Image, y: Image, z: Image, who: Patient) -> Image:
    """An ellipsoid whose long axis points to the left, to the front and down."""
    turn = np.float32(np.radians(38))
    u = (x - 22) * np.cos(turn) - (y + 22) * np.sin(turn)
    v = (x - 22) * np.sin(turn) + (y + 22) * np.cos(turn)
    w = z + 52 + 0.35 * u
    size = who.heart
    return np.asarray(np.sqrt((u / (62 * size)) ** 2 + (v / (46 * size)) ** 2 + (w / (54 * size)) ** 2) - 1)


def _mediastinum(x: Image, y: Image, z: Image, heart: Image, who: Patient, scale: float) -> Image:
    """Distance to what lies between the lungs: spine, great vessels, heart and hila."""
    wide = who.mediastinum

    def column(cx: float, cy: float, rx: float, ry: float, power: float = 2.0) -> Image:
        f = _ellipse(x - cx, y - cy, rx, ry, power)
        return np.asarray(f * scale * min(rx, ry), np.float32)

    def hilum(cx: float, cy: float, cz: float) -> Image:
        f = np.sqrt(((x - cx) / 17) ** 2 + ((y - cy) / 17) ** 2 + ((z - cz) / 21) ** 2) - 1
        return np.asarray(f * scale * 17, np.float32)

    above = ((18 - z) / 20).clip(0, None) * 10 * scale
    # A wedge of fat behind the breastbone, which narrows to where the lungs meet in front.
    front = (
        np.maximum(np.abs(x - 2) - wide * (11 + 0.6 * (-y - 55).clip(0, 35) + 0.12 * (z - 20).clip(0, 60)), y)
        * scale
    )
    parts: list[Image] = [
        heart,
        column(0, 74, 25, 35),
        _single(column(20, 50, 17, 16) + ((z - 72) / 10).clip(0, None) * 10 * scale),
        _single(column(-1, 0, 30 * wide, 36, 2.4) + above),
        _single(front),
        hilum(-36, 14, 18),
        hilum(38, 16, 14),
    ]
    total = parts[0]
    for part in parts[1:]:
        total = _smooth_min(total, part, 7 * scale)
    return total


def _bone(x: Image, y: Image, z: Image, cage: Image, skin: Image, who: Patient) -> Image:
    """Distance to vertebral bodies, the ring around the canal, and the shoulder blades."""
    scale = who.scale
    phase = np.abs((z + 400) % 24 - 12)  # 12 in the middle of a disc
    body = _ellipse(x, y - 74, 18, 15, 2.4) * 15
    body = np.maximum(body - 1.2 * (phase / 9).clip(0, 1) ** 4, phase - 9.6)
    ring = np.abs(_ellipse(x, y - 99, 12.5, 11.5, 2.0) * 12) - 2.4
    ring = np.maximum(ring, phase - 9.0)
    depth = cage / scale
    blade = np.abs(depth - 15 - 6 * ((np.abs(x) - 95) / 30).clip(-1, 1)) - 2.3
    blade = np.maximum(blade, np.maximum(22 - y, np.maximum(62 - np.abs(x), np.abs(z - 62) - 52)))
    blade = np.maximum(blade, skin / scale + 8)
    return np.asarray(np.minimum(np.minimum(body, ring), blade) * scale, np.float32)


def _soft(
    x: Image,
    y: Image,
    z: Image,
    who: Patient,
    cage: Image,
    fascia: Image,
    between: Image,
    heart: Image,
    diaphragm: Image,
    blobs: Image,
    grain: Image,
) -> Image:
    """HU of everything within the skin but bone, lung and tubes."""
    scale = who.scale

    def share(d: Image) -> Image:
        return np.asarray((0.5 - d / (2.2 * scale)).clip(0, 1), np.float32)

    value = np.asarray(FAT_HU + 7 * grain, np.float32)
    streaks = ((blobs + 0.5 * grain - 1.35) / 0.4).clip(0, 1)
    muscle = MUSCLE_HU + 7 * grain - (MUSCLE_HU - FAT_HU) * streaks
    value += share(fascia) * (muscle - value)
    inner = share(cage)
    fatty = ((0.35 + 0.8 * blobs + 0.004 * (z - 20)) / 0.5).clip(0, 1)
    filling = 38 + 5 * grain - 110 * fatty
    value += inner * (filling - value)
    # Below the diaphragm: liver, spleen, and a stomach whose gas lies in front.
    below = inner * share(-diaphragm - 3 * scale) * share(-between - 2 * scale)
    organs = np.where(x < 14, 60 + 4 * grain, 50 + 5 * grain)
    stomach = np.sqrt(((x - 60) / 34) ** 2 + ((y + 22) / 30) ** 2 + ((z + 124) / 30) ** 2) - 1
    in_stomach = (0.5 - stomach / 0.08).clip(0, 1)
    organs = organs + in_stomach * (np.where(y < -30, -900.0, 22.0) - organs)
    value += below * (organs - value)
    wall = share(heart + 4 * scale)
    value += share(heart) * (1 - wall) * inner * (FAT_HU + 25 - value)
    value += wall * inner * (BLOOD_HU + 4 * grain - value)
    disc = share(_ellipse(x, y - 74, 17, 14, 2.4) * 14 * scale)
    value += disc * (78 - value)
    cord = share(_ellipse(x, y - 99, 9, 8, 2.0) * 8 * scale)
    value += cord * (28 - value)
    return np.asarray(value, np.float32)


def _haze(frame: Frame, skin: Image, lung: Image, bone: Image) -> Image:
    """Logarithm of the noise against that in air: rays through much tissue, as at the shoulders, arrive weaker."""
    from scipy.ndimage import gaussian_filter

    density = (skin < 0) - 0.75 * (lung < 0) + 0.6 * (bone < 0)
    reach = [0.16 * frame.recipe.width_mm / side for side in frame.lattice_step]
    reach[0] *= 0.3
    return np.asarray(1.5 * gaussian_filter(density.astype(np.float32), reach, mode="nearest"), np.float32)


def _noise(frame: Frame, stream: int, sigma: float) -> Image:
    """Smooth noise of unit variance on the lattice; `sigma` in nodes."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.Generator(np.random.Philox(key=key(frame.recipe.seed, 0xB10B, stream)))
    white = rng.standard_normal(frame.lattice_shape, dtype=np.float32)
    smooth = gaussian_filter(white, sigma, mode="wrap", truncate=3.0)
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), np.float32)


def _rotation(axial: float, side: float, nod: float) -> Floats:
    """Turns (x, y, z) about the long axis, from side to side, and from front to back; angles in radians."""
    ca, sa, cs, ss, cn, sn = (f(v) for v in (axial, side, nod) for f in (np.cos, np.sin))
    about_z = np.array([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]])
    about_y = np.array([[cs, 0, ss], [0, 1, 0], [-ss, 0, cs]])
    about_x = np.array([[1, 0, 0], [0, cn, -sn], [0, sn, cn]])
    return np.asarray(about_z @ about_y @ about_x)


def _ellipse(
    x: Image, y: Image, rx: Image | Floats | float, ry: Image | Floats | float, power: float
) -> Image:
    """Below 0 inside a superellipse, 0 on it; grows evenly along every ray from its middle."""
    total = (np.abs(x) / rx) ** power + (np.abs(y) / ry) ** power
    return np.asarray(total ** (1 / power) - 1, np.float32)


def _distance(value: Image, step: tuple[float, float, float]) -> Image:
    """First-order distance in mm to where `value` is 0."""
    slope = np.zeros(value.shape, np.float32)
    for axis, side in enumerate(step):
        slope += np.gradient(value, side, axis=axis) ** 2
    return np.asarray((value / np.sqrt(slope).clip(1e-4, None)).clip(-_REACH, _REACH), np.float32)


def _smooth_min(a: Image, b: Image, reach: float) -> Image:
    h = (0.5 + 0.5 * (b - a) / reach).clip(0, 1)
    return np.asarray(b + (a - b) * h - reach * h * (1 - h), np.float32)


def _smooth_max(a: Image, b: Image, reach: float) -> Image:
    return -_smooth_min(-a, -b, reach)


def _single(values: Image | Floats) -> Image:
    return np.ascontiguousarray(values, dtype=np.float32)
