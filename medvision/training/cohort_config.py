"""Parameters of training a patch classifier on the slides of a cohort. Light: the command line reads it for help."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from medvision.training.config_file import Strict, read_yaml_config
from medvision.training.patch_config import AugmentationConfig


class SamplingConfig(Strict):
    """Where windows are taken. A window is of the class that the annotation gives its centre."""

    grid_um: float = Field(
        8.0, gt=0, description="Between the places that are known of; windows lie around them."
    )
    per_slide: int = Field(2000, ge=1, description="Most places of each kind that a slide contributes.")
    near_um: float = Field(150.0, gt=0, description="Normal tissue up to here is tumour-adjacent.")
    near_share: float = Field(0.3, ge=0, le=1, description="Of the normal windows, those beside tumour.")
    hard_share: float = Field(
        0.3, ge=0, le=1, description="Of the normal windows, those once taken for tumour."
    )

    @model_validator(mode="after")
    def _leave_some(self) -> SamplingConfig:
        if self.near_share + self.hard_share > 1:
            raise ValueError(
                f"near_share {self.near_share} and hard_share {self.hard_share} exceed 1 together"
            )
        return self


class SlideAugmentationConfig(AugmentationConfig):
    """As for patches, but without mixing, which would call a window tumour whose centre is not."""

    mix: float = Field(
        0.0, ge=0, le=1, description="Share of windows joined with part of another, stain matched."
    )


class StainTransferConfig(Strict):
    """Windows given the stain of another slide, by a method of stain normalisation."""

    method: Literal["macenko", "vahadane", "reinhard"] = "macenko"
    share: float = Field(0.0, ge=0, le=1, description="Of the windows.")


class HardNegativesConfig(Strict):
    """Rounds in which the network's own heatmaps of the training slides show where it errs, and it learns from that."""

    rounds: int = Field(1, ge=0)
    steps: int = Field(200, ge=1, description="Of each round.")
    learning_rate: float = Field(1e-3, gt=0)
    stride_px: int | None = Field(None, ge=1, description="Of the heatmaps; by default the window.")
    least: float = Field(
        0.5, gt=0, lt=1, description="Probability from which normal tissue counts as an error."
    )
    beyond_um: float = Field(75.0, ge=0, description="Nearer to tumour, the outline may be what errs.")
    per_slide: int = Field(200, ge=1, description="Most errors kept of a slide, the worst first.")


class TrainCohortPatchConfig(Strict):
    """Everything that determines a patch classifier trained on the slides of a cohort."""

    name: str = Field(description="Of the model.")
    version: str = "1"
    cohort: Path = Field(
        description="Manifest: CSV of slide_id, path, label, patient, split, annotation, spacing."
    )
    split: str = Field("train", description="Slides to learn from.")
    validation_split: str | None = Field(
        None, description="Slides to validate on; by default patients kept out of `split`."
    )
    validation_share: float = Field(0.2, gt=0, lt=1, description="Of the patients, kept out by default.")
    validation_windows: int = Field(512, ge=2)
    architecture: str = Field("slim-resnet", description="Or any classifier of torchvision or timm.")
    classes: tuple[str, str] = ("normal", "tumor")
    window_px: int = Field(128, ge=32)
    spacing_um: float = Field(0.5, gt=0)
    sampling: SamplingConfig = SamplingConfig.model_validate({})
    augmentation: SlideAugmentationConfig = SlideAugmentationConfig.model_validate({})
    stain_transfer: StainTransferConfig = StainTransferConfig.model_validate({})
    hard_negatives: HardNegativesConfig = HardNegativesConfig.model_validate({})
    seed: int = 0
    steps: int = Field(600, ge=1)
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    average: float = Field(0.98, ge=0, lt=1, description="Decay per step of the averaged weights.")
    check_every: int = Field(50, ge=1, description="Steps between validations and checkpoints.")
    patience: int = Field(6, ge=1, description="Checks without a better score after which to stop.")
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    licence: str = "not stated"
    data_statement: str = Field("not stated", description="What it was trained on, for the card.")
    limits: str = Field("not stated", description="What it is not for and where it errs, for the card.")


def read_cohort_patch_config(path: Path, cohort: Path | None = None) -> TrainCohortPatchConfig:
    """The configuration in a YAML file, with `cohort` in place of its manifest where one is given.

    Raises:
        UsageError: if the file is absent, not YAML, or has a wrong or unknown field, which is named.
    """
    return read_yaml_config(path, TrainCohortPatchConfig, cohort=cohort)
