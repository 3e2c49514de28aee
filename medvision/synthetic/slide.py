"""Write a synthetic slide with its truth: pyramid, ASAP XML, label mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, pi
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from medvision.core.geometry import Box
from medvision.sources.annotations import Annotation, write_asap
from medvision.sources.write import write_mask, write_slide
from medvision.synthetic import anatomy
from medvision.synthetic.recipe import SlideRecipe
from medvision.synthetic.render import LATTICE_UM, Pixels, look, render_block

Polygon = npt.NDArray[np.float64]

TUMOUR = 1
"""Label of metastases in the mask; everything else is 0."""
_SMALLEST_UM2 = pi * 10.0**2
"""Contours below a single tumour cell's area are no lesion."""


@dataclass(frozen=True, slots=True)
class SyntheticSlide:
    """The files of one slide. The annotation and mask exist for normal slides too, and hold no lesion then."""

    name: str
    slide: Path
    annotation: Path
    mask: Path
    recipe: SlideRecipe
    lesions: int


def write_synthetic_slide(
    recipe: SlideRecipe, folder: Path, name: str | None = None, threads: int = 2
) -> SyntheticSlide:
    """Render a recipe into `folder`: `NAME.tif`, `NAME.xml` (ASAP, group "Tumor") and `NAME_mask.tif` (1 = metastasis).

    `name` defaults to `synthetic_SEED`. The bytes of all three depend on the recipe alone.

    Raises:
        StoreError: if a file could not be written whole.
    """
    name = name or f"synthetic_{recipe.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    polygons = truth_polygons(recipe)
    slide, annotation, mask = folder / f"{name}.tif", folder / f"{name}.xml", folder / f"{name}_mask.tif"
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
    return SyntheticSlide(name, slide, annotation, mask, recipe, len(polygons))


@lru_cache(maxsize=16)
def _truth(recipe: SlideRecipe) -> tuple[Polygon, ...]:
    layout = anatomy.plan(recipe)
    unit = max(1, round(LATTICE_UM / recipe.spacing_um))
    rows, columns = recipe.shape_px
    reach = [
        (lesion.centre_um, 0.75 * lesion.diameter_um + 80) for lesion in layout.lesions
    ]
    if not reach:
        return ()
    side = unit * recipe.spacing_um
    first = [max(floor(min(c[k] - r for c, r in reach) / side), -2) for k in (0, 1)]
    last = [
        min(ceil(max(c[k] + r for c, r in reach) / side), ceil(n / unit) + 2) for k, n in ((0, rows), (1, columns))
    ]
    at = [(np.arange(a, b) + 0.5) * side for a, b in zip(first, last, strict=True)]
    y, x = np.meshgrid(at[0], at[1], indexing="ij")
    node, _ = anatomy.outline(layout, y, x)
    distance, _ = anatomy.lesion_distance(layout, y, x, node)
    return _contours(distance, (first[0], first[1]), unit, recipe)


def truth_polygons(recipe: SlideRecipe) -> list[Polygon]:
    """Outlines of the metastases, each `(k, 2)` as (row, column) in level-0 pixels, without the closing point.

    They are the zero lines of the very lattice from which the metastases are drawn. A hole in a metastasis is part of
    it, as in CAMELYON's annotations.
    """
    return [points.copy() for points in _truth(recipe)]


def _contours(
    distance: npt.NDArray[np.float64], first: tuple[int, int], unit: int, recipe: SlideRecipe
) -> tuple[Polygon, ...]:
    from shapely.geometry import Polygon as Shape
    from shapely.geometry import box as rectangle
    from skimage.measure import find_contours

    rows, columns = recipe.shape_px
    slide = rectangle(0, 0, rows, columns)
    shapes = []
    for contour in find_contours(np.pad(distance, 1, constant_values=-1.0), 0.0):
        if len(contour) < 4:
            continue
        places = (contour - 1 + 0.5 + np.asarray(first)) * unit
        shape = Shape(places).buffer(0).simplify(1.0)
        parts = shape.intersection(slide)
        shapes += [p for p in getattr(parts, "geoms", [parts]) if p.geom_type == "Polygon" and not p.is_empty]
    area = recipe.spacing_um**2
    shapes = [Shape(s.exterior) for s in shapes if s.area * area >= _SMALLEST_UM2]
    outer = [s for s in shapes if not any(o is not s and o.contains(s.representative_point()) for o in shapes)]
    return tuple(np.asarray(s.exterior.coords, dtype=np.float64)[:-1].round(2) for s in outer)


def _mask_block(polygons: list[Polygon], box: Box) -> Pixels:
    """Pixels whose centre lies in a polygon (to a sixteenth of a pixel)."""
    block = np.zeros(box.shape, np.uint8)
    start = np.asarray(box.start, dtype=np.float64)
    for points in polygons:
        if (points.max(axis=0) < start).any() or (points.min(axis=0) > np.asarray(box.stop)).any():
            continue
        xy = np.rint((points[:, ::-1] - start[::-1] - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(block, [xy], TUMOUR, lineType=cv2.LINE_8, shift=4)
    return block
