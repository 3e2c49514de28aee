"""An evaluation of patches as a page, with its ROC and reliability curves."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from medvision.core.results import Score
from medvision.evaluations.page import EvaluationPage, PageTable, Row, interval_text, number
from medvision.evaluations.pathology import PUBLISHED, PathologyResult
from medvision.metrics.calibration import Reliability
from medvision.report.plots import BLUE, PALE_BLUE, Plot, diagonal, draw, paint_reliability, square

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PUBLISHED_NOTE = "published, test set of PatchCamelyon"


def describe(result: PathologyResult) -> EvaluationPage:
    """The result as a page."""
    of_slides = "" if result.slides is None else f" of {result.slides} slides"
    drawn = "patches" if result.slides is None else "slides"
    return EvaluationPage(
        name="pathology",
        title="Patches: ranking and calibration",
        kicker="Evaluation",
        heading="Patches: ranking and calibration",
        summary=f"{result.patches} patches{of_slides}, {result.positives} positive. Intervals: 95%, "
        f"{result.resamples} bootstrap draws of {drawn}.",
        rows=_rows(result),
        plots=(draw_curves(result),),
        notes=result.notes,
        tables=(reliability_table(result.reliability),),
        published=PUBLISHED,
        published_note=PUBLISHED_NOTE,
        columns={"auc": "patch AUC", "accuracy": "accuracy at 0.5"},
        ours={
            "auc": number(result.auc.value if result.auc else None),
            "accuracy": number(result.accuracy.value),
        },
        data=to_json(result),
    )


def to_json(result: PathologyResult) -> dict[str, Any]:
    """Everything that was found, ready for JSON. The threshold of the curve's first point, infinity, is null."""
    named = {
        "auc": result.auc,
        "average_precision": result.average_precision,
        "accuracy": result.accuracy,
        "brier": result.brier,
        "log_loss": result.log_loss,
    }
    table = result.reliability
    return {
        "evaluation": "pathology",
        "patches": {"all": result.patches, "positive": result.positives},
        "slides": result.slides,
        **{name: asdict(score) if score else None for name, score in named.items()},
        "auc_delong_interval": result.delong,
        "expected_calibration_error": {"value": result.calibration_error, "bins": result.bins},
        "reliability": [
            {"from": low, "to": high, "patches": count, "predicted": predicted, "observed": observed}
            for (low, high), count, predicted, observed in zip(
                table.edges.tolist(),
                table.counts.tolist(),
                table.predicted.tolist(),
                table.observed.tolist(),
                strict=True,
            )
        ],
        "roc": [] if result.roc is None else _roc_points(result),
        "intervals": {
            "level": 0.95,
            "bootstrap over": "patches" if result.slides is None else "slides",
            "resamples": result.resamples,
            "seed": result.seed,
        },
    }


def draw_curves(result: PathologyResult) -> Plot:
    """The ROC curve, where there is one, and the reliability curve."""

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, 1 if result.roc is None else 2, squeeze=False)[0]
        if result.roc is not None and result.auc is not None:
            _paint_roc(panels[0], result)
        title = f"Calibration error {result.calibration_error:.3f}"
        paint_reliability(panels[-1], result.reliability, title)

    alt = "ROC curve, and share of positives against predicted probability; the figures are in the tables"
    return draw("curves", alt, (3.5 if result.roc is None else 6.6, 3.5), paint)


def reliability_table(table: Reliability) -> PageTable:
    """The reliability table as one of a page."""
    rows = tuple(
        (f"{low:.3f}–{high:.3f}", str(count), f"{predicted:.3f}", f"{observed:.3f}")
        for (low, high), count, predicted, observed in zip(
            table.edges, table.counts, table.predicted, table.observed, strict=True
        )
    )
    head = ("probability", "patches", "mean probability", "share of positives")
    return PageTable("Reliability", head, rows)


def _paint_roc(axes: Axes, result: PathologyResult) -> None:
    assert result.roc is not None, "drawn only where both classes are there"
    assert result.auc is not None, "there wherever the curve is"
    diagonal(axes)
    axes.fill_between(result.roc.false_positive_rate, result.roc.sensitivity, color=PALE_BLUE, alpha=0.18)
    axes.plot(result.roc.false_positive_rate, result.roc.sensitivity, color=BLUE, linewidth=1.8)
    axes.set_xlabel("1 − specificity")
    axes.set_ylabel("sensitivity")
    interval = f" ({interval_text(result.auc.interval)})" if result.auc.interval else ""
    square(axes, f"Patch AUC {result.auc.value:.3f}{interval}")


def _roc_points(result: PathologyResult) -> list[dict[str, float | None]]:
    assert result.roc is not None, "asked only where there is a curve"
    points = zip(result.roc.thresholds, result.roc.false_positive_rate, result.roc.sensitivity, strict=True)
    return [
        {
            "threshold": float(t) if math.isfinite(t) else None,
            "false_positive_rate": float(f),
            "sensitivity": float(s),
        }
        for t, f, s in points
    ]


def _rows(result: PathologyResult) -> tuple[Row, ...]:
    def row(score: Score | None, name: str, main: bool = False) -> Row:
        return Row(
            name,
            number(score.value if score else None),
            interval_text(score.interval if score else None),
            main,
        )

    rows = [row(result.auc, "patch AUC", True)]
    if result.auc is not None:
        name = "patch AUC, DeLong (patches taken as independent)"
        rows.append(Row(name, number(result.auc.value), interval_text(result.delong)))
    rows += [
        row(result.average_precision, "average precision"),
        row(result.accuracy, "accuracy at 0.5"),
        row(result.brier, "Brier score (0 is best)", True),
        Row(f"expected calibration error, {result.bins} bins", number(result.calibration_error), main=True),
        row(result.log_loss, "log loss"),
    ]
    return tuple(rows)
