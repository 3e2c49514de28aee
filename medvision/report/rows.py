"""What a line of the index page is, whatever it is of, and what the lines of slides and images have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medvision.report import format as text
from medvision.report.build import OUTLINES, RESULT
from medvision.report.dicom_sr import FINDINGS_SR
from medvision.report.model import Tone
from medvision.report.result import Result
from medvision.report.thumbnails import Thumbnail, beside, embedded
from medvision.store.records import ItemKind, SlideOutcome

INDEX_HTML = "index.html"

_FILES = (
    ("Report", "report.html"),
    ("PDF", "report.pdf"),
    ("GeoJSON", OUTLINES),
    ("GeoJSON", "findings.geojson"),
    ("GeoJSON", "segments.geojson"),
    ("DICOM SR", FINDINGS_SR),
    ("CSV", "candidates.csv"),
    ("CSV", "parts.csv"),
    ("Mask", "mask.png"),
    ("Mask", "mask.ome.tiff"),
    ("Mask", "mask.nii.gz"),
    ("Mask", "mask.dcm"),
    ("JSON", RESULT),
)


@dataclass(frozen=True)
class Cell:
    """A printed value and the number that it is sorted by; a missing one sorts below all.

    With `bar` it is a probability, drawn beside it, with a tick at `threshold` where there is one.
    """

    shown: str
    key: float
    bar: bool = False
    threshold: float | None = None


NONE = Cell("–", -1.0)


@dataclass(frozen=True)
class Row:
    """One item of the run. `spoken` is the verdict within a sentence; `marked`: it has what the view's `mark` says."""

    name: str
    tone: Tone
    verdict: str
    spoken: str
    reason: str
    note: str
    picture: Thumbnail | None
    cells: tuple[Cell, ...]
    flags: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    marked: bool = False


@dataclass(frozen=True)
class Item:
    """An item of a run: its outcome, its folder, and its result where that stands for the outcome."""

    outcome: SlideOutcome
    folder: Path
    result: Result | None


@dataclass(frozen=True)
class View:
    """What the page shows of one kind of item."""

    item: ItemKind
    picture: str
    verdict: str
    """What the column is called that says how an item ended."""
    columns: tuple[str, ...]
    """Titles of a row's cells."""
    order: tuple[str, ...]
    """Verdicts in the order of a summary; others follow."""
    row: Callable[[SlideOutcome, Path, Any, bool], Row]
    """The row of an item that has a result; raises `StoreError` if a picture is missing or broken."""
    mark: str = ""
    """What is told of some rows beside their verdict, and can be filtered by."""


def failed_row(outcome: SlideOutcome, folder: Path, result: Result | None, columns: Sequence[str]) -> Row:
    """The row of an item that failed, or whose result is not there or broken."""
    failed = outcome.status == "failed"
    own = result is not None and result.verdict == "failed"
    verdict = "Failed" if failed else "Result missing" if result is None else "Result broken"
    return Row(
        name=text.visible(outcome.shown),
        tone="failed",
        verdict=verdict,
        spoken=verdict.lower(),
        reason=text.visible(outcome.reason)
        or ("No reason was recorded." if failed else f"{RESULT} is not there."),
        note="",
        picture=None,
        cells=(NONE,) * len(columns),
        flags=(),
        links=links(folder) if own else (),
    )


def note_of(outcome: SlideOutcome) -> str:
    """What is said beside the verdict of an item that was not simply done."""
    return outcome.status if outcome.status in ("unchanged", "resumed") else ""


def picture_of(folder: Path, images: dict[str, str], heat: bool, alt: str, many: bool) -> Thumbnail | None:
    """The small picture of an item, in the page or beside it."""
    if many:
        return beside(folder.parent / INDEX_HTML, folder, images, heat, alt)
    return embedded(folder, images, heat, alt)


def links(folder: Path, heatmap: str = "") -> tuple[tuple[str, str], ...]:
    """Addresses relative to the page of the files that are there; `./` keeps a name from being read as a scheme."""
    files = list(_FILES)
    if heatmap:
        files.insert(2, ("Heatmap", heatmap))
    return tuple(
        (label, f"./{quote(folder.name, safe='')}/{quote(name)}")
        for label, name in files
        if (folder / name).is_file()
    )
