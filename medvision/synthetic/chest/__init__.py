"""Synthetic chest CT with nodules, and with truth.

The names below are imported when they are asked for, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvision.synthetic.chest.cohort import ChestCohort, PlannedScan, plan_cohort, write_chest_cohort
    from medvision.synthetic.chest.recipe import ChestRecipe, NoduleSpec, sample_recipe, without_nodules
    from medvision.synthetic.chest.scan import ChestScan, TrueFinding, draw_scan, write_scan

_HOMES = {
    "ChestCohort": "cohort",
    "ChestRecipe": "recipe",
    "ChestScan": "scan",
    "NoduleSpec": "recipe",
    "PlannedScan": "cohort",
    "TrueFinding": "scan",
    "draw_scan": "scan",
    "plan_cohort": "cohort",
    "sample_recipe": "recipe",
    "without_nodules": "recipe",
    "write_chest_cohort": "cohort",
    "write_scan": "scan",
}

__all__ = [
    "ChestCohort",
    "ChestRecipe",
    "ChestScan",
    "NoduleSpec",
    "PlannedScan",
    "TrueFinding",
    "draw_scan",
    "plan_cohort",
    "sample_recipe",
    "without_nodules",
    "write_chest_cohort",
    "write_scan",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
