"""Parameters of training a patch classifier. Light on purpose: the command line reads it for its help."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from medvision.training.config_file import Strict, read_yaml_config


class AugmentationConfig(Strict):
    """How strongly windows are changed. Shares are probabilities per window; ranges are half-widths."""

    stain_scale: float = Field(0.35, ge=0, description="Strength of each stain is multiplied by 1 +- this.")
    stain_shift: float = Field(0.06, ge=0, description="Optical density added per stain.")
    colour_scale: float = Field(
        0.2, ge=0, description="Density of each colour channel is multiplied by 1 +- this."
    )
    recolour: float = Field(0.3, ge=0, le=1, description="Share of windows given the colours of another.")
    grey: float = Field(0.15, ge=0, le=1, description="Share of windows reduced to one tinted density.")
    scale: float = Field(
        0.2, ge=0, lt=1, description="Magnification is changed by a factor of up to 1 + this."
    )
    blur: float = Field(0.3, ge=0, le=1, description="Share of windows blurred.")
    blur_sigma_px: float = Field(1.2, gt=0, description="Largest sigma of the blur.")
    noise: float = Field(0.03, ge=0, description="Largest standard deviation of pixel noise.")
    jpeg: float = Field(0.3, ge=0, le=1, description="Share of windows compressed as JPEG, quality 30 to 90.")
    mix: float = Field(
        0.4, ge=0, le=1, description="Share of windows joined with part of another, stain matched."
    )
    blank: float = Field(
        0.03, ge=0, le=1, description="Share of windows replaced by bare glass, of the first class."
    )


class RegionConfig(Strict):
    """A large image, or a part of one, that shows one class only, to be cut into squares of `side_px`."""

    path: Path
    label: str
    slide: str
    side_px: int = Field(256, gt=0, description="Pixels of the image that one window shows.")
    stride_px: int | None = Field(None, gt=0, description="Between squares; by default half their side.")
    box: tuple[int, int, int, int] | None = Field(
        None,
        description="First row, first column, row and column after the last; by default the whole image.",
    )


class SyntheticConfig(Strict):
    """Rendered windows: `count` to train on and `held_out` to test on, of other seeds; `share` of each batch."""

    count: int = Field(0, ge=0)
    held_out: int = Field(0, ge=0)
    share: float = Field(0.3, ge=0, lt=1)
    seed: int = 1


class TrainPatchConfig(Strict):
    """Everything that determines a trained patch classifier. Relative paths start from `data`."""

    name: str = Field(description="Of the model.")
    version: str = "1"
    data: Path = Field(description="Folder in which the paths below lie.")
    patches: Path = Field(
        description="Folder of patches: one sub-folder per class; names begin with the slide's."
    )
    slide_pattern: str = Field(
        r"[A-Za-z]+_\d+", description="Regular expression of a slide's name at the start."
    )
    classes: tuple[str, ...] = Field(
        ("normal", "tumor"), min_length=2, description="Sub-folders; a mixed window has the later class."
    )
    window_px: int = Field(128, ge=32)
    spacing_um: float = Field(0.5, gt=0, description="So that window_px covers the field that a patch shows.")
    regions: tuple[RegionConfig, ...] = ()
    region_share: float = Field(0.25, ge=0, lt=1, description="Share of each batch cut from regions.")
    synthetic: SyntheticConfig = SyntheticConfig.model_validate({})
    colour_targets: tuple[Path, ...] = Field(
        (), description="Images whose colours the tests are repeated in."
    )
    folds: tuple[tuple[str, ...], ...] | None = Field(
        None,
        description="Slides kept out together, fold by fold; by default one slide at a time; [] for none.",
    )
    fold_seeds: tuple[int, ...] = Field((0,), description="The cross-validation is repeated for each.")
    holdout: tuple[str, ...] = Field(
        (), description="Slides kept out of the final training, to stop early and keep the best weights."
    )
    seed: int = 0
    common_steps: int = Field(
        0,
        ge=0,
        description="Steps on regions and rendered windows alone, once, from which every fold starts.",
    )
    common_learning_rate: float = Field(3e-3, gt=0)
    common_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the common weights in the average that is kept after the other steps.",
    )
    steps: int = Field(400, ge=1, description="Steps on all that a fold may see, then on everything.")
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    average: float = Field(0.98, ge=0, lt=1, description="Decay per step of the averaged weights.")
    check_every: int = Field(50, ge=1, description="Steps between log lines and checkpoints.")
    patience: int = Field(
        4, ge=1, description="Checks without a better score after which to stop, with a holdout."
    )
    augmentation: AugmentationConfig = AugmentationConfig.model_validate({})
    licence: str = "not stated"
    data_statement: str = Field("not stated", description="What it was trained on, for the card.")
    limits: str = Field("not stated", description="What it is not for and where it errs, for the card.")

    @model_validator(mode="after")
    def _labels_known(self) -> TrainPatchConfig:
        for region in self.regions:
            if region.label not in self.classes:
                raise ValueError(
                    f"region {region.path}: label {region.label!r} is none of {list(self.classes)}"
                )
        return self


def read_config(path: Path) -> TrainPatchConfig:
    """The configuration in a YAML file.

    Raises:
        UsageError: if the file is absent, not YAML, or has a wrong or unknown field, which is named.
    """
    return read_yaml_config(path, TrainPatchConfig)
