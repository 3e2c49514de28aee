"""Write a synthetic slide with its truth: pyramid, ASAP XML, label masks of metastases and of tissue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, pi
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.ops.rasterise import rasterise
from medvision.sources.annotations import Annotation, write_asap
from medvision.sources.write import write_mask, write_slide
from medvision.store.files import make_output
from medvision.synthetic import anatomy
from medvision.synthetic.recipe import SlideRecipe
from medvision.synthetic.render import Pixels, lattice_step, look, render_block

Polygon = npt.NDArray[np.float64]

TUMOUR = 1
"""Label of metastases in the mask; everything else is 0."""
GLASS, TISSUE, METASTASIS = 0, 1, 2
"""Labels of the mask of classes, as CAMELYON17's masks have them. Fat is tissue."""
_CLASSES_UM = 2.0
"""Side of a pixel of the mask of classes, or of the slide where that is longer."""
_SMALLEST_UM2 = pi * 10.0**2
"""Contours below a single tumour cell's area are no lesion."""


@dataclass(frozen=True, slots=True)
class SyntheticSlide:
    """The files of one slide. The annotation and mask exist for normal slides too, and hold no lesion then."""

    name: str
    slide: Path
    annotation: Path
    mask: Path
    classes: Path
    recipe: SlideRecipe
    lesions: int


def write_synthetic_slide(
    recipe: SlideRecipe,
    folder: Path,
    name: str | None = None,
    threads: int = 2,
    reference: Path | None = None,
) -> SyntheticSlide:
    """Render a recipe into `folder`: `NAME.tif`, `NAME.xml` (ASAP, group "Tumor"), `NAME_mask.tif` (1 = metastasis) and
    `NAME_classes.tif` (0 glass, 1 tissue, 2 metastasis, at 2 µm or the slide's spacing).

    `name` defaults to `synthetic_SEED`; `reference` is another folder for outlines and masks. The bytes of all four
    depend on the recipe alone.

    Raises:
        UsageError: before any work, if the recipe cannot be drawn, `name` is no file name, or nothing can be written
            into `folder`.
        StoreError: if a file could not be written whole.
    """
    name = f"synthetic_{recipe.seed}" if name is None else name
    if name in ("", ".", "..") or Path(name).name != name or "\0" in name:
        raise UsageError(f"--name {name!r} is no file name: give one without folders")
    anatomy.plan(recipe)
    make_output(folder)
    polygons = truth_polygons(recipe)
    truth = make_output(reference or folder)
    slide, annotation, mask = folder / f"{name}.tif", truth / f"{name}.xml", truth / f"{name}_mask.tif"
    _, scanner = look(recipe)
    write_slide(
        slide,
        recipe.shape_px,
        lambda box: render_block(recipe, box),
        recipe.spacing_um,
        quality=scanner.quality,
        threads=threads,
    )
    write_asap(
        annotation,
        [Annotation(f"Lesion {k + 1}", "Tumor", "polygon", points) for k, points in enumerate(polygons)],
    )
    write_mask(
        mask, recipe.shape_px, lambda box: _mask_block(polygons, box), recipe.spacing_um, threads=threads
    )
    classes = _write_classes(truth / f"{name}_classes.tif", recipe, polygons, threads)
    return SyntheticSlide(name, slide, annotation, mask, classes, recipe, len(polygons))


def truth_polygons(recipe: SlideRecipe) -> list[Polygon]:
    """Outlines of the metastases, each `(k, 2)` as (row, column) in level-0 pixels, without the closing point.

    They are the zero lines of the very lattice from which the metastases are drawn. A hole in a metastasis is part of
    it, as in CAMELYON's annotations.
    """
    return [points.copy() for points in _truth(recipe)]


@lru_cache(maxsize=16)
def _truth(recipe: SlideRecipe) -> tuple[Polygon, ...]:
    from shapely import union_all
    from shapely.geometry import Polygon as Shape
    from shapely.geometry import box as rectangle

    layout = anatomy.plan(recipe)
    shapes = [shape for k in range(len(layout.lesions)) for shape in _outlines(recipe, layout, k)]
    united = union_all([s.simplify(1.0) for s in shapes]).intersection(rectangle(0, 0, *recipe.shape_px))
    parts = [p for p in getattr(united, "geoms", [united]) if p.geom_type == "Polygon"]
    whole = union_all([Shape(p.exterior) for p in parts if p.area * recipe.spacing_um**2 >= _SMALLEST_UM2])
    polygons = [p for p in getattr(whole, "geoms", [whole]) if not p.is_empty]
    polygons.sort(key=lambda p: p.bounds)
    return tuple(np.asarray(p.exterior.coords, dtype=np.float64)[:-1].round(2) for p in polygons)


def _outlines(recipe: SlideRecipe, layout: anatomy.Plan, number: int) -> list[Any]:
    """Zero lines of one metastasis on the lattice that `render` draws it from, as valid shapes."""
    from shapely.geometry import Polygon as Shape
    from skimage.measure import find_contours

    unit = lattice_step(recipe)
    side = unit * recipe.spacing_um
    lesion = layout.lesions[number]
    reach = anatomy.lesion_reach(lesion) + 2 * side
    first = [floor((c - reach) / side) for c in lesion.centre_um]
    at = [
        (np.arange(a, ceil((c + reach) / side)) + 0.5) * side
        for a, c in zip(first, lesion.centre_um, strict=True)
    ]
    y, x = np.meshgrid(at[0], at[1], indexing="ij")
    node, _ = anatomy.outline(layout, y, x)
    distance = anatomy.one_lesion(layout, number, y, x, node)
    places = [(c + 0.5 + np.asarray(first)) * unit for c in find_contours(distance, 0.0) if len(c) >= 4]
    return [Shape(p).buffer(0) for p in places]


def _mask_block(polygons: list[Polygon], box: Box) -> Pixels:
    return np.asarray(rasterise([(points, ()) for points in polygons], box), dtype=np.uint8) * TUMOUR


def _write_classes(path: Path, recipe: SlideRecipe, polygons: list[Polygon], threads: int) -> Path:
    """Write glass, tissue and metastases. Tissue is where the plan has it, looked up at the centre of each pixel."""
    downsample = max(1, round(_CLASSES_UM / recipe.spacing_um))
    rows, columns = (max(1, round(n / downsample)) for n in recipe.shape_px)
    scale = (recipe.shape_px[0] / rows, recipe.shape_px[1] / columns)
    layout = anatomy.plan(recipe)
    areas = [(points, ()) for points in polygons]

    def read(box: Box) -> Pixels:
        at = [(np.arange(box.start[k], box.stop[k]) + 0.5) * scale[k] * recipe.spacing_um for k in (0, 1)]
        y, x = np.meshgrid(at[0], at[1], indexing="ij")
        _, tissue = anatomy.outline(layout, y, x)
        found = np.where(tissue > 0, TISSUE, GLASS)
        found[rasterise(areas, box, scale)] = METASTASIS
        return found.astype(np.uint8)

    return write_mask(path, (rows, columns), read, recipe.spacing_um * downsample, threads=threads)
