"""Where everything lies in a synthetic lymph node, as functions of a place in micrometres.

Each structure is a signed distance (about micrometres, positive inside). They are smooth, so they are evaluated on a
coarse lattice and interpolated; the same lattice gives the outlines that are written as truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from math import ceil, pi

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.synthetic.noise import Floats, Grid, key, smooth
from medvision.synthetic.recipe import LesionSpec, Pattern, SlideRecipe

OUTSIDE = -1e4
"""Distance of a structure that is nowhere near."""
MACRO_UM = 3500
"""Longer side of a slide on which a macrometastasis finds room, whatever the seed."""


class Region(IntEnum):
    """What a place is made of; decides which cells settle there."""

    GLASS = 0
    FAT = 1
    LOOSE = 2
    COLLAGEN = 3
    PARACORTEX = 4
    MANTLE = 5
    GERMINAL = 6
    SINUS = 7
    MEDULLA = 8
    WALL = 9
    LUMEN = 10
    TUMOUR = 11
    TUMOUR_STROMA = 12
    GLAND = 13
    GRANULOMA = 14


@dataclass(frozen=True, slots=True)
class Node:
    """One section of a lymph node: an ellipse with a hilum, all in um and radians."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    hilum: tuple[float, float, float]
    """Centre and radius of the dent where vessels enter."""


@dataclass(frozen=True, eq=False)
class Fields:
    """Signed distances at the asked places, and the region each place belongs to."""

    distance: dict[str, Floats]
    region: npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions about a whole slide."""

    seed: int
    nodes: tuple[Node, ...]
    lesions: tuple[LesionSpec, ...]
    fat_um: float
    histiocytosis: float
    """Share of sinus that is filled with histiocytes."""
    follicle_share: float
    sinus_um: float
    mimicry: float = 0.0


@lru_cache(maxsize=64)
def plan(recipe: SlideRecipe) -> Plan:
    """Place the sections and the metastases of a recipe.

    Raises:
        UsageError: if a macrometastasis is asked for on a slide too small to hold one.
    """
    rng = recipe.rng(1)
    nodes = _nodes(recipe, rng)
    shared = (float(rng.uniform(90, 330)), float(rng.beta(1.2, 2.0)), float(rng.uniform(0.45, 0.95)))
    sinus = float(rng.uniform(22, 48))
    lesions = (
        recipe.lesions if recipe.lesions is not None else _placed_lesions(recipe, nodes[0], recipe.rng(2))
    )
    return Plan(recipe.seed, nodes, lesions, *shared, sinus_um=sinus, mimicry=recipe.mimicry)


def outline(plan: Plan, y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Signed distances of the node and of all tissue."""
    node = np.full(np.shape(y), OUTSIDE)
    for k, section in enumerate(plan.nodes):
        node = np.maximum(node, _node(key(plan.seed, 20, k), section, y, x))
    breadth = plan.fat_um * (1 + 1.1 * smooth(key(plan.seed, 21), y, x, 700.0))
    ragged = 45 * smooth(key(plan.seed, 22), y, x, 150.0, 3)
    return node, node + np.maximum(breadth + ragged, 8 + 0.1 * ragged)


def lesion_distance(plan: Plan, y: Floats, x: Floats, node: Floats) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Signed distance of the nearest metastasis, and its number (-1 far from all)."""
    best = np.full(np.shape(y), OUTSIDE)
    which = np.full(np.shape(y), -1, dtype=np.int8)
    for k in range(len(plan.lesions)):
        found = one_lesion(plan, k, y, x, node)
        closer = found > best
        best = np.where(closer, found, best)
        which = np.where(closer, np.int8(k), which)
    return best, which


def lesion_reach(lesion: LesionSpec) -> float:
    """Distance (um) from a metastasis' centre beyond which it is not found."""
    return 0.75 * lesion.diameter_um + 60


