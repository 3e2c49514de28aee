"""A PI-CAI evaluation as a page, and as the JSON that picai_eval writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from medvision.evaluations.page import NONE, EvaluationPage, PageTable, Row, interval_text, number
from medvision.evaluations.picai import PICAI_EVAL, PicaiResult, picai_metrics
from medvision.metrics.detection_maps import MapHits
from medvision.report.format import plural
from medvision.report.plots import BLUE, Plot, diagonal, draw, paint_froc, rate_text, square

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def describe(result: PicaiResult) -> EvaluationPage:
    """The result as a page."""
    lines = [line for case in result.cases for line in case.lines]
    lesions = sum(line.is_lesion for line in lines)
    found = sum(line.is_lesion and line.confidence > 0 for line in lines)
    by = "intersection over union" if result.overlap == "iou" else "Dice coefficient"
    return EvaluationPage(
        name="picai",
        title="PI-CAI",
        kicker=f"Evaluation, protocol of picai_eval {PICAI_EVAL}",
        heading="PI-CAI: lesions in detection maps",
        summary=(
            f"{plural(len(result.cases), 'case')}, {sum(result.targets)} with a lesion; {plural(lesions, 'lesion')}, "
            f"{found} of them found; {plural(len(lines) - lesions, 'false positive')}. A hit is an overlap of "
            f"{result.min_overlap:g} or more ({by}). Intervals: 95%, {result.resamples:,} bootstrap draws of cases."
        ),
        rows=_rows(result),
        plots=_plots(result),
        notes=result.notes,
        tables=(_cases(result),),
        data=to_json(result),
        files={"picai-metrics.json": (json.dumps(picai_metrics(result), indent=4) + "\n").encode()},
    )


def to_json(result: PicaiResult) -> dict[str, Any]:
    """Everything that was found, ready for JSON; the lines of each case are as picai_eval has them."""
    froc = result.froc
    auroc, ap, score = result.intervals
    known = froc.intervals if froc and froc.intervals else None
    return {
        "evaluation": "picai",
        "score": {"value": result.score, "interval": score},
        "auroc": {"value": result.auroc, "interval": auroc},
        "ap": {"value": result.ap, "interval": ap},
        "froc": [
            {"false_positives_per_case": rate, "sensitivity": value, "interval": known[i] if known else None}
            for i, (rate, value) in enumerate(zip(froc.rates, froc.sensitivities, strict=True))
        ]
        if froc
        else None,
        "overlap": {"by": result.overlap, "least": result.min_overlap},
        "intervals": {
            "level": 0.95,
            "bootstrap over": "cases",
            "resamples": result.resamples,
            "seed": result.seed,
        },
        "picai_eval": picai_metrics(result),
    }


def _rows(result: PicaiResult) -> tuple[Row, ...]:
    values = (
        ("case AUROC", result.auroc),
        ("lesion average precision", result.ap),
        ("score, their mean", result.score),
    )
    rows = [
        Row(name, number(value), interval_text(interval), True)
        for (name, value), interval in zip(values, result.intervals, strict=True)
    ]
    if froc := result.froc:
        intervals = froc.intervals or [None] * len(froc.rates)
        rows += [
            Row(f"at {rate_text(rate)} FP per case", number(value), interval_text(interval))
            for rate, value, interval in zip(froc.rates, froc.sensitivities, intervals, strict=True)
        ]
    return tuple(rows)


def _plots(result: PicaiResult) -> tuple[Plot, ...]:
    plots = []
    if froc := result.froc:

        def paint(figure: Figure) -> None:
            title = f"Lesion sensitivity; average precision {number(result.ap)}"
            paint_froc(figure.add_subplot(), froc, "lesion", "case", title)

        alt = "Curve of lesion sensitivity against false positives per case; the figures are in the table"
        plots.append(draw("picai-froc", alt, (6, 4.2), paint))
    if roc := result.roc:

        def paint_roc(figure: Figure) -> None:
            axes = figure.add_subplot()
            diagonal(axes)
            axes.plot(roc.false_positive_rate, roc.sensitivity, color=BLUE, linewidth=1.6)
            axes.set_xlabel("false positive rate")
            axes.set_ylabel("sensitivity")
            square(axes, f"Cases, AUROC {number(result.auroc)}")

        plots.append(draw("picai-roc", "ROC curve of the cases", (6, 4.6), paint_roc))
    return tuple(plots)


def _cases(result: PicaiResult) -> PageTable:
    head = ("case", "confidence", "lesions", "found", "false positives", "overlaps of hits")
    return PageTable("Cases", head, tuple(_case(case) for case in result.cases))


def _case(case: MapHits) -> tuple[str, ...]:
    lesions = [line for line in case.lines if line.is_lesion]
    hits = [line for line in lesions if line.confidence > 0]
    return (
        case.case,
        f"{case.confidence:.3g}",
        str(len(lesions)),
        str(len(hits)),
        str(len(case.lines) - len(lesions)),
        ", ".join(f"{line.overlap:.2f}" for line in hits) or NONE,
    )
