"""What is written about an analysed slide: the JSON sidecar is the truth, every report is a rendering of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Verdict = Literal["done", "no tissue", "QC rejected", "failed"]
Label = Literal["positive", "negative"]
ItemKind = Literal["slide", "image", "scan", "case"]


def as_text(name: str) -> str:
    r"""`name` as any file can hold it: a file name is bytes, and those that are no UTF-8 are written as `\udcff`."""
    return name if name.isascii() else name.encode(errors="backslashreplace").decode()


class Record(BaseModel):
    """Base of all records: frozen, and an unknown field is an error. Texts are such that they can be written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, value: object) -> object:
        return as_text(value) if isinstance(value, str) else value


class SlideInfo(Record):
    """The slide as it was read. Lengths in level-0 pixels, array order (rows, columns)."""

    name: str
    digest: str
    reader: str
    reader_reason: str
    vendor: str
    shape: tuple[int, int]
    levels: int
    spacing_um: tuple[float, float] | None
    spacing_origin: Literal["file", "supplied"] | None
    metadata: dict[str, str] = Field(default_factory=dict)


class ModelInfo(Record):
    """The model that scored the windows."""

    name: str
    version: str
    digest: str
    classes: tuple[str, ...]
    positive: str
    window_px: tuple[int, int]
    spacing_um: float
    calibration: str
    card: str


class HeatmapInfo(Record):
    """The probability raster. `stride_um` is the side of a cell; `unread` counts windows that could not be decoded."""

    file: str
    stride_um: float
    shape: tuple[int, int]
    windows: int
    unread: int


class Region(Record):
    """One connected region at or above the threshold. Positions in level-0 pixels, array order."""

    id: int
    centroid: tuple[float, float]
    peak: tuple[float, float]
    bbox: tuple[float, float, float, float]
    area_mm2: float
    length_mm: float
    max_probability: float
    mean_probability: float
    score: float
    spread: float | None = None
    """Standard deviation of the probability at the peak over orientations of the window, where several were scored."""
    crop: str | None = None
    crop_spacing_um: float | None = None
    crop_width_um: float | None = None


class QcMeasure(Record):
    """One quality measure with the limits it was judged by."""

    name: str
    value: float
    unit: str
    ok: bool
    limit: str
    meaning: str


class TissueInfo(Record):
    """The tissue mask, with every threshold that made it."""

    area_mm2: float
    share: float
    method: str
    thresholds: dict[str, float]


class SlideResult(Record):
    """Everything found about one slide. Two runs on the same input write the same bytes."""

    schema_version: Literal[1] = 1
    verdict: Verdict
    reason: str = ""
    slide: SlideInfo
    model: ModelInfo
    config: dict[str, str | int | float | bool | None]
    config_digest: str
    software: dict[str, str]
    threshold: float
    slide_threshold: float | None = None
    """Probability at which the slide is positive, where that is not the one at which a cell is (`threshold`)."""
    probability: float | None
    score_rule: str
    label: Label | None
    heatmap: HeatmapInfo | None
    map: Literal["probability", "attention", "none"] = "probability"
    """What the heatmap shows: the probability of each cell, or how much each counted for the slide's; "none": the slide
    is judged as a whole, without a map."""
    class_probabilities: dict[str, float] = Field(default_factory=dict)
    """Of the slide as a whole, by class; empty where its score comes from the heatmap."""
    tissue: TissueInfo | None
    qc: tuple[QcMeasure, ...] = ()
    regions: tuple[Region, ...] = ()
    limits: tuple[str, ...] = ()
    """Sentences on what this result does not cover, failed regions among them."""
    images: dict[str, str] = Field(default_factory=dict)
    """Relative paths of pictures made for the report: `thumbnail`, `overlay_base`, ..."""
    thumbnail_spacing_um: float | None = None

    @property
    def judged_at(self) -> float:
        """Probability at which the slide is positive."""
        return self.threshold if self.slide_threshold is None else self.slide_threshold


class RunRecord(Record):
    """What belongs to the run rather than to the result: identity, times, machine. Differs between equal runs."""

    run_id: str
    started_utc: str
    finished_utc: str
    seconds: float
    device: str
    batch_size: int
    precision: str
    tiles_per_second: float | None
    command: str
    backend: str = ""
    warnings: tuple[str, ...] = ()


Status = Literal["done", "unchanged", "resumed", "no tissue", "QC rejected", "failed"]


class SlideOutcome(Record):
    """One line of a run: what became of a slide. A failed slide is a result like any other, with its reason."""

    slide: str
    """Path as it was given."""
    name: str
    """Name of its folder below the output folder."""
    called: str = ""
    """What its records call it, where that is known without them; else its folder's name has to do."""
    status: Status
    reason: str = ""
    transient: bool = False
    """Whether a failure may pass by itself, such as a file server that did not answer: worth another try."""
    probability: float | None = None
    probability_of: str = ""
    """The class that `probability` is of, where that is not the one of slides."""
    label: str | None = None
    """positive or negative; of an image, the predicted class."""
    regions: int = 0
    windows: int = 0
    unread: int = 0
    seconds: float = 0.0
    digests: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of what the result was made from, as far as it came to be known: `slide`, `model`, `config`, `code`,
    and `result`, which is the key of all of them together (see `medvision.store.manifest.ResultSpec`)."""
    batch_size: int | None = None
    """Windows per batch in the end; smaller than asked for where memory ran out. None where nothing was computed."""
    device: str = ""
    set_aside: str = ""
    """Where what was at `name` before is kept: the result of other content, or a person's files."""

    @property
    def shown(self) -> str:
        """What a page or a table calls it."""
        return self.called or self.name

    @property
    def ok(self) -> bool:
        """True where the slide has a result that answers the question asked."""
        return self.status in ("done", "unchanged", "resumed", "no tissue")


class ScoreRecord(Record):
    """A figure of merit as it is stored: its 95% interval is None where it was not estimated."""

    name: str
    value: float
    interval: tuple[float, float] | None
    protocol: str
    cases: int


class EvaluationRecord(Record):
    """How a run compares with the truth. `froc` holds (mean false positives per slide, sensitivity), rising."""

    title: str
    truth: str
    scores: tuple[ScoreRecord, ...]
    froc: tuple[tuple[float, float], ...] = ()
    note: str = ""


class RunIndex(Record):
    """What the index page of a run is rendered from, beside the slides' own results."""

    schema_version: Literal[1] = 1
    outcomes: tuple[SlideOutcome, ...]
    evaluation: EvaluationRecord | None = None
    run_id: str = ""
    """The run of the folder's ledger whose end the page shows; empty where no ledger was kept."""
    item: ItemKind = "slide"
    """What the outcomes are of."""
