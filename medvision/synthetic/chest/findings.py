"""Nodules, and what may be taken for one: where they lie and what they are drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from medvision.core.errors import UsageError
from medvision.synthetic.chest.blobs import Blob, lump, turn_to
from medvision.synthetic.chest.body import Body, Patient
from medvision.synthetic.chest.frame import Frame
from medvision.synthetic.chest.recipe import ChestRecipe, NoduleSpec, Place
from medvision.synthetic.noise import Floats, Ints

Other = Literal["plaque", "scar", "lymph node", "fissural node", "micronodule"]
"""Findings that are no nodules; readers mark them, and a benchmark ignores a hit on them."""

_APART_MM = 4.0
"""Least room between two findings."""
_TRIES = 400
_SOFT_HU = 35.0


@dataclass(frozen=True)
class Finding:
    """What is drawn of one finding: `blobs` (the first is its body), and `strands`, tubes of `strand_hu`.

    `spec` is None for what is no nodule; then `what` names it. `diameter_mm` is -1 where one makes no sense.
    """

    what: str
    spec: NoduleSpec | None
    centre: Floats
    reach_mm: float
    blobs: tuple[Blob, ...]
    diameter_mm: float
    strands: Floats = field(default_factory=lambda: np.zeros((0, 8)))
    strand_hu: float = 0.0


@dataclass(frozen=True)
class Site:
    """What a finding is placed against: the fields of the body, directions away from the lung, and the vessels."""

    frame: Frame
    who: Patient
    body: Body
    outward: tuple[Floats, ...]
    vessels: Floats

    def normal(self, place: Floats) -> Floats:
        """The direction in which the lung ends soonest."""
        slope = np.array([float(self.frame.at(g, place[None])[0]) for g in self.outward])
        return np.asarray(slope / max(float(np.linalg.norm(slope)), 1e-9))

    def depth(self, places: Floats) -> Floats:
        """Distance to the lung's surface, negative inside the lung."""
        return self.frame.at(self.body.lung, places)


def plan(frame: Frame, who: Patient, body: Body, vessels: Floats) -> tuple[list[Finding], list[Finding]]:
    """Nodules in the order of the recipe, and findings that are none.

    Raises:
        UsageError: if a nodule's place lies outside the lungs, or the lungs have no room for one.
    """
    outward = tuple(np.gradient(body.lung, *frame.lattice_step))
    site = Site(frame, who, body, outward, vessels)
    recipe = frame.recipe
    taken: list[tuple[Floats, float]] = []
    nodules: dict[int, Finding] = {}
    # Large ones first: they have fewest places.
    order = sorted(
        range(len(recipe.nodules)),
        key=lambda k: (recipe.nodules[k].centre_mm is None, -recipe.nodules[k].diameter_mm),
    )
    for k in order:
        rng = recipe.rng(100 + k)
        spec = recipe.nodules[k]
        place, centre = (
            (spec.place, _given(site, spec)) if spec.centre_mm else _somewhere(site, spec, taken, rng)
        )
        nodules[k] = _nodule(replace(spec, place=place), centre, rng)
        taken.append((centre, nodules[k].reach_mm))
    others = list(_others(site, taken, recipe))
    return [nodules[k] for k in range(len(recipe.nodules))], others


def _given(site: Site, spec: NoduleSpec) -> Floats:
    assert spec.centre_mm is not None
    centre = site.frame.place(spec.centre_mm)
    outside = (centre < 0).any() or (centre > site.frame.recipe.extent_mm).any()
    if outside or float(site.depth(centre[None])[0]) > 0:
        raise UsageError(f"a nodule at {spec.centre_mm} mm (x, y, z) lies outside the lungs")
    return centre


