"""The lines of the index page and of the cohort's tables that are of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from medvision.report import format as text
from medvision.report.model import Tone
from medvision.report.rows import NONE, Cell, Row, View, links, note_of, picture_of
from medvision.store.image_records import ImageResult
from medvision.store.records import SlideOutcome

SHOWN_CLASSES = 8
"""Classes up to which the page has a column for each; the tables always have."""


def classes_of(results: Iterable[ImageResult]) -> tuple[str, ...]:
    """All classes of several results, in the order of their models."""
    return tuple(dict.fromkeys(name for result in results for name in result.probabilities))


def image_view(classes: Sequence[str]) -> View:
    """What the page shows of images that are of these classes."""
    shown = tuple(classes) if len(classes) <= SHOWN_CLASSES else ()
    return View(
        item="image",
        picture="Picture",
        verdict="Class",
        columns=("Probability", *map(text.visible, shown)),
        order=(*map(text.visible, classes), "Failed"),
        row=partial(_row, classes=shown),
        mark="Unlike training",
    )


def _row(outcome: SlideOutcome, folder: Path, result: ImageResult, many: bool, classes: Sequence[str]) -> Row:
    outside = result.in_scope is False
    predicted = text.visible(result.predicted)
    found = result.probabilities
    return Row(
        name=text.visible(outcome.shown),
        tone=_tone(result),
        verdict=predicted,
        spoken=predicted,
        reason=text.visible(result.reason),
        note=note_of(outcome),
        picture=picture_of(folder, result.images, False, f"Image {text.visible(result.image.name)}", many),
        cells=(
            Cell(text.probability(found[result.predicted]), found[result.predicted], bar=True),
            *(
                Cell(text.probability(found[name]), found[name]) if name in found else NONE
                for name in classes
            ),
        ),
        flags=tuple(
            text.sentence(flag)
            for flag in (
                *(("unlike training",) if outside else ()),
                *(text.visible(measure.name) for measure in result.qc if not measure.ok),
            )
        ),
        links=links(folder),
        marked=outside,
    )


def _tone(result: ImageResult) -> Tone:
    if result.verdict != "done" or result.in_scope is False:
        return "warning"
    if result.model.positive is None:
        return "neutral"
    return "positive" if result.predicted == result.model.positive else "negative"
