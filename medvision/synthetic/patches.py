"""Labelled patches cut out of synthetic slides, without rendering the slides."""

from __future__ import annotations

from math import pi
from typing import Literal

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.synthetic import anatomy
from medvision.synthetic.anatomy import Region
from medvision.synthetic.noise import key
from medvision.synthetic.recipe import LesionSpec, Pattern, SlideRecipe
from medvision.synthetic.render import CHUNK, Pixels, render_block, render_window

Label = Literal["normal", "tumour"]

_SLIDE_UM = 5000.0
_TRIES = 256
_NORMAL: tuple[tuple[tuple[Region, ...], float], ...] = (
    ((Region.PARACORTEX, Region.MEDULLA), 0.34),
    ((Region.GERMINAL,), 0.17),
    ((Region.SINUS,), 0.17),
    ((Region.COLLAGEN, Region.LOOSE), 0.13),
    ((Region.FAT,), 0.06),
    ((Region.WALL, Region.LUMEN), 0.07),
    ((Region.MANTLE,), 0.06),
)


def synthetic_patches(
    n: int, seed: int, size_px: int = 256, spacing_um: float = 0.25
) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """`n` patches, alternately normal (0) and tumour (1), each of another slide with its own stain and scanner.

    Returns:
        Images uint8 `(n, size_px, size_px, 3)` and labels int64 `(n,)`. The same for the same arguments; patch `i` does
        not depend on `n`.
    """
    labels = np.arange(n, dtype=np.int64) % 2
    images = np.empty((n, size_px, size_px, 3), np.uint8)
    for i in range(n):
        images[i] = render_patch(
            key(seed, i) % 2**48, "tumour" if labels[i] else "normal", spacing_um, size_px
        )
    return images, labels


def render_patch(seed: int, label: Label, spacing_um: float = 0.25, size_px: int = 256) -> Pixels:
    """One patch whose centre is tumour, or is not, according to the slide's truth. uint8 `(size_px, size_px, 3)`.

    Normal patches hold the tissue that is mistaken for tumour more often than a slide does: germinal centres, sinus
    histiocytes, vessels, stroma. Stain, strength, scanner, blur and the look of the cells vary with the seed.

    Raises:
        UsageError: if the label is unknown or the size is below a pixel.
    """
    if label not in ("normal", "tumour"):
        raise UsageError(f"label {label!r} unknown; known: normal, tumour")
    if size_px < 1:
        raise UsageError(f"a patch of {size_px} pixels has no area")
    rng = np.random.Generator(np.random.Philox(key=key(seed, 0xBA7C4)))
    for _ in range(100):
        recipe = _recipe(int(rng.integers(2**48)), label, spacing_um, rng)
        centre = _centre(recipe, label, rng)
        if centre is not None:
            break
    else:
        raise UsageError(f"no {label} place found for seed {seed}")
    start = (round(centre[0] / spacing_um) - size_px // 2, round(centre[1] / spacing_um) - size_px // 2)
    draw = render_window if size_px <= CHUNK else render_block
    patch = draw(recipe, Box.at(start, (size_px, size_px)))
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    patch = np.rot90(patch, turns)
    return np.ascontiguousarray(patch[:, ::-1] if flip else patch)


def _recipe(seed: int, label: Label, spacing_um: float, rng: np.random.Generator) -> SlideRecipe:
    side = round(_SLIDE_UM / spacing_um)
    patterns: tuple[Pattern, ...] = ("sheet", "nests", "glands")
    lesion = LesionSpec(
        centre_um=(float(rng.uniform(0.35, 0.65)) * _SLIDE_UM, float(rng.uniform(0.35, 0.65)) * _SLIDE_UM),
        diameter_um=float(np.exp(rng.uniform(np.log(110), np.log(2400)))),
        aspect=float(rng.uniform(0.5, 0.95)),
        angle=float(rng.uniform(0, pi)),
        pattern=patterns[int(rng.integers(3))],
    )
    return SlideRecipe(
        seed,
        (side, side),
        spacing_um,
        lesions=(lesion,) if label == "tumour" else (),
        strength=float(rng.uniform(0.7, 1.3)),
        artefacts=("defocus",) if rng.uniform() < 0.08 else (),
    )


def _centre(recipe: SlideRecipe, label: Label, rng: np.random.Generator) -> tuple[float, float] | None:
    """A place (um) of the wanted kind, or None where none of the places tried is."""
    layout = anatomy.plan(recipe)
    if label == "tumour":
        (lesion,) = layout.lesions
        reach = 0.55 * lesion.diameter_um
        y = lesion.centre_um[0] + rng.uniform(-reach, reach, _TRIES)
        x = lesion.centre_um[1] + rng.uniform(-reach, reach, _TRIES)
    else:
        y, x = rng.uniform(0, _SLIDE_UM, (2, 4 * _TRIES))
    found = anatomy.fields(layout, y, x)
    if label == "tumour":
        # Mostly tumour cells at the centre; strands of stroma within a metastasis belong to it as well.
        tumour_cells = rng.uniform() < 0.88
        within = found.distance["lesion"] > 6
        fits = within & ((found.region == Region.TUMOUR) == tumour_cells)
    else:
        shares = np.array([share for _, share in _NORMAL])
        codes, _ = _NORMAL[int(rng.choice(len(_NORMAL), p=shares / shares.sum()))]
        fits = np.isin(found.region, codes)
    places = np.flatnonzero(fits)
    if not len(places):
        return None
    k = int(rng.choice(places))
    return float(y[k]), float(x[k])