def one_lesion(plan: Plan, number: int, y: Floats, x: Floats, node: Floats) -> Floats:
    """Signed distance of one metastasis; it stays inside the node's capsule."""
    lesion = plan.lesions[number]
    reach = lesion_reach(lesion)
    near = (np.abs(y - lesion.centre_um[0]) < reach) & (np.abs(x - lesion.centre_um[1]) < reach)
    found = np.full(np.shape(y), OUTSIDE)
    if near.any():
        inside = _lesion(key(plan.seed, 30, number), lesion, y[near], x[near])
        found[near] = np.minimum(inside, node[near] - 14)
    return found


def fields(plan: Plan, y: Floats, x: Floats) -> Fields:
    """All structures at the places `(y, x)`."""
    seed = plan.seed
    node, tissue = outline(plan, y, x)
    d: dict[str, Floats] = {"node": node, "tissue": tissue}
    inside = bool((node > -80).any())
    d["loose"] = np.minimum(tissue, _loose(seed, node, y, x))
    d["capsule"] = np.minimum(node + 6, 16 + 9 * smooth(key(seed, 40), y, x, 260.0) - node)
    nowhere = np.full(np.shape(y), OUTSIDE)
    if inside:
        d.update(_lymphoid(plan, node, y, x))
    else:
        d.update(dict.fromkeys(("lymph", "trabecula", "sinus", "mantle", "germinal", "medulla"), nowhere))
    lesion, which = lesion_distance(plan, y, x, node)
    d["lesion"] = lesion
    d.update(_tumour(plan, lesion, which, y, x))
    d.update(_vessels(plan, d, y, x))
    d["granuloma"] = _granulomas(plan, d, y, x) if inside and plan.mimicry else nowhere
    d["fat"] = np.minimum(tissue, 20 - d["lymph"]) if inside else tissue
    return Fields(d, _regions(d))


# --- the node -------------------------------------------------------------------------------------------------------


def _nodes(recipe: SlideRecipe, rng: np.random.Generator) -> tuple[Node, ...]:
    height, width = recipe.extent_um
    along = 1 if width >= height else 0
    count = 2 if max(height, width) > 1.7 * min(height, width) and min(height, width) > 1500 else 1
    nodes = []
    for k in range(count):
        share = (k + 0.5) / count
        centre = [height / 2, width / 2]
        centre[along] = (height, width)[along] * share
        room = [height, width]
        room[along] /= count
        # A slide smaller than a node shows a part of one.
        radii = [max(0.37 * side * float(rng.uniform(0.92, 1.06)), 420.0) for side in room]
        centre = [c + float(rng.uniform(-0.03, 0.03)) * side for c, side in zip(centre, room, strict=True)]
        turn = float(rng.uniform(0, 2 * pi))
        dent = 0.30 * min(radii)
        hilum = (centre[0] + radii[0] * 1.12 * np.sin(turn), centre[1] + radii[1] * 1.12 * np.cos(turn), dent)
        if min(room) < 1200:
            hilum = (OUTSIDE, OUTSIDE, 1.0)
        angle = float(rng.uniform(-0.2, 0.2))
        nodes.append(Node((centre[0], centre[1]), (radii[0], radii[1]), angle, hilum))
    return tuple(nodes)


def _node(seed: int, node: Node, y: Floats, x: Floats) -> Floats:
    v, u = _turned(y - node.centre[0], x - node.centre[1], node.angle)
    small = min(node.radii)
    ellipse = _ellipse(v, u, node.radii)
    dent = np.hypot(y - node.hilum[0], x - node.hilum[1]) - node.hilum[2]
    blend = 0.18 * small
    h = np.clip(0.5 + 0.5 * (dent - ellipse) / blend, 0, 1)
    bean = dent + h * (ellipse - dent) - blend * h * (1 - h)
    return np.asarray(
        bean
        + 0.09 * small * smooth(key(seed, 1), y, x, 0.7 * small, 2)
        + 10 * smooth(key(seed, 2), y, x, 130.0)
    )


def _ellipse(v: Floats, u: Floats, radii: tuple[float, float]) -> Floats:
    """Signed distance to an ellipse, exact to first order near its edge."""
    q = np.hypot(v / radii[0], u / radii[1])
    slope = np.hypot(v / radii[0] ** 2, u / radii[1] ** 2)
    return np.asarray((1 - q) * np.minimum(q / np.maximum(slope, 1e-9), max(radii)) + (q < 1e-9) * min(radii))


