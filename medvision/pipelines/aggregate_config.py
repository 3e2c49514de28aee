"""Parameters of judging slides as a whole, by an aggregator over feature tables. Light, for the command line's help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from medvision.store.features_config import Count, Positive, Share
from medvision.store.records import Record


def _says(words: str) -> object:
    """Help text of a field."""
    return Field(description=words)


class AggregateConfig(Record):
    """Which aggregator judges, and where its features come from."""

    model: Annotated[
        Path,
        _says("Folder of `medvision train mil` or `train cnn-lstm`, or a weights file of an aggregator."),
    ]
    classes: Annotated[
        tuple[str, ...] | None, _says("Class names for a published aggregator, in the order of its outputs.")
    ] = None
    positive: Annotated[str | None, _says("The class that is reported. Default: the model's.")] = None
    trunk: Annotated[
        str | None, _says("The trunk of the features, where the aggregator does not name a shipped one.")
    ] = None
    trunk_weights: Annotated[Path | None, _says("Local weights of the trunk.")] = None
    spacing: Annotated[Positive | None, _says("µm/px at which the trunk looks, where nothing says.")] = None
    window: Annotated[
        int | None, Field(ge=8, description="Side of the trunk's window in pixels, where nothing says.")
    ] = None
    features: Annotated[
        Path | None,
        _says("Folder of feature tables, kept and used again. Default: features below the output."),
    ] = None
    threshold: Annotated[
        Share | None, _says("Probability at which a slide is positive. Default: the model's.")
    ] = None
    slide_spacing: Annotated[
        Positive | None, _says("Level-0 µm/px of the slide, where the file states none or a wrong one.")
    ] = None
    unread_limit: Annotated[
        Share, _says("Share of windows that may be undecodable before the slide fails.")
    ] = 0.05
    device: Annotated[str, _says("auto, cpu, cuda, cuda:1, ... or mps.")] = "auto"
    batch_size: Annotated[Count, _says("Windows per batch; halved by itself when memory runs out.")] = 32
    readers: Annotated[Count, _says("Threads that read ahead of the device.")] = 2

    @field_validator("classes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """`normal,tumor` means the same as two names."""
        if isinstance(value, (list, tuple)):
            return tuple(name for part in value for name in str(part).split(",") if name)
        return value
