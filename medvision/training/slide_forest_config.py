"""Parameters of training a slide forest. Light on purpose: the command line reads it for its help."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medvision.training.config_file import Strict


class TrainSlideForestConfig(Strict):
    """Everything that determines a slide forest. Relative paths start from the folder the command runs in."""

    name: str = Field(description="Of the slide model.")
    version: str = "1"
    results: Path = Field(description="Output folder of `medvision analyze` over the cohort's slides.")
    cohort: Path = Field(description="Manifest of the slides: slide_id, path, label, patient, split.")
    split: str = Field("train", description="The split to learn from.")
    positive: str = Field("tumor", description="The label that is positive; every other one is negative.")
    trees: int = Field(500, ge=1)
    least_leaf: int = Field(2, ge=1, description="Fewest slides in a leaf.")
    folds: int = Field(5, ge=2, description="Of the cross-validation, with patients kept apart.")
    threshold: float = Field(0.5, ge=0, le=1, description="Probability at which a slide is positive.")
    seed: int = 0
    data_statement: str = Field("not stated", description="What it was trained on, for the card.")
    limits: str = Field("not stated", description="What it is not for and where it errs, for the card.")
    licence: str = "not stated"
