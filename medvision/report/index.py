"""The index page of a run: every item in one table, failed ones with their reason, the evaluation if any."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from medvision.core.errors import StoreError
from medvision.report import format as text
from medvision.report.across import Across, across_runs
from medvision.report.build import RESULT, read_record
from medvision.report.cohort_table import write_cohort_predictions, write_cohort_table
from medvision.report.html import read_template, render_page
from medvision.report.image_rows import classes_of, image_view
from medvision.report.model import BANNER, Tone
from medvision.report.result import kind_of, read_result
from medvision.report.rows import INDEX_HTML, Item, Row, View, failed_row
from medvision.report.scan_rows import scan_view
from medvision.report.segment_rows import segment_view, segmented_classes
from medvision.report.slide_rows import slide_view
from medvision.report.thumbnails import EMBEDDED, remove_older
from medvision.store.files import atomic_write, is_set_aside
from medvision.store.image_records import ImageResult
from medvision.store.ledger_records import PastResult
from medvision.store.records import EvaluationRecord, ItemKind, RunIndex, SlideOutcome
from medvision.store.segment_records import SegmentResult

__all__ = ["INDEX_HTML", "INDEX_JSON", "FrocPlot", "froc_plot", "render_index"]

INDEX_JSON = "index.json"

_DRAWING = 4
"""Threads that draw the small pictures; decoding and scaling run beside each other."""
_FROC_LEFT, _FROC_RIGHT = 0.125, 8.0


@dataclass(frozen=True)
class FrocPlot:
    """A FROC curve in fractions of the plot's width and height, y upwards, with the ticks of its x axis."""

    points: tuple[tuple[float, float], ...]
    ticks: tuple[tuple[float, str], ...]


def render_index(
    folder: Path,
    outcomes: Sequence[SlideOutcome] | None = None,
    evaluation: EvaluationRecord | None = None,
    run_id: str = "",
    item: ItemKind = "slide",
) -> Path:
    """Write the page of the run in `folder`, and `index.json`, from which it can be rendered again; returns the page.

    The run is of slides, images, scans or cases, as `item` says. The page has one row per outcome, in that order,
    with what its own `result.json` says where there is one; so have `cohort.csv` and `cohort.parquet` beside it, and
    of images also `predictions.csv`. With the `run_id` of a run in the folder's ledger, the page also says how that
    run compares with the earlier ones. Without outcomes, they, the evaluation, the run and what it is of are those of
    the stored `index.json`, else one outcome per folder of a result that is found.

    Raises:
        StoreError: if `index.json` or the ledger cannot be read, an outcome leads out of the run, or a file cannot be
            written. One whose own result cannot be read is listed with that as its failure.
    """
    index = _index(folder, outcomes, evaluation, run_id, item)
    across: Across | None = None
    recorded: dict[str, PastResult] = {}
    if index.run_id:
        across, recorded = across_runs(folder, index.run_id, index.item)
    froc = index.evaluation.froc if index.evaluation else ()
    items = [_item(folder, outcome, index.item) for outcome in index.outcomes]
    view = _view(index.item, items)
    many = len(items) > EMBEDDED
    with ThreadPoolExecutor(_DRAWING) as pool:
        rows = list(pool.map(lambda one: _row(view, one, many), items))
    shown = {row.picture.address for row in rows if row.picture is not None and row.picture.lazy}
    remove_older(folder / INDEX_HTML, {one.outcome.name for one in items}, shown)
    tables = write_cohort_table(folder, items, recorded, view.item)
    if (predictions := write_cohort_predictions(folder, items, recorded)) is not None:
        tables = (*tables, predictions)
    marked = sum(row.marked for row in rows)
    page = render_page(
        "index.html.j2",
        style=read_template("common.css") + read_template("index.css"),
        script=read_template("index.js"),
        files_beside=many,
        title=f"Run of {text.plural(len(rows), view.item)}",
        banner=BANNER,
        view=view,
        summary=_summary(view, rows) + (f"; {text.count(marked)} {view.mark.lower()}" if marked else ""),
        verdicts=_verdicts(view, rows),
        marked=marked,
        failed=[row for row in rows if row.tone == "failed"],
        rows=rows,
        evaluation=index.evaluation,
        scores=_scores(index.evaluation),
        froc=froc_plot(froc) if froc else None,
        across=across,
        tables=[table.name for table in tables],
    )
    atomic_write(folder / INDEX_JSON, (index.model_dump_json(indent=1) + "\n").encode())
    atomic_write(folder / INDEX_HTML, page)
    return folder / INDEX_HTML


def _view(item: ItemKind, items: Sequence[Item]) -> View:
    """The one place that tells what the page shows of slides, of images, of scans and of what was segmented."""
    if item == "slide":
        return slide_view()
    if item == "scan":
        return scan_view()
    if item == "case":
        return segment_view(
            segmented_classes(one.result for one in items if isinstance(one.result, SegmentResult))
        )
    return image_view(classes_of(one.result for one in items if isinstance(one.result, ImageResult)))


