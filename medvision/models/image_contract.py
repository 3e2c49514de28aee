"""What the weights of a classifier of whole images say about themselves, and whether an image is one of theirs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medvision.models.class_tree import ClassTree
from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD, Figure
from medvision.ops.resize import Resize


class Scope(BaseModel):
    """What the images were like that the network learnt from; an image outside is flagged, not refused.

    `energy` is the 99th percentile, over validation images, of the free energy of the logits, `-T logsumexp(z / T)`
    with the calibrated temperature T: above it an image looks like none of the classes (Liu et al., NeurIPS 2020).
    Brightness is the mean of the pixels, 0 to 1; aspect is columns over rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: float
    brightness: tuple[float, float]
    aspect: tuple[float, float]
    smallest_px: int = Field(gt=0)
    grey: bool

    def complaints(
        self, *, shape: tuple[int, ...], brightness: float, is_grey: bool, energy: float
    ) -> list[str]:
        """What of an image is unlike those of the training, in words; empty where nothing is."""
        rows, columns = shape[:2]
        found = []
        if self.grey and not is_grey:
            found.append("it is in colour, and the training images were grey")
        if not self.grey and is_grey:
            found.append("it is grey, and the training images were in colour")
        if min(rows, columns) < self.smallest_px:
            found.append(
                f"it is {columns} × {rows} px, and the smallest of the training had {self.smallest_px}"
            )
        if not self.aspect[0] <= columns / rows <= self.aspect[1]:
            found.append(
                f"its sides are as {columns / rows:.2f} to 1; {self.aspect[0]:.2f} to {self.aspect[1]:.2f} were seen"
            )
        if not self.brightness[0] <= brightness <= self.brightness[1]:
            low, high = self.brightness
            found.append(f"its mean brightness is {brightness:.2f}; {low:.2f} to {high:.2f} were seen")
        if energy > self.energy:
            found.append(f"it looks like none of the classes (energy {energy:.2f}, limit {self.energy:.2f})")
        return found


class ImageContract(BaseModel):
    """The metadata inside the safetensors file of a classifier of images: everything that must not be guessed at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image"] = "image"
    architecture: str
    """Of torchvision or timm, or `slim-resnet`."""
    classes: tuple[str, ...] = Field(min_length=2)
    positive: str | None = None
    """Of two classes the one that is looked for; of several none."""
    input_px: int = Field(gt=0)
    resize: Resize = "squash"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    temperature: float = Field(default=1.0, gt=0)
    calibration: str = "uncalibrated"
    version: str = ""
    figures: dict[str, Figure] = Field(default_factory=dict)
    scope: Scope | None = None
    window: str | None = None
    """How grey of more than 8 bits was shown in training, as the configuration of the images says it."""
    tree: ClassTree | None = None
    """The taxonomy that the classes are parts of; its `levels` sum their probabilities."""

    @model_validator(mode="after")
    def _classes_are_told_apart(self) -> ImageContract:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"class names repeat: {', '.join(self.classes)}")
        if self.positive is not None and self.positive not in self.classes:
            raise ValueError(f"positive {self.positive!r} is none of {', '.join(self.classes)}")
        if self.tree is not None and self.tree.classes != self.classes:
            raise ValueError(
                f"the tree is parted into {', '.join(self.tree.classes)}, not into these classes"
            )
        return self
