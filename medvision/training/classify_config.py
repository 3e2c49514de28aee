"""Parameters of training a classifier of images. Light on purpose: the command line reads it for its help."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from medvision.training.config_file import Strict, read_yaml_config
from medvision.training.images_config import ImagesConfig


class ImageAugmentation(Strict):
    """How images are changed in training. Ranges are half-widths, drawn anew for each image."""

    flip: float = Field(0.5, ge=0, le=1, description="Share mirrored left to right.")
    flip_rows: float = Field(0.0, ge=0, le=1, description="Share mirrored top to bottom.")
    rotation_deg: float = Field(10.0, ge=0, le=180)
    shift: float = Field(0.05, ge=0, lt=1, description="As a share of the side.")
    scale: float = Field(
        0.1, ge=0, lt=1, description="Size is changed by a factor of up to 1 + this, either way."
    )
    brightness: float = Field(0.15, ge=0, lt=1, description="Added, of 0..1.")
    contrast: float = Field(0.15, ge=0, lt=1, description="Distance from the image's mean, times 1 +- this.")
    noise: float = Field(0.02, ge=0, description="Largest standard deviation of pixel noise, of 0..1.")
    erase: float = Field(
        0.0, ge=0, le=1, description="Share with a rectangle of 2 to 20% of the area in grey."
    )


class Stage(Strict):
    """A part of the training: which layers learn, how long and how fast."""

    train: Literal["head", "all"] | tuple[str, ...] = Field(
        "all",
        description="head, all, or a list of names of modules, such as [layer4, fc]; the rest stays as it is.",
    )
    steps: int = Field(ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    patience: int | None = Field(
        None,
        ge=1,
        description="Checks without a better validation loss after which to stop; by default none.",
    )

    @field_validator("train", mode="before")
    @classmethod
    def _words_or_list(cls, value: object) -> object:
        """One error in place of one for each thing that it might be."""
        named = isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value)
        if value in ("head", "all") or named:
            return value
        example = f"; a single module is a list too: [{value}]" if isinstance(value, str) else ""
        raise ValueError(
            f"head, all, or a list of names of modules such as [layer4, fc], not {value!r}{example}"
        )


class TaxonomyConfig(Strict):
    """Training classes by recursive partition of a tree whose nodes the labels name (Esteva et al., Nature 2017)."""

    file: Path = Field(description="As `medvision taxonomy` takes it; from the folder of the configuration.")
    max_class_size: int = Field(
        1000, ge=1, description="Training images that a class of several nodes stays below."
    )


class TrainClassifyConfig(Strict):
    """Everything that determines a trained classifier of images. Relative paths start from `data`."""

    name: str = Field(description="Of the model.")
    version: str = "1"
    data: Path = Field(Path(), description="Folder in which the paths below lie.")
    images: ImagesConfig
    taxonomy: TaxonomyConfig | None = Field(
        None, description="Makes training classes of the labels; by default these are learnt as they are."
    )
    trunk: str = Field("inception_v3", description="A classifier of torchvision or timm, or slim-resnet.")
    weights: Path | None = Field(
        None, description="Local file to start from, or `library`; by default random weights."
    )
    input_px: int | None = Field(None, ge=16, description="Side of the input; by default the network's own.")
    resize: Literal["squash", "crop", "pad"] = "squash"
    positive: str | None = Field(
        None, description="Of two classes the one looked for; by default the second."
    )
    stages: tuple[Stage, ...] = Field(
        (Stage.model_validate({"steps": 300}),), min_length=1, description="One after the other."
    )
    batch_size: int = Field(32, ge=2)
    sampling: Literal["balanced", "natural"] = Field(
        "balanced", description="Each class as often as any other, or as often as it is there."
    )
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    mixup: float = Field(
        0.0,
        ge=0,
        description="Alpha of the beta distribution by which pairs are mixed (Zhang et al. 2018); 0 for none.",
    )
    augmentation: ImageAugmentation = ImageAugmentation.model_validate({})
    weight_decay: float = Field(0.05, ge=0)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    average: float = Field(0.98, ge=0, lt=1, description="Decay per step of the averaged weights.")
    check_every: int = Field(50, ge=1, description="Steps between log lines, validations and checkpoints.")
    seed: int = Field(0, ge=0)
    limit_per_class: int | None = Field(
        None, ge=1, description="Training images of each class at most: for studies with limited data."
    )
    licence: str = "not stated"
    data_statement: str = Field("not stated", description="What it was trained on, for the card.")
    limits: str = Field("not stated", description="What it is not for and where it errs, for the card.")

    @model_validator(mode="after")
    def _positive_is_a_class(self) -> TrainClassifyConfig:
        named = self.images.classes if self.taxonomy is None else None
        if self.positive is not None and named is not None and self.positive not in named:
            raise ValueError(f"positive {self.positive!r} is none of {list(named)}")
        return self


def read_classify_config(
    path: Path, data: Path | None = None, weights: Path | None = None
) -> TrainClassifyConfig:
    """The configuration in a YAML file, with its paths below its `data`, or the one that is given here.

    `weights` to start from stand in place of the file's, and are where they are said to be. The taxonomy is no data:
    its file is sought from the folder of the configuration.

    Raises:
        UsageError: if the file is absent, not YAML, or has a wrong or unknown field, which is named.
    """
    config = placed_below(read_yaml_config(path, TrainClassifyConfig, data=data))
    update: dict[str, object] = {} if weights is None else {"weights": weights}
    if config.taxonomy is not None:
        file = path.parent / config.taxonomy.file
        update["taxonomy"] = config.taxonomy.model_copy(update={"file": file})
    return config.model_copy(update=update)


def placed_below(config: TrainClassifyConfig, folder: Path | None = None) -> TrainClassifyConfig:
    """The configuration with its relative paths below its `data`, itself below `folder` where one is given."""
    base = config.data if folder is None else folder / config.data

    def placed(value: Path | None) -> Path | None:
        return None if value is None else base / value

    images = config.images.model_copy(
        update={
            **{
                name: placed(getattr(config.images, name))
                for name in ("folder", "csv", "npz", "voc", "group_csv")
            },
            "image_folders": tuple(base / folder for folder in config.images.image_folders),
        }
    )
    weights = config.weights if config.weights in (None, Path("library")) else placed(config.weights)
    return config.model_copy(update={"images": images, "weights": weights})
