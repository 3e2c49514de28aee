"""What the weights of a nodule network say about themselves: the voxels it wants, and what it makes of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medvision.models.contract import Figure

Voxels = tuple[int, int, int]
"""Numbers of voxels along (slice, row, column)."""

Millimetres = tuple[
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
]

Kind = Literal["nodule-detector", "nodule-fpr"]


class DetectorOptions(BaseModel):
    """Sizes of a detector, and which boxes it gives. Each network reads those it has; they are part of its contract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Annotated[
        float, Field(gt=0, description="Channels of the trunk over the published; vgg, retinanet.")
    ] = 1.0
    hidden: Annotated[
        int, Field(ge=1, description="Length of the dense layers after pooling; faster-rcnn.")
    ] = 4096
    norm: Annotated[bool, Field(description="Batch normalisation in the trunk; vgg.")] = False
    lateral: Annotated[
        bool, Field(description="Adds the map of conv3_3 to the deconvolved one, as a pyramid does; vgg.")
    ] = False
    anchors_px: Annotated[
        tuple[int, int, int, int, int, int], Field(description="Sides of the square anchors; faster-rcnn.")
    ] = (4, 6, 10, 16, 22, 32)
    anchors_voxels: Annotated[
        tuple[Voxels, ...],
        Field(min_length=1, description="Boxes at the finest map, doubled at each coarser one; retinanet."),
    ] = ((4, 6, 8), (5, 8, 6), (6, 10, 10))
    proposals: Annotated[int, Field(ge=1, description="That the second stage looks at; faster-rcnn.")] = 300
    score_threshold: Annotated[float, Field(ge=0, lt=1, description="Boxes score above it.")] = 0.05
    nms_iou: Annotated[float, Field(gt=0, le=1, description="Of two boxes that overlap more, one stays.")] = (
        0.3
    )
    most: Annotated[int, Field(ge=1, description="Boxes of one window, the most certain.")] = 100

    @model_validator(mode="after")
    def _anchors_have_sides(self) -> DetectorOptions:
        if min(self.anchors_px) < 2 or min(side for box in self.anchors_voxels for side in box) < 1:
            raise ValueError("anchors need sides of at least 2 pixels, or 1 voxel")
        return self


class ReductionOptions(BaseModel):
    """Sizes of a network that judges candidates. Each network reads those it has; they are part of its contract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Annotated[float, Field(gt=0, description="Channels over the usual number.")] = 1.0
    hidden: Annotated[tuple[int, int], Field(description="Lengths of the two inner dense layers; cnn3d.")] = (
        512,
        128,
    )
    dropout: Annotated[float, Field(ge=0, lt=1, description="Before each dense layer; cnn3d.")] = 0.5
    norm: Annotated[bool, Field(description="Batch normalisation after each convolution; cnn3d.")] = False


class NoduleContract(BaseModel):
    """The metadata inside the safetensors file of a nodule network: everything that must not be guessed at.

    A window holds `window` voxels of `spacing_mm`. Values in Hounsfield units are cut to `hu`, put on a scale from 0 to
    1, and become `(v - mean) / std`. `temperature` divides the log odds of a score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    architecture: str
    spacing_mm: Millimetres
    window: Voxels
    hu: tuple[float, float] = (-1000.0, 400.0)
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 1.0
    calibration: str = "uncalibrated"
    version: str = ""
    figures: dict[str, Figure] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sizes_are_possible(self) -> NoduleContract:
        if min(self.window) < 1:
            raise ValueError(f"a window of {self.window} voxels is empty")
        if not self.hu[0] < self.hu[1]:
            raise ValueError(f"the HU window from {self.hu[0]:g} to {self.hu[1]:g} is empty")
        return self


class DetectorContract(NoduleContract):
    """Of a network that finds nodules: boxes with scores."""

    kind: Literal["nodule-detector"] = "nodule-detector"
    classes: tuple[str] = ("nodule",)
    options: DetectorOptions = Field(default_factory=DetectorOptions)


class ReductionContract(NoduleContract):
    """Of a network that tells nodules from other candidates.

    A window is the cube around a candidate, of which the network sees `crop` voxels: the middle of it, or in training a
    crop from anywhere in it.
    """

    kind: Literal["nodule-fpr"] = "nodule-fpr"
    classes: tuple[str, str] = ("other", "nodule")
    crop: Voxels
    options: ReductionOptions = Field(default_factory=ReductionOptions)

    @model_validator(mode="after")
    def _crop_is_in_the_middle(self) -> ReductionContract:
        margins = [side - cut for side, cut in zip(self.window, self.crop, strict=True)]
        if min(self.crop) < 1 or min(margins) < 0 or any(margin % 2 for margin in margins):
            raise ValueError(f"a crop of {self.crop} voxels has no place in the middle of {self.window}")
        return self
