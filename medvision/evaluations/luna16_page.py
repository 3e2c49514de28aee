"""A LUNA16 evaluation as a page, as JSON, and as the tables that the official script writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, fields
from typing import TYPE_CHECKING, Any

from medvision.evaluations.luna16 import PUBLISHED, Luna16Result, PartScore, ScanScore
from medvision.evaluations.page import NONE, EvaluationPage, PageTable, Row, interval_text, number
from medvision.metrics.froc import LUNA16_RATES
from medvision.report.format import count, plural
from medvision.report.plots import GREY, Plot, draw, paint_froc, rate_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED_NOTE = "published, LUNA16, 10-fold cross-validation"


def describe(result: Luna16Result) -> EvaluationPage:
    """The result as a page."""
    rates = {
        f"at {rate:g}": value for rate, value in zip(LUNA16_RATES, result.froc.sensitivities, strict=True)
    }
    return EvaluationPage(
        name="luna16",
        title="LUNA16",
        kicker="Evaluation, official protocol",
        heading="LUNA16: lung nodules in CT",
        summary=f"{_counts(result)}. Intervals: 95%, {count(result.resamples)} bootstrap draws of scans.",
        rows=_rows(result),
        plots=(draw_froc(result),),
        notes=result.notes,
        tables=_tables(result),
        published=PUBLISHED,
        published_note=PUBLISHED_NOTE,
        columns={"cpm": "CPM", **{f"at {rate:g}": rate_text(rate) for rate in LUNA16_RATES}},
        ours={"cpm": number(result.froc.score), **{name: number(value) for name, value in rates.items()}},
        data=to_json(result),
        files=_files(result),
    )


def to_json(result: Luna16Result) -> dict[str, Any]:
    """Everything that was found, ready for JSON; the curve, and what became of each nodule and scan, are in CSV."""
    froc = result.froc
    intervals = froc.intervals or [None] * len(froc.rates)
    means = froc.means or [None] * len(froc.rates)
    return {
        "evaluation": "luna16",
        "protocol": "official",
        "scans": len(result.scans),
        "nodules": {"all": froc.lesions, "found": result.found},
        "candidates": {
            "given": sum(scan.candidates for scan in result.scans),
            "counted": sum(scan.counted for scan in result.scans),
            "false positives": sum(scan.false_positives for scan in result.scans),
            "on excluded findings, ignored": sum(scan.on_excluded for scan in result.scans),
            "on a nodule that another one hit, ignored": sum(scan.repeated for scan in result.scans),
        },
        "cpm": froc.score,
        "interval": froc.interval,
        "at": [
            {
                "false_positives_per_scan": rate,
                "sensitivity": sensitivity,
                "interval": interval,
                "mean_of_draws": mean,
            }
            for rate, sensitivity, interval, mean in zip(
                froc.rates, froc.sensitivities, intervals, means, strict=True
            )
        ],
        "by_diameter": [asdict(part) for part in result.diameters],
        "by_fold": [asdict(part) for part in result.folds],
        "intervals": {
            "level": 0.95,
            "bootstrap over": "scans",
            "resamples": result.resamples,
            "seed": result.seed,
        },
    }


def draw_froc(result: Luna16Result) -> Plot:
    """The curve with the bounds of the draws, and Ding's figures beside it."""
    froc, theirs = result.froc, PUBLISHED[0]
    interval = f" ({interval_text(froc.interval)})" if froc.interval else ""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        paint_froc(axes, froc, "nodule", "scan", f"CPM {froc.score:.3f}{interval}")
        values = [theirs.figures[f"at {rate:g}"] for rate in LUNA16_RATES]
        axes.plot(LUNA16_RATES, values, "x", color=GREY, markersize=6, label=f"{theirs.method}, on LUNA16")
        axes.legend(loc="lower right", frameon=False, fontsize=8.5)

    alt = "Curve of nodule sensitivity against false positives per scan; the figures are in the table"
    return draw("luna16-froc", alt, (6, 4.2), paint)


def _rows(result: Luna16Result) -> tuple[Row, ...]:
    froc = result.froc
    intervals = froc.intervals or [None] * len(froc.rates)
    scans = len(result.scans)
    false = sum(scan.false_positives for scan in result.scans)
    return (
        Row("CPM", number(froc.score), interval_text(froc.interval), True),
        *(
            Row(f"at {rate_text(rate)} FP per scan", number(value), interval_text(interval))
            for rate, value, interval in zip(froc.rates, froc.sensitivities, intervals, strict=True)
        ),
        Row("with all candidates", number(result.found / froc.lesions)),
        Row("their FP per scan", f"{false / scans:.1f}"),
    )


def _tables(result: Luna16Result) -> tuple[PageTable, ...]:
    head = ("nodules", "found", "CPM", *(rate_text(rate) for rate in LUNA16_RATES))
    tables = [
        PageTable(
            "By diameter",
            ("diameter", *head),
            tuple((part.name, *_part_cells(part)) for part in result.diameters),
            note="Sensitivity to the nodules of a class at the false positives per scan of all candidates.",
        )
    ]
    if result.folds:
        tables.append(
            PageTable(
                "By fold",
                ("fold", "scans", *head),
                tuple((part.name, str(part.scans), *_part_cells(part)) for part in result.folds),
                note="Each fold by itself. The figures above are of all scans together, as in the challenge.",
            )
        )
    return tuple(tables)


def _part_cells(part: PartScore) -> tuple[str, ...]:
    read = part.sensitivities or (None,) * len(LUNA16_RATES)
    cells = (part.score, *read)
    return str(part.nodules), str(part.found), *(NONE if cell is None else number(cell) for cell in cells)


def _counts(result: Luna16Result) -> str:
    scans = result.scans
    ignored = sum(scan.on_excluded for scan in scans)
    repeated = sum(scan.repeated for scan in scans)
    return (
        f"{plural(len(scans), 'scan')}; {plural(result.froc.lesions, 'nodule')}, {count(result.found)} of them found; "
        f"{plural(sum(scan.counted for scan in scans), 'candidate')} counted, of which "
        f"{count(sum(scan.false_positives for scan in scans))} are false positives, {count(ignored)} hit excluded "
        f"findings and {count(repeated)} a nodule that another one hit too"
    )


def _files(result: Luna16Result) -> dict[str, bytes]:
    froc, band = result.froc, result.froc.band
    curve = zip(froc.false_positives[1:], froc.sensitivity[1:], froc.thresholds[1:], strict=True)
    nodules = (
        (n.scan, *n.centre, n.diameter_mm, "" if n.probability is None else n.probability)
        for n in result.nodules
    )
    files = {
        "luna16-curve.csv": _table(("false_positives_per_scan", "sensitivity", "threshold"), curve),
        "luna16-nodules.csv": _table(
            ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm", "probability"), nodules
        ),
        "luna16-scans.csv": _table(
            [field.name for field in fields(ScanScore)], (astuple(scan) for scan in result.scans)
        ),
    }
    if band is not None:
        rows = zip(band.false_positives, band.mean, band.low, band.high, strict=True)
        files["luna16-draws.csv"] = _table(("false_positives_per_scan", "mean", "low", "high"), rows)
    return files


def _table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue().encode()
