"""Synthetic H&E slides of lymph nodes, with truth.

The names below are imported when they are asked for, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvision.synthetic.cohort import plan_cohort, write_cohort_slides
    from medvision.synthetic.cohort_config import CohortConfig, read_cohort_config
    from medvision.synthetic.patches import render_patch, synthetic_patches
    from medvision.synthetic.recipe import ARTEFACTS, SCANNERS, STAINS, LesionSpec, SlideRecipe, demo_recipes
    from medvision.synthetic.render import render_block
    from medvision.synthetic.slide import SyntheticSlide, truth_polygons, write_synthetic_slide

_HOMES = {
    "ARTEFACTS": "recipe",
    "CohortConfig": "cohort_config",
    "LesionSpec": "recipe",
    "SCANNERS": "recipe",
    "STAINS": "recipe",
    "SlideRecipe": "recipe",
    "SyntheticSlide": "slide",
    "demo_recipes": "recipe",
    "plan_cohort": "cohort",
    "read_cohort_config": "cohort_config",
    "render_block": "render",
    "render_patch": "patches",
    "synthetic_patches": "patches",
    "truth_polygons": "slide",
    "write_cohort_slides": "cohort",
    "write_synthetic_slide": "slide",
}

__all__ = [
    "ARTEFACTS",
    "SCANNERS",
    "STAINS",
    "CohortConfig",
    "LesionSpec",
    "SlideRecipe",
    "SyntheticSlide",
    "demo_recipes",
    "plan_cohort",
    "read_cohort_config",
    "render_block",
    "render_patch",
    "synthetic_patches",
    "truth_polygons",
    "write_cohort_slides",
    "write_synthetic_slide",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
