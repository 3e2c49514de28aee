"""What goes wrong between the knife and the scanner: pen marks, folds, blur, bubbles, dust, unscanned borders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import cos, hypot, pi, sin
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from medvision.core.geometry import Box
from medvision.synthetic import anatomy
from medvision.synthetic.noise import Floats, Image, key, smooth
from medvision.synthetic.recipe import ARTEFACTS, SlideRecipe

Place = tuple[float, float]

_INKS: dict[str, tuple[float, float, float]] = {
    "pen-black": (2.0, 2.0, 1.9),
    "pen-blue": (1.9, 1.0, 0.25),
    "pen-green": (1.7, 0.35, 1.1),
    "pen-red": (0.12, 1.5, 1.2),
}
_BORDERS = {"border-black": 3, "border-grey": 168}
_BLUR_UM = 2.4


@dataclass(frozen=True, slots=True)
class Circle:
    """A round mark, in um."""

    centre: Place
    radius: float


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line with a half width, in um; `ink` is its optical density (R, G, B), None for a fold of the tissue."""

    path: tuple[Place, ...]
    half_width: float
    ink: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True)
class Marks:
    """All artefacts of a slide. `border` is (grey value, first row, first column, last row, last column) in um."""

    seed: int
    strokes: tuple[Stroke, ...] = ()
    blurred: tuple[Circle, ...] = ()
    bubbles: tuple[Circle, ...] = ()
    dust: tuple[Circle, ...] = ()
    border: tuple[int, float, float, float, float] | None = None

    @property
    def defocus(self) -> bool:
        """True where a part of the slide is out of focus, which needs more surroundings to render."""
        return bool(self.blurred)


class Lattice(Protocol):
    """The coarse lattice under a window."""

    y: Floats
    x: Floats
    spacing: float

    def enlarged(self, values: Floats) -> Image:
        """Values at every pixel of the window."""


@lru_cache(maxsize=64)
def plan(recipe: SlideRecipe) -> Marks:
    """Place the artefacts of a recipe."""
    strokes: list[Stroke] = []
    rounds: dict[str, list[Circle]] = {"defocus": [], "bubble": [], "dust": []}
    border = None
    for name in recipe.artefacts:
        rng = recipe.rng(200 + ARTEFACTS.index(name))
        if name in _INKS:
            strokes.append(_pen(recipe, rng, _INKS[name]))
        elif name == "fold":
            strokes.append(_fold(recipe, rng))
        elif name in _BORDERS:
            border = _border(recipe, rng, _BORDERS[name])
        else:
            rounds[name] = _circles(recipe, rng, name)
    circles = {name: tuple(found) for name, found in rounds.items()}
    return Marks(recipe.seed, tuple(strokes), circles["defocus"], circles["bubble"], circles["dust"], border)


def touches(marks: Marks, recipe: SlideRecipe, box: Box) -> bool:
    """True where an artefact other than a border may reach into the box."""
    s = recipe.spacing_um
    low, high = (box.start[0] * s, box.start[1] * s), (box.stop[0] * s, box.stop[1] * s)
    return any(
        all(a - reach < h and b + reach > lo for a, b, lo, h in zip(first, last, low, high, strict=True))
        for first, last, reach in _bounds(marks)
    )


def before_optics(marks: Marks, light: Image, lattice: Lattice) -> None:
    """Change the light that leaves the slide: ink, folds, bubbles, dust."""
    for stroke in marks.strokes:
        _stroke(marks.seed, stroke, light, lattice)
    for bubble in marks.bubbles:
        inside = bubble.radius - np.hypot(lattice.y - bubble.centre[0], lattice.x - bubble.centre[1])
        if inside.max() > -30:
            d = lattice.enlarged(inside)
            rim = 0.7 * np.exp(-(((d - 4) / 5) ** 2)) - 0.1 * np.exp(-(((d - 14) / 5) ** 2))
            light *= np.clip(1 - rim, 0, 1.15)[..., None]
    for speck in marks.dust:
        inside = speck.radius - np.hypot(lattice.y - speck.centre[0], lattice.x - speck.centre[1])
        if inside.max() > -12:
            cover = np.clip(lattice.enlarged(inside) / 4 + 0.5, 0, 1)
            light *= np.exp(cover[..., None] * np.array([-1.1, -1.4, -1.8], dtype=np.float32))


def optics(marks: Marks, light: Image, lattice: Lattice) -> None:
    """Put the blurred parts out of focus."""
    for circle in marks.blurred:
        inside = circle.radius - np.hypot(lattice.y - circle.centre[0], lattice.x - circle.centre[1])
        if inside.max() > 0:
            share = np.clip(lattice.enlarged(inside) / (0.4 * circle.radius), 0, 1)[..., None]
            sigma = _BLUR_UM / lattice.spacing
            side = 2 * int(2.6 * sigma) + 1
            light += share * (cv2.GaussianBlur(light, (side, side), sigma) - light)


