"""What lies between the cells: collagen, cytoplasm sheets, sinus, fat. Painted per pixel from the coarse structures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from medvision.synthetic.anatomy import Plan
from medvision.synthetic.noise import Grid, Image, key, periodic

PERIOD = 1024
"""Pixels after which a texture repeats."""
_LOOKUP = 4096

AnyFloats = npt.NDArray[np.floating[Any]]
Cut = tuple[slice, slice]


class Relief(Protocol):
    """The coarse structures under a window."""

    def cut(self, name: str) -> Cut | None:
        """The rows and columns of the window that a structure can reach; None where it does not."""

    def distance(self, name: str, cut: Cut) -> Image:
        """Signed distance (um) of a structure at every pixel of a part of the window."""


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
    ridge = np.abs(
        periodic(0x7E3, PERIOD, 3.0 / spacing_um) + 0.25 * periodic(0x7E4, PERIOD, 1.0 / spacing_um)
    )
    cracks = np.clip(1 - ridge / 0.34, 0, 1)
    rng = np.random.Generator(np.random.Philox(key=key(0x7E5)))
    white = rng.standard_normal((1, _LOOKUP)).astype(np.float32)
    wide = np.concatenate([white, white, white], axis=1)
    smooth = cv2.GaussianBlur(wide, (0, 0), 9.0, borderType=cv2.BORDER_REFLECT)[0, _LOOKUP : 2 * _LOOKUP]
    fibre = (smooth / smooth.std()).astype(np.float32)
    return Textures(_doubled(fine), _doubled(coarse), _doubled(cracks), fibre)


def _doubled(texture: AnyFloats) -> Image:
    return np.tile(np.asarray(texture, dtype=np.float32), (2, 2))


def paint(plan: Plan, planes: Image, start: tuple[int, int], spacing_um: float, relief: Relief) -> None:
    """Paint the ground of a window into `planes` `(3, rows, columns)`: hematoxylin, eosin, haemoglobin.

    `start` is the window's first pixel on the slide.
    """
    brush = _Brush(planes, start, textures(spacing_um), relief)
    _fat(plan, planes, start, spacing_um, relief)
    brush.collagen("loose", "loose", 5.0, 4.0, tone=0.22, contrast=0.27, step_um=2.2)
    with brush.over("lymph", 6.0) as g:
        if g:
            gaps = 1 - 0.9 * g.cracks
            g.fill((0.10 + 0.05 * g.coarse) * gaps, (0.44 + 0.11 * g.coarse + 0.11 * g.fine) * gaps)
    with brush.over("medulla", 90.0) as g:
        if g:
            g.fill(0.10 + 0.05 * g.coarse, 0.52 + 0.10 * g.coarse + 0.08 * g.fine, 0.45)
    with brush.over("mantle", 30.0) as g:
        if g:
            g.fill(0.16, 0.42 + 0.07 * g.fine, 0.6)
    with brush.over("germinal", 16.0) as g:
        if g:
            g.fill(0.14 + 0.05 * g.coarse, 0.50 + 0.10 * g.fine + 0.07 * g.coarse)
    with brush.over("granuloma", 6.0, 2.0) as g:
        if g:
            g.fill(0.10 + 0.04 * g.coarse, 0.56 + 0.09 * g.coarse + 0.10 * g.fine)
    with brush.over("sinus", 5.0, 3.0) as g:
        if g:
            strands = np.maximum(0.18 - np.abs(g.coarse + 0.3 * g.fine), 0)
            g.fill(0.02, 0.05 + 1.4 * strands + 0.02 * g.fine)
    brush.collagen("trabecula", "trabecula", 4.0, 2.0, tone=0.60, contrast=0.24, step_um=2.4)
    brush.collagen("capsule", "node", 4.0, 2.0, tone=0.62, contrast=0.24, step_um=2.6)
    brush.collagen("wall", "wall", 3.0, 0.8, tone=0.58, contrast=0.18, step_um=2.0)
    with brush.over("lumen", 2.0) as g:
        if g:
            g.fill(0.0, 0.03)
    with brush.over("lesion", 5.0, 2.0) as g:
        if g:
            gaps = 1 - 0.8 * g.cracks * (g.coarse > 0.1)
            g.fill(
                (0.07 + 0.04 * g.coarse + 0.03 * g.fine) * gaps,
                (0.62 + 0.09 * g.coarse + 0.14 * g.fine) * gaps,
            )
    brush.collagen("strands", "strands", 5.0, 2.5, tone=0.50, contrast=0.26, step_um=2.2)
    with brush.over("gland", 2.5, 1.0) as g:
        if g:
            g.fill(0.0, 0.03 + 0.03 * np.maximum(g.coarse, 0))
    np.maximum(planes, 0, out=planes)


@dataclass(frozen=True, eq=False)
class _Coat:
    """The part of a window that one structure covers."""

    planes: Image
    alpha: Image
    fine: Image
    coarse: Image
    cracks: Image

    def fill(self, h: AnyFloats | float, e: AnyFloats | float, strength: float = 1.0) -> None:
        """Replace what lies below, as far as the structure covers it, by amounts of hematoxylin and eosin."""
        alpha = self.alpha * np.float32(strength) if strength != 1 else self.alpha
        for plane, value in zip(self.planes, (h, e), strict=False):
            change = value - plane
            change *= alpha
            plane += change


class _Brush:
    def __init__(self, planes: Image, start: tuple[int, int], textures: Textures, relief: Relief) -> None:
        self.planes, self.textures, self.relief = planes, textures, relief
        self.first = start[0] % PERIOD, start[1] % PERIOD

    def texture(self, texture: Image, cut: Cut) -> Image:
        r, c = self.first
        return texture[r + cut[0].start : r + cut[0].stop, c + cut[1].start : c + cut[1].stop]

    @contextmanager
    def over(self, name: str, width_um: float, fray_um: float = 0.0) -> Iterator[_Coat | None]:
        """The part of the window that a structure covers, with a soft edge frayed by the coarse texture."""
        cut = self.relief.cut(name)
        if cut is None:
            yield None
            return
        t = self.textures
        coarse = self.texture(t.coarse, cut)
        alpha = self.relief.distance(name, cut) * np.float32(1 / width_um)
        if fray_um:
            alpha += np.float32(fray_um / width_um) * coarse
        alpha += 0.5
        np.clip(alpha, 0, 1, out=alpha)
        yield _Coat(
            self.planes[:, cut[0], cut[1]],
            alpha,
            self.texture(t.fine, cut),
            coarse,
            self.texture(t.cracks, cut),
        )

    def collagen(
        self,
        name: str,
        phase: str,
        width_um: float,
        fray_um: float,
        *,
        tone: float,
        contrast: float,
        step_um: float,
    ) -> None:
        """Fibres along the lines of equal distance of the structure `phase`, wavy, frayed, with slits between."""
        with self.over(name, width_um, fray_um) as coat:
            if coat is None:
                return
            cut = self.relief.cut(name)
            assert cut is not None
            at = self.relief.distance(phase, cut) + 1.7 * coat.coarse
            at += 0.25 * coat.fine
            at *= np.float32(24 / step_um)
            bundles, fibrils = at.astype(np.int32), (at * np.float32(2.7)).astype(np.int32)
            lookup = self.textures.fibre
            fibre = 0.75 * lookup.take(bundles & (_LOOKUP - 1)) + 0.65 * lookup.take(fibrils & (_LOOKUP - 1))
            slits = np.minimum(np.maximum(2.1 + 1.4 * fibre + 0.5 * coat.coarse, 0.12), 1)
            eosin = (tone + contrast * fibre + 0.06 * coat.fine) * slits
            coat.fill(0.10 * tone / 0.6, eosin)


def _fat(plan: Plan, planes: Image, start: tuple[int, int], spacing_um: float, relief: Relief) -> None:
    """Adipocytes: the thin walls between the cells of a jittered grid."""
    cut = relief.cut("fat")
    if cut is None:
        return
    tissue = relief.distance("tissue", cut)
    planes = planes[:, cut[0], cut[1]]
    start = (start[0] + cut[0].start, start[1] + cut[1].start)
    step = max(1, round(1.0 / spacing_um))
    rows, columns = planes.shape[1:]
    r0, c0 = start[0] // step - 1, start[1] // step - 1
    r1, c1 = (start[0] + rows) // step + 2, (start[1] + columns) // step + 2
    y, x = np.meshgrid(
        (np.arange(r0, r1) + 0.5) * (step * spacing_um),
        (np.arange(c0, c1) + 0.5) * (step * spacing_um),
        indexing="ij",
    )
    gap = _wall_distance(key(plan.seed, 80), y, x, 68.0).astype(np.float32)
    large = np.asarray(
        cv2.resize(gap, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR), dtype=np.float32
    )
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
    grid = Grid(seed, pitch, y, x)
    cy, cx = grid.centres(0.08)
    first, second = np.full(y.shape, np.inf), np.full(y.shape, np.inf)
    for k in grid.neighbours():
        q = np.hypot(y - cy[k], x - cx[k])
        second = np.minimum(second, np.maximum(first, q))
        first = np.minimum(first, q)
    return np.asarray(second - first)
