"""Plots for pages and files, all of one look; the same input gives the same bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medvision.metrics.calibration import Reliability
from medvision.metrics.froc import Froc

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, PALE_BLUE, GREY, GRID = "#155a8a", "#8ab0c8", "#9fb0bc", "#d9e0e6"


@dataclass(frozen=True, eq=False)
class Plot:
    """A plot in both forms; `name` is the stem of its files, `alt` says in words what it shows."""

    name: str
    svg: bytes
    png: bytes
    alt: str

    @property
    def uri(self) -> str:
        """The SVG as an address that holds it."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode("ascii")


def draw(name: str, alt: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> Plot:
    """A plot of `size` inches that `paint` fills; the same input gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "medvision", "font.size": 10, "svg.fonttype": "path"}):
        figure = Figure(figsize=size, dpi=200, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        for axes in figure.axes:
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", metadata={"Software": None})
    return Plot(name, svg.getvalue(), png.getvalue(), alt)


def paint_reliability(
    axes: Axes, table: Reliability, title: str, colour: str = BLUE, label: str = ""
) -> None:
    """Share of positives by mean probability, a dot per bin with an area by its cases; on the diagonal is right."""
    diagonal(axes)
    axes.plot(table.predicted, table.observed, color=colour, linewidth=1.4, label=label or None)
    sizes = 12 + 130 * table.counts / table.counts.max()
    axes.scatter(table.predicted, table.observed, s=sizes, color=colour, alpha=0.75, linewidth=0, zorder=3)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share of positives")
    square(axes, title)


def paint_froc(axes: Axes, curve: Froc, noun: str, case: str, title: str) -> None:
    """Sensitivity to a `noun` against false positives per `case` on a logarithmic axis, with what was read and its
    intervals, and a band where the curve has one.
    """
    first, last = curve.rates[0] / 2, curve.rates[-1] * 1.4
    inner = np.geomspace(first, last, 400)
    if curve.band is not None:
        band = curve.band
        known = inner[(inner >= band.false_positives[0]) & (inner <= band.false_positives[-1])]
        low, high = (np.interp(known, band.false_positives, bound) for bound in (band.low, band.high))
        axes.fill_between(known, low, high, color=PALE_BLUE, alpha=0.35, linewidth=0)
    axes.plot(inner, np.interp(inner, curve.false_positives, curve.sensitivity), color=BLUE, linewidth=1.8)
    intervals = curve.intervals or [(s, s) for s in curve.sensitivities]
    below = [max(0.0, s - a) for s, (a, _) in zip(curve.sensitivities, intervals, strict=True)]
    above = [max(0.0, b - s) for s, (_, b) in zip(curve.sensitivities, intervals, strict=True)]
    axes.errorbar(
        curve.rates, curve.sensitivities, yerr=[below, above], fmt="o", color=BLUE, markersize=5,
        ecolor=PALE_BLUE, elinewidth=1.2, capsize=3, clip_on=False, zorder=3,
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xlim(first, last)
    axes.set_ylim(0, 1.0)
    axes.set_xticks(curve.rates, [rate_text(rate) for rate in curve.rates])
    axes.minorticks_off()
    axes.set_xlabel(f"mean number of false positives per {case}")
    axes.set_ylabel(f"{noun} sensitivity")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(color=GRID, linewidth=0.6)


def rate_text(rate: float) -> str:
    """A rate of false positives as challenges write it: 1/8, 1/4, 1/2, 1."""
    whole = rate < 1 and (1 / rate).is_integer()
    return f"1/{1 / rate:g}" if whole else f"{rate:g}"


def diagonal(axes: Axes) -> None:
    """The line from (0, 0) to (1, 1), dashed."""
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))


def square(axes: Axes, title: str) -> None:
    """Both axes from 0 to 1, of one scale."""
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(color=GRID, linewidth=0.6)


def literal(name: str) -> str:
    """A name from a file that matplotlib takes neither for mathematics nor for a curve to be left out of the legend."""
    return name.replace("$", r"\$").lstrip("_") or "class"