def _turned(v: Floats, u: Floats, angle: float) -> tuple[Floats, Floats]:
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * v - sin * u, sin * v + cos * u


def _loose(seed: int, node: Floats, y: Floats, x: Floats) -> Floats:
    """Loose connective tissue: a sleeve around the capsule and strands through the fat."""
    sleeve = 22 + 26 * smooth(key(seed, 41), y, x, 240.0) - np.abs(node + 14)
    strands = 15 - 200 * np.abs(smooth(key(seed, 42), y, x, 420.0)) + 14 * smooth(key(seed, 43), y, x, 120.0)
    return np.maximum(sleeve, strands)


def _lymphoid(plan: Plan, node: Floats, y: Floats, x: Floats) -> dict[str, Floats]:
    seed = plan.seed
    deep = max(min(n.radii) for n in plan.nodes)
    lymph = node - 12
    ridge = np.abs(smooth(key(seed, 44), y, x, 620.0)) * 300 + 0.25 * np.abs(node - 0.35 * deep)
    trabecula = np.minimum(lymph, 13 + 8 * smooth(key(seed, 45), y, x, 200.0) - ridge)
    wavy = 12 * smooth(key(seed, 46), y, x, 180.0)
    rim = np.minimum(node - 14, plan.sinus_um + 10 + wavy - node)
    medulla = node - 0.58 * deep + 70 * smooth(key(seed, 47), y, x, 300.0)
    network = 24 - 105 * np.abs(smooth(key(seed, 48), y, x, 210.0, 2)) + np.clip(0.10 * medulla, -60, 10)
    along = 14 - np.abs(trabecula + 16)
    sinus = np.maximum(rim, np.minimum(np.maximum(network, np.minimum(along, medulla + 60)), node - 20))
    mantle, germinal = _follicles(plan, node, deep, y, x)
    return {
        "lymph": lymph,
        "trabecula": trabecula,
        "sinus": np.minimum(sinus, -mantle - 6),
        "mantle": np.minimum(mantle, lymph - plan.sinus_um),
        "germinal": np.minimum(germinal, lymph - plan.sinus_um - 20),
        "medulla": medulla,
    }


