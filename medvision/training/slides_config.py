"""Parameters of training a model of slides, from feature tables: attention MIL and the CNN-LSTM."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from medvision.models.mil import MilOptions, list_designs
from medvision.store.features_config import FeaturesConfig
from medvision.training.accelerator import Device, Precision
from medvision.training.config_file import Strict


class TrainSlidesConfig(Strict):
    """Everything that determines a trained aggregator. Relative paths start from where the command runs."""

    name: str = Field(description="Of the model.")
    version: str = "1"
    architecture: str = Field("abmil", description="abmil, clam-sb, clam-mb, dsmil, transmil or cnn-lstm.")
    options: MilOptions = MilOptions.model_validate({})
    cohort: Path = Field(description="Manifest (CSV) with path and label of each slide.")
    split: str | None = Field(
        "train", description="Split to learn from; null takes every slide that has a label."
    )
    classes: tuple[str, ...] = Field(
        ("normal", "tumor"), min_length=2, description="Labels, the positive last."
    )
    features: FeaturesConfig = FeaturesConfig()
    folds: int = Field(
        4,
        ge=0,
        description="Folds of the cross-validation, patients kept apart; 0 holds out validation_share instead.",
    )
    validation_share: float = Field(
        0.25, gt=0, le=0.5, description="Of the patients, held out where folds is 0: a half, a third, ..."
    )
    steps: int = Field(
        400, ge=1, description="At most; the folds stop early, the final run takes as long as they."
    )
    batch_size: int = Field(4, ge=1, description="Slides per step.")
    max_windows: int | None = Field(
        1024, ge=1, description="Windows of a slide per step, drawn anew, order kept; null takes all."
    )
    learning_rate: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    average: float = Field(0.98, ge=0, lt=1, description="Decay per step of the averaged weights.")
    class_weights: Literal["balanced", "none"] = Field(
        "balanced", description="balanced: each class counts the same, however many slides it has."
    )
    check_every: int = Field(25, ge=1, description="Steps between validations and checkpoints.")
    patience: int = Field(6, ge=1, description="Checks without a better validation loss after which to stop.")
    seed: int = 0
    precision: Precision = "float32"
    device: Device = "auto"
    start: Path | None = Field(
        None, description="Weights to start from; tensors of the same name and shape are taken."
    )
    licence: str = "not stated"
    data_statement: str = Field("not stated", description="What it was trained on, for the card.")
    limits: str = Field("not stated", description="What it is not for and where it errs, for the card.")

    @model_validator(mode="after")
    def _known(self) -> TrainSlidesConfig:
        if self.architecture not in list_designs():
            raise ValueError(f"architecture {self.architecture!r} is none of {', '.join(list_designs())}")
        if self.folds == 1:
            raise ValueError("folds: 1 leaves nothing to learn from; give 0, or 2 or more")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes repeat: {', '.join(self.classes)}")
        return self
