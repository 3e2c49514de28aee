"""Plots of evaluated segmentations: figures by case, precision by overlap, confusion, and where truth was met."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medvision.evaluations.segment import Figure as Value
from medvision.evaluations.segment import Picture, SegmentResult
from medvision.evaluations.segment_measures import BACKGROUND, BOTH, IGNORED, MISSED, OTHER, PREDICTED
from medvision.metrics.instances import THRESHOLDS
from medvision.report.format import shortened
from medvision.report.plots import BLUE, GREY, GRID, PALE_BLUE, Plot, draw, literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by lightness too, for those who do not see the colours.
COLOURS = {
    BACKGROUND: "#ffffff", BOTH: "#9fb0bc", PREDICTED: "#e08a1e", MISSED: "#155a8a", OTHER: "#8e2a6b",
    IGNORED: "#f0f0ec",
}  # fmt: skip
_SHOWN_CLASSES = 24


def plots(result: SegmentResult) -> tuple[Plot, ...]:
    """What there is to draw of a result."""
    out = [draw_cases(result)]
    if result.options.task == "instances":
        out.append(draw_precision(result))
    if result.pictures:
        out.append(draw_pictures(result))
    return tuple(out)


def draw_cases(result: SegmentResult) -> Plot:
    """The first measure of each case, a row per class, with the mean and its interval."""
    measure = result.kind.measures[0]
    rows = range(min(len(result.classes), _SHOWN_CLASSES))
    random = np.random.default_rng(0)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row in rows:
            values = result.values[:, row, 0]
            values = values[~np.isnan(values)]
            spread = random.uniform(-0.22, 0.22, len(values))
            axes.scatter(values, row + spread, s=16, color=PALE_BLUE, alpha=0.75, linewidth=0, clip_on=False)
            mean, interval = result.means[row, 0], result.intervals[row][0]
            if interval:
                axes.plot(interval, (row, row), color=BLUE, linewidth=2.2, solid_capstyle="butt", zorder=3)
            axes.plot([mean], [row], "|", color=BLUE, markersize=15, markeredgewidth=2, zorder=4)
        axes.set_yticks(list(rows), [literal(result.classes[row]) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.01, 1.01)
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.set_xlabel(measure.title)
        axes.set_title("Each case, their mean and its 95% interval", loc="left", fontsize=11)

    alt = f"{measure.title} of each case by class; the means are in the table"
    return draw("segment-cases", alt, (6, 1.4 + 0.55 * len(rows)), paint)


def draw_precision(result: SegmentResult) -> Plot:
    """TP / (TP + FP + FN) against the IoU above which objects match."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(THRESHOLDS, precisions(result, "mean"), "o-", color=BLUE, label="mean over cases")
        pooled = precisions(result, "pooled")
        axes.plot(THRESHOLDS, pooled, "s--", color=GREY, markersize=4, label="all objects together")
        axes.set_ylim(0, 1.02)
        axes.set_xticks(THRESHOLDS[::2])
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_xlabel("IoU above which an object is found")
        axes.set_ylabel("TP / (TP + FP + FN)")
        axes.legend(loc="lower left", frameon=False, fontsize=8.5)
        axes.set_title("Average precision by overlap", loc="left", fontsize=11)

    return draw(
        "segment-precision", "Average precision against IoU; the figures are in a table", (6, 3.6), paint
    )


def precisions(result: SegmentResult, how: str) -> list[float]:
    """Average precision at each of `THRESHOLDS`, "mean" over cases or "pooled"."""
    found: dict[str, Value] = {f.measure.key: f for f in result.figures if f.how == how}
    first = "ap50" if how == "mean" else "ap_0.50"
    return [found[first if i == 0 else f"ap_{t:.2f}"].value for i, t in enumerate(THRESHOLDS)]


def draw_pictures(result: SegmentResult) -> Plot:
    """Where truth and prediction agree in the worst, the middle and the best case."""
    from matplotlib.patches import Patch

    shown = result.pictures
    words = {3: ("worst", "middle", "best"), 2: ("worst", "best"), 1: ("",)}[len(shown)]
    codes = set(np.unique(np.concatenate([picture.codes.ravel() for picture in shown])).tolist())

    def paint(figure: Figure) -> None:
        for i, (picture, word) in enumerate(zip(shown, words, strict=True)):
            _paint_picture(
                figure.add_subplot(1, len(shown), i + 1), picture, word, result.kind.measures[0].title
            )
        handles = [
            Patch(facecolor=COLOURS[code], edgecolor=GREY, linewidth=0.5, label=text)
            for code, text in result.kind.legend.items()
            if code in codes
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles) or 1, frameon=False, fontsize=8
        )

    height = max(picture.codes.shape[0] * picture.aspect / picture.codes.shape[1] for picture in shown)
    size = (6.0, min(5.0, 6.0 / len(shown) * height) + 0.9)
    alt = "Where truth and prediction agree in the worst, the middle and the best case"
    return draw("segment-pictures", alt, size, paint)


def _paint_picture(axes: Axes, picture: Picture, word: str, title: str) -> None:
    from matplotlib.colors import to_rgb

    palette = (np.array([to_rgb(COLOURS[code]) for code in sorted(COLOURS)]) * 255).astype(np.uint8)
    axes.imshow(palette[picture.codes], interpolation="nearest", aspect=picture.aspect)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["top", "right", "left", "bottom"]].set_color(GRID)
    name = shortened(picture.case, 18)
    plane = "" if picture.plane is None else f", plane {picture.plane}"
    line = f"{word}: {title} {picture.value:.3f}" if word else f"{title} {picture.value:.3f}"
    axes.set_title(f"{line}\n{literal(name)}{plane}", loc="left", fontsize=7.5)
