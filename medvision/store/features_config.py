"""Parameters of feature tables: one home for each default. Light, for the command line's help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from medvision.store.records import Record

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _says(words: str) -> object:
    """Help text of a field."""
    return Field(description=words)


class FeaturesConfig(Record):
    """Which trunk looks where, and how its vectors are stored."""

    model: Annotated[
        str,
        _says(
            "The trunk: a model of `medvision models`, a torchvision or timm network with --weights, or a contract "
            "file (YAML or JSON) beside its weights."
        ),
    ] = "camelyon-mini"
    weights: Annotated[Path | None, _says("Local weights: safetensors, or a plain state dict.")] = None
    blocks: Annotated[
        tuple[str, ...],
        _says("Modules whose maps are pooled and joined, in place of the network's last features."),
    ] = ()
    spacing: Annotated[Positive | None, _says("µm/px at which the trunk looks, where no contract says.")] = (
        None
    )
    window: Annotated[
        int | None,
        Field(ge=8, description="Side of the trunk's window in pixels, where no contract says."),
    ] = None
    slide_spacing: Annotated[
        Positive | None, _says("Level-0 µm/px of the slide, where the file states none or a wrong one.")
    ] = None
    stride: Annotated[
        Count | None, _says("Pixels at the trunk's spacing between windows. Default: the window.")
    ] = None
    minimum_tissue: Annotated[Share, _says("Least share of tissue for a window to be taken.")] = 0.1
    unread_limit: Annotated[
        Share, _says("Share of windows that may be undecodable before the slide fails.")
    ] = 0.05
    dtype: Annotated[Literal["float32", "float16"], _says("How the vectors are stored.")] = "float32"
    device: Annotated[str, _says("auto, cpu, cuda, cuda:1, ... or mps.")] = "auto"
    precision: Annotated[str, _says("auto, float32 or bfloat16.")] = "auto"
    backend: Annotated[str, _says("auto, eager, fused or compile.")] = "auto"
    batch_size: Annotated[Count, _says("Windows per batch; halved by itself when memory runs out.")] = 32
    readers: Annotated[Count, _says("Threads that read ahead of the device.")] = 2

    def without_paths(self) -> dict[str, object]:
        """What of this says how a trunk is asked for and looks, where no file of this machine is named.

        A trunk that is named by an absolute path is left out, too: where it lies is nobody else's to know or to follow.
        """
        how = {"weights", "slide_spacing", "device", "precision", "backend", "batch_size", "readers"}
        if Path(self.model).is_absolute():
            how.add("model")
        return self.model_dump(mode="json", exclude=how | {"unread_limit", "dtype"})
