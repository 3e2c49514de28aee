"""The index page of a run: every slide in one table, failed ones with their reason, and the evaluation if any."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from medvision.core.errors import StoreError
from medvision.report import format as text
from medvision.report.across import Across, across_runs
from medvision.report.build import OUTLINES, RESULT, read_record
from medvision.report.cohort_table import CohortSlide, write_cohort_table
from medvision.report.html import read_template, render_page
from medvision.report.model import BANNER, Tone
from medvision.report.thumbnails import EMBEDDED, Thumbnail, beside, embedded, remove_older
from medvision.store.files import atomic_write, is_set_aside
from medvision.store.ledger_records import PastResult
from medvision.store.records import EvaluationRecord, RunIndex, SlideOutcome, SlideResult

INDEX_HTML = "index.html"
INDEX_JSON = "index.json"

_FILES = (("Report", "report.html"), ("PDF", "report.pdf"), ("GeoJSON", OUTLINES), ("JSON", RESULT))
_TONES: dict[str, Tone] = {"no tissue": "neutral", "QC rejected": "warning", "failed": "failed"}
_DRAWING = 4
"""Threads that draw the small pictures; decoding and scaling run beside each other."""
_FROC_LEFT, _FROC_RIGHT = 0.125, 8.0


@dataclass(frozen=True)
class Cell:
    """A printed value and the number that it is sorted by; a missing one sorts below all."""

    shown: str
    key: float


@dataclass(frozen=True)
class Row:
    """One slide of the run."""

    name: str
    tone: Tone
    verdict: str
    reason: str
    note: str
    picture: Thumbnail | None
    probability: Cell
    threshold: float | None
    length: Cell
    regions: Cell
    tissue: Cell
    flags: tuple[str, ...]
    links: tuple[tuple[str, str], ...]


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
) -> Path:
    """Write the page of the run in `folder`, and `index.json`, from which it can be rendered again; returns the page.

    It has one row per outcome, in that order, with what the slide's own `result.json` says where there is one; so have
    `cohort.csv` and `cohort.parquet` beside it. With the `run_id` of a run in the folder's ledger, the page also says
    how that run compares with the earlier ones. Without outcomes, they, the evaluation and the run are those of the
    stored `index.json`, else one outcome per slide folder found.

    Raises:
        StoreError: if `index.json` or the ledger cannot be read, an outcome leads out of the run, or a file cannot be
            written. A slide whose own result cannot be read is listed with that as its failure.
    """
    index = _index(folder, outcomes, evaluation, run_id)
    across: Across | None = None
    recorded: dict[str, PastResult] = {}
    if index.run_id:
        across, recorded = across_runs(folder, index.run_id)
    froc = index.evaluation.froc if index.evaluation else ()
    slides = [_slide(folder, outcome) for outcome in index.outcomes]
    many = len(slides) > EMBEDDED
    with ThreadPoolExecutor(_DRAWING) as pool:
        rows = list(pool.map(lambda slide: _row(slide, many), slides))
    shown = {row.picture.address for row in rows if row.picture is not None and row.picture.lazy}
    remove_older(folder / INDEX_HTML, {slide.outcome.name for slide in slides}, shown)
    tables = write_cohort_table(folder, slides, recorded)
    page = render_page(
        "index.html.j2",
        style=read_template("common.css") + read_template("index.css"),
        script=read_template("index.js"),
        files_beside=many,
        title=f"Run of {text.plural(len(rows), 'slide')}",
        banner=BANNER,
        summary=_summary(rows),
        verdicts=_verdicts(rows),
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
    folder: Path, outcomes: Sequence[SlideOutcome] | None, evaluation: EvaluationRecord | None, run_id: str
) -> RunIndex:
    stored = read_record(folder / INDEX_JSON, RunIndex) if (folder / INDEX_JSON).is_file() else None
    if outcomes is None and stored is not None:
        evaluation = evaluation or stored.evaluation
        run_id = run_id or stored.run_id
    if outcomes is None:
        outcomes = _found(folder) if stored is None else stored.outcomes
    kept = tuple(_without_path(outcome) for outcome in outcomes)
    return RunIndex(outcomes=kept, evaluation=evaluation, run_id=run_id)


def _without_path(outcome: SlideOutcome) -> SlideOutcome:
    """The path as given may say more about a patient than a page may; seconds differ between equal runs."""
    reason = (
        outcome.reason.replace(outcome.slide, Path(outcome.slide).name) if outcome.slide else outcome.reason
    )
    return outcome.model_copy(update={"slide": outcome.name, "seconds": 0.0, "reason": reason})


def _found(folder: Path) -> list[SlideOutcome]:
    """An outcome for each slide folder of a run that has no stored index."""
    found = []
    for path in sorted(folder.glob(f"*/{RESULT}")):
        if path.parent.name.startswith(".") or is_set_aside(path.parent):
            continue
        name = path.parent.name
        try:
            result = read_record(path, SlideResult)
        except StoreError as error:
            reason = str(error).replace(f"{folder}/", "")
            found.append(SlideOutcome(slide=name, name=name, status="failed", reason=reason))
        else:
            found.append(SlideOutcome(slide=name, name=name, status=result.verdict, reason=result.reason))
    return found


def _slide(folder: Path, outcome: SlideOutcome) -> CohortSlide:
    """An outcome with the result that it stands for, if that can be read."""
    slide = folder / outcome.name
    if slide.parent != folder or outcome.name in ("", ".", ".."):
        raise StoreError(f"{folder / INDEX_JSON}: {outcome.name!r} is not the name of a slide's folder")
    result = None
    try:
        # Of a failed slide an earlier run may have left a result: its figures must not stand beside the failure.
        if (slide / RESULT).is_file():
            result = read_record(slide / RESULT, SlideResult)
            if outcome.status == "failed" and result.verdict != "failed":
                result = None
    except StoreError as error:
        outcome = _broken(folder, outcome, error)
    return CohortSlide(outcome, slide, result)


def _broken(folder: Path, outcome: SlideOutcome, error: StoreError) -> SlideOutcome:
    if outcome.status == "failed":
        return outcome
    return outcome.model_copy(update={"reason": str(error).replace(f"{folder}/", "")})


def _row(slide: CohortSlide, many: bool) -> Row:
    outcome, folder, result = slide.outcome, slide.folder, slide.result
    if outcome.status != "failed" and result is not None:
        try:
            return _result_row(outcome, folder, result, many)
        except StoreError as error:
            outcome = _broken(folder.parent, outcome, error)
    return _failed_row(outcome, folder, result)


def _result_row(outcome: SlideOutcome, slide: Path, result: SlideResult, many: bool) -> Row:
    label = result.label or result.verdict
    verdict = label if result.verdict == "done" else result.verdict
    physical = result.slide.spacing_um is not None
    longest = max((region.length_mm for region in result.regions if result.verdict == "done"), default=None)
    return Row(
        name=text.visible(outcome.name),
        tone=_TONES.get(result.verdict) or result.label or "neutral",
        verdict=text.sentence(verdict),
        reason=text.visible(result.reason),
        note=outcome.status if outcome.status in ("unchanged", "resumed") else "",
        picture=_picture(slide, result, many),
        probability=_probability(result),
        threshold=result.judged_at,
        length=_cell(longest if physical else None, text.length_mm),
        regions=Cell(text.count(len(result.regions)), len(result.regions))
        if result.verdict == "done"
        else _NONE,
        tissue=_cell(result.tissue.area_mm2 if physical and result.tissue else None, text.area_mm2),
        flags=_flags(result),
        links=_links(slide, result),
    )


_NONE = Cell("–", -1.0)


def _failed_row(outcome: SlideOutcome, slide: Path, result: SlideResult | None) -> Row:
    failed = outcome.status == "failed"
    own = result is not None and result.verdict == "failed"
    return Row(
        name=text.visible(outcome.name),
        tone="failed",
        verdict="Failed" if failed else "Result missing" if result is None else "Result broken",
        reason=text.visible(outcome.reason)
        or ("No reason was recorded." if failed else f"{RESULT} is not there."),
        note="",
        picture=None,
        probability=_NONE,
        threshold=None,
        length=_NONE,
        regions=_NONE,
        tissue=_NONE,
        flags=(),
        links=_links(slide, result) if own and result is not None else (),
    )


def _cell(value: float | None, shown: Callable[[float], str]) -> Cell:
    return _NONE if value is None else Cell(shown(value), value)


def _probability(result: SlideResult) -> Cell:
    value = result.probability if result.verdict == "done" else None
    return _NONE if value is None else Cell(text.probability(value, result.judged_at), value)


def _flags(result: SlideResult) -> tuple[str, ...]:
    flags = [text.visible(measure.name) for measure in result.qc if not measure.ok]
    if result.heatmap is not None and result.heatmap.unread:
        flags.append(text.plural(result.heatmap.unread, "window") + " unread")
    return tuple(text.sentence(flag) for flag in flags)


def _picture(slide: Path, result: SlideResult, many: bool) -> Thumbnail | None:
    alt = f"Heatmap of {text.visible(result.slide.name)}"
    heat = result.verdict == "done"
    if many:
        return beside(slide.parent / INDEX_HTML, slide, result.images, heat, alt)
    return embedded(slide, result.images, heat, alt)


def _links(slide: Path, result: SlideResult | None) -> tuple[tuple[str, str], ...]:
    """Addresses relative to the page of the files that are there; `./` keeps a name from being read as a scheme."""
    files = list(_FILES)
    if result is not None and result.heatmap is not None:
        files.insert(2, ("Heatmap", result.heatmap.file))
    return tuple(
        (label, f"./{quote(slide.name, safe='')}/{quote(name)}")
        for label, name in files
        if (slide / name).is_file()
    )


def _summary(rows: Sequence[Row]) -> str:
    counts = ((verdict, count) for verdict, count, _ in _verdicts(rows))
    return ", ".join(f"{text.count(count)} {_in_sentence(verdict)}" for verdict, count in counts)


def _verdicts(rows: Sequence[Row]) -> tuple[tuple[str, int, Tone], ...]:
    """Each verdict with the number of its rows and its tone, in the order of a summary."""
    counts, tones = Counter(row.verdict for row in rows), {row.verdict: row.tone for row in rows}
    order = ("Positive", "Negative", "No tissue", "QC rejected", "Failed")
    known = [name for name in order if name in counts] + sorted(set(counts) - set(order))
    return tuple((name, counts[name], tones[name]) for name in known)


def _in_sentence(verdict: str) -> str:
    return verdict if verdict.startswith("QC") else verdict.lower()


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
