"""Which cells settle where, and how they are pasted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medvision.synthetic.anatomy import Plan, Region
from medvision.synthetic.noise import Floats, Image, key, uniform
from medvision.synthetic.stamps import BINS, Library

_REGIONS = len(Region)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Cells on one jittered hexagonal grid. `share[kind][region]` is the chance that a place holds that kind."""

    name: str
    pitch_um: float
    jitter: float
    share: dict[str, dict[Region, float]]


def layers(plan: Plan) -> tuple[_Layer, ...]:
    """All layers, the lowest first."""
    r = Region
    foam, mimicry = plan.histiocytosis, plan.mimicry
    return (
        _Layer("holes", 64.0, 0.7, {"hole": {r.GERMINAL: 0.55}}),
        _Layer(
            "spindles",
            13.0,
            0.8,
            {
                "spindle": {
                    r.COLLAGEN: 0.42,
                    r.LOOSE: 0.30,
                    r.TUMOUR_STROMA: 0.60,
                    r.SINUS: 0.12,
                    r.PARACORTEX: 0.05,
                },
                "endothelium": {r.WALL: 0.85, r.PARACORTEX: 0.04, r.MEDULLA: 0.10, r.COLLAGEN: 0.06},
            },
        ),
        _Layer(
            "tumour",
            11.8,
            0.62,
            {
                "tumour": {r.TUMOUR: 0.955 - 0.3 * mimicry},
                "mitosis": {r.TUMOUR: 0.012 * (1 - 0.6 * mimicry), r.GERMINAL: 0.03 * mimicry},
                "apoptosis": {r.TUMOUR: 0.012},
            },
        ),
        _Layer(
            "large",
            9.6,
            0.6,
            {
                "medium": {r.GERMINAL: 0.86, r.MANTLE: 0.04, r.PARACORTEX: 0.10, r.MEDULLA: 0.06},
                "histiocyte": {
                    r.SINUS: 0.08 + 0.6 * foam,
                    r.PARACORTEX: 0.012,
                    r.MEDULLA: 0.03,
                    r.GRANULOMA: 0.82,
                },
                "plasma": {r.MEDULLA: 0.20, r.TUMOUR_STROMA: 0.03, r.LOOSE: 0.01},
            },
        ),
        _Layer(
            "small",
            7.3,
            0.60,
            {
                "lymphocyte": {
                    r.PARACORTEX: 0.90,
                    r.MANTLE: 0.98,
                    r.GERMINAL: 0.10,
                    r.MEDULLA: 0.66,
                    r.SINUS: 0.14,
                    r.COLLAGEN: 0.015,
                    r.LOOSE: 0.035,
                    r.FAT: 0.003,
                    r.TUMOUR: 0.018 + 0.25 * mimicry,
                    r.GRANULOMA: 0.10,
                    r.TUMOUR_STROMA: 0.16,
                    r.WALL: 0.04,
                },
                "red": {r.LUMEN: 0.8, r.SINUS: 0.012, r.MEDULLA: 0.01},
            },
        ),
    )


def settle(
    plan: Plan,
    library: Library,
    planes: Image,
    corner_um: tuple[float, float],
    extent_um: tuple[float, float],
    margin_px: int,
    spacing_um: float,
    lookup: Lookup,
) -> None:
    """Paste all cells that touch a window.

    `planes` `(3, rows, columns)` holds the window with `margin_px` more on every side, `corner_um` is the place of the
    window's first pixel and `extent_um` its size. A cell is drawn when its stamp can reach into the window.
    """
    for number, layer in enumerate(layers(plan)):
        kinds = sorted(layer.share)
        reach = 0.5 * max(library.stamps[kind][0].side for kind in kinds) * spacing_um + 4
        seed = key(plan.seed, 90, number)
        y, x, r, c = _places(seed, layer, corner_um, extent_um, min(reach, (margin_px * spacing_um) / 2))
        region, direction = lookup.at(y, x)
        kind = _kinds(layer, kinds, region, uniform(seed, 3, r, c))
        chosen = np.flatnonzero(kind >= 0)
        if not len(chosen):
            continue
        # In an order of their own, so that overlapping cells do not look like tiles of a roof.
        chosen = chosen[np.argsort(uniform(seed, 5, r[chosen], c[chosen]), kind="stable")]
        pick = uniform(seed, 4, r[chosen], c[chosen])
        top = (y[chosen] - corner_um[0]) / spacing_um + margin_px
        left = (x[chosen] - corner_um[1]) / spacing_um + margin_px
        _paste(library, kinds, planes, kind[chosen], pick, direction[chosen], top, left)


