"""Cells, drawn once and pasted many times.

A stamp holds, for a square of pixels, how much of what lies below it lets through (`keep`) and what it adds of
hematoxylin, eosin and haemoglobin (`add`). Shapes follow what a pathologist looks for: small dark lymphocytes with
clumped chromatin; large pale vesicular tumour nuclei with a distinct membrane and nucleoli.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, pi
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medvision.synthetic.noise import Image, key

AnyFloats = npt.NDArray[np.floating[Any]]

VARIANTS = 6
"""How many libraries there are; a slide uses one, so that slides differ in the look of their cells."""
BINS = 12
"""Directions in which elongated nuclei are drawn."""


@dataclass(frozen=True, eq=False)
class Stamp:
    """`keep` `(side, side)` and `add` `(3, side, side)`: below becomes `below * keep + add`."""

    keep: Image
    add: Image

    @property
    def side(self) -> int:
        """Rows, and columns, of the stamp."""
        return int(self.keep.shape[0])


@dataclass(frozen=True, eq=False)
class Library:
    """Stamps by kind. Elongated kinds hold `BINS` equal groups in order of direction."""

    stamps: dict[str, tuple[Stamp, ...]]
    largest: int


@lru_cache(maxsize=8)
def library(spacing_um: float, variant: int, mimicry: float = 0.0) -> Library:
    """All stamps at a spacing. `mimicry` brings tumour cells and the large benign ones closer; see `SlideRecipe`."""
    rng = np.random.Generator(np.random.Philox(key=key(0xCE11, variant)))
    style = _Style(
        size=float(rng.uniform(0.94, 1.06)),
        tumour_um=float(rng.uniform(5.4, 6.8)) * (1 - 0.22 * mimicry),
        pleomorphism=float(rng.uniform(0.12, 0.22)),
        pale=float(rng.uniform(0.75, 1.4)),
        nucleolus=float(rng.uniform(0.8, 1.3)) * (1 - 0.35 * mimicry),
        mimicry=mimicry,
    )
    pen = _Pencil(spacing_um, rng)
    makers: dict[str, tuple[int, Callable[[int], Stamp]]] = {
        "lymphocyte": (72, lambda _: _lymphocyte(pen, style)),
        "medium": (40, lambda _: _medium(pen, style)),
        "histiocyte": (40, lambda _: _histiocyte(pen, style)),
        "tumour": (72, lambda _: _tumour(pen, style)),
        "mitosis": (8, lambda _: _mitosis(pen)),
        "apoptosis": (8, lambda _: _apoptosis(pen)),
        "plasma": (24, lambda _: _plasma(pen, style)),
        "red": (24, lambda _: _red(pen)),
        "hole": (16, lambda _: _hole(pen)),
        "spindle": (BINS * 6, lambda k: _spindle(pen, k // 6, (4.2, 6.4), (0.75, 1.25))),
        "endothelium": (BINS * 5, lambda k: _spindle(pen, k // 5, (3.6, 5.2), (1.3, 2.1))),
    }
    stamps = {name: tuple(make(k) for k in range(count)) for name, (count, make) in makers.items()}
    return Library(stamps, max(s.side for group in stamps.values() for s in group))


@dataclass(frozen=True, slots=True)
class _Style:
    size: float
    tumour_um: float
    pleomorphism: float
    pale: float
    nucleolus: float
    mimicry: float


class _Pencil:
    """Draws blobs on a square canvas, in micrometres."""

    def __init__(self, spacing_um: float, rng: np.random.Generator) -> None:
        self.spacing, self.rng = spacing_um, rng

    def canvas(self, reach_um: float) -> tuple[Image, Image]:
        half = ceil(reach_um / self.spacing)
        at = (np.arange(2 * half, dtype=np.float32) + 0.5 - half) * self.spacing
        y, x = np.meshgrid(at, at, indexing="ij")
        return y, x

    def blob(
        self, y: Image, x: Image, radii: tuple[float, float], turn: float, rough: float, harmonics: int = 5
    ) -> Image:
        """Signed distance (um) to an irregular ellipse; `radii[1]` lies along `turn`, from +column to +row."""
        cos, sin = np.cos(turn), np.sin(turn)
        v, u = (cos * y - sin * x) / radii[0], (sin * y + cos * x) / radii[1]
        angle = np.arctan2(v, u)
        edge = np.ones_like(angle)
        for k in range(2, 2 + harmonics):
            edge += rough / k * self.rng.normal() * np.cos(k * angle + self.rng.uniform(0, 2 * pi))
        return np.asarray((edge - np.hypot(v, u)) * min(radii), dtype=np.float32)

    def soft(self, distance: Image, width: float = 0.35) -> Image:
        """1 inside, 0 outside, a ramp of `width` um (a pixel at least) between."""
        return np.asarray(np.clip(0.5 + distance / max(width, self.spacing), 0, 1), dtype=np.float32)

    def grain(self, shape: tuple[int, ...], size_um: float) -> Image:
        """Smoothed noise of unit variance."""
        white = self.rng.standard_normal(shape).astype(np.float32)
        sigma = max(size_um / self.spacing, 0.3)
        blurred = cv2.GaussianBlur(white, (0, 0), sigma)
        return np.asarray(blurred / max(float(blurred.std()), 1e-6), dtype=np.float32)

    def dot(self, y: Image, x: Image, radius: float, reach: float) -> Image:
        """A soft round spot at a random place within `reach`."""
        r, t = reach * np.sqrt(self.rng.uniform()), self.rng.uniform(0, 2 * pi)
        q = np.hypot(y - r * np.sin(t), x - r * np.cos(t))
        return self.soft((radius - q).astype(np.float32), 0.5)


def _stamp(keep: AnyFloats, h: AnyFloats, e: AnyFloats, r: AnyFloats | None = None) -> Stamp:
    add = np.stack([h, e, np.zeros_like(h) if r is None else r])
    return Stamp(
        np.ascontiguousarray(keep, dtype=np.float32),
        np.ascontiguousarray(np.maximum(add, 0), dtype=np.float32),
    )


def _lymphocyte(pen: _Pencil, style: _Style) -> Stamp:
    rng = pen.rng
    radius = style.size * float(np.clip(rng.normal(3.1, 0.32), 2.4, 4.1))
    y, x = pen.canvas(radius + 1.8)
    squeeze = rng.uniform(0.72, 1.0)
    d = pen.blob(y, x, (radius * squeeze, radius), rng.uniform(0, pi), 0.10)
    nucleus, cell = pen.soft(d, 0.5), pen.soft(d + 0.75, 0.8)
    clumps = np.clip(pen.grain(y.shape, 0.42), -1.8, 1.8)
    depth = rng.uniform(1.7, 2.7) if rng.uniform() < 0.8 else rng.uniform(1.0, 1.6)
    rim = np.exp(-(((d - 0.3) / 0.45) ** 2))
    h = nucleus * (depth * (0.84 + 0.26 * clumps) + 0.3 * rim)
    e = nucleus * 0.5 + (cell - nucleus).clip(0, 1) * rng.uniform(0.15, 0.42)
    return _stamp(1 - np.maximum(nucleus, 0.75 * cell), h + 0.06 * (cell - nucleus).clip(0, 1), e)


def _plasma(pen: _Pencil, style: _Style) -> Stamp:
    rng = pen.rng
    y, x = pen.canvas(7.5)
    turn = rng.uniform(0, 2 * pi)
    cell = pen.soft(pen.blob(y, x, (4.2, 5.8), turn, 0.12), 0.9)
    off = 2.3
    d = pen.blob(y + off * np.sin(turn), x - off * np.cos(turn), (2.9 * style.size, 3.0), turn, 0.06)
    nucleus = pen.soft(d, 0.5)
    wheel = 0.85 + 0.22 * np.clip(pen.grain(y.shape, 0.5), -1.5, 1.5)
    h = nucleus * 2.0 * wheel + 0.28 * cell * (1 - nucleus)
    return _stamp(1 - np.maximum(nucleus, 0.85 * cell), h, 0.25 * nucleus + 0.5 * cell * (1 - nucleus))


def _medium(pen: _Pencil, style: _Style) -> Stamp:
    """Centroblasts, centrocytes and immunoblasts of germinal centres."""
    rng = pen.rng
    radius = style.size * rng.uniform(3.3, 5.0) * (1 + 0.12 * style.mimicry)
    y, x = pen.canvas(radius + 2.6)
    d = pen.blob(y, x, (radius * rng.uniform(0.65, 1.0), radius), rng.uniform(0, pi), 0.16)
    nucleus, cell = pen.soft(d, 0.45), pen.soft(d + 1.3, 1.2)
    chromatin = np.clip(pen.grain(y.shape, 0.4), -1.7, 1.7)
    rim = np.exp(-(((d - 0.3) / 0.4) ** 2))
    depth = rng.uniform(0.65, 1.35)
    h = nucleus * (depth * (0.85 + 0.36 * chromatin) + 0.55 * rim)
    for _ in range(int(rng.integers(0, 3))):
        h += nucleus * 0.6 * pen.dot(y, x, 0.55, 0.75 * radius)
    body = (cell - nucleus).clip(0, 1)
    return _stamp(1 - np.maximum(nucleus, 0.7 * cell), h + 0.10 * body, 0.42 * nucleus + 0.45 * body)


def _histiocyte(pen: _Pencil, style: _Style) -> Stamp:
    """Large pale foamy cell with a small bean-shaped bland nucleus: the mimic of a tumour cell."""
    rng = pen.rng
    y, x = pen.canvas(12.5)
    turn = rng.uniform(0, pi)
    edge = pen.blob(y, x, (rng.uniform(6.5, 8.5), rng.uniform(7.5, 10.5)), turn, 0.16)
    cell = pen.soft(edge, 1.4)
    long = rng.uniform(3.4, 4.8) * (1 + 0.22 * style.mimicry)
    dy, dx = rng.uniform(-2.5, 2.5, 2)
    d = pen.blob(y - dy, x - dx, (long * rng.uniform(0.5, 0.75), long), rng.uniform(0, pi), 0.12)
    nucleus = pen.soft(d, 0.45)
    rim = np.exp(-(((d - 0.25) / 0.35) ** 2))
    foam = pen.grain(y.shape, 0.9)
    h = nucleus * (0.62 * style.size + 0.12 * np.clip(pen.grain(y.shape, 0.4), -1.5, 1.5) + 0.45 * rim)
    if style.mimicry:  # an epithelioid histiocyte: granular chromatin, a small nucleolus, denser cytoplasm
        h += nucleus * style.mimicry * (0.10 + 0.16 * np.clip(pen.grain(y.shape, 0.4), -1.5, 1.5))
        h += nucleus * 0.7 * style.mimicry * pen.dot(y, x, 0.55, 0.5 * long)
    membrane = np.exp(-((edge / 0.6) ** 2))
    body = cell * (1 - nucleus)
    e = body * (0.33 + 0.22 * style.mimicry + 0.12 * foam) + 0.16 * membrane + 0.35 * nucleus
    return _stamp(1 - np.maximum(nucleus, 0.85 * cell), h + 0.05 * body, e)


def _tumour(pen: _Pencil, style: _Style) -> Stamp:
    rng = pen.rng
    radius = style.tumour_um * float(np.clip(rng.lognormal(0.0, style.pleomorphism), 0.72, 1.75))
    y, x = pen.canvas(radius * 1.25 + 5.0)
    turn = rng.uniform(0, pi)
    d = pen.blob(y, x, (radius * rng.uniform(0.62, 0.98), radius), turn, 0.17)
    nucleus = pen.soft(d, 0.4)
    edge = d + rng.uniform(2.4, 4.2) + 0.5 * pen.grain(y.shape, 2.0)
    cell = pen.soft(edge, 1.6)
    rim = np.exp(-(((d - 0.25) / 0.38) ** 2))
    coarse, fine = pen.grain(y.shape, 0.75), pen.grain(y.shape, 0.33)
    depth = rng.uniform(0.28, 0.62) * style.pale + 0.25 * style.mimicry
    if rng.uniform() < 0.12:
        depth *= 1.9
    h = nucleus * (depth * (0.9 + 0.26 * coarse + 0.34 * fine) + 0.66 * rim)
    e = nucleus * (0.44 + 0.06 * fine)
    for _ in range(int(rng.choice([1, 1, 2, 2, 3]))):
        spot = nucleus * pen.dot(y, x, style.nucleolus * rng.uniform(0.75, 1.25), 0.5 * radius)
        h += 0.95 * spot
        e += 0.38 * spot
    body = (cell * (1 - nucleus)).clip(0, 1)
    tone = rng.uniform(0.48, 0.78) * (1 - 0.15 * style.mimicry)
    granules = 0.10 * pen.grain(y.shape, 0.4) + 0.07 * pen.grain(y.shape, 1.6)
    membrane = np.exp(-((edge / 0.5) ** 2)) * (1 - nucleus)
    e += body * (tone + granules) + 0.16 * membrane
    h += body * (rng.uniform(0.02, 0.14) + 0.4 * granules) + 0.05 * membrane
    return _stamp(1 - np.maximum(nucleus, 0.8 * cell), h, e)


def _mitosis(pen: _Pencil) -> Stamp:
    rng = pen.rng
    y, x = pen.canvas(11.0)
    turn = rng.uniform(0, pi)
    cell = pen.soft(pen.blob(y, x, (8.2, 9.2), turn, 0.08), 1.2)
    plate = np.zeros_like(y)
    for along in np.linspace(-3.6, 3.6, 9):
        dy, dx = along * np.sin(turn) + rng.normal(0, 0.7), along * np.cos(turn) + rng.normal(0, 0.7)
        plate = np.maximum(plate, pen.dot(y - np.float32(dy), x - np.float32(dx), rng.uniform(0.9, 1.7), 0.3))
    body = cell * (1 - plate)
    return _stamp(1 - np.maximum(plate, 0.85 * cell), 2.7 * plate + 0.12 * body, 0.35 * plate + 0.36 * body)


def _apoptosis(pen: _Pencil) -> Stamp:
    rng = pen.rng
    y, x = pen.canvas(8.0)
    halo = pen.soft(pen.blob(y, x, (5.8, 6.4), 0.0, 0.08), 1.0)
    cell = pen.soft(pen.blob(y, x, (3.8, 4.4), 0.3, 0.1), 0.7)
    h, e = np.zeros_like(y), 0.95 * cell
    for _ in range(int(rng.integers(1, 4))):
        h += 2.1 * pen.dot(y, x, rng.uniform(0.8, 1.7), 2.2)
    return _stamp(1 - 0.9 * np.maximum(halo, cell), h * cell, e)


def _red(pen: _Pencil) -> Stamp:
    rng = pen.rng
    y, x = pen.canvas(4.6)
    d = pen.blob(y, x, (rng.uniform(2.2, 3.2), rng.uniform(2.9, 3.4)), rng.uniform(0, pi), 0.06)
    disc = pen.soft(d, 0.6)
    ring = 0.8 + 0.2 * np.clip(1 - d / 2.2, 0, 1)
    return _stamp(1 - 0.9 * disc, np.zeros_like(y), 0.3 * disc, 1.05 * disc * ring)


def _hole(pen: _Pencil) -> Stamp:
    """A tingible-body macrophage: a pale vacuolated cell with dark debris."""
    rng = pen.rng
    y, x = pen.canvas(15.0)
    d = pen.blob(y, x, (rng.uniform(7, 10), rng.uniform(9, 13)), rng.uniform(0, pi), 0.2)
    cell = pen.soft(d, 2.0)
    foam = pen.grain(y.shape, 1.2)
    e = cell * (0.13 + 0.07 * foam)
    h = 0.03 * cell
    for _ in range(int(rng.integers(1, 5))):
        h += 1.9 * pen.dot(y, x, rng.uniform(0.6, 1.6), 6.0) * cell
    return _stamp(1 - 0.95 * cell, h, e)


def _spindle(pen: _Pencil, direction: int, long: tuple[float, float], short: tuple[float, float]) -> Stamp:
    rng = pen.rng
    length, width = rng.uniform(*long), rng.uniform(*short)
    y, x = pen.canvas(length + 1.2)
    turn = pi * direction / BINS + rng.normal(0, 0.12)
    cos, sin = np.cos(turn), np.sin(turn)
    bend = rng.uniform(-0.03, 0.03) * (sin * y + cos * x) ** 2
    d = pen.blob(y + bend * cos, x - bend * sin, (width, length), turn, 0.10)
    nucleus = pen.soft(d, 0.5)
    chromatin = np.clip(pen.grain(y.shape, 0.5), -1.5, 1.5)
    h = nucleus * rng.uniform(0.9, 1.7) * (0.85 + 0.2 * chromatin)
    return _stamp(1 - 0.9 * nucleus, h, 0.3 * nucleus)
