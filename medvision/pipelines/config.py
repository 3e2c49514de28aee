"""Parameters of the pipelines: one home for each default, from which the command line and the flows derive theirs.

This module is light on purpose, so that `medvision analyze --help` need not wait for a deep-learning library.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from medvision.store.records import Record

Scalar = str | int | float | bool | None


class AnalyzeConfig(Record):
    """Parameters of an analysis."""

    model: str = Field("camelyon-mini", description="A model of `medvision models`, or a torchvision or timm network.")
    weights: Path | None = Field(None, description="Local weights for that network: safetensors, or a plain state dict.")
    classes: tuple[str, ...] | None = Field(None, description="Class names, in the order of the network's outputs.")
    positive: str | None = Field(None, description="The class that the heatmap shows. Default: the last class.")
    spacing: float | None = Field(
        None, gt=0, description="µm/px at which the network looks, where its contract does not say."
    )
    window: int | None = Field(
        None, ge=8, description="Side of the network's window in pixels, where its contract does not say."
    )
    slide_spacing: float | None = Field(
        None, gt=0, description="Level-0 µm/px of the slide, where the file states none or a wrong one."
    )
    stride: int | None = Field(
        None, ge=1, description="Pixels at the model's spacing between heatmap cells. Default: half the window."
    )
    threshold: float = Field(0.5, ge=0, le=1, description="Probability at which a cell, and the slide, is positive.")
    minimum_tissue: float = Field(0.1, ge=0, le=1, description="Least share of tissue for a cell to be scored.")
    unread_limit: float = Field(
        0.05, ge=0, le=1, description="Share of windows that may be undecodable before the slide fails."
    )
    reject_on_qc: bool = Field(False, description="Reject a slide that fails a quality measure, rather than warn.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ... or mps.")
    precision: str = Field("auto", description="auto, float32 or bfloat16.")
    batch_size: int = Field(32, ge=1, description="Windows per batch; halved by itself when memory runs out.")
    readers: int = Field(2, ge=1, description="Threads that read ahead of the device.")

    @field_validator("classes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """`normal,tumor` means the same as two names."""
        if isinstance(value, (list, tuple)):
            return tuple(name for part in value for name in str(part).split(",") if name)
        return value

    def findings_fields(self) -> dict[str, Scalar]:
        """The parameters that change a result; where and how fast it was computed does not."""
        how = {"weights", "classes", "device", "precision", "batch_size", "readers"}
        fields: dict[str, Scalar] = self.model_dump(exclude=how)
        fields["classes"] = None if self.classes is None else ",".join(self.classes)
        return fields
