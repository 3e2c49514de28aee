"""What lies between the cells: collagen, cytoplasm sheets, sinus, fat. Painted per pixel from the coarse structures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from medvision.synthetic.anatomy import Plan
from medvision.synthetic.noise import Image, key, periodic, uniform

PERIOD = 1024
"""Pixels after which a texture repeats."""
_LOOKUP = 4096

Interpolate = Callable[[str], Image]
"""Distance of a structure at every pixel of the window."""


@dataclass(frozen=True, eq=False)
class Textures:
    """Repeating textures, each doubled along both axes so that any window up to `PERIOD` is a plain slice."""

    fine: Image
    coarse: Image
    cracks: Image
    fibre: Image
    """A smooth random function of one variable: brightness across a bundle of fibres."""


@lru_cache(maxsize=4)
def textures(spacing_um: float) -> Textures:
    """Textures at a spacing, the same for all slides."""
    fine = periodic(0x7E1, PERIOD, 0.45 / spacing_um)
    coarse = periodic(0x7E2, PERIOD, 2.2 / spacing_um)
    ridge = np.abs(periodic(0x7E3, PERIOD, 3.0 / spacing_um) + 0.25 * periodic(0x7E4, PERIOD, 1.0 / spacing_um))
    cracks = np.clip(1 - ridge / 0.34, 0, 1)
    rng = np.random.Generator(np.random.Philox(key=key(0x7E5)))
    white = rng.standard_normal((1, _LOOKUP)).astype(np.float32)
    wide = np.concatenate([white, white, white], axis=1)
    smooth = cv2.GaussianBlur(wide, (0, 0), 9.0, borderType=cv2.BORDER_REFLECT)[0, _LOOKUP : 2 * _LOOKUP]
    fibre = (smooth / smooth.std()).astype(np.float32)
    return Textures(*(np.tile(t, (2, 2)) for t in (fine, coarse, cracks)), fibre=fibre)


def paint(
    plan: Plan,
    planes: Image,
    start: tuple[int, int],
    spacing_um: float,
    present: frozenset[str],
    distance: Interpolate,
) -> None:
    """Paint the ground of a window into `planes` `(3, rows, columns)`: hematoxylin, eosin, haemoglobin.

    `start` is the window's first pixel on the slide, `present` the structures that reach into it.
    """
    rows, columns = planes.shape[1:]
    t = textures(spacing_um)
    r0, c0 = start[0] % PERIOD, start[1] % PERIOD
    cut = (slice(r0, r0 + rows), slice(c0, c0 + columns))
    fine, coarse, cracks = t.fine[cut], t.coarse[cut], t.cracks[cut]

    def fibres(phase: Image, step_um: float) -> Image:
        """Fibres that follow the lines of equal `phase` (um), wavy and frayed."""
        at = (phase + 1.6 * coarse + 0.35 * fine) * (24 / step_um)
        return t.fibre[at.astype(np.int32) & (_LOOKUP - 1)]

    def over(name: str, width_um: float, h: Image | float, e: Image | float, fray: float = 0.0) -> None:
        d = distance(name)
        alpha = d * (1 / width_um) + 0.5
        if fray:
            alpha += (fray / width_um) * coarse
        np.clip(alpha, 0, 1, out=alpha)
        for plane, value in zip(planes, (h, e), strict=False):
            plane += alpha * (value - plane)

    if "tissue" in present and float(distance("lymph").min() if "lymph" in present else -1) < 20:
        _fat(plan, planes, start, spacing_um, distance("tissue"))
    if "loose" in present:
        bundle = fibres(distance("loose"), 2.6)
        over("loose", 5.0, 0.05, np.clip(0.24 + 0.24 * bundle, 0, 1.0), 4.0)
    if "lymph" in present:
        gaps = 1 - 0.85 * cracks
        over("lymph", 6.0, (0.15 + 0.04 * coarse) * gaps, np.clip(0.31 + 0.07 * coarse + 0.07 * fine, 0, 1) * gaps)
    if "medulla" in present and "lymph" in present:
        d = np.minimum(distance("medulla"), distance("lymph"))
        planes[1] += np.clip(d / 60, 0, 1) * (0.07 + 0.05 * coarse)
    if "mantle" in present:
        over("mantle", 30.0, 0.24, 0.30 + 0.05 * fine)
    if "germinal" in present:
        over("germinal", 16.0, 0.20 + 0.05 * coarse, 0.34 + 0.07 * fine + 0.04 * coarse)
    if "sinus" in present:
        strands = np.clip(np.abs(coarse) * -1.0 + 0.30, 0, 1)
        over("sinus", 5.0, 0.02, 0.05 + 0.8 * strands + 0.02 * fine, 3.0)
    if "trabecula" in present:
        over("trabecula", 4.0, 0.10, np.clip(0.62 + 0.20 * fibres(distance("trabecula"), 3.0), 0.1, 1.3), 2.0)
    if "capsule" in present:
        over("capsule", 4.0, 0.10, np.clip(0.66 + 0.20 * fibres(distance("node"), 3.2), 0.1, 1.3), 2.0)
    if "wall" in present:
        over("wall", 3.0, 0.12, np.clip(0.62 + 0.16 * fibres(distance("wall"), 2.4), 0.1, 1.2), 0.8)
        over("lumen", 2.0, 0.0, 0.03)
    if "lesion" in present:
        gaps = 1 - 0.75 * cracks * (coarse > 0.2)
        cytoplasm = (0.44 + 0.06 * coarse + 0.08 * fine) * gaps
        over("lesion", 5.0, (0.17 + 0.03 * coarse + 0.03 * fine) * gaps, cytoplasm, 2.0)
        over("strands", 5.0, 0.10, np.clip(0.56 + 0.22 * fibres(distance("strands"), 3.0), 0.05, 1.2), 2.5)
        if "gland" in present:
            over("gland", 2.5, 0.0, 0.03 + 0.03 * np.maximum(coarse, 0), 1.0)


def _fat(plan: Plan, planes: Image, start: tuple[int, int], spacing_um: float, tissue: Image) -> None:
    """Adipocytes: the thin walls between the cells of a jittered grid."""
    step = max(1, round(1.0 / spacing_um))
    rows, columns = planes.shape[1:]
    r0, c0 = start[0] // step - 1, start[1] // step - 1
    r1, c1 = (start[0] + rows) // step + 2, (start[1] + columns) // step + 2
    y, x = np.meshgrid(
        (np.arange(r0, r1) + 0.5) * (step * spacing_um), (np.arange(c0, c1) + 0.5) * (step * spacing_um), indexing="ij"
    )
    gap = _wall_distance(key(plan.seed, 80), y, x, 68.0).astype(np.float32)
    large = cv2.resize(gap, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
    top, left = start[0] - r0 * step, start[1] - c0 * step
    gap = large[top : top + rows, left : left + columns]
    wall = np.clip(1.25 - gap / 1.1, 0, 1)
    inside = np.clip(tissue / 3 + 0.5, 0, 1)
    planes[1] += inside * (0.02 + 0.40 * wall)
    planes[0] += inside * (0.05 * wall)


def _wall_distance(
    seed: int, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], pitch: float
) -> npt.NDArray[np.float64]:
    """Distance to the border between the two nearest seeds of a jittered grid."""
    rows = np.arange(np.floor(y[0, 0] / pitch) - 1, np.floor(y[-1, 0] / pitch) + 2).astype(np.int64)
    columns = np.arange(np.floor(x[0, 0] / pitch) - 1, np.floor(x[0, -1] / pitch) + 2).astype(np.int64)
    r, c = np.meshgrid(rows, columns, indexing="ij")
    cy = (r + 0.08 + 0.84 * uniform(seed, 1, r, c)) * pitch
    cx = (c + 0.08 + 0.84 * uniform(seed, 2, r, c)) * pitch
    i, j = np.floor(y / pitch).astype(np.int64) - rows[0], np.floor(x / pitch).astype(np.int64) - columns[0]
    first, second = np.full(y.shape, np.inf), np.full(y.shape, np.inf)
    for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
            a, b = i + dr, j + dc
            q = np.hypot(y - cy[a, b], x - cx[a, b])
            second = np.minimum(second, np.maximum(first, q))
            first = np.minimum(first, q)
    return np.asarray(second - first)