def _somewhere(
    site: Site, spec: NoduleSpec, taken: list[tuple[Floats, float]], rng: np.random.Generator
) -> tuple[Place, Floats]:
    """The nodule's place and a centre apart from what is there; free in the lung where its own place has no room."""
    radius = spec.diameter_mm / 2
    for place, centre in _proposals(site, spec, radius, rng):
        if _free(centre, radius, taken) and _within(site, centre, radius):
            return place, centre
    raise UsageError(
        f"no room in the lungs for a nodule of {spec.diameter_mm} mm ({spec.place}) beside {len(taken)} others: "
        f"ask for fewer or smaller ones, or a wider body than {site.frame.recipe.width_mm} mm"
    )


def _proposals(
    site: Site, spec: NoduleSpec, radius: float, rng: np.random.Generator
) -> Iterator[tuple[Place, Floats]]:
    step = np.asarray(site.frame.lattice_step)
    depth = site.body.lung
    if spec.place == "juxtavascular":
        middle = (site.vessels[:, :3] + site.vessels[:, 3:6]) / 2
        thick = site.vessels[:, 6]
        fits = np.flatnonzero((thick > 0.7) & (thick < 2.5) & (site.depth(middle) < -radius - 1))
        if len(fits):
            for k in rng.choice(fits, _TRIES):
                along = site.vessels[k, 3:6] - site.vessels[k, :3]
                away = np.cross(along, rng.standard_normal(3))
                away /= max(float(np.linalg.norm(away)), 1e-9)
                yield spec.place, middle[k] + away * (radius * rng.uniform(0.7, 0.95) + thick[k])
    elif spec.place == "juxtapleural":
        nodes = np.argwhere((depth < -0.5) & (depth > -radius - 3) & (site.body.cage > -radius - 6))
        for node in nodes[rng.integers(len(nodes), size=_TRIES)] if len(nodes) else []:
            place = (node + 0.5) * step
            sunk = radius * rng.uniform(0.72, 0.98)
            yield spec.place, place + site.normal(place) * (-sunk - float(site.depth(place[None])[0]))
    nodes = np.argwhere(depth < -(radius + 2.0))
    for node in nodes[rng.integers(len(nodes), size=_TRIES)] if len(nodes) else []:
        yield "parenchyma", (node + rng.uniform(0, 1, 3)) * step


def _free(centre: Floats, radius: float, taken: list[tuple[Floats, float]]) -> bool:
    return all(float(np.linalg.norm(centre - c)) > radius + r + _APART_MM for c, r in taken)


def _within(site: Site, centre: Floats, radius: float) -> bool:
    """Inside the volume as a whole, and in the lung but for a cap that the pleura may cut off."""
    edge = radius + 2 * max(site.frame.recipe.spacing_mm)
    room = np.minimum(centre, np.asarray(site.frame.recipe.extent_mm) - centre)
    return bool((room > edge).all()) and float(site.depth(centre[None])[0]) < -0.6 * radius


def _nodule(spec: NoduleSpec, centre: Floats, rng: np.random.Generator) -> Finding:
    d = spec.diameter_mm
    stretch = (1.0, float(rng.uniform(0.85, 1.1)), float(rng.uniform(0.85, 1.2)))
    lobes, height = {"smooth": (3, 0.06), "lobulated": (7, 0.34), "spiculated": (16, 0.30)}[spec.margin]
    hazy = spec.kind in ("ground-glass", "part-solid")
    body_hu = float(rng.uniform(-690, -540)) if hazy else float(rng.uniform(-30, 55))
    body = lump(
        centre,
        d,
        body_hu,
        rng,
        stretch=stretch,
        lobes=lobes,
        height=height,
        edge_mm=float(rng.uniform(1.0, 2.0)) if hazy else 0.0,
        mottle=45.0 if hazy else 14.0,
    )
    blobs = [body]
    if spec.kind == "part-solid":
        core = d * float(rng.uniform(0.35, 0.6))
        shift = rng.standard_normal(3)
        shift *= (d - core) / 2 * rng.uniform(0, 0.5) / np.linalg.norm(shift)
        blobs.append(
            lump(centre + shift, core, float(rng.uniform(-40, 40)), rng, lobes=5, height=0.25, mottle=14)
        )
    elif spec.kind == "calcified":
        share = float(rng.choice([0.45, 0.65, 0.92]))
        blobs.append(
            lump(centre, d * share, float(rng.uniform(180, 650)), rng, lobes=4, height=0.2, mottle=60)
        )
    strands = _spicules(body, d, rng) if spec.margin == "spiculated" else np.zeros((0, 8))
    reach = max(body.reach_mm, 0.75 * d if len(strands) else 0.0)
    return Finding("nodule", spec, centre, reach, tuple(blobs), d, strands, -60.0 if not hazy else -420.0)


