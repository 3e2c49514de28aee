"""What is written about a classified image. Like a slide's, the JSON sidecar is the truth and the page a rendering."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medvision.store.records import QcMeasure, Record, Verdict

UNLIKE = "unlike the training images: "
"""What the reason of an image begins with that is outside a bound of the training images."""


class ImageInfo(Record):
    """The image as it was read, upright. Lengths in pixels, array order (rows, columns)."""

    name: str
    digest: str
    """SHA-256 of the file."""
    reader: str
    """The file's format."""
    shape: tuple[int, int]
    bits: int
    """Stored per sample."""
    grey: bool
    """Whether it has no colour, in one channel or in three that are alike."""
    shown: str
    """How stored values became 0 to 255, in words."""
    frame: int | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    """Facts of the acquisition from the allow-list of `medvision.sources.facts`."""


class FigureInfo(Record):
    """A figure of merit from the model's contract."""

    value: float
    interval: tuple[float, float] | None = None
    protocol: str


class ImageModelInfo(Record):
    """The model that classified the image, as its contract says it."""

    name: str
    version: str
    digest: str
    architecture: str
    classes: tuple[str, ...]
    positive: str | None
    input_px: int
    resize: str
    temperature: float
    calibration: str
    figures: dict[str, FigureInfo] = Field(default_factory=dict)


class SaliencyInfo(Record):
    """A map of where a class shows. Values of the map times `scale` are in `unit`."""

    method: Literal["gradcam", "occlusion"]
    class_name: str
    scale: float
    """What the map's largest value stands for; 0 where nothing speaks for the class."""
    unit: str
    detail: str
    """The layer, or the square and its stride, in words."""
    shape: tuple[int, int]
    """Of the map before it is enlarged: rows, columns."""


class ImageResult(Record):
    """Everything found about one image. Two runs on the same input write the same bytes."""

    schema_version: Literal[1] = 1
    kind: Literal["image"] = "image"
    verdict: Verdict = "done"
    reason: str = ""
    """In what the image is unlike those of the training, where it is."""
    image: ImageInfo
    model: ImageModelInfo
    config: dict[str, str | int | float | bool | None]
    config_digest: str
    software: dict[str, str]
    probabilities: dict[str, float]
    """By class, in the order of the contract."""
    predicted: str
    in_scope: bool | None
    """Whether the image is like those of the training; None where the model does not know what those were like."""
    energy: float
    qc: tuple[QcMeasure, ...] = ()
    """The bounds of the training images that `in_scope` was judged by."""
    saliency: SaliencyInfo | None = None
    limits: tuple[str, ...] = ()
    images: dict[str, str] = Field(default_factory=dict)
    """Relative paths of pictures made for the report: `thumbnail`, and with a map `heatmap` and `colours`."""

    @property
    def label(self) -> str:
        """The predicted class."""
        return self.predicted

    @property
    def probability(self) -> float:
        """Of the class that is looked for where there is one, else of the predicted class."""
        return self.probabilities[self.probability_of]

    @property
    def probability_of(self) -> str:
        """The class that `probability` is of."""
        return self.model.positive or self.predicted