def frame(marks: Marks, pixels: npt.NDArray[np.uint8], box: Box, spacing_um: float) -> None:
    """Overwrite what the scanner did not scan."""
    if marks.border is None:
        return
    value, top, left, bottom, right = marks.border
    y = (np.arange(box.start[0], box.stop[0]) + 0.5) * spacing_um
    x = (np.arange(box.start[1], box.stop[1]) + 0.5) * spacing_um
    pixels[(y < top) | (y >= bottom)] = value
    pixels[:, (x < left) | (x >= right)] = value


def _pen(recipe: SlideRecipe, rng: np.random.Generator, ink: tuple[float, float, float]) -> Stroke:
    """An arc drawn around a part of the tissue."""
    node = anatomy.plan(recipe).nodes[0]
    start, sweep = float(rng.uniform(0, 2 * pi)), float(rng.uniform(0.9, 2.0))
    away = float(rng.uniform(1.02, 1.18))
    wave = float(rng.uniform(-0.06, 0.06))
    path = []
    for k in range(25):
        turn = start + sweep * k / 24
        far = away + wave * sin(3 * turn)
        path.append(
            (
                node.centre[0] + far * node.radii[0] * sin(turn),
                node.centre[1] + far * node.radii[1] * cos(turn),
            )
        )
    return Stroke(tuple(path), min(float(rng.uniform(110, 190)), 0.07 * min(recipe.extent_um)), ink)


def _fold(recipe: SlideRecipe, rng: np.random.Generator) -> Stroke:
    node = anatomy.plan(recipe).nodes[0]
    turn, bend = float(rng.uniform(0, pi)), float(rng.uniform(-0.2, 0.2))
    path = []
    for k in range(21):
        along = (k / 20 - 0.5) * 1.3
        across = bend * (along * along - 0.1) + 0.02 * sin(9 * along)
        path.append(
            (
                node.centre[0] + node.radii[0] * (along * sin(turn) + across * cos(turn)),
                node.centre[1] + node.radii[1] * (along * cos(turn) - across * sin(turn)),
            )
        )
    return Stroke(tuple(path), float(rng.uniform(14, 34)), None)


def _border(
    recipe: SlideRecipe, rng: np.random.Generator, value: int
) -> tuple[int, float, float, float, float]:
    height, width = recipe.extent_um
    cut = rng.uniform(0.015, 0.05, 4) * (rng.uniform(size=4) < 0.6)
    cut[int(rng.integers(4))] = 0.04
    return (
        value, float(cut[0]) * height, float(cut[1]) * width, (1 - float(cut[2])) * height, (1 - float(cut[3])) * width
    )  # fmt: skip


def _circles(recipe: SlideRecipe, rng: np.random.Generator, name: str) -> list[Circle]:
    count, low, high = {"defocus": (3, 0.08, 0.2), "bubble": (2, 0.05, 0.12), "dust": (24, 0, 0)}[name]
    side = min(*recipe.extent_um, 6000.0)
    found = []
    for _ in range(count):
        centre = tuple(float(rng.uniform(0.1, 0.9)) * n for n in recipe.extent_um)
        radius = float(rng.uniform(low, high)) * side if high else float(rng.uniform(4, 9))
        found.append(Circle((centre[0], centre[1]), radius))
    if name == "defocus":
        # One of them lies on tissue for certain.
        found[0] = Circle(anatomy.plan(recipe).nodes[0].centre, found[0].radius)
    return found


def _bounds(marks: Marks) -> Iterator[tuple[Place, Place, float]]:
    """Corners of each mark, and how far it reaches beyond them."""
    for stroke in marks.strokes:
        ys, xs = zip(*stroke.path, strict=True)
        yield (min(ys), min(xs)), (max(ys), max(xs)), 1.6 * stroke.half_width + 40
    for circle in (*marks.bubbles, *marks.dust):
        yield circle.centre, circle.centre, circle.radius + 40


def _stroke(seed: int, stroke: Stroke, light: Image, lattice: Lattice) -> None:
    y, x = lattice.y, lattice.x
    far = np.full(y.shape, np.inf)
    along = np.zeros(y.shape)
    length = 0.0
    for (y0, x0), (y1, x1) in zip(stroke.path, stroke.path[1:], strict=False):
        dy, dx = y1 - y0, x1 - x0
        size = hypot(dy, dx)
        t = np.clip(((y - y0) * dy + (x - x0) * dx) / max(size * size, 1e-9), 0, 1)
        q = np.hypot(y - y0 - t * dy, x - x0 - t * dx)
        along = np.where(q < far, length + t * size, along)
        far = np.minimum(far, q)
        length += size
    inside = stroke.half_width * (1 + 0.16 * smooth(key(seed, 210), y, x, 90.0)) - far
    if inside.max() < -10:
        return
    if stroke.ink is None:
        taper = np.minimum(inside, 0.25 * np.minimum(along, length - along))
        extra = np.clip(lattice.enlarged(taper) / 5 + 0.5, 0, 1) * np.float32(0.95)
        light *= np.power(np.maximum(light, 1e-3), extra[..., None])
        return
    streaks = 1 + 0.22 * smooth(key(seed, 211), far * 6, along * 0.4, 60.0, 3)
    density = np.clip(lattice.enlarged(inside) / 8 + 0.5, 0, 1) * lattice.enlarged(streaks)
    light *= np.exp(-density[..., None] * np.asarray(stroke.ink, dtype=np.float32))
