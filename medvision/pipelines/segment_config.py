"""Parameters of segmenting images, slides and volumes: one home for each default, as `pipelines.config` is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from medvision.core.errors import UsageError
from medvision.pipelines.config import Count, Scalar
from medvision.pipelines.image_config import parse_window
from medvision.store.records import Record

N = TypeVar("N", int, float)
ChosenBlend = Literal["auto", "none", "constant", "gaussian"]
MaskFormat = Literal["auto", "png", "tiff", "nifti", "dicom-seg"]


def _says(words: str) -> object:
    """Help text of a field."""
    return Field(description=words)


class SegmentOptions(Record):
    """Parameters of a segmentation, but for the model and the device."""

    blend: Annotated[
        ChosenBlend,
        _says(
            "How windows become one. none: each keeps its core; constant, gaussian: means where they overlap. auto: "
            "cores where the result is that of one run over the whole, else gaussian."
        ),
    ] = "auto"
    overlap: Annotated[
        float | None,
        Field(
            ge=0, lt=1, description="Share of a window that the next one repeats. Default: as blend needs."
        ),
    ] = None
    halo: Annotated[
        int | None,
        Field(ge=0, description="Pixels between the edge of a window and its core, in place of --overlap."),
    ] = None
    window: Annotated[
        str | None,
        _says("Window of the network in place of its contract's: 512, or 64,256,256, planes first."),
    ] = None
    threshold: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description=(
                "Probability from which on a pixel is of a class. Default: the most probable class is taken."
            ),
        ),
    ] = None
    minimum_size: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description=(
                "Connected parts smaller than this become background: in µm2, of volumes in mm3, and in pixels where "
                "the input has no spacing."
            ),
        ),
    ] = 0.0
    clean_up: Annotated[
        tuple[str, ...],
        _says(
            "Steps after the segmentation, of images and volumes, NAME or NAME:OPTION=VALUE,...: dense-crf, "
            "pairwise-crf, graph-cut, open, fill-holes, drop-small, and watershed-split, which tells touching objects "
            "apart."
        ),
    ] = ()
    instances: Annotated[
        bool, _says("Tell touching objects apart: as --clean-up watershed-split, after all other steps.")
    ] = False
    tissue_only: Annotated[
        bool, _says("Of a slide, look only at windows that hold tissue; the rest is background.")
    ] = False
    output: Annotated[
        MaskFormat,
        _says(
            "File of the mask. auto: png of an image, tiff (tiled, pyramidal) of a slide, nifti of a volume. dicom-seg "
            "of a DICOM series needs the extra 'dicom'."
        ),
    ] = "auto"
    spacing: Annotated[
        str | None,
        _says(
            "Side of a pixel in µm, or of a voxel in mm, in place of what the file states: 0.5, or 3,0.7,0.7, planes "
            "first."
        ),
    ] = None
    image_window: Annotated[
        str | None,
        _says(
            "How grey of more than 8 bits becomes 0 to 255: LOW,HIGH in the file's values, percentiles, or full. Of "
            "images."
        ),
    ] = None
    frame: Annotated[
        int | None, Field(ge=0, description="Which frame, from 0, of DICOM files that hold several.")
    ] = None

    @field_validator("clean_up", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("spacing", "window", mode="before")
    @classmethod
    def _in_words(cls, value: object) -> object:
        """A number or a list of a YAML file means the same as words."""
        if isinstance(value, (list, tuple)):
            return ",".join(str(one) for one in value)
        return str(value) if isinstance(value, int | float) else value

    @field_validator("spacing")
    @classmethod
    def _is_a_spacing(cls, value: str | None) -> str | None:
        parse_sides(value, float)
        return value

    @field_validator("window")
    @classmethod
    def _is_a_window_px(cls, value: str | None) -> str | None:
        parse_sides(value, int)
        return value

    @field_validator("image_window")
    @classmethod
    def _is_a_window(cls, value: str | None) -> str | None:
        parse_window(value)
        return value

    @model_validator(mode="after")
    def _one_overlap(self) -> SegmentOptions:
        if self.overlap is not None and self.halo is not None:
            raise ValueError("overlap and halo say the same: give one of them")
        return self


def parse_sides(said: str | None, kind: type[N]) -> tuple[N, ...] | None:
    """Sides from words: one number, or one of each of two or three axes with commas between them.

    Raises:
        ValueError: if they are not positive numbers of that kind, or more than three.
    """
    if said is None:
        return None
    try:
        sides = tuple(kind(part) for part in said.split(","))
    except ValueError:
        sides = ()
    if not 1 <= len(sides) <= 3 or not all(0 < side < math.inf for side in sides):
        raise ValueError(f"{said!r}: give one positive number, or one of each axis such as 3,0.7,0.7")
    return sides


class SegmentConfig(SegmentOptions):
    """Parameters of a segmentation: by a network, `model`, or by a `method` without one."""

    model: Annotated[
        Path | None,
        _says("Weights of `medvision train segment`, with their contract; or the folder of a training."),
    ] = None
    method: Annotated[
        str | None,
        _says(
            "In place of a model, NAME or NAME:OPTION=VALUE,...: threshold, otsu, otsu-watershed, kmeans, slic-kmeans, "
            "grabcut or graph-cut. Of images and volumes."
        ),
    ] = None
    device: Annotated[str, _says("auto, cpu, cuda, cuda:1, ... or mps.")] = "auto"
    batch_size: Annotated[Count, _says("Windows per batch; halved by itself when memory runs out.")] = 4

    @property
    def steps(self) -> tuple[str, ...]:
        """All steps after the segmentation."""
        return (*self.clean_up, *(("watershed-split",) if self.instances else ()))

    def check_one(self) -> None:
        """Refuse a network and a method at once, and neither.

        Raises:
            UsageError: then.
        """
        if (self.model is None) == (self.method is None):
            raise UsageError(
                "a segmentation is by a network, --model FILE, or by a method, --method otsu: give one of them"
            )

    def findings_fields(self) -> dict[str, Scalar]:
        """The parameters that change a result. What the model's file holds is known by its digest, beside these."""
        fields = self.model_dump(exclude={"model", "device", "batch_size", "clean_up"})
        return {**fields, "clean_up": " ".join(self.clean_up) or None}