def _follicles(plan: Plan, node: Floats, deep: float, y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Signed distances of follicles (their mantle's outer edge) and of their germinal centres."""
    grid = Grid(key(plan.seed, 50), 430.0, y, x)
    cy, cx = grid.centres(0.25)
    radius = np.where(grid.number(6) < plan.follicle_share, 105 + 95 * grid.number(4), OUTSIDE)
    mantle_um = np.where(grid.number(7) < 0.8, 38 + 12 * grid.number(8), -OUTSIDE)
    cos, sin = np.cos(pi * grid.number(5)), np.sin(pi * grid.number(5))
    # Follicles lie in the cortex: deep in the node they fade out.
    wobble = 18 * smooth(key(plan.seed, 51), y, x, 150.0) - np.clip(node - 0.50 * deep, 0, None)
    mantle, germinal = np.full(np.shape(y), OUTSIDE), np.full(np.shape(y), OUTSIDE)
    for k in grid.neighbours():
        if (radius[k] > 0).any():
            v, u = y - cy[k], x - cx[k]
            c, s = cos[k], sin[k]
            found = radius[k] - np.hypot((c * v - s * u) * 1.15, (s * v + c * u) / 1.15) + wobble
            mantle = np.maximum(mantle, found)
            germinal = np.maximum(germinal, found - mantle_um[k])
    return mantle, germinal


def _granulomas(plan: Plan, d: dict[str, Floats], y: Floats, x: Floats) -> Floats:
    """Signed distance of clusters of epithelioid histiocytes: the size and shape of small metastases, and benign."""
    grid = Grid(key(plan.seed, 55), 380.0, y, x)
    cy, cx = grid.centres(0.3)
    radius = np.where(grid.number(6) < 0.4 * plan.mimicry, 22 + 95 * grid.number(4) ** 2, OUTSIDE)
    wobble = 9 * smooth(key(plan.seed, 56), y, x, 60.0, 2)
    found = np.full(np.shape(y), OUTSIDE)
    for k in grid.neighbours():
        if (radius[k] > 0).any():
            found = np.maximum(found, radius[k] - np.hypot(y - cy[k], x - cx[k]) + wobble)
    return np.asarray(np.minimum(found, np.minimum(d["lymph"] - 12, -d["lesion"] - 10)))


# --- metastases -----------------------------------------------------------------------------------------------------


def _placed_lesions(recipe: SlideRecipe, node: Node, rng: np.random.Generator) -> tuple[LesionSpec, ...]:
    kind = recipe.metastases
    if kind == "none":
        return ()
    room = 2 * min(max(node.radii), 0.5 * max(recipe.extent_um))
    if kind == "macro":
        if room < 2300:
            rows, columns = recipe.shape_px
            raise UsageError(
                f"a macrometastasis (> 2 mm) does not fit a slide of {rows} x {columns} px at {recipe.spacing_um:g} "
                f"um/px: pass --size {ceil(MACRO_UM / recipe.spacing_um)} or more, or --metastases micro"
            )
        diameter = min(float(rng.uniform(2400, 5000)), 0.85 * room)
        aspect = min(0.8, 1.5 * min(node.radii) / diameter)
        lesions = [
            _lesion_at(node, 0.15, diameter, aspect, 0.0 if node.radii[1] >= node.radii[0] else pi / 2, rng)
        ]
        return (*lesions, *_some(node, rng, int(rng.integers(0, 3)), (220, 520), (0.6, 0.8)))
    if kind == "micro":
        largest = min(700.0, 0.35 * room)
        return _some(node, rng, int(rng.integers(2, 4)), (230, max(260.0, largest)), (0.45, 0.75))
    return _some(node, rng, int(rng.integers(1, 4)), (55, 170), (0.55, 0.8))


def _some(
    node: Node, rng: np.random.Generator, count: int, sizes: tuple[float, float], depth: tuple[float, float]
) -> tuple[LesionSpec, ...]:
    start = float(rng.uniform(0, 2 * pi))
    lesions = []
    for k in range(count):
        turn = start + 2 * pi * (k + 0.3 * float(rng.uniform())) / max(count, 1)
        size = float(rng.uniform(*sizes))
        away = float(rng.uniform(*depth))
        centre = (
            node.centre[0] + away * node.radii[0] * float(np.sin(turn)),
            node.centre[1] + away * node.radii[1] * float(np.cos(turn)),
        )
        lesions.append(LesionSpec(centre, size, float(rng.uniform(0.6, 0.95)), turn, _pattern(rng)))
    return tuple(lesions)


def _lesion_at(
    node: Node, away: float, diameter: float, aspect: float, angle: float, rng: np.random.Generator
) -> LesionSpec:
    turn = float(rng.uniform(0, 2 * pi))
    centre = (
        node.centre[0] + away * node.radii[0] * float(np.sin(turn)),
        node.centre[1] + away * node.radii[1] * float(np.cos(turn)),
    )
    return LesionSpec(centre, diameter, aspect, angle, _pattern(rng))


def _pattern(rng: np.random.Generator) -> Pattern:
    choices: tuple[Pattern, ...] = ("sheet", "nests", "glands")
    return choices[int(rng.integers(0, 3))]


def _lesion(seed: int, lesion: LesionSpec, y: Floats, x: Floats) -> Floats:
    v, u = _turned(y - lesion.centre_um[0], x - lesion.centre_um[1], -lesion.angle)
    long = 0.5 * lesion.diameter_um
    short = long * lesion.aspect
    smoothed = _ellipse(v, u, (short, long))
    coarse = 0.22 * short * smooth(key(seed, 1), y, x, 0.9 * short, 2)
    front = min(16.0, 0.2 * short) * smooth(key(seed, 2), y, x, max(45.0, 0.1 * short), 2)
    return np.asarray(smoothed + coarse + front)


def _tumour(
    plan: Plan, lesion: Floats, which: npt.NDArray[np.int8], y: Floats, x: Floats
) -> dict[str, Floats]:
    """Strands of stroma and lumina inside the metastases."""
    strands, gland = np.full(np.shape(y), OUTSIDE), np.full(np.shape(y), OUTSIDE)
    if (which >= 0).any():
        ridge = np.abs(smooth(key(plan.seed, 60), y, x, 170.0, 2))
        lumen = smooth(key(plan.seed, 61), y, x, 62.0, 1)
        for k, spec in enumerate(plan.lesions):
            here = which == k
            thick = (
                {"sheet": 5.0, "nests": 14.0, "glands": 8.0}[spec.pattern] if spec.diameter_um > 250 else -5.0
            )
            strands = np.where(here, thick - 95 * ridge, strands)
            if spec.pattern == "glands":
                gland = np.where(here, 26 * (lumen - 0.62), gland)
    strands = np.minimum(strands, lesion)
    return {"strands": strands, "gland": np.minimum(gland, np.minimum(lesion - 14, -strands - 12))}


# --- vessels --------------------------------------------------------------------------------------------------------


def _vessels(plan: Plan, d: dict[str, Floats], y: Floats, x: Floats) -> dict[str, Floats]:
    """Outer wall and lumen of larger vessels (hilum, fat) and of the small ones of the paracortex."""
    wall, lumen = np.full(np.shape(y), OUTSIDE), np.full(np.shape(y), OUTSIDE)
    sizes = ((430.0, 22.0, 58.0, 0.45, 0.33), (135.0, 7.0, 15.0, 0.75, 0.42))
    for number, (pitch, low, high, share, thick) in enumerate(sizes):
        grid = Grid(key(plan.seed, 70, number), pitch, y, x)
        cy, cx = grid.centres(0.1)
        radius = np.where(grid.number(6) < share, low + (high - low) * grid.number(3) ** 2, OUTSIDE)
        cos, sin, stretch = np.cos(pi * grid.number(4)), np.sin(pi * grid.number(4)), 1 + 1.4 * grid.number(5)
        for k in grid.neighbours():
            v, u = y - cy[k], x - cx[k]
            c, s = cos[k], sin[k]
            found = radius[k] - np.hypot(c * v - s * u, (s * v + c * u) / stretch[k])
            closer = found > wall
            wall = np.where(closer, found, wall)
            lumen = np.where(closer, found - thick * radius[k], lumen)
    wobble = 2.5 * smooth(key(plan.seed, 71), y, x, 30.0)
    # Large ones outside the lymphoid tissue, small ones within it; none in follicles, sinuses or metastases.
    small = wall < 18
    allowed = np.minimum(d["tissue"] - 15, np.where(small, 1e4, -d["lymph"] + np.clip(d["medulla"], 0, 1e4)))
    for name in ("mantle", "lesion", "sinus"):
        allowed = np.minimum(allowed, -d[name] - 4)
    wall = np.minimum(wall + wobble, allowed)
    return {"wall": wall, "lumen": np.minimum(lumen + wobble, wall - 2)}


def _regions(d: dict[str, Floats]) -> npt.NDArray[np.int8]:
    region = np.full(d["tissue"].shape, Region.GLASS, dtype=np.int8)
    for inside, code in (
        (d["tissue"] > 0, Region.FAT),
        (d["loose"] > 0, Region.LOOSE),
        (d["lymph"] > 0, Region.PARACORTEX),
        ((d["lymph"] > 0) & (d["medulla"] > 0), Region.MEDULLA),
        (d["sinus"] > 0, Region.SINUS),
        (d["mantle"] > 0, Region.MANTLE),
        (d["germinal"] > 0, Region.GERMINAL),
        (d["granuloma"] > 0, Region.GRANULOMA),
        (d["trabecula"] > 0, Region.COLLAGEN),
        (d["capsule"] > 0, Region.COLLAGEN),
        (d["wall"] > 0, Region.WALL),
        (d["lumen"] > 0, Region.LUMEN),
        (d["lesion"] > 0, Region.TUMOUR),
        (d["strands"] > 0, Region.TUMOUR_STROMA),
        (d["gland"] > 0, Region.GLAND),
    ):
        region[inside] = code
    return region
