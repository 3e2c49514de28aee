"""Parameters of training segmentation networks. Light on purpose: the command line reads it for its help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medvision.training.config_file import Strict, read_yaml_config

IGNORED = 255
"""The label of pixels that are neither learnt from nor counted."""

LossName = Literal["cross-entropy", "dice", "dice-squared", "generalised-dice", "jaccard", "focal"]
Share = Annotated[float, Field(gt=0, lt=1)]


class SegmentDataConfig(Strict):
    """Images with their labels. Three layouts are known, and told apart by what is there.

    "pairs": a folder of images and one of labels, pairs having one name, in 2-D (PNG, TIFF, JPEG, ...) or as volumes
    (NIfTI, MetaImage, NRRD). "objects": a folder for each image, in it `images/` with the image and `masks/` with a
    file for each object, as in the Data Science Bowl 2018. "slides": a table (CSV) of slides with their patients and
    annotations, outlines or masks, as `medvision synthesize cohort` writes it; `folder` is the file.
    """

    folder: Path = Field(
        description="Where they are; folders that hold nothing but one folder are passed through. Or a table of slides."
    )
    layout: Literal["auto", "pairs", "objects", "slides"] = "auto"
    images: str | None = Field(None, description="Sub-folder of the images; by default image(s) or imagesTr.")
    labels: str | None = Field(
        None, description="Sub-folder of the labels; by default label(s), mask(s) or labelsTr."
    )
    label_suffix: str = Field(
        "",
        description="What the names of labels have behind those of their images; of slides, the name of a file beside "
        "the annotation that takes its place.",
    )
    groups: dict[str, str | None] | None = Field(
        None,
        description="Class of each group of outlines on slides, null for areas that do not count; by default groups "
        "are called like classes, in capitals or not.",
    )
    tissue: str | None = Field(
        None,
        description="Of slides: the class of what nobody annotated and the thresholds of colour take for tissue.",
    )
    values: dict[str, int] | None = Field(
        None,
        description="Value of each class in the labels; by default 0, 1, ... in the order of the classes.",
    )
    ignore: int | None = Field(None, description="Value of pixels that are neither learnt from nor counted.")
    case: str | None = Field(
        None,
        description="Regular expression: what its group finds in a name is the patient or slide, which the split "
        "keeps whole; by default each image is by itself.",
    )
    leave_out: tuple[str, ...] = Field((), description="Names of images that are not used.")
    image_window: tuple[float, float] | Literal["percentiles", "full"] | None = Field(
        None, description="How pictures of grey of more than 8 bits are shown."
    )

    @field_validator("case")
    @classmethod
    def _has_a_group(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
            if groups != 1:
                raise ValueError(f"needs one group, such as ^(\\d+)_, and {pattern!r} has {groups}")
        return pattern


class SegmentSplitConfig(Strict):
    """Folds by whole cases. One is held out; of the others a share validates."""

    folds: int = Field(5, ge=2)
    fold: int | Literal["all"] = Field(
        0,
        description="The fold that is held out, from 0; `all` trains once for each, and once on all images.",
    )
    held_out: str | None = Field(
        None,
        description="Of a table of slides: the split that is held out, such as test, in place of a fold.",
    )
    validation: Share = Field(
        0.15, description="Share of the other cases on which weights and temperature are chosen."
    )
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fold_is_there(self) -> SegmentSplitConfig:
        if self.held_out is not None and self.fold != 0:
            raise ValueError("held_out takes the place of a fold; leave fold out")
        if isinstance(self.fold, int) and not 0 <= self.fold < self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds}: folds count from 0 to {self.folds - 1}")
        return self


class LossConfig(Strict):
    """What is made small: a sum of terms, each with its weight."""

    terms: Mapping[LossName, Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: dict[LossName, float]({"cross-entropy": 1.0, "dice": 1.0}), min_length=1
    )
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None, description="Of cross-entropy, in the order of the classes; by default all 1."
    )
    focal_gamma: float = Field(2.0, ge=0)
    background: bool = Field(False, description="Whether overlaps count the first class, too.")
    over_batch: bool = Field(
        True, description="Whether overlaps are of a whole batch; else the mean of those of its windows."
    )


class BorderConfig(Strict):
    """U-Net's weights of narrow gaps between objects, which are added to the weights of classes."""

    w0: float = Field(10.0, gt=0)
    sigma_px: float = Field(5.0, gt=0)
    objects: str | None = Field(
        None,
        description="The class whose connected parts are the objects, where the data has no file for each object.",
    )


