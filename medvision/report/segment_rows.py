"""The lines of the index page that are of what was segmented."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from medvision.report import format as text
from medvision.report.rows import NONE, Cell, Row, View, links, note_of, picture_of
from medvision.store.records import SlideOutcome
from medvision.store.segment_records import ClassTotal, SegmentResult

SHOWN_CLASSES = 5
"""Classes up to which the page has a column for each; the tables always have."""


def segmented_classes(results: Iterable[SegmentResult]) -> tuple[str, ...]:
    """All classes of several results, in the order of their models."""
    return tuple(dict.fromkeys(one.name for result in results for one in result.classes))


def segment_view(classes: Sequence[str]) -> View:
    """What the page shows of cases that were searched for these classes."""
    shown = tuple(classes[:SHOWN_CLASSES])
    return View(
        item="case",
        picture="Classes",
        verdict="Most of",
        columns=("Kind", *map(text.visible, shown), "Parts", "Mean probability"),
        order=(*map(text.visible, classes), "Nothing found", "Failed"),
        row=partial(_row, classes=shown),
    )


def _row(
    outcome: SlideOutcome, folder: Path, result: SegmentResult, many: bool, classes: Sequence[str]
) -> Row:
    totals = {one.name: one for one in result.classes}
    nothing = result.label == "nothing"
    verdict = "Nothing found" if nothing else text.visible(result.label)
    kinds = {"image": 0.0, "slide": 1.0, "volume": 2.0}
    unread = 0 if result.tiling is None else result.tiling.unread
    return Row(
        name=text.visible(outcome.name),
        tone="neutral",
        verdict=verdict,
        spoken="with nothing found" if nothing else f"mostly {verdict}",
        reason=text.visible(result.reason),
        note=note_of(outcome),
        picture=picture_of(folder, result.images, True, f"Classes of {text.visible(result.case.name)}", many),
        cells=(
            Cell(result.case.kind, kinds[result.case.kind]),
            *(_cell(totals[name]) if name in totals else NONE for name in classes),
            Cell(text.count(result.parts), result.parts),
            NONE
            if result.confidence is None
            else Cell(text.probability(result.confidence), result.confidence),
        ),
        flags=(f"{text.plural(unread, 'window')} unread",) if unread else (),
        links=links(folder),
    )


def _cell(one: ClassTotal) -> Cell:
    """Area or volume, or the share of all pixels where there is no spacing."""
    if one.volume_ml is not None:
        return Cell(f"{one.volume_ml:.4g} ml", one.volume_ml)
    if one.area_mm2 is not None:
        shown = text.area_mm2(one.area_mm2) if one.area_mm2 >= 0.01 else f"{1e6 * one.area_mm2:,.4g} µm²"
        return Cell(shown, one.area_mm2)
    return Cell(text.share(one.share, 1.0), one.share)
