"""Evaluated segmentations as a page, as JSON, and as a table with a row per case and class."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np

from medvision.evaluations.page import NONE, EvaluationPage, PageTable, Row
from medvision.evaluations.segment import PUBLISHED, PUBLISHED_NOTE, Interval, SegmentResult
from medvision.evaluations.segment_measures import Measure
from medvision.evaluations.segment_plots import plots, precisions
from medvision.metrics.instances import THRESHOLDS
from medvision.metrics.overlap import nan_mean, pixel_scores
from medvision.report.format import count, plural, shortened

ROWS, CLASSES, NAME = 100, 24, 28
DEPTHS = 9


def describe(result: SegmentResult) -> EvaluationPage:
    """The result as a page."""
    task = result.options.task
    over = "cases" if result.patients is None else f"{count(result.patients)} patients"
    drawn = f"{count(result.resamples)} bootstrap draws of {over}" if result.resamples else "none"
    membranes = task == "membranes"
    ours = {figure.measure.key: _text(figure.measure, figure.value, result.unit) for figure in result.figures}
    columns = {
        "warping_error": "warping error",
        "rand_error": "Rand error (1 - F)",
    }
    return EvaluationPage(
        name="segment",
        title=result.kind.heading,
        kicker="Evaluation",
        heading=result.kind.heading,
        summary=f"{_counts(result)}. Intervals: 95%, {drawn}.",
        rows=_rows(result),
        plots=plots(result),
        notes=result.notes,
        tables=_tables(result),
        published=PUBLISHED if membranes else (),
        published_note=PUBLISHED_NOTE if membranes else "",
        columns=columns if membranes else {},
        ours={key: ours[key] for key in columns} if membranes else {},
        data=to_json(result),
        files={"segment-cases.csv": _csv(result)},
    )


def to_json(result: SegmentResult) -> dict[str, Any]:
    """Everything that was found, ready for JSON. A figure that does not exist is null."""
    options, files = result.options, result.files
    per_class = {
        name: {
            measure.key: {
                "mean": _known(result.means[i, j]),
                "interval": result.intervals[i][j],
                "cases": int(result.known[i, j]),
            }
            for j, measure in enumerate(result.kind.measures)
        }
        for i, name in enumerate(result.classes)
    }
    content: dict[str, Any] = {
        "evaluation": "segment",
        "task": options.task,
        "unit": result.unit,
        "settings": {
            "tolerance": options.tolerance if options.task == "semantic" else None,
            "ignore": options.ignore,
            "empty": options.empty,
            "missing": files.missing,
            "spacing": files.spacing or None,
            "thresholds": options.thresholds if options.task == "membranes" else None,
            "membranes": options.membranes if options.task == "membranes" else None,
            "thin": options.thin if options.task == "membranes" else None,
        },
        "figures": {
            how: {
                figure.measure.key: {"value": _known(figure.value), "interval": figure.interval}
                for figure in result.figures
                if figure.how == how
            }
            for how in ("mean", "pooled")
        },
        "chosen": [result.classes[i] for i in result.chosen],
        "classes": per_class,
        "cases": [
            {
                "case": case,
                "classes": {
                    name: {
                        "truth": int(result.sizes[k, i, 0]),
                        "predicted": int(result.sizes[k, i, 1]),
                        **{
                            measure.key: _known(result.values[k, i, j])
                            for j, measure in enumerate(result.kind.measures)
                        },
                    }
                    for i, name in enumerate(result.classes)
                },
            }
            for k, case in enumerate(result.cases)
        ],
        "sizes": result.kind.sized,
        "intervals": {
            "level": 0.95,
            "bootstrap over": "cases" if result.patients is None else "patients",
            "patients": result.patients,
            "resamples": result.resamples,
            "seed": result.seed,
        },
    }
    if result.confusion is not None:
        names, table = result.confusion
        content["confusion"] = {"labels": names, "truth in rows": table.tolist()}
    return content


def _counts(result: SegmentResult) -> str:
    sizes = result.sizes[:, list(result.chosen)].sum(axis=(0, 1))
    text = plural(len(result.cases), "plane" if result.options.task == "membranes" else "case")
    if result.options.task == "semantic":
        names = [result.classes[i] for i in result.chosen]
        several = f"{len(names)} classes" if len(names) > 4 else ", ".join(names)
        surface = f"surface Dice within {result.options.tolerance:g} {result.unit}"
        return f"{text}; {several}; distances in {result.unit}, {surface}"
    text += f"; {count(int(sizes[0]))} {result.kind.sized} in the truth, {count(int(sizes[1]))} predicted"
    if result.options.task == "membranes":
        text += f" at a {result.classes[result.chosen[0]]}"
    return text


def _rows(result: SegmentResult) -> tuple[Row, ...]:
    several = len(result.chosen) > 1
    rows = []
    for figure in result.figures:
        if not figure.measure.definition:
            continue
        words = {
            "mean": ", mean over classes" if several else "",
            "pooled": "" if result.options.task == "semantic" else ", all objects together",
        }
        rows.append(
            Row(
                f"{figure.measure.title}{words[figure.how]}",
                _text(figure.measure, figure.value, result.unit),
                _interval(figure.measure, figure.interval),
                figure.measure.key in result.kind.main,
            )
        )
    return tuple(rows)


def _tables(result: SegmentResult) -> tuple[PageTable, ...]:
    tables = []
    if len(result.classes) > 1:
        tables.append(_classes(result))
    if result.options.task == "instances":
        tables.append(_precision(result))
    if result.confusion is not None:
        tables.append(_confusion(result))
    return (*tables, _definitions(result), _cases(result))


def _shown(result: SegmentResult) -> list[int]:
    return [j for j, measure in enumerate(result.kind.measures) if measure.definition]


def _classes(result: SegmentResult) -> PageTable:
    shown = _shown(result)
    pooled = None if result.confusion is None else pixel_scores(result.confusion[1])
    more = ("pooled accuracy", "pooled IU") if pooled else ()
    rows = []
    for i, name in enumerate(result.classes):
        cells = [
            _text(result.kind.measures[j], result.means[i, j], result.unit)
            + (f" ({_interval(result.kind.measures[j], result.intervals[i][j])})" if j == 0 else "")
            for j in shown
        ]
        if pooled and result.confusion:
            names = result.confusion[0]
            at = names.index(name) if i in result.chosen else None
            cells += [NONE if at is None else _share(part[at]) for part in (pooled.accuracy, pooled.iu)]
        rows.append((name.removeprefix("threshold "), str(int(result.known[i, 0])), *cells))
    title = "By threshold" if result.options.task == "membranes" else "By class"
    first = "" if result.options.task == "membranes" else "class"
    heads = (first or "threshold", "cases", *(result.kind.measures[j].title for j in shown), *more)
    note = "Means over the cases that have the figure; the interval is that of the first."
    return PageTable(title, heads, tuple(rows), note=note)


def _precision(result: SegmentResult) -> PageTable:
    rows = tuple(
        (name, *(_share(value) for value in precisions(result, how)))
        for name, how in (("mean over cases", "mean"), ("all objects together", "pooled"))
    )
    note = "TP / (TP + FP + FN) of objects matched above an IoU."
    return PageTable(
        "Average precision by overlap", ("IoU", *(f"{t:g}" for t in THRESHOLDS)), rows, note=note
    )


def _confusion(result: SegmentResult) -> PageTable:
    assert result.confusion is not None
    names, table = result.confusion
    names, table = names[:CLASSES], table[:CLASSES, :CLASSES]
    sums = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, sums, out=np.zeros(table.shape), where=sums > 0)
    rows = tuple(
        (name, count(int(total)), *(f"{100 * share:.2f}%" for share in row))
        for name, total, row in zip(names, sums[:, 0], shares, strict=True)
    )
    shades = tuple((0, *(math.ceil(share * DEPTHS) for share in row)) for row in shares.tolist())
    note = "A row per label of the truth, a column per predicted one: share of the row's pixels, of all cases together."
    return PageTable("Confusion of pixels", ("truth", "pixels", *names), rows, note=note, shades=shades)


def _cases(result: SegmentResult) -> PageTable:
    """The chosen classes of each case; of many cases those that were scored worst."""
    shown, chosen = _shown(result), list(result.chosen)
    semantic = result.options.task == "semantic" and len(result.classes) > 1
    rows = range(len(result.classes)) if semantic else chosen
    order = list(range(len(result.cases)))
    title, note = "Cases", ""
    if len(order) * len(rows) > ROWS:
        worst = np.argsort(nan_mean(result.values[:, chosen, 0], axis=1), kind="stable")
        order = worst[: max(1, ROWS // len(rows))].tolist()
        title, note = "Worst cases", f"{len(order)} of {len(result.cases)}; all are in segment-cases.csv."
    cells = [
        (
            shortened(result.cases[k], NAME),
            *((result.classes[i],) if semantic else ()),
            *(count(int(size)) for size in result.sizes[k, i]),
            *(_text(result.kind.measures[j], result.values[k, i, j], result.unit) for j in shown),
        )
        for k in order
        for i in rows
    ]
    kind = (f"{result.kind.sized}, truth", f"{result.kind.sized}, predicted")
    head = ("case", *(("class",) if semantic else ()), *kind, *(result.kind.measures[j].title for j in shown))
    return PageTable(title, head, tuple(cells), words=2 if semantic else 1, note=note)


def _definitions(result: SegmentResult) -> PageTable:
    measures = dict.fromkeys((*result.kind.measures, *result.kind.pooled))
    rows = tuple((measure.title, measure.definition) for measure in measures if measure.definition)
    return PageTable("How the figures are defined", ("figure", "definition"), rows, words=2)


def _csv(result: SegmentResult) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    keys = [f"{m.key}_{_ascii(result.unit)}" if m.length else m.key for m in result.kind.measures]
    writer.writerow(["case", "class", f"truth_{result.kind.sized}", f"predicted_{result.kind.sized}", *keys])
    for k, case in enumerate(result.cases):
        for i, name in enumerate(result.classes):
            values = ["" if math.isnan(v) else repr(v) for v in result.values[k, i].tolist()]
            writer.writerow([case, name, *result.sizes[k, i].tolist(), *values])
    return text.getvalue().encode()


def _ascii(unit: str) -> str:
    return "um" if unit == "µm" else unit


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _text(measure: Measure, value: float, unit: str) -> str:
    if math.isnan(value):
        return NONE
    return f"{_bare(measure, value)} {unit}" if measure.length else _bare(measure, value)


def _interval(measure: Measure, interval: Interval) -> str:
    return NONE if interval is None else "–".join(_bare(measure, bound) for bound in interval)


def _bare(measure: Measure, value: float) -> str:
    if measure.length:
        return f"{value:.2f}"
    return f"{value:.3f}" if measure.higher_is_better else f"{value:.5f}"


def _share(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.3f}"
