"""Curves of an evaluation of classified images."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

from medvision.evaluations.image_results import ImageResult, Question, Task
from medvision.evaluations.page import interval_text
from medvision.metrics.calibration import Reliability, calibration_gap
from medvision.report.plots import BLUE, PALE_BLUE, Plot, diagonal, draw, literal, paint_reliability, square

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RED = "#a3193f"
_LINES = (
    "#155a8a",
    "#a3193f",
    "#3b8a3e",
    "#8a5a00",
    "#6a4c93",
    "#0f8b8d",
    "#c8553d",
    "#4d5966",
    "#b8a100",
    "#d46a9f",
)
_SIDE, _TITLE = 3.3, 38


def draw_curves(result: ImageResult) -> Plot | None:
    """A ROC curve for each task with its readers, and each class of a question of several; calibration of the first."""
    panels: list[Callable[[Axes], None]] = [_task_panel(one) for one in result.tasks if one.curve is not None]
    panels += [_question_panel(one) for one in result.questions if len(one.classes) > 2 and any(one.curves)]
    reliable = next((one.reliability for one in result.questions if one.reliability is not None), None)
    if reliable is not None:
        panels.append(_calibration_panel(reliable))
    if not panels:
        return None
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)

    def paint(figure: Figure) -> None:
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, fill in zip(places, panels, strict=False):
            fill(axes)
        for axes in places[len(panels) :]:
            axes.set_axis_off()

    alt = "ROC curves and calibration; the areas and the readers' points are in the tables"
    return draw("curves", alt, (_SIDE * columns + 0.1, (_SIDE + 0.4) * rows), paint)


def _calibration_panel(table: Reliability) -> Callable[[Axes], None]:
    def fill(axes: Axes) -> None:
        paint_reliability(axes, table, "")
        axes.set_xlabel("probability of the most probable class")
        axes.set_ylabel("share of right answers")
        _title(axes, "calibration", f"expected calibration error {calibration_gap(table):.3f}")

    return fill


def _task_panel(task: Task) -> Callable[[Axes], None]:
    def fill(axes: Axes) -> None:
        curve, score = task.curve, task.figures["AUC"]
        assert curve is not None, "a task without a curve has no panel"
        assert score is not None, "there wherever the curve is"
        _frame(axes)
        axes.fill_between(curve.false_positive_rate, curve.sensitivity, color=PALE_BLUE, alpha=0.18)
        axes.plot(
            curve.false_positive_rate, curve.sensitivity, color=BLUE, linewidth=1.8, label="predictions"
        )
        if task.readers:
            x = [1 - reader.specificity for reader in task.readers]
            y = [reader.sensitivity for reader in task.readers]
            label = f"readers ({len(x)})"
            axes.scatter(
                x,
                y,
                s=26,
                facecolor="none",
                edgecolor=RED,
                linewidth=1.2,
                zorder=3,
                clip_on=False,
                label=label,
            )
            if len(x) > 1:
                mean = sum(x) / len(x), sum(y) / len(y)
                axes.scatter(*mean, s=60, marker="+", color=RED, linewidth=1.6, zorder=4, label="their mean")
            axes.legend(loc="lower right", fontsize=8, frameon=False)
        interval = f" ({interval_text(score.interval)})" if score.interval else ""
        _title(axes, task.title, f"AUC {score.value:.3f}{interval}")

    return fill


def _question_panel(question: Question) -> Callable[[Axes], None]:
    def fill(axes: Axes) -> None:
        _frame(axes)
        few = len(question.classes) <= len(_LINES)
        for i, (name, curve) in enumerate(zip(question.classes, question.curves, strict=True)):
            score = question.per_class[i]["AUC"]
            if curve is None or score is None:
                continue
            colour, label = (_LINES[i], f"{literal(name)} {score.value:.3f}") if few else (PALE_BLUE, None)
            axes.plot(curve.false_positive_rate, curve.sensitivity, color=colour, linewidth=1.4, label=label)
        if few:
            axes.legend(loc="lower right", fontsize=8, frameon=False, title="AUC", title_fontsize=8)
        macro = question.figures["macro AUC"]
        _title(
            axes, f"{question.title}, each against the rest", f"macro AUC {macro.value:.3f}" if macro else ""
        )

    return fill


def _frame(axes: Axes) -> None:
    diagonal(axes)
    axes.set_xlabel("1 − specificity")
    axes.set_ylabel("sensitivity")


def _title(axes: Axes, name: str, figure: str) -> None:
    square(axes, "\n".join([*textwrap.wrap(literal(name), _TITLE), *([figure] if figure else [])]))
    axes.title.set_fontsize(9)
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=9)
