"""The lines of the index page and of the cohort's tables that are of slides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medvision.report import format as text
from medvision.report.model import Tone
from medvision.report.rows import NONE, Cell, Row, View, links, note_of, picture_of
from medvision.store.records import SlideOutcome, SlideResult

_TONES: dict[str, Tone] = {"no tissue": "neutral", "QC rejected": "warning", "failed": "failed"}


def slide_view() -> View:
    """What the page shows of slides."""
    return View(
        item="slide",
        picture="Heatmap",
        verdict="Verdict",
        columns=("Probability", "Longest", "Regions", "Tissue"),
        order=("Positive", "Negative", "No tissue", "QC rejected", "Failed"),
        row=_row,
    )


def _row(outcome: SlideOutcome, folder: Path, result: SlideResult, many: bool) -> Row:
    done = result.verdict == "done"
    verdict = text.sentence(result.label or result.verdict if done else result.verdict)
    physical = result.slide.spacing_um is not None
    longest = max((region.length_mm for region in result.regions if done), default=None)
    return Row(
        name=text.visible(outcome.shown),
        tone=_TONES.get(result.verdict) or result.label or "neutral",
        verdict=verdict,
        spoken=verdict if verdict.startswith("QC") else verdict.lower(),
        reason=text.visible(result.reason),
        note=note_of(outcome),
        picture=picture_of(
            folder, result.images, done, f"Heatmap of {text.visible(result.slide.name)}", many
        ),
        cells=(
            _probability(result),
            _cell(longest if physical else None, text.length_mm),
            Cell(text.count(len(result.regions)), len(result.regions)) if done else NONE,
            _cell(result.tissue.area_mm2 if physical and result.tissue else None, text.area_mm2),
        ),
        flags=_flags(result),
        links=links(folder, result.heatmap.file if result.heatmap is not None else ""),
    )


def _cell(value: float | None, shown: Callable[[float], str]) -> Cell:
    return NONE if value is None else Cell(shown(value), value)


def _probability(result: SlideResult) -> Cell:
    value = result.probability if result.verdict == "done" else None
    if value is None:
        return NONE
    return Cell(text.probability(value, result.judged_at), value, bar=True, threshold=result.judged_at)


def _flags(result: SlideResult) -> tuple[str, ...]:
    flags = [text.visible(measure.name) for measure in result.qc if not measure.ok]
    if result.heatmap is not None and result.heatmap.unread:
        flags.append(text.plural(result.heatmap.unread, "window") + " unread")
    return tuple(text.sentence(flag) for flag in flags)
