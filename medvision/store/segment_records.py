"""What is written about an image, slide or volume that was segmented: the JSON is the truth, the page a rendering."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from medvision.core.geometry import Unit
from medvision.store.image_records import FigureInfo
from medvision.store.maps import RESULT
from medvision.store.records import QcMeasure, Record, Verdict

CaseKind = Literal["image", "slide", "volume"]


class CaseInfo(Record):
    """What was segmented, as it was read. Array order; a volume upright: planes up, rows to the back, columns left."""

    name: str
    kind: CaseKind
    digest: str
    reader: str
    reader_reason: str = ""
    vendor: str = ""
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    """Side of a pixel or voxel; None where neither the file nor a person said it."""
    unit: Unit = "um"
    spacing_origin: Literal["file", "supplied"] | None = None
    axes: str = ""
    """Of a volume: letters of where planes, rows and columns lead, "SPL"."""
    shown: str = ""
    """Of an image: how stored values became 0 to 255, in words."""
    metadata: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class SegmentModelInfo(Record):
    """What segmented it: a network as its contract says it, or a method without weights (no `digest`)."""

    name: str
    version: str = ""
    digest: str = ""
    architecture: str
    classes: tuple[str, ...]
    channels: int | None = None
    window: tuple[int, ...] = ()
    spacing: tuple[float, ...] | None = None
    unit: Unit = "um"
    values: str = ""
    """Which values count as 0 and 1, in words."""
    temperature: float = 1.0
    calibration: str = "uncalibrated"
    figures: dict[str, FigureInfo] = Field(default_factory=dict)


class TilingInfo(Record):
    """How it was cut into windows, in pixels of the network."""

    extent: tuple[int, ...]
    window: tuple[int, ...]
    step: tuple[int, ...]
    margin: tuple[int, ...]
    blend: str
    windows: int
    unread: int = 0
    exact: bool
    """Whether the result is that of one run over the whole."""
    influence: tuple[int, ...] | None
    """Pixels from a window's edge within which answers depend on what lies beyond; None: everywhere."""
    seam_difference: float | None = None
    """Largest difference of a probability from one run over two windows, measured on noise; None of a single window."""


class ClassTotal(Record):
    """All that was found of a class."""

    name: str
    label: int
    """Its value in the mask."""
    colour: str
    pixels: int
    share: float
    """Of all pixels, 0 to 1."""
    area_mm2: float | None = None
    volume_ml: float | None = None
    parts: int = 0
    """Connected parts, as large as asked for."""
    largest: int = 0
    """Pixels of the largest part."""


class PartInfo(Record):
    """One connected part. `centroid` is in pixels of the file, array order."""

    id: int
    name: str
    """Of its class."""
    pixels: int
    area_um2: float | None = None
    volume_mm3: float | None = None
    centroid: tuple[float, ...]
    probability: float | None
    """Mean probability of its pixels; None where a method gives none."""


class SegmentResult(Record):
    """Everything found in one case. Two runs on the same input write the same bytes."""

    schema_version: Literal[1] = 1
    kind: Literal["case"] = "case"
    verdict: Verdict = "done"
    reason: str = ""
    case: CaseInfo
    model: SegmentModelInfo
    config: dict[str, str | int | float | bool | None]
    config_digest: str
    software: dict[str, str]
    tiling: TilingInfo | None = None
    classes: tuple[ClassTotal, ...] = ()
    """Those that are looked for; the background is left out."""
    largest: tuple[PartInfo, ...] = ()
    """The largest parts, falling; all are in the table of parts."""
    removed: int = 0
    """Parts that were smaller than asked for."""
    confidence: float | None = None
    """Mean probability of the label that each pixel got."""
    files: dict[str, str] = Field(default_factory=dict)
    """What was written: `mask`, `outlines`, `parts`, and `objects` where touching ones were told apart."""
    qc: tuple[QcMeasure, ...] = ()
    limits: tuple[str, ...] = ()
    images: dict[str, str] = Field(default_factory=dict)
    """Relative paths of pictures made for the report: `thumbnail` with `heatmap`, the classes' colours over it; of a
    volume also `axial`, `coronal` and `sagittal` with `axial-classes`, ..."""
    picture_width: float | None = None
    """What the thumbnail shows across, in the case's unit; None without a spacing."""
    views: dict[str, float] = Field(default_factory=dict)
    """Of a volume: width in mm of the picture of each view."""

    @property
    def label(self) -> str:
        """The class of which most was found, or "nothing"."""
        found = [one for one in self.classes if one.pixels]
        return max(found, key=lambda one: one.pixels).name if found else "nothing"

    @property
    def parts(self) -> int:
        """Connected parts of all classes."""
        return sum(one.parts for one in self.classes)

    @property
    def probability(self) -> float | None:
        """The confidence, for the tables that all results share."""
        return self.confidence


def result_mask(folder: Path, objects: bool = False) -> Path | None:
    """The mask in a folder of results of one case, with `objects` the numbers of objects where there are any.

    None if it is no such folder, or the case has none.
    """
    try:
        files = SegmentResult.model_validate_json((folder / RESULT).read_bytes()).files
    except (OSError, ValidationError):
        return None
    name = files.get("objects") if objects else None
    mask = folder / (name or files.get("mask", ""))
    return mask if mask.is_file() else None
