"""Parameters of a set of labelled images: where it is, whose the images are, and how it is split.

A section of a training's YAML file. Light: the command line reads it for its help.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from medvision.training.config_file import Strict

GroupBy = Literal["image", "kermany-oct", "kermany-chest"]
Policy = Literal["refuse", "drop", "keep"]
SplitName = Literal["train", "validation", "test"]
NEAR_BITS = 16


class ColumnsConfig(Strict):
    """Names of the columns of a CSV file."""

    path: str = Field("path", description="Of the image's file, or its name without `suffix`.")
    label: str = Field("label", description="Of the class's name.")
    one_hot: tuple[str, ...] = Field(
        (), description="In place of `label`: columns called after the classes, one of them 1, the others 0."
    )
    group: str | None = Field(None, description="Of the patient, or the lesion: `lesion_id` in HAM10000.")
    group_if_empty: Literal["refuse", "image"] = Field(
        "refuse", description="What an empty cell there is: an error, or an image that is a group by itself."
    )
    split: str | None = Field(None, description="Of the split: train, validation (val) or test.")

    @model_validator(mode="after")
    def _one_way_to_the_class(self) -> ColumnsConfig:
        if self.one_hot and "label" in self.model_fields_set:
            raise ValueError("label and one_hot both say what an image shows; name one")
        if len(set(self.one_hot)) < len(self.one_hot) or len(self.one_hot) == 1:
            raise ValueError("one_hot names two columns or more, each once")
        return self


class SplitConfig(Strict):
    """How the set is split. By default the split that the data brings along is taken, and checked."""

    fractions: dict[SplitName, float] | None = Field(
        None, description="Shares of a new split that sum to 1, such as {train: 0.8, test: 0.2}."
    )
    validation_from_train: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the given training images to validate on, where no others are.",
    )
    seed: int = Field(0, ge=0, description="Of what is drawn for a new split.")

    @model_validator(mode="after")
    def _one_way(self) -> SplitConfig:
        if self.fractions is None:
            return self
        if self.validation_from_train is not None:
            raise ValueError(
                "fractions make a new split, validation_from_train changes a given one; name one of them"
            )
        shares = list(self.fractions.values())
        if "train" not in self.fractions or len(shares) < 2:
            raise ValueError("fractions name train and at least one of validation and test")
        if min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise ValueError(f"fractions are positive and sum to 1, not {sum(shares):g}")
        return self


class ImagesConfig(Strict):
    """A set of labelled images in a folder, a CSV file, a MedMNIST archive or a detection set: name one of the four."""

    folder: Path | None = Field(
        None, description="With one sub-folder per class, or one per split that holds one per class."
    )
    csv: Path | None = Field(None, description="With one row per image.")
    npz: Path | None = Field(None, description="As MedMNIST publishes them.")
    voc: Path | None = Field(
        None,
        description="Folder of a detection set laid out as PASCAL VOC: what lies in each box is an image, its picture "
        "the group.",
    )
    box_margin: float = Field(
        0.0, ge=0, description="Of a voc: how much each box is widened on every side, in shares of its own."
    )
    columns: ColumnsConfig = ColumnsConfig.model_validate({})
    image_folders: tuple[Path, ...] = Field(
        (), description="In which the files of a CSV are looked for, in order; by default in its own."
    )
    group_csv: Path | None = Field(
        None,
        description="Another CSV, whose columns `columns.path` and `columns.group` say whose an image is.",
    )
    suffix: str = Field("", description="Added to the paths of a CSV, such as .jpg.")
    classes: tuple[str, ...] | None = Field(
        None, min_length=2, description="In the order of their labels; by default sorted by name."
    )
    leave_out: tuple[str, ...] = Field((), description="Classes that are there and not wanted.")
    class_patterns: dict[str, str] = Field(
        {},
        description="Of a folder: classes that file names tell, each with a regular expression that is searched in the "
        "name without its ending; other files have the class of their folder.",
    )
    window: tuple[float, float] | Literal["percentiles", "full"] | None = Field(
        None, description="How grey of more than 8 bits is shown; by default as a DICOM file says."
    )
    group: GroupBy | None = Field(
        None, description="Whose an image is: from file names of a known kind; or, said so, `image`: its own."
    )
    group_pattern: str | None = Field(
        None, description="Regular expression for file names, whose one named group is the patient."
    )
    split: SplitConfig = SplitConfig.model_validate({})
    duplicates: Policy = Field(
        "refuse", description="Images that lie on several sides: an error, dropped from training, or kept."
    )
    near_bits: int = Field(
        NEAR_BITS, ge=0, le=48, description="Bits of 144 in which the hashes of two copies may differ."
    )

    @field_validator("group_pattern")
    @classmethod
    def _one_named_group(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                names = re.compile(value).groupindex
            except re.error as error:
                raise ValueError(f"{value!r} is no regular expression ({error})") from error
            if len(names) != 1:
                raise ValueError(
                    f"{value!r} needs one named group, such as (?P<patient>\\d+); it has {len(names)}"
                )
        return value

    @field_validator("class_patterns")
    @classmethod
    def _regular(cls, value: dict[str, str]) -> dict[str, str]:
        for name, pattern in value.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name}: {pattern!r} is no regular expression ({error})") from error
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> ImagesConfig:
        kinds = {name: getattr(self, name) for name in ("folder", "csv", "npz", "voc")}
        named = [name for name, path in kinds.items() if path is not None]
        if len(named) != 1:
            raise ValueError(f"name one of folder, csv, npz and voc, not {' and '.join(named) or 'none'}")
        if self.csv is None and (
            self.image_folders or self.suffix or self.columns != ColumnsConfig.model_validate({})
        ):
            raise ValueError("columns, image_folders and suffix are for a csv")
        if self.group_csv is not None and (self.csv is None or self.columns.group is None):
            raise ValueError("group_csv is for a csv, and holds the column that columns.group names")
        if self.class_patterns and (self.folder is None or self.classes is None):
            raise ValueError(
                "class_patterns are for a folder, with `classes` named, so that no name is missed"
            )
        if self.box_margin and self.voc is None:
            raise ValueError("box_margin is for a voc")
        if self.voc is not None and (self.group is not None or self.group_pattern):
            raise ValueError(
                "a picture is the group of all that is cut out of it; leave out group and group_pattern"
            )
        ways = {"group": self.group, "group_pattern": self.group_pattern, "columns.group": self.columns.group}
        said = [name for name, value in ways.items() if value is not None]
        if len(said) > 1:
            raise ValueError(f"{' and '.join(said)} say twice whose an image is; name one")
        if self.npz is not None and (self.group not in (None, "image") or self.group_pattern):
            raise ValueError(
                "a MedMNIST archive has no file names and no patients; only `group: image` can be said"
            )
        return self
