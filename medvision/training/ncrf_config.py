"""Parameters of training an NCRF. Light on purpose: the command line reads it for its help."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from medvision.training.config_file import Strict
from medvision.training.patch_config import AugmentationConfig


class RegionsConfig(Strict):
    """Regions of 3 x 3 cells that are read once, before the first step, and drawn from at every step.

    Of the tumour regions' middle cells the centre lies in annotated tumour; `edge_share` of the normal ones lie within
    a region's side of tumour, where the cells of a region differ. Within a kind every slide gives as many.
    """

    count: int = Field(1500, ge=2, description="Regions to learn from.")
    validation: int = Field(400, ge=0, description="Regions of the patients held out.")
    tumour_share: float = Field(
        0.5, gt=0, lt=1, description="Of regions, and of each batch, that are tumour."
    )
    edge_share: float = Field(0.3, ge=0, le=1, description="Of the normal regions that lie beside tumour.")


class TrainNcrfConfig(Strict):
    """Everything that determines an NCRF and its base model. Relative paths start from where the command runs."""

    name: str = Field(description="Of the model.")
    version: str = "1"
    cohort: Path = Field(description="Manifest (CSV) of slides with their annotations.")
    split: str | None = Field("train", description="Split to learn from; null takes every slide.")
    validation_share: float = Field(
        0.25, ge=0, lt=1, description="Of the patients, held out to stop early, to calibrate and to measure."
    )
    trunk: Literal["resnet18", "resnet34", "slim"] = "resnet18"
    start: Path | None = Field(
        None, description="A patch classifier, base model or NCRF of the same trunk to start from."
    )
    cell_px: int = Field(256, ge=16, description="Side of a cell; a region is 3 x 3 cells.")
    crop_px: int = Field(224, ge=16, description="Side of the centre crop that the network sees.")
    stride_px: int = Field(64, ge=1, description="From one heatmap cell to the next, unless asked otherwise.")
    spacing_um: float = Field(0.25, gt=0)
    mean: tuple[float, float, float] | None = Field(
        None,
        description="Of the normalisation; by default the published one, or ImageNet's for the slim trunk.",
    )
    std: tuple[float, float, float] | None = None
    regions: RegionsConfig = RegionsConfig.model_validate({})
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="sgd has a momentum of 0.9.")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    steps: int = Field(2000, ge=1, description="Of the NCRF, and again of its base model.")
    batch_size: int = Field(20, ge=2, description="Regions per step.")
    average: float = Field(0.98, ge=0, lt=1, description="Decay per step of the averaged weights.")
    check_every: int = Field(50, ge=1, description="Steps between validations and checkpoints.")
    patience: int | None = Field(None, ge=1, description="Checks without a better score after which to stop.")
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    augmentation: AugmentationConfig = Field(
        AugmentationConfig.model_validate({"recolour": 0.0, "grey": 0.0, "blur": 0.0, "jpeg": 0.0}),
        description="Of whole regions, all cells alike. Scale, mix and blank, which would change labels, are not used.",
    )
    licence: str = "not stated"
    data_statement: str = Field("not stated", description="What it was trained on, for the card.")
    limits: str = Field("not stated", description="What it is not for and where it errs, for the card.")

    @model_validator(mode="after")
    def _cells_fit(self) -> TrainNcrfConfig:
        if self.crop_px > self.cell_px or (self.cell_px - self.crop_px) % 2:
            raise ValueError(
                f"crop_px {self.crop_px} has no place in the middle of cell_px {self.cell_px}: both even, or both odd"
            )
        if self.trunk == "slim" and self.crop_px % 16:
            raise ValueError(f"crop_px {self.crop_px} must be a multiple of 16 for the slim trunk")
        if self.cell_px % self.stride_px:
            raise ValueError(f"stride_px {self.stride_px} must divide cell_px {self.cell_px}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std are given together or not at all")
        if self.patience is not None and (self.validation_share == 0 or self.regions.validation == 0):
            raise ValueError("patience needs patients and regions held out")
        return self
