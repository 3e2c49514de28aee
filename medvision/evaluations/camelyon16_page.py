"""A CAMELYON16 evaluation as a page, as the record that the index of a run shows, and as a curve."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from medvision.evaluations.camelyon16 import PUBLISHED, Camelyon16Result
from medvision.evaluations.page import NONE, EvaluationPage, PageTable, Row, interval_text, number
from medvision.report.plots import Plot, draw, paint_froc, rate_text
from medvision.store.records import EvaluationRecord, ScoreRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED_NOTE = "published, CAMELYON16 test set"
_AUC, _FROC = "slide AUC", "lesion FROC"


def describe(result: Camelyon16Result) -> EvaluationPage:
    """The result as a page."""
    return EvaluationPage(
        name="camelyon16",
        title=f"CAMELYON16, {result.protocol} protocol",
        kicker=f"Evaluation, {result.protocol} protocol",
        heading="CAMELYON16: metastases in lymph nodes",
        summary=f"{_counts(result)}. Intervals: 95%, {result.resamples} bootstrap draws of slides.",
        rows=_rows(result),
        plots=(draw_froc(result),),
        notes=result.notes,
        tables=(_slides(result),),
        published=PUBLISHED,
        published_note=PUBLISHED_NOTE,
        columns={"auc": _AUC, "froc": _FROC},
        ours={"auc": number(result.auc.value if result.auc else None), "froc": number(result.froc.score)},
        data=to_json(result),
    )


def to_json(result: Camelyon16Result) -> dict[str, Any]:
    """Everything that was found, ready for JSON. The threshold of the curve's first point, infinity, is null."""
    curve = zip(result.froc.thresholds, result.froc.false_positives, result.froc.sensitivity, strict=True)
    intervals = result.froc.intervals or [None] * len(result.froc.rates)
    return {
        "evaluation": "camelyon16",
        "protocol": result.protocol,
        "slides": {"all": len(result.slides), "tumour": result.tumour_slides},
        "lesions": {
            "counted": result.froc.lesions,
            "isolated tumour cells, not counted": result.froc.ignored,
        },
        "detections": result.detections,
        "froc": {
            "score": result.froc.score,
            "interval": result.froc.interval,
            "at": [
                {"false_positives_per_slide": rate, "sensitivity": sensitivity, "interval": interval}
                for rate, sensitivity, interval in zip(
                    result.froc.rates, result.froc.sensitivities, intervals, strict=True
                )
            ],
            "curve": [
                {
                    "threshold": t if math.isfinite(t) else None,
                    "false_positives_per_slide": f,
                    "sensitivity": s,
                }
                for t, f, s in (map(float, point) for point in curve)
            ],
        },
        "slide_auc": asdict(result.auc) if result.auc else None,
        "intervals": {
            "level": 0.95,
            "bootstrap over": "slides",
            "resamples": result.resamples,
            "seed": result.seed,
        },
        "per_slide": [asdict(slide) for slide in result.slides],
    }


def evaluation_record(result: Camelyon16Result, truth: str) -> EvaluationRecord:
    """The figures as the index page of a run shows them; `truth` says in words what was compared with."""
    scores = [
        ScoreRecord(
            name=_FROC,
            value=result.froc.score,
            interval=result.froc.interval,
            protocol=f"CAMELYON16, {result.protocol}",
            cases=result.froc.cases,
        )
    ]
    if result.auc is not None:
        scores.insert(0, ScoreRecord(**asdict(result.auc)))
    curve = np.stack([result.froc.false_positives, result.froc.sensitivity], axis=1)
    return EvaluationRecord(
        title="CAMELYON16 evaluation",
        truth=truth,
        scores=tuple(scores),
        froc=tuple((float(fp), float(sensitivity)) for fp, sensitivity in curve),
        note="; ".join(result.notes),
    )


def draw_froc(result: Camelyon16Result) -> Plot:
    """The curve: sensitivity against false positives per slide, which are on a logarithmic axis."""
    curve = result.froc

    interval = f" ({interval_text(curve.interval)})" if curve.interval else ""

    def paint(figure: Figure) -> None:
        paint_froc(figure.add_subplot(), curve, "lesion", "slide", f"Lesion FROC {curve.score:.3f}{interval}")

    alt = "Curve of lesion sensitivity against false positives per slide; the figures are in the table"
    return draw("froc", alt, (6, 4.2), paint)


def _rows(result: Camelyon16Result) -> tuple[Row, ...]:
    """The two scores, then the sensitivities."""
    auc = result.auc
    rows = [
        Row(_AUC, number(auc.value if auc else None), interval_text(auc.interval if auc else None), True),
        Row(_FROC, number(result.froc.score), interval_text(result.froc.interval), True),
    ]
    intervals = result.froc.intervals or [None] * len(result.froc.rates)
    read = zip(result.froc.rates, result.froc.sensitivities, intervals, strict=True)
    rows += [
        Row(f"at {rate_text(rate)} FP per slide", number(value), interval_text(interval))
        for rate, value, interval in read
    ]
    return tuple(rows)


def _slides(result: Camelyon16Result) -> PageTable:
    head = (
        "slide",
        "truth",
        "slide score",
        "lesions found",
        "isolated cells",
        "detections",
        "false positives",
    )
    rows = tuple(
        (
            slide.slide,
            "tumour" if slide.tumour else "normal",
            NONE if slide.probability is None else number(slide.probability),
            f"{slide.found} of {slide.lesions}" if slide.tumour else NONE,
            str(slide.isolated) if slide.tumour else NONE,
            str(slide.detections),
            str(slide.false_positives),
        )
        for slide in result.slides
    )
    return PageTable("Slides", head, rows, words=2)


def _counts(result: Camelyon16Result) -> str:
    isolated = (
        f" and {result.froc.ignored} of isolated tumour cells, which do not count"
        if result.froc.ignored
        else ""
    )
    return (
        f"{len(result.slides)} slides, {result.tumour_slides} with tumour; {result.froc.lesions} lesions{isolated}; "
        f"{result.detections} detections"
    )
