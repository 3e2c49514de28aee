"""What the weights of a segmentation network say about themselves: the pixels it wants, and what it makes of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medvision.core.geometry import Unit
from medvision.models.contract import Figure

Norm = Literal["none", "batch", "instance"]
Upsampling = Literal["transposed", "nearest", "bed-of-nails", "max-unpooling", "resize-convolution"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1)]


class SegmentOptions(BaseModel):
    """Sizes of a network, and which of its parts it has. Each network reads those it has; all are part of the contract.

    A network that does not read an option ignores it: `SegmentDesign.reads` says which it reads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Annotated[
        float,
        Field(gt=0, le=4, description="Channels over the published number; not of a trunk with a name."),
    ] = 1.0
    depth: Annotated[int, Field(ge=1, le=7, description="Halvings of the resolution; u-nets.")] = 4
    norm: Annotated[Norm, Field(description="Normalisation after convolutions.")] = "none"
    upsampling: Annotated[Upsampling, Field(description="How maps are enlarged on the way back.")] = (
        "transposed"
    )
    dropout: Annotated[float, Field(ge=0, lt=1, description="Share of values left out in training.")] = 0.0
    deep_supervision: Annotated[bool, Field(description="In training, an output at each scale.")] = False
    trunk: Annotated[str, Field(description="Classifier whose maps are used; empty: the network's own.")] = ""
    frozen_trunk: Annotated[bool, Field(description="The trunk keeps its weights in training.")] = False
    output_stride: Annotated[
        Literal[8, 16],
        Field(description="Pixels of the window to one of the coarsest maps; DeepLab v3 and v3+."),
    ] = 16
    coarse: Annotated[
        bool, Field(description="SharpMask: the trunk's coarse answer alone, the first of its two trainings.")
    ] = False


class SegmentContract(BaseModel):
    """The metadata inside the safetensors file of a segmentation network: everything that must not be guessed at.

    A window holds `window` pixels of `spacing` (`unit` a pixel, array order; None: whatever pixels an image has) in
    `channels` channels, and comes out as a probability of each of `classes`, the first of which is the background.

    Values are cut to `range` and become `((v - low) / (high - low) - mean) / std` in each channel. With `intensity`
    "source" `range` holds two percentiles, 0 to 100, of all values of the image or volume, from which low and high are
    taken anew for each: for MR and other values without a unit. `temperature` divides the logits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["segmentation"] = "segmentation"
    architecture: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    channels: Annotated[int, Field(ge=1, le=16)]
    window: Annotated[tuple[Side, ...], Field(min_length=2, max_length=3)]
    spacing: tuple[Positive, ...] | None = None
    unit: Unit = "um"
    intensity: Literal["fixed", "source"] = "fixed"
    range: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[Positive, ...] = (0.25,)
    options: SegmentOptions = Field(default_factory=SegmentOptions)
    temperature: Positive = 1.0
    calibration: str = "uncalibrated"
    version: str = ""
    figures: dict[str, Figure] = Field(default_factory=dict)

    @property
    def axes(self) -> str:
        """ "yx" of images, "zyx" of volumes."""
        return "zyx"[-len(self.window) :]

    @model_validator(mode="after")
    def _is_possible(self) -> SegmentContract:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"class names repeat: {', '.join(self.classes)}")
        if self.spacing is not None and len(self.spacing) != len(self.window):
            raise ValueError(f"a spacing of {self.spacing} is not one of a window of {self.window}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"{self.channels} channels need as many values of mean and std")
        low, high = self.range
        if not low < high or (self.intensity == "source" and not 0 <= low < high <= 100):
            raise ValueError(f"a range from {low:g} to {high:g} is not possible")
        return self
