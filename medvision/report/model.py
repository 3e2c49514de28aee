"""The one view model of a slide's report: everything formatted and in reading order, before HTML or PDF is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medvision.report.callouts import Callout
from medvision.report.pictures import ColourStop, Picture, Ring, ScaleBar

BANNER = "RESEARCH USE ONLY – not for diagnosis"
SIGN_OFF = ("Name", "Date", "Signature")

Tone = Literal["positive", "negative", "neutral", "warning", "failed"]


@dataclass(frozen=True)
class Fact:
    """A label with its value; `code` marks digests and the like, which are set in a fixed pitch."""

    label: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class FactGroup:
    """Facts under one heading."""

    title: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Gauge:
    """The slide's probability and the threshold on the fixed scale from 0 to 1."""

    probability: float
    threshold: float
    probability_text: str
    threshold_text: str


@dataclass(frozen=True)
class Verdict:
    """What the analysis came to, in words first."""

    tone: Tone
    title: str
    explanation: str
    gauge: Gauge | None
    figures: tuple[Fact, ...]
    statements: tuple[Fact, ...]


@dataclass(frozen=True)
class Mark:
    """A region's number at a place given as fractions of the slide's width and height."""

    number: int
    x: float
    y: float
    linked: bool


@dataclass(frozen=True)
class Overview:
    """The thumbnail and the heat over it, of the same extent. `scale` is None where the slide has no spacing."""

    thumbnail: Picture
    heatmap: Picture | None
    outlines: tuple[Ring, ...]
    marks: tuple[Mark, ...]
    scale: ScaleBar | None
    extent: str
    map_title: str
    map_note: str
    what: str = "Slide"
    """What the thumbnail shows."""
    ticks: tuple[tuple[float, str], ...] = ((0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1, "1"))
    """Of the colour scale: place in 0..1, and label."""


@dataclass(frozen=True)
class RegionCard:
    """One of the top regions with its high-power picture."""

    number: int
    peak: str
    picture: Picture | None
    scale: ScaleBar | None
    facts: tuple[Fact, ...]
    note: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: `numeric` tells which columns are right-aligned figures."""

    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Check:
    """One line of quality control."""

    name: str
    value: str
    limit: str
    ok: bool
    meaning: str


@dataclass(frozen=True)
class Report:
    """A slide's report in reading order. A part that the verdict leaves empty is None or ()."""

    title: str
    slide: str
    subtitle: tuple[str, ...]
    verdict: Verdict
    threshold_text: str
    overview: Overview | None
    colours: tuple[ColourStop, ...]
    cards: tuple[RegionCard, ...]
    cards_note: str
    measures: tuple[Fact, ...]
    measures_note: str
    region_table: Grid | None
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]
    provenance: tuple[FactGroup, ...]
    limits: tuple[str, ...]
    footer: tuple[str, str]
    banner: str = BANNER
    checks_title: str = "Quality control"
    checks_none: str = "No quality measure was taken."
    sign_off: tuple[str, ...] = SIGN_OFF


@dataclass(frozen=True)
class ProbabilityBar:
    """The probability of one class; `named` marks the predicted one."""

    name: str
    probability: float
    text: str
    named: bool


@dataclass(frozen=True)
class ImageReport:
    """An image's report in reading order. `figures` are what the model's contract says of how good it is."""

    title: str
    image: str
    subtitle: tuple[str, ...]
    verdict: Verdict
    bars: tuple[ProbabilityBar, ...]
    bars_note: str
    figures: Grid | None
    figures_note: str
    overview: Overview
    colours: tuple[ColourStop, ...]
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]
    provenance: tuple[FactGroup, ...]
    limits: tuple[str, ...]
    banner: str = BANNER
    checks_title: str = "Is it like the training images?"
    checks_none: str = "The model does not say what its training images were like."
    sign_off: tuple[str, ...] = SIGN_OFF


@dataclass(frozen=True)
class SegmentPanel:
    """A picture, and the colours of the classes to be laid over it."""

    key: str
    caption: str
    picture: Picture
    classes: Picture
    scale: ScaleBar | None


@dataclass(frozen=True)
class LegendEntry:
    """A class with its colour, and what was found of it."""

    name: str
    colour: str
    value: str


@dataclass(frozen=True)
class SegmentReport:
    """The report of what was segmented, in reading order. `figures` are what the model's contract says."""

    title: str
    case: str
    kicker: str
    subtitle: tuple[str, ...]
    verdict: Verdict
    panels: tuple[SegmentPanel, ...]
    panels_note: str
    legend: tuple[LegendEntry, ...]
    classes: Grid
    parts: Grid | None
    files: tuple[Fact, ...]
    figures: Grid | None
    figures_none: str
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]
    provenance: tuple[FactGroup, ...]
    limits: tuple[str, ...]
    banner: str = BANNER
    checks_title: str = "Quality control"
    checks_none: str = "No quality measure was taken."
    sign_off: tuple[str, ...] = SIGN_OFF


@dataclass(frozen=True)
class Projection:
    """A scan seen as a whole from one side, with the places of its findings. `letters` are those of its edges."""

    key: str
    caption: str
    picture: Picture
    marks: tuple[Callout, ...]
    scale: ScaleBar
    letters: tuple[str, str]


@dataclass(frozen=True)
class FindingCard:
    """One finding with the planes through it, all to one scale."""

    number: int
    score: str
    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    scale: ScaleBar
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class ScanReport:
    """The report of a scan that was searched for nodules, in reading order. `figures` are what contracts say."""

    title: str
    scan: str
    subtitle: tuple[str, ...]
    verdict: Verdict
    projections: tuple[Projection, ...]
    projections_note: str
    cards: tuple[FindingCard, ...]
    cards_note: str
    measures: tuple[Fact, ...]
    measures_note: str
    table: Grid | None
    figures: Grid | None
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]
    provenance: tuple[FactGroup, ...]
    limits: tuple[str, ...]
    banner: str = BANNER
    checks_title: str = "Is the scan fit for the search?"
    checks_none: str = "No quality measure was taken."
    sign_off: tuple[str, ...] = SIGN_OFF
