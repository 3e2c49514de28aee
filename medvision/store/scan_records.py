"""What is written about a scan that was searched for lung nodules: the JSON is the truth, the page a rendering."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medvision.store.image_records import FigureInfo
from medvision.store.records import QcMeasure, Record, Verdict

Millimetres = tuple[float, float, float]
Side = Literal["left", "right"]
SizeFrom = Literal["segmentation", "detector"]


class ScanInfo(Record):
    """The scan as it was read, upright: planes up, rows to the back, columns to the left. Array order."""

    name: str
    series: str
    """What `candidates.csv` calls the scan: its file's name without the ending, as in LUNA16."""
    digest: str
    reader: str
    reader_reason: str
    vendor: str
    shape: tuple[int, int, int]
    spacing_mm: Millimetres
    spacing_origin: Literal["file", "supplied"]
    axes: str
    """Letters of where planes, rows and columns lead: "SPL"."""
    oblique_degrees: float
    quantity: str
    metadata: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class NoduleModelInfo(Record):
    """A network, as its contract says it."""

    role: Literal["detector", "reduction"]
    name: str
    version: str
    digest: str
    architecture: str
    window: tuple[int, int, int]
    spacing_mm: Millimetres
    hu: tuple[float, float]
    temperature: float
    calibration: str
    figures: dict[str, FigureInfo] = Field(default_factory=dict)


class LungInfo(Record):
    """The lungs as they were found: how many, and how large by side. Unknown sides are left out."""

    count: int
    volume_ml: float
    by_side_ml: dict[Side, float] = Field(default_factory=dict)


class Finding(Record):
    """One candidate at or above the threshold. Lengths in millimetres, values in Hounsfield units.

    `world` is its centre as LPS (x, y, z), `voxel` the same in voxels of the upright scan (plane, row, column; the
    middle of voxel k is k + 0.5). `score` is what it was judged by: the reduction's probability, or the detector's
    where there was no reduction.
    """

    id: int
    world: Millimetres
    voxel: Millimetres
    side: Side | None
    """Lung; None where the lungs could not be told apart."""
    score: float
    detector_score: float
    detector_mm: float
    """Diameter of the detector's box."""
    size_from: SizeFrom
    """Whether sizes are those of a segmentation, or that failed and `diameter_mm` is the detector's."""
    diameter_mm: float
    """Mean of long and short axis in the plane where the finding is largest."""
    long_mm: float | None
    short_mm: float | None
    volume_mm3: float | None
    mean_hu: float | None
    size_band: str
    """Of Lung-RADS 2022 for a solid nodule at a first screening: information, no category of the patient."""
    crops: dict[str, str] = Field(default_factory=dict)
    """Pictures of the planes through it by view: axial, coronal, sagittal."""
    crop_mm: float = 0.0
    """Side of what these show."""


class NoduleResult(Record):
    """Everything found in one scan. Two runs on the same input write the same bytes."""

    schema_version: Literal[1] = 1
    kind: Literal["scan"] = "scan"
    verdict: Verdict
    reason: str = ""
    scan: ScanInfo
    models: tuple[NoduleModelInfo, ...]
    """The detector, then the reduction of false positives where there is one."""
    config: dict[str, str | int | float | bool | None]
    config_digest: str
    software: dict[str, str]
    threshold: float
    candidates: int = 0
    """In `candidates.csv`, at or above the threshold or not."""
    highest: float | None = None
    """Score of the most certain candidate; None where there is none."""
    findings: tuple[Finding, ...] = ()
    lungs: LungInfo
    windows: int = 0
    unread: int = 0
    qc: tuple[QcMeasure, ...] = ()
    limits: tuple[str, ...] = ()
    images: dict[str, str] = Field(default_factory=dict)
    """Relative paths of pictures made for the report: `thumbnail` and `frontal` (one file), `lateral`."""

    @property
    def label(self) -> str | None:
        """Whether there is a finding; None where nothing was looked for."""
        if self.verdict != "done":
            return None
        return "positive" if self.findings else "negative"

    @property
    def probability(self) -> float | None:
        """The highest score; 0 where nothing was found at all, None where nothing was looked for."""
        return None if self.verdict != "done" else self.highest or 0.0
