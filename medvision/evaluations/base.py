"""What an evaluation is, and the registry of them: one benchmark protocol per file of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from medvision.core.registry import Registry

RESAMPLES = 1000
"""Bootstrap draws of the evaluations of images, unless other numbers are asked for."""


@dataclass(frozen=True, slots=True)
class Published:
    """Figures that somebody else published for this benchmark, by name of the figure; never mixed with ours."""

    method: str
    figures: dict[str, float]
    source: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A benchmark protocol: `evaluate` scores predictions against a reference and returns the protocol's own result.

    `predictions` and `reference` say in words what the two inputs are; `data` names the data set, its licence, and the
    part that the published figures are for.
    """

    name: str
    title: str
    paper: str
    data: str
    predictions: str
    reference: str
    published: tuple[Published, ...]
    evaluate: Callable[..., Any]


EVALUATIONS: Registry[Evaluation] = Registry("evaluation")


def register(evaluation: Evaluation) -> None:
    """Add a protocol to `EVALUATIONS`, under its name."""
    EVALUATIONS.register(evaluation.name)(evaluation)


def load_evaluations() -> Registry[Evaluation]:
    """`EVALUATIONS` with every file of this folder imported, so that each protocol has registered itself."""
    package = importlib.import_module("medvision.evaluations")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"medvision.evaluations.{module.name}")
    return EVALUATIONS
