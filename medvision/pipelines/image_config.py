"""Parameters of classifying whole images: one home for each default, as `medvision.pipelines.config` is for slides."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from medvision.pipelines.config import Count, Scalar
from medvision.store.records import Record

Saliency = Literal["gradcam", "occlusion", "none"]
ImageWindow = tuple[float, float] | Literal["percentiles", "full"] | None


def _says(words: str) -> object:
    """Help text of a field."""
    return Field(description=words)


class ImageOptions(Record):
    """Parameters of classifying an image, but for the model and the device."""

    saliency: Annotated[
        Saliency,
        _says(
            "Map of where the class shows. gradcam: Grad-CAM of the last feature map, one pass; occlusion: how much "
            "the probability drops where a square hides the image, hundreds of passes; none."
        ),
    ] = "gradcam"
    saliency_class: Annotated[str | None, _says("Class of the map. Default: the predicted one.")] = None
    occlusion_px: Annotated[
        Count | None,
        _says(
            "Side of the hiding square in pixels of the network's input. Default: 20 of 299, in proportion."
        ),
    ] = None
    occlusion_stride: Annotated[
        Count | None, _says("Pixels between two places of the square. Default: half its side.")
    ] = None
    image_window: Annotated[
        str | None,
        _says(
            "How grey of more than 8 bits is shown: LOW,HIGH in the file's values, percentiles, or full. Default: as "
            "in the model's training."
        ),
    ] = None
    frame: Annotated[
        int | None, Field(ge=0, description="Which frame, from 0, of DICOM files that hold several.")
    ] = None

    @field_validator("image_window")
    @classmethod
    def _is_a_window(cls, value: str | None) -> str | None:
        parse_window(value)
        return value


class ImageConfig(ImageOptions):
    """Parameters of classifying an image."""

    model: Annotated[
        Path,
        _says("Weights of `medvision train classify`, with their contract; or the folder of a training."),
    ]
    device: Annotated[str, _says("auto, cpu, cuda, cuda:1, ... or mps.")] = "auto"
    batch_size: Annotated[Count, _says("Images per batch; halved by itself when memory runs out.")] = 32

    def findings_fields(self) -> dict[str, Scalar]:
        """The parameters that change a result; where and how fast it was computed does not.

        What the model's file holds is known by its digest, beside these.
        """
        fields: dict[str, Scalar] = self.model_dump(exclude={"model", "device", "batch_size"})
        return fields


def parse_window(said: str | None) -> ImageWindow:
    """A window of grey values from words: `LOW,HIGH`, `percentiles` or `full`.

    Raises:
        ValueError: naming the choices.
    """
    if said is None:
        return None
    if said == "percentiles":
        return "percentiles"
    if said == "full":
        return "full"
    try:
        low, high = (float(part) for part in said.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{said!r} is no window; choose LOW,HIGH with LOW below HIGH, percentiles, or full")
    return low, high
