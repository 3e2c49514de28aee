"""What the weights of a classifier of whole images say about themselves, and whether an image is one of theirs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medvision.models.class_tree import ClassTree
from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD, Figure
from medvision.ops.appearance import GREY_BELOW, Appearance
from medvision.ops.quality import Measure
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

    def judge(self, seen: Appearance, energy: float) -> tuple[tuple[Measure, str], ...]:
        """Each bound as a measure of an image, with words on what is unlike the training where it is not kept."""
        rows, columns = seen.shape
        darkest, brightest = self.brightness
        narrowest, widest = self.aspect
        grey_limit = f"< {GREY_BELOW:g}" if self.grey else f">= {GREY_BELOW:g}"
        here, there = ("in colour", "grey") if self.grey else ("grey", "in colour")
        return (
            (
                Measure(
                    "smaller side",
                    float(min(rows, columns)),
                    "px",
                    min(rows, columns) >= self.smallest_px,
                    f">= {self.smallest_px}",
                    "Smaller images show less than the network learnt from.",
                ),
                f"it is {columns} × {rows} px (the smallest of the training had {self.smallest_px})",
            ),
            (
                Measure(
                    "aspect",
                    round(seen.aspect, 4),
                    "ratio",
                    narrowest <= seen.aspect <= widest,
                    f"{narrowest:.2f} to {widest:.2f}",
                    "Width over height, with a margin of 5 % around those of the training images.",
                ),
                f"its sides are as {seen.aspect:.2f} to 1 ({narrowest:.2f} to {widest:.2f} were seen)",
            ),
            (
                Measure(
                    "brightness",
                    round(seen.brightness, 4),
                    "share",
                    darkest <= seen.brightness <= brightest,
                    f"{darkest:.2f} to {brightest:.2f}",
                    "Mean of the pixels, 0 to 1, with a margin of 0.02 around those of the training images.",
                ),
                f"its mean brightness is {seen.brightness:.2f} ({darkest:.2f} to {brightest:.2f} were seen)",
            ),
            (
                Measure(
                    "colour",
                    round(seen.colour, 2),
                    "of 255",
                    seen.grey == self.grey,
                    grey_limit,
                    f"Mean difference between an image's channels; the training images were {there}.",
                ),
                f"it is {here} (the training images were {there})",
            ),
            (
                Measure(
                    "energy",
                    round(energy, 4),
                    "",
                    energy <= self.energy,
                    f"<= {self.energy:.2f}",
                    "Free energy of the logits; above the limit, which 1 of 100 validation images exceeds, an image "
                    "looks like none of the classes.",
                ),
                f"it looks like none of the classes (energy {energy:.2f}, limit {self.energy:.2f})",
            ),
        )

    def complaints(self, seen: Appearance, energy: float) -> list[str]:
        """What of an image is unlike those of the training, in words; empty where nothing is."""
        return [words for measure, words in self.judge(seen, energy) if not measure.ok]


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
