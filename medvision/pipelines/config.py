"""Parameters of the pipelines: one home for each default, from which the command line and the flows derive theirs.

This module is light on purpose, so that `medvision analyze --help` need not wait for a deep-learning library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from medvision.store.records import Record

Scalar = str | int | float | bool | None
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _says(words: str) -> object:
    """Help text of a field."""
    return Field(description=words)


class AnalyzeConfig(Record):
    """Parameters of an analysis."""

    model: Annotated[
        str,
        _says(
            "A model of `medvision models`, a torchvision or timm network, or `segmentation`: a network of `medvision "
            "train segment`, given by --weights, whose mean probability scores each cell."
        ),
    ] = "camelyon-mini"
    weights: Annotated[
        Path | None, _says("Local weights for that network: safetensors, or a plain state dict.")
    ] = None
    classes: Annotated[
        tuple[str, ...] | None, _says("Class names, in the order of the network's outputs.")
    ] = None
    positive: Annotated[str | None, _says("The class that the heatmap shows. Default: the last class.")] = (
        None
    )
    spacing: Annotated[
        Positive | None, _says("µm/px at which the network looks, where its contract does not say.")
    ] = None
    window: Annotated[
        int | None,
        Field(ge=8, description="Side of the network's window in pixels, where its contract does not say."),
    ] = None
    slide_spacing: Annotated[
        Positive | None, _says("Level-0 µm/px of the slide, where the file states none or a wrong one.")
    ] = None
    stride: Annotated[
        Count | None,
        _says("Pixels at the model's spacing between heatmap cells. Default: half the window."),
    ] = None
    dense: Annotated[
        Literal["off", "fast", "exact"],
        _says(
            "Share work between overlapping windows. fast: several times cheaper at small strides, but networks that "
            "pad their windows score a little differently (how much is measured on each slide and reported). exact: "
            "only networks without padding, and only the same scores. off: window by window."
        ),
    ] = "off"
    tta: Annotated[
        Literal[1, 4, 8],
        _says(
            "Average over this many orientations of each window, 4 quarter turns or 8 with mirror images, at as many "
            "times the cost; their spread is a second plane of the heatmap and stands in the report."
        ),
    ] = 1
    slide_model: Annotated[
        Path | None,
        _says(
            "A slide model of `medvision train slide-forest`, which then gives the slide's probability. Default: the "
            "highest mean over neighbouring cells."
        ),
    ] = None
    tissue_model: Annotated[
        Path | None,
        _says(
            "Weights of a segmentation network that tells tissue from glass, or the folder of its training. Default: "
            "thresholds of colour."
        ),
    ] = None
    # The highest of thousands of windows is judged, so a single window's 0.5 would call most slides positive; 0.9 is
    # what Wang et al. (2016, arXiv:1606.05718) took for lesions.
    threshold: Annotated[Share, _says("Probability at which a cell, and the slide, is positive.")] = 0.9
    detections: Annotated[
        Literal["regions", "nms"],
        _says(
            "What detections.csv lists. regions: the peak of each region, with the region's score. nms: single peaks "
            "above 0.5 that lie about 0.19 mm apart, by non-maximum suppression as NCRF publishes it."
        ),
    ] = "regions"
    minimum_tissue: Annotated[Share, _says("Least share of tissue for a cell to be scored.")] = 0.1
    unread_limit: Annotated[
        Share, _says("Share of windows that may be undecodable before the slide fails.")
    ] = 0.05
    reject_on_qc: Annotated[bool, _says("Reject a slide that fails a quality measure, rather than warn.")] = (
        False
    )
    device: Annotated[str, _says("auto, cpu, cuda, cuda:1, ... or mps.")] = "auto"
    precision: Annotated[str, _says("auto, float32 or bfloat16.")] = "auto"
    backend: Annotated[
        str,
        _says(
            "auto (the fastest within 0.01 of float32 that is installed), eager, fused, compile, "
            "openvino or onnxruntime."
        ),
    ] = "auto"
    batch_size: Annotated[Count, _says("Windows per batch; halved by itself when memory runs out.")] = 32
    readers: Annotated[Count, _says("Threads that read ahead of the device.")] = 2
    checkpoint_seconds: Annotated[
        Positive, _says("Seconds between two saves of a slide's progress: as much is lost by a crash.")
    ] = 20.0

    @field_validator("classes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """`normal,tumor` means the same as two names."""
        if isinstance(value, (list, tuple)):
            return tuple(name for part in value for name in str(part).split(",") if name)
        return value

    @field_validator("tta", mode="before")
    @classmethod
    def _whole_number(cls, value: object) -> object:
        """The command line hands over words, which a choice of numbers does not take by itself."""
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    def findings_fields(self) -> dict[str, Scalar]:
        """The parameters that change a result; where and how fast it was computed does not.

        What files hold is known by digests, beside these.
        """
        files = {"weights", "slide_model", "tissue_model"}
        how = {"device", "precision", "backend", "batch_size", "readers", "checkpoint_seconds"}
        fields: dict[str, Scalar] = self.model_dump(exclude={"classes", *files, *how})
        fields["classes"] = None if self.classes is None else ",".join(self.classes)
        return fields