class SegmentAugmentation(Strict):
    """How windows are changed: image, labels and weights alike, then the values of the image alone."""

    flip: bool | tuple[bool, ...] = Field(
        True,
        description="Mirrored or not, at random, along each axis; or along which axes, in array order. Where "
        "classes are told apart by where they lie, as front and back, not along that axis.",
    )
    rotate_degrees: float = Field(180.0, ge=0, le=180, description="About each axis of a volume, at most.")
    scale: float = Field(0.15, ge=0, lt=1, description="Sizes change by a factor of up to 1 + this.")
    elastic: Literal["none", "grid", "field"] = Field(
        "grid", description="Displacements from a coarse grid (U-Net), or from smoothed noise (Simard)."
    )
    elastic_px: float = Field(
        10.0,
        gt=0,
        description="Standard deviation at the nodes of the grid, or root mean square of the field.",
    )
    elastic_nodes: int = Field(3, ge=2, description="Nodes of the grid along each axis.")
    elastic_smooth_px: float = Field(16.0, gt=0, description="Sigma of the field's Gaussian.")
    deformed: float = Field(
        1.0, ge=0, le=1, description="Share of windows that are rotated, scaled and displaced."
    )
    brightness: float = Field(0.1, ge=0, lt=1, description="Added to all values, of a range of 1, at most.")
    contrast: float = Field(
        0.2, ge=0, lt=1, description="Distance to the mean changes by a factor of 1 +- this."
    )
    gamma: float = Field(0.2, ge=0, lt=1, description="Values are raised to a power of 1 + this at most.")
    noise: float = Field(0.03, ge=0, description="Largest standard deviation of noise, of a range of 1.")


class TrainSegmentConfig(Strict):
    """Everything that determines a trained segmentation network."""

    name: str = Field(description="Of the model.")
    version: str = "1"
    data: SegmentDataConfig
    split: SegmentSplitConfig = SegmentSplitConfig.model_validate({})
    architecture: str = "unet"
    contract: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of the network's contract in place of its own: classes, channels, window, spacing, "
        "intensity, range, options, ... mean and std are measured unless they are given.",
    )
    loss: LossConfig = LossConfig.model_validate({})
    border: BorderConfig | None = None
    augmentation: SegmentAugmentation = SegmentAugmentation.model_validate({})
    foreground_share: float = Field(
        0.5, ge=0, le=1, description="Share of windows about a pixel of a class other than the first."
    )
    steps: int = Field(600, ge=1)
    batch_size: int = Field(4, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    average: float = Field(0.98, ge=0, lt=1, description="Decay per step of the averaged weights.")
    check_every: int = Field(100, ge=1, description="Steps between validations and checkpoints.")
    patience: int | None = Field(None, ge=1, description="Checks without a better score after which to stop.")
    validation_images: int | None = Field(
        None, ge=1, description="At each check the first of the validation images; by default all."
    )
    probabilities: bool = Field(
        False,
        description="Whether the probabilities of the images held out are written, beside their labels.",
    )
    seed: int = Field(0, ge=0)
    licence: str = "not stated"
    data_statement: str = Field("not stated", description="What it was trained on, for the card.")
    limits: str = Field("not stated", description="What it is not for and where it errs, for the card.")


def read_segment_config(path: Path, data: Path | None = None, fold: str | None = None) -> TrainSegmentConfig:
    """The configuration in a YAML file; `data` stands in place of its folder of images, `fold` of its fold.

    Raises:
        UsageError: if the file is absent, not YAML, or has a wrong or unknown field, which is named.
    """
    parts = read_yaml_config(path, _Parts)
    given: dict[str, object] = {}
    if data is not None and isinstance(parts.data, dict):
        given["data"] = {**parts.data, "folder": data}
    if fold is not None and isinstance(parts.split, dict):
        given["split"] = {**parts.split, "fold": int(fold) if fold.isdecimal() else fold}
    return read_yaml_config(path, TrainSegmentConfig, **given)


class _Parts(Strict, extra="ignore"):
    data: object = Field(default_factory=dict)
    split: object = Field(default_factory=dict)