def froc_plot(curve: Sequence[tuple[float, float]]) -> FrocPlot:
    """The steps of a FROC curve over 1/8 to 8 false positives per slide, on a logarithmic axis."""

    def across(false_positives: float) -> float:
        kept = min(max(false_positives, _FROC_LEFT), _FROC_RIGHT)
        return round(math.log2(kept / _FROC_LEFT) / math.log2(_FROC_RIGHT / _FROC_LEFT), 5)

    points, height = [(0.0, 0.0)], 0.0
    for false_positives, sensitivity in curve:
        points += [(across(false_positives), height), (across(false_positives), round(sensitivity, 5))]
        height = round(sensitivity, 5)
    ticks = ((0.125, "⅛"), (0.25, "¼"), (0.5, "½"), (1, "1"), (2, "2"), (4, "4"), (8, "8"))
    return FrocPlot((*points, (1.0, height)), tuple((across(at), name) for at, name in ticks))


def _index(
    folder: Path,
    outcomes: Sequence[SlideOutcome] | None,
    evaluation: EvaluationRecord | None,
    run_id: str,
    item: ItemKind,
) -> RunIndex:
    if outcomes is None:
        if (folder / INDEX_JSON).is_file():
            stored = read_record(folder / INDEX_JSON, RunIndex)
            outcomes, item = stored.outcomes, stored.item
            evaluation = evaluation or stored.evaluation
            run_id = run_id or stored.run_id
        else:
            outcomes, item = _found(folder)
    kept = tuple(_without_path(outcome) for outcome in outcomes)
    return RunIndex(outcomes=kept, evaluation=evaluation, run_id=run_id, item=item)


def _without_path(outcome: SlideOutcome) -> SlideOutcome:
    """The path as given may say more about a patient than a page may; seconds differ between equal runs."""
    reason = (
        outcome.reason.replace(outcome.slide, outcome.called or Path(outcome.slide).name)
        if outcome.slide
        else outcome.reason
    )
    return outcome.model_copy(
        update={"slide": outcome.shown, "seconds": 0.0, "reason": reason, "set_aside": ""}
    )


def _found(folder: Path) -> tuple[list[SlideOutcome], ItemKind]:
    """An outcome for each folder of a run that has no stored index, and what they are of."""
    found = []
    item: ItemKind = "slide"
    for path in sorted(folder.glob(f"*/{RESULT}")):
        if path.parent.name.startswith(".") or is_set_aside(path.parent):
            continue
        name = path.parent.name
        try:
            result = read_result(path)
        except StoreError as error:
            reason = str(error).replace(f"{folder}/", "")
            found.append(SlideOutcome(slide=name, name=name, status="failed", reason=reason))
        else:
            item = kind_of(result) if item == "slide" else item
            found.append(SlideOutcome(slide=name, name=name, status=result.verdict, reason=result.reason))
    return found, item


def _item(folder: Path, outcome: SlideOutcome, item: ItemKind) -> Item:
    """An outcome with the result that it stands for, if that can be read."""
    own = folder / outcome.name
    if own.parent != folder or outcome.name in ("", ".", ".."):
        raise StoreError(f"{folder / INDEX_JSON}: {outcome.name!r} is not the name of a folder of results")
    result = None
    try:
        # An item that failed may have a result of an earlier run: its figures must not stand beside the failure.
        if (own / RESULT).is_file():
            result = read_result(own / RESULT)
            if kind_of(result) != item:
                raise StoreError(f"{own / RESULT}: is not of one {item}, as the other results here are")
            if outcome.status == "failed" and result.verdict != "failed":
                result = None
    except StoreError as error:
        outcome, result = _broken(folder, outcome, error), None
    return Item(outcome, own, result)


def _broken(folder: Path, outcome: SlideOutcome, error: StoreError) -> SlideOutcome:
    if outcome.status == "failed":
        return outcome
    return outcome.model_copy(update={"reason": str(error).replace(f"{folder}/", "")})


def _row(view: View, one: Item, many: bool) -> Row:
    outcome, folder, result = one.outcome, one.folder, one.result
    if outcome.status != "failed" and result is not None:
        try:
            return view.row(outcome, folder, result, many)
        except StoreError as error:
            outcome = _broken(folder.parent, outcome, error)
    return failed_row(outcome, folder, result, view.columns)


def _summary(view: View, rows: Sequence[Row]) -> str:
    spoken = {row.verdict: row.spoken for row in rows}
    counts = ((verdict, count) for verdict, count, _ in _verdicts(view, rows))
    return ", ".join(f"{text.count(count)} {spoken[verdict]}" for verdict, count in counts)


def _verdicts(view: View, rows: Sequence[Row]) -> tuple[tuple[str, int, Tone], ...]:
    """Each verdict with the number of its rows and its tone, in the order of a summary."""
    counts = Counter(row.verdict for row in rows)
    tones = {row.verdict: row.tone for row in sorted(rows, key=lambda row: not row.marked)}
    known = [name for name in view.order if name in counts] + sorted(set(counts) - set(view.order))
    return tuple((name, counts[name], tones[name]) for name in known)


def _scores(evaluation: EvaluationRecord | None) -> tuple[tuple[str, ...], ...]:
    if evaluation is None:
        return ()
    return tuple(
        (
            text.visible(score.name),
            f"{score.value:.3f}",
            "not estimated"
            if score.interval is None
            else f"{score.interval[0]:.3f} – {score.interval[1]:.3f}",
            text.count(score.cases),
            text.visible(score.protocol),
        )
        for score in evaluation.scores
    )
