"""Write a cohort of synthetic slides: slides, outlines, masks, and the manifest that names patients and splits.

DIR/cohort.csv                    slide_id, path, label, patient, split, annotation, spacing
DIR/cohort.json                   the recipe of every slide
DIR/SPLIT/slides/SLIDE.tif
DIR/SPLIT/reference/SLIDE.xml, SLIDE_mask.tif, SLIDE_classes.tif
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medvision.store.cohort import Cohort, CohortSlide, read_cohort, write_cohort
from medvision.store.files import atomic_write, make_output
from medvision.synthetic import anatomy
from medvision.synthetic.cohort_config import CohortConfig, GroupConfig
from medvision.synthetic.noise import key
from medvision.synthetic.recipe import SlideRecipe
from medvision.synthetic.slide import write_synthetic_slide
from medvision.synthetic.workers import in_processes

MANIFEST = "cohort.csv"
RECIPES = "cohort.json"


@dataclass(frozen=True, slots=True)
class PlannedSlide:
    """One slide of a cohort before it is drawn."""

    slide_id: str
    split: str
    patient: str
    recipe: SlideRecipe

    @property
    def label(self) -> str:
        """Of the slide: "normal" or "tumor"."""
        return "normal" if self.recipe.metastases == "none" else "tumor"

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Slide, outlines, mask and classes, from the cohort's folder."""
        slide, reference = (
            f"{self.split}/slides/{self.slide_id}.tif",
            f"{self.split}/reference/{self.slide_id}",
        )
        return slide, f"{reference}.xml", f"{reference}_mask.tif", f"{reference}_classes.tif"


def plan_cohort(config: CohortConfig) -> list[PlannedSlide]:
    """Every slide of a cohort, a function of the configuration alone.

    Slides are called `SPLIT_001`, ..., in an order that mixes the groups, so that a name says nothing; patients are
    dealt in that order too, so that one patient may have normal slides and slides with metastases.
    """
    splits: dict[str, list[SlideRecipe]] = {}
    for number, group in enumerate(config.groups):
        splits.setdefault(group.split, []).extend(_recipes(group, config.seed, number))
    planned = []
    for number, (split, recipes) in enumerate(splits.items()):
        rng = np.random.Generator(np.random.Philox(key=key(config.seed, 0xC040, number)))
        for place, index in enumerate(rng.permutation(len(recipes))):
            patient = f"{split}-patient-{place // config.slides_per_patient + 1:02d}"
            planned.append(PlannedSlide(f"{split}_{place + 1:03d}", split, patient, recipes[index]))
    return planned


def write_cohort_slides(
    config: CohortConfig,
    folder: Path,
    workers: int | None = None,
    on_slide: Callable[[PlannedSlide, int, int], None] | None = None,
) -> Cohort:
    """Draw a cohort into `folder`, one process per slide on `workers` cores (all of them by default).

    Slides that a broken-off run of the same configuration has finished are kept; others are drawn again. The bytes
    depend on the configuration alone. `on_slide` is told each slide, how many are done and of how many.

    Raises:
        UsageError: before any work, if a recipe cannot be drawn or nothing can be written into `folder`.
        StoreError: if a file could not be written whole.
    """
    planned = plan_cohort(config)
    for one in planned:
        anatomy.plan(one.recipe)
    for name in sorted({one.split for one in planned}):
        make_output(folder / name / "slides")
        make_output(folder / name / "reference")
    known = _known_recipes(folder)
    recipes = {one.slide_id: json.loads(json.dumps(asdict(one.recipe))) for one in planned}
    missing = [one for one in planned if not _finished(folder, one, known, recipes)]
    # Files of other recipes go before the record of them does: a run that breaks off here begins anew.
    for one in missing:
        for name in one.names:
            (folder / name).unlink(missing_ok=True)
    atomic_write(folder / RECIPES, (json.dumps(recipes, indent=1) + "\n").encode())
    done = len(planned) - len(missing)
    for one in in_processes(_draw, missing, folder, workers or os.cpu_count() or 1):
        done += 1
        if on_slide is not None:
            on_slide(one, done, len(planned))
    return read_cohort(write_cohort(folder / MANIFEST, [_listed(one, folder) for one in planned]))


def _recipes(group: GroupConfig, seed: int, number: int) -> Iterator[SlideRecipe]:
    for k in range(group.count):
        rng = np.random.Generator(np.random.Philox(key=key(seed, 0xC04, number, k)))
        yield SlideRecipe(
            seed=key(seed, number, k) % 2**31,
            shape_px=group.shape_px,
            spacing_um=group.spacing_um,
            metastases=group.metastases,
            stain=group.stains[(number + k) % len(group.stains)],
            scanner=group.scanners[(number + k) % len(group.scanners)],
            strength=round(float(rng.uniform(*group.strength)), 3),
            artefacts=group.artefacts[(number + k) % len(group.artefacts)],
            mimicry=round(float(rng.uniform(*group.mimicry)), 2),
        )


def _known_recipes(folder: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):
        known = json.loads((folder / RECIPES).read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    return {}


def _finished(folder: Path, one: PlannedSlide, known: dict[str, object], recipes: dict[str, object]) -> bool:
    same = known.get(one.slide_id) == recipes[one.slide_id]
    return same and all((folder / name).exists() for name in one.names)


def _draw(one: PlannedSlide, folder: Path) -> PlannedSlide:
    home = folder / one.split
    write_synthetic_slide(one.recipe, home / "slides", one.slide_id, threads=1, reference=home / "reference")
    return one


def _listed(one: PlannedSlide, folder: Path) -> CohortSlide:
    slide, outlines, *_ = one.names
    return CohortSlide(
        slide_id=one.slide_id,
        path=folder / slide,
        label=one.label,
        patient=one.patient,
        split=one.split,
        annotation=folder / outlines,
        spacing_um=one.recipe.spacing_um,
    )