@dataclass(frozen=True, eq=False)
class Lookup:
    """Region and direction of the tissue around a window, on the lattice."""

    region: npt.NDArray[np.int8]
    direction: Floats
    """Direction of fibres, radians from +column to +row, modulo pi."""
    corner_um: tuple[float, float]
    step_um: float

    def at(self, y: Floats, x: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
        """Values of the lattice cell that holds each place."""
        i = (
            np.floor((y - self.corner_um[0]) / self.step_um)
            .astype(np.int64)
            .clip(0, self.region.shape[0] - 1)
        )
        j = (
            np.floor((x - self.corner_um[1]) / self.step_um)
            .astype(np.int64)
            .clip(0, self.region.shape[1] - 1)
        )
        return self.region[i, j], self.direction[i, j]


def _places(
    seed: int, layer: _Layer, corner: tuple[float, float], extent: tuple[float, float], reach: float
) -> tuple[Floats, Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of a layer's grid within `reach` of the window, row by row, with their grid cells."""
    pitch, high = layer.pitch_um, layer.pitch_um * 0.866
    rows = np.arange(
        int(np.floor((corner[0] - reach) / high)) - 1,
        int(np.ceil((corner[0] + extent[0] + reach) / high)) + 1,
    )
    columns = np.arange(
        int(np.floor((corner[1] - reach) / pitch)) - 1,
        int(np.ceil((corner[1] + extent[1] + reach) / pitch)) + 1,
    )
    r, c = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
    y = (r + 0.5 + layer.jitter * (uniform(seed, 1, r, c) - 0.5)) * high
    x = (c + 0.5 * (r & 1) + 0.5 + layer.jitter * (uniform(seed, 2, r, c) - 0.5)) * pitch
    near = (np.abs(y - corner[0] - extent[0] / 2) < extent[0] / 2 + reach) & (
        np.abs(x - corner[1] - extent[1] / 2) < extent[1] / 2 + reach
    )
    return y[near], x[near], r[near], c[near]


def _kinds(
    layer: _Layer, kinds: list[str], region: npt.NDArray[np.int8], chance: Floats
) -> npt.NDArray[np.int64]:
    """Number of the kind that settles at each place, -1 for none."""
    upper = np.zeros((len(kinds), _REGIONS))
    for k, kind in enumerate(kinds):
        for code, share in layer.share[kind].items():
            upper[k, code] = share
    upper = np.cumsum(upper, axis=0)
    found = np.full(region.shape, -1, dtype=np.int64)
    for k in reversed(range(len(kinds))):
        found[chance < upper[k, region]] = k
    return found


def _paste(
    library: Library,
    kinds: list[str],
    planes: Image,
    kind: npt.NDArray[np.int64],
    pick: Floats,
    direction: Floats,
    top: Floats,
    left: Floats,
) -> None:
    for k, name in enumerate(kinds):
        stamps = library.stamps[name]
        mine = kind == k
        if not mine.any():
            continue
        if name in ("spindle", "endothelium"):
            per_bin = len(stamps) // BINS
            bins = np.round(direction[mine] / np.pi * BINS).astype(np.int64) % BINS
            index = bins * per_bin + (pick[mine] * per_bin).astype(np.int64)
        else:
            index = (pick[mine] * len(stamps)).astype(np.int64)
        dyes = 3 if name == "red" else 2  # only red cells hold haemoglobin
        target = planes[:dyes]
        # Four views of a stamp: the digits of `pick` below the ones that chose it.
        flip = (
            (pick[mine] * len(stamps) * 64).astype(np.int64) % 4
            if name not in ("spindle", "endothelium")
            else None
        )
        views = flip.tolist() if flip is not None else [0] * len(index)
        for i, view, y, x in zip(index.tolist(), views, top[mine].tolist(), left[mine].tolist(), strict=True):
            stamp = stamps[i]
            side = stamp.side
            y0, x0 = int(y) - side // 2, int(x) - side // 2
            keep, add = stamp.keep, stamp.add[:dyes]
            if view & 1:
                keep, add = keep[::-1], add[:, ::-1]
            if view & 2:
                keep, add = keep[:, ::-1], add[:, :, ::-1]
            below = target[:, y0 : y0 + side, x0 : x0 + side]
            below *= keep
            below += add