def _spicules(body: Blob, diameter: float, rng: np.random.Generator) -> Floats:
    """Fine strands from inside the nodule's rim outwards, and now and then one longer, to the pleura."""
    count = int(rng.integers(14, 25))
    way = rng.standard_normal((count, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    length = diameter * rng.uniform(0.18, 0.42, (count, 1)) + 1.0
    start = body.centre + way * 0.36 * diameter
    end = body.centre + way * (0.5 * diameter + length) + rng.normal(0, 0.06 * diameter, (count, 3))
    thick = rng.uniform(0.45, 0.9, (count, 1))
    return np.concatenate([start, end, thick, 0.35 * thick], axis=1)


def _others(site: Site, taken: list[tuple[Floats, float]], recipe: ChestRecipe) -> Iterator[Finding]:
    """Findings that are no nodules, as many as fit."""
    rng = recipe.rng(6)
    makers = (
        ("plaque", 1.0, _plaque),
        ("scar", 1.0, _scar),
        ("fissural node", 1.3, _fissural),
        ("lymph node", 2.5, _hilar),
        ("micronodule", 2.0, _micronodule),
    )
    for _, often, make in makers:
        for _ in range(int(rng.poisson(often * recipe.distractors))):
            for _ in range(20):
                finding = make(site, rng)
                if finding is not None and _free(finding.centre, finding.reach_mm, taken):
                    taken.append((finding.centre, finding.reach_mm))
                    yield finding
                    break


def _node(where: Ints, site: Site, rng: np.random.Generator) -> Floats | None:
    """A place near one of the lattice's nodes in `where` `(n, 3)`, not at the volume's first or last slices."""
    if not len(where):
        return None
    place = (where[rng.integers(len(where))] + rng.uniform(0.2, 0.8, 3)) * site.frame.lattice_step
    room = min(place[0], site.frame.recipe.extent_mm[0] - place[0])
    return np.asarray(place) if room > 6 else None


def _plaque(site: Site, rng: np.random.Generator) -> Finding | None:
    """A flat thickening of the pleura along the chest wall, sometimes with calcium."""
    body = site.body
    place = _node(np.argwhere((np.abs(body.lung) < 2.5) & (np.abs(body.cage) < 3)), site, rng)
    if place is None:
        return None
    normal = site.normal(place)
    place = place - normal * (float(site.depth(place[None])[0]) + 0.4)
    wide = float(rng.uniform(7, 15)) * site.who.scale**0.5
    thick = float(rng.uniform(2.6, 4.5))
    stretch = (thick, wide, wide * float(rng.uniform(1.0, 1.8)))
    size = 2 * float(np.cbrt(np.prod(stretch) / 8)) * 1.0
    hu = float(rng.uniform(30, 70))
    turn = turn_to(normal, rng)
    blobs = [lump(place, size, hu, rng, stretch=stretch, turn=turn, lobes=4, height=0.15, mottle=10)]
    if rng.random() < 0.4:
        inner = tuple(0.6 * v for v in stretch)
        blobs.append(lump(place, 0.6 * size, 380.0, rng, stretch=(inner[0], inner[1], inner[2]), turn=turn))
    return Finding("plaque", None, place, max(stretch) / 2 + 1, tuple(blobs), -1.0)


def _scar(site: Site, rng: np.random.Generator) -> Finding | None:
    """Irregular strands that run from the pleura into the lung, with a denser knot; mostly at the apices."""
    depth = site.body.lung
    z = np.broadcast_to(site.frame.nodes()[0], depth.shape)
    inside = z[depth < 0]
    high = float(np.quantile(inside, 0.75 if rng.random() < 0.7 else 0.02))
    place = _node(np.argwhere((depth < -2) & (depth > -7) & (z > high)), site, rng)
    if place is None:
        return None
    normal = site.normal(place)
    size = float(rng.uniform(3.0, 6.0))
    strands = []
    for _ in range(int(rng.integers(3, 6))):
        way = rng.standard_normal(3) * 0.8 + normal * rng.choice([1.2, -1.0])
        way /= np.linalg.norm(way)
        length = float(rng.uniform(5, 14)) * site.who.scale**0.5
        bend = place + way * length / 2 + rng.normal(0, 1.2, 3)
        end = place + way * length
        thick = float(rng.uniform(0.5, 1.1))
        strands += [[*place, *bend, thick, 0.8 * thick], [*bend, *end, 0.8 * thick, 0.3 * thick]]
    stretch = (float(rng.uniform(0.5, 0.8)), 1.0, float(rng.uniform(1.4, 2.4)))
    knot = lump(
        place, size, float(rng.uniform(-120, 40)), rng, stretch=stretch, lobes=6, height=0.4, mottle=30
    )
    return Finding("scar", None, place, 8.0, (knot,), -1.0, np.array(strands), -80.0)


def _fissural(site: Site, rng: np.random.Generator) -> Finding | None:
    """A small lymph node on a fissure: smooth, flat on one side, with a fine strand to the fissure."""
    body = site.body
    place = _node(np.argwhere((np.abs(body.fissure) < 1.5) & (body.lung < -5)), site, rng)
    if place is None:
        return None
    gradient = [
        np.gradient(body.fissure, side, axis=axis) for axis, side in enumerate(site.frame.lattice_step)
    ]
    normal = np.array([float(site.frame.at(g, place[None])[0]) for g in gradient])
    normal /= max(float(np.linalg.norm(normal)), 1e-9)
    size = float(rng.uniform(3.0, 6.0))
    stretch = (0.5, 1.0, float(rng.uniform(1.1, 1.6)))
    turn = turn_to(normal, rng)
    place = place + normal * (0.12 * size - float(site.frame.at(body.fissure, place[None])[0]))
    node = lump(place, size, float(rng.uniform(0, 45)), rng, stretch=stretch, turn=turn, mottle=8)
    return Finding("fissural node", None, place, node.reach_mm, (node,), size)


def _hilar(site: Site, rng: np.random.Generator) -> Finding | None:
    """A lymph node beside the root of a lung, bulging into it a little."""
    body = site.body
    depth, cage = body.lung, body.cage
    z = np.broadcast_to(site.frame.nodes()[0], depth.shape)
    middle = (z > 0.4 * site.frame.recipe.extent_mm[0]) & (z < 0.75 * site.frame.recipe.extent_mm[0])
    deep = cage < -22 * site.who.scale
    place = _node(np.argwhere((np.abs(depth - 1) < 2) & middle & deep), site, rng)
    if place is None:
        return None
    size = float(rng.uniform(6, 12)) * site.who.scale**0.5
    stretch = (0.75, 1.0, float(rng.uniform(1.1, 1.5)))
    node = lump(place, size, _SOFT_HU + float(rng.uniform(-5, 10)), rng, stretch=stretch, mottle=8)
    blobs = [node]
    if rng.random() < 0.2:
        blobs.append(lump(place, 0.5 * size, 320.0, rng, lobes=3, height=0.3))
    return Finding("lymph node", None, place, node.reach_mm, tuple(blobs), size)


def _micronodule(site: Site, rng: np.random.Generator) -> Finding | None:
    """A nodule too small to count."""
    place = _node(np.argwhere(site.body.lung < -3.5), site, rng)
    if place is None:
        return None
    size = float(rng.uniform(1.5, 2.8))
    return Finding(
        "micronodule", None, place, size / 2, (lump(place, size, float(rng.uniform(0, 200)), rng),), size
    )
