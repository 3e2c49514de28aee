"""From a recipe to pixels: structures, ground, cells, dye, optics, sensor."""

from __future__ import annotations

from functools import lru_cache
from math import ceil, floor

import cv2
import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.synthetic import anatomy, artefacts, cells, ground
from medvision.synthetic.noise import Floats, Image, key, periodic, smooth, uniform
from medvision.synthetic.recipe import SCANNERS, STAINS, Scanner, SlideRecipe, Stain
from medvision.synthetic.stamps import VARIANTS, library

Pixels = npt.NDArray[np.uint8]

CHUNK = 512
"""Pixels are always rendered in squares of this side that start at multiples of it, so that a pixel's value does not
depend on the block that was asked for."""
LATTICE_UM = 4.0
_HALO = 12
_NOISE_SIDE = 256


def render_block(recipe: SlideRecipe, box: Box) -> Pixels:
    """Pixels of a box of level 0, uint8 `(rows, columns, 3)`.

    The same pixels whatever the box they are asked in. Boxes at multiples of `CHUNK` cost least.

    Raises:
        UsageError: if the box leaves the slide.
    """
    slide = Box((0, 0), recipe.shape_px)
    if box.intersect(slide) != box:
        raise UsageError(f"box {box.start} to {box.stop} leaves the slide of {recipe.shape_px} pixels")
    out = np.empty((*box.shape, 3), np.uint8)
    for r in range(box.start[0] // CHUNK * CHUNK, box.stop[0], CHUNK):
        for c in range(box.start[1] // CHUNK * CHUNK, box.stop[1], CHUNK):
            chunk = Box((r, c), (r + CHUNK, c + CHUNK)).intersect(slide)
            part = chunk.intersect(box)
            found = render_window(recipe, chunk)
            out[part.shift((-box.start[0], -box.start[1])).slices()] = found[part.shift((-r, -c)).slices()]
    return out


def render_window(recipe: SlideRecipe, box: Box) -> Pixels:
    """Pixels of one window drawn in one go; differs from `render_block` only by rounding."""
    layout = anatomy.plan(recipe)
    stain, scanner = look(recipe)
    marks = artefacts.plan(recipe)
    halo = _HALO if not marks.defocus else 48
    outer = Box((box.start[0] - halo, box.start[1] - halo), (box.stop[0] + halo, box.stop[1] + halo))
    if is_glass(recipe, outer) and not artefacts.touches(marks, recipe, outer):
        pixels = glass(recipe, box)
    else:
        lattice = _Lattice(recipe, outer)
        planes = _planes(recipe, layout, lattice)
        planes *= thickness(recipe, lattice)
        light = _light(planes, stain)
        artefacts.before_optics(marks, light, lattice)
        light = _optics(light, scanner, recipe.spacing_um)
        artefacts.optics(marks, light, lattice)
        pixels = _sensor(recipe, np.ascontiguousarray(light[halo:-halo, halo:-halo]), stain, scanner, box)
    artefacts.frame(marks, pixels, box, recipe.spacing_um)
    return pixels


def look(recipe: SlideRecipe) -> tuple[Stain, Scanner]:
    """The stain (varied a little by the seed) and the scanner of a recipe."""
    rng = recipe.rng(3)
    stains, scanners = list(STAINS), list(SCANNERS)
    stain_name, scanner_name = (
        stains[int(rng.integers(len(stains)))],
        scanners[int(rng.integers(len(scanners)))],
    )
    base = STAINS[recipe.stain or stain_name]
    amount = recipe.strength * rng.normal(1.0, 0.07, 3).clip(0.8, 1.25)

    def varied(vector: tuple[float, float, float], gain: float) -> tuple[float, float, float]:
        r, g, b = np.asarray(vector) * gain * rng.normal(1.0, 0.025, 3)
        return float(r), float(g), float(b)

    white = np.minimum(np.asarray(base.white) + rng.normal(0, 2.0, 3), 255)
    stain = Stain(
        varied(base.hematoxylin, amount[0]),
        varied(base.eosin, amount[1]),
        varied(base.red, amount[2]),
        (float(white[0]), float(white[1]), float(white[2])),
    )
    return stain, SCANNERS[recipe.scanner or scanner_name]


def thickness(recipe: SlideRecipe, lattice: _Lattice) -> Image:
    """Thickness of the section relative to its mean."""
    field = 1 + 0.07 * smooth(key(recipe.seed, 100), lattice.y, lattice.x, 520.0)
    return lattice.enlarged(field)


def is_glass(recipe: SlideRecipe, box: Box) -> bool:
    """True where a box certainly holds no tissue."""
    s = recipe.spacing_um
    counts = [max(2, ceil(n * s / 24) + 1) for n in box.shape]
    y = np.linspace(box.start[0] * s, box.stop[0] * s, counts[0])
    x = np.linspace(box.start[1] * s, box.stop[1] * s, counts[1])
    _, tissue = anatomy.outline(anatomy.plan(recipe), *np.meshgrid(y, x, indexing="ij"))
    return bool(tissue.max() < -40)


def glass(recipe: SlideRecipe, box: Box) -> Pixels:
    """The empty slide: the white point and a noise that repeats, so that a writer can reuse encoded tiles."""
    tile: Pixels = _glass_tile(recipe)
    rows = np.arange(box.start[0], box.stop[0]) % _NOISE_SIDE
    columns = np.arange(box.start[1], box.stop[1]) % _NOISE_SIDE
    return np.asarray(tile[np.ix_(rows, columns)], dtype=np.uint8)


@lru_cache(maxsize=8)
def _glass_tile(recipe: SlideRecipe) -> Pixels:
    stain, scanner = look(recipe)
    value = np.asarray(stain.white) + 0.4 * scanner.noise * _sensor_noise()[:_NOISE_SIDE, :_NOISE_SIDE]
    return np.asarray(np.clip(np.rint(value), 0, 255), dtype=np.uint8)


@lru_cache(maxsize=1)
def _sensor_noise() -> Image:
    """Noise of unit variance for three channels, a little correlated as demosaicking leaves it; repeats."""
    planes = [periodic(0x5E0 + k, _NOISE_SIDE, 0.55) for k in range(3)]
    return np.tile(np.stack(planes, axis=-1), (2, 2, 1))


def lattice_step(recipe: SlideRecipe) -> int:
    """Side of a square of the coarse lattice, in pixels."""
    return max(1, round(LATTICE_UM / recipe.spacing_um))


class _Lattice:
    """The coarse lattice under a window: points at the centres of squares of `step` pixels, three beyond each side."""

    def __init__(self, recipe: SlideRecipe, box: Box) -> None:
        self.box, self.spacing = box, recipe.spacing_um
        self.step = lattice_step(recipe)
        pad = ceil(24.0 / (self.step * recipe.spacing_um))
        self.first = tuple(floor(a / self.step) - pad for a in box.start)
        last = tuple(ceil(b / self.step) + pad for b in box.stop)
        at = [
            (np.arange(a, b) + 0.5) * (self.step * recipe.spacing_um)
            for a, b in zip(self.first, last, strict=True)
        ]
        self.y, self.x = np.meshgrid(at[0], at[1], indexing="ij")

    def enlarged(self, values: Floats, cut: ground.Cut | None = None) -> Image:
        """Values at every pixel of the window or of a part of it, interpolated between the lattice's points."""
        k = self.step
        rows, columns = cut or (slice(0, self.box.shape[0]), slice(0, self.box.shape[1]))
        r0, r1 = self.box.start[0] + rows.start, self.box.start[0] + rows.stop
        c0, c1 = self.box.start[1] + columns.start, self.box.start[1] + columns.stop
        a, b = r0 // k - 1, -(-r1 // k) + 1
        c, d = c0 // k - 1, -(-c1 // k) + 1
        part = values[a - self.first[0] : b - self.first[0], c - self.first[1] : d - self.first[1]]
        large = np.asarray(
            cv2.resize(part.astype(np.float32), None, fx=k, fy=k, interpolation=cv2.INTER_LINEAR),
            dtype=np.float32,
        )
        return large[r0 - a * k : r1 - a * k, c0 - c * k : c1 - c * k]

    def cut(self, where: npt.NDArray[np.bool_]) -> ground.Cut | None:
        """The smallest part of the window that holds all squares where `where`; None where there is none."""
        slices = []
        for axis in (0, 1):
            hit = np.flatnonzero(where.any(axis=1 - axis))
            if not len(hit):
                return None
            start = (self.first[axis] + int(hit[0]) - 1) * self.step - self.box.start[axis]
            stop = (self.first[axis] + int(hit[-1]) + 2) * self.step - self.box.start[axis]
            start, stop = max(start, 0), min(stop, self.box.shape[axis])
            if start >= stop:
                return None
            slices.append(slice(start, stop))
        return slices[0], slices[1]


def _planes(recipe: SlideRecipe, layout: anatomy.Plan, lattice: _Lattice) -> Image:
    """Amounts of hematoxylin, eosin and haemoglobin `(3, rows, columns)`."""
    s = recipe.spacing_um
    found = anatomy.fields(layout, lattice.y, lattice.x)
    stamps = library(s, key(recipe.seed, 101) % VARIANTS, recipe.mimicry)
    margin = stamps.largest + 2
    rows, columns = lattice.box.shape
    wide = np.zeros((3, rows + 2 * margin, columns + 2 * margin), np.float32)
    planes = wide[:, margin:-margin, margin:-margin]
    relief = _Relief(lattice, found)
    ground.paint(layout, planes, (lattice.box.start[0], lattice.box.start[1]), s, relief)
    corner = (lattice.box.start[0] * s, lattice.box.start[1] * s)
    unit = lattice.step * s
    lookup = cells.Lookup(
        found.region, _direction(found), (lattice.first[0] * unit, lattice.first[1] * unit), unit
    )
    cells.settle(layout, stamps, wide, corner, (rows * s, columns * s), margin, s, lookup)
    return planes


class _Relief:
    """The structures of a window, interpolated where they are asked for."""

    def __init__(self, lattice: _Lattice, found: anatomy.Fields) -> None:
        self.lattice, self.found = lattice, found

    def cut(self, name: str) -> ground.Cut | None:
        return self.lattice.cut(self.found.distance[name] > -12)

    def distance(self, name: str, cut: ground.Cut) -> Image:
        return self.lattice.enlarged(self.found.distance[name], cut)


def _direction(found: anatomy.Fields) -> Floats:
    """Direction of fibres: along the lines of equal distance of whatever fibrous structure a place belongs to."""
    direction = np.zeros(found.region.shape)
    r = anatomy.Region
    for codes, name in (
        ((r.COLLAGEN,), "node"),
        ((r.WALL,), "wall"),
        ((r.LOOSE, r.FAT), "loose"),
        ((r.TUMOUR_STROMA, r.TUMOUR), "strands"),
        ((r.SINUS, r.PARACORTEX, r.MEDULLA), "sinus"),
    ):
        here = np.isin(found.region, codes)
        if here.any():
            gy, gx = np.gradient(found.distance[name])
            direction[here] = np.arctan2(gx, -gy)[here] % np.pi
    return direction


def _light(planes: Image, stain: Stain) -> Image:
    """Beer-Lambert: transmitted light `(rows, columns, 3)` between 0 and 1."""
    vectors = np.array([stain.hematoxylin, stain.eosin, stain.red], dtype=np.float32)
    density = cv2.transform(
        np.ascontiguousarray(np.moveaxis(planes, 0, -1)), np.ascontiguousarray(-vectors.T)
    )
    return np.asarray(cv2.exp(density), dtype=np.float32)


def _optics(light: Image, scanner: Scanner, spacing_um: float) -> Image:
    sigma = max(scanner.blur_um / spacing_um, 0.35)
    blurred = _blur(light, sigma)
    if scanner.sharpen:
        softer = _blur(blurred, 1.6 * sigma)
        blurred = (1 + scanner.sharpen) * blurred - scanner.sharpen * softer
    return blurred


def _blur(light: Image, sigma: float) -> Image:
    side = 2 * ceil(2.6 * sigma) + 1
    return np.asarray(cv2.GaussianBlur(light, (side, side), sigma), dtype=np.float32)


def _sensor(recipe: SlideRecipe, light: Image, stain: Stain, scanner: Scanner, box: Box) -> Pixels:
    light *= np.asarray(stain.white, dtype=np.float32)
    noise = _sensor_noise() * np.float32(scanner.noise)
    out = np.empty(light.shape, np.uint8)
    for r in range(0, box.shape[0], _NOISE_SIDE):
        for c in range(0, box.shape[1], _NOISE_SIDE):
            part = light[r : r + _NOISE_SIDE, c : c + _NOISE_SIDE]
            place = np.array([box.start[0] + r]), np.array([box.start[1] + c])
            dy = int(uniform(recipe.seed, 110, *place)[0] * _NOISE_SIDE)
            dx = int(uniform(recipe.seed, 111, *place)[0] * _NOISE_SIDE)
            grain = noise[dy : dy + part.shape[0], dx : dx + part.shape[1]]
            out[r : r + _NOISE_SIDE, c : c + _NOISE_SIDE] = cv2.add(part, grain, dtype=cv2.CV_8U)
    return out
