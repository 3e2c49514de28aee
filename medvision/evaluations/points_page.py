"""An evaluation of points as a page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from medvision.evaluations.page import EvaluationPage, PageTable, Row, interval_text, number
from medvision.evaluations.points import PointsResult
from medvision.report.format import count, plural


def describe(result: PointsResult) -> EvaluationPage:
    """The result as a page."""
    tp, fp, fn = result.counts
    precision, recall = result.intervals
    above = "" if result.threshold is None else f" with a score above {result.threshold:g}"
    return EvaluationPage(
        name="points",
        title="Points",
        kicker="Evaluation",
        heading="Points within a radius",
        summary=(
            f"{plural(tp + fp, 'prediction')}{above}, {plural(tp + fn, 'point')} of reference, matched one to one "
            f"within {result.radius:g}. Intervals: 95%, Wilson, which takes points for independent."
        ),
        rows=(
            Row("true positives", count(tp)),
            Row("false positives", count(fp)),
            Row("false negatives", count(fn)),
            Row("precision", number(result.precision), interval_text(precision), True),
            Row("recall", number(result.recall), interval_text(recall), True),
            Row("F1", number(result.f1)),
        ),
        plots=(),
        notes=result.notes,
        tables=() if len(result.images) < 2 else (_images(result),),
        data=to_json(result),
    )


def to_json(result: PointsResult) -> dict[str, Any]:
    """Everything that was found, ready for JSON."""
    tp, fp, fn = result.counts
    precision, recall = result.intervals
    return {
        "evaluation": "points",
        "radius": result.radius,
        "threshold": result.threshold,
        "matching": result.matching,
        "true_positives": tp,
        "false_positives": fp,
        "false_negatives": fn,
        "precision": {"value": result.precision, "interval": precision},
        "recall": {"value": result.recall, "interval": recall},
        "f1": result.f1,
        "per_image": [asdict(image) for image in result.images],
    }


def _images(result: PointsResult) -> PageTable:
    head = ("image", "true positives", "false positives", "false negatives")
    rows = tuple(
        (i.image, str(i.true_positives), str(i.false_positives), str(i.false_negatives))
        for i in result.images
    )
    return PageTable("Images", head, rows)
