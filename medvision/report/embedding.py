"""Images as points in a plane: a plot for files, and a page on which one can point at them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvision.report.html import read_template, render_page
from medvision.report.plots import Plot, draw, literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#17222d")
"""Told apart with any colour vision (Okabe & Ito 2008, without the yellow that fades on white)."""
_MARKERS = ("o", "s", "^", "D")
_SHAPES = (
    "M-1 0A1 1 0 1 1 1 0A1 1 0 1 1 -1 0Z",
    "M-.9 -.9H.9V.9H-.9Z",
    "M0 -1.15L1.1 .85H-1.1Z",
    "M0 -1.25L1.1 0L0 1.25L-1.1 0Z",
)
_WIDTH, _LOWEST, _TALLEST, _MARGIN = 1000.0, 600.0, 780.0, 24.0


@dataclass(frozen=True, slots=True)
class Point:
    """One image: its place, what it shows (None: nobody says), what the model says, the address of a small picture."""

    name: str
    label: str | None
    predicted: str
    probability: float
    x: float
    y: float
    thumbnail: str = ""

    @property
    def shown(self) -> str:
        """The class that gives the colour."""
        return self.predicted if self.label is None else self.label

    @property
    def wrong(self) -> bool:
        """Whether the model says another class than the label."""
        return self.label not in (None, self.predicted)


@dataclass(frozen=True, slots=True)
class Embedding:
    """What the plot and the page show. `figures` are names, values and meanings; `head` and `rows` a table by class."""

    title: str
    method: str
    summary: str
    classes: tuple[str, ...]
    points: tuple[Point, ...]
    figures: tuple[tuple[str, str, str], ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def alt(self) -> str:
        """What the picture shows, in words."""
        return f"{len(self.points)} images placed by {self.method} of what the model makes of them, coloured by class"


def draw_embedding(embedding: Embedding) -> Plot:
    """The points with a legend; hollow where the model says another class than the label."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        size = 3600 / max(80, len(embedding.points))
        for number, name in enumerate(embedding.classes):
            own = [point for point in embedding.points if point.shown == name]
            colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[_shape(number)]
            for points, face in (
                ([p for p in own if not p.wrong], colour),
                ([p for p in own if p.wrong], "none"),
            ):
                axes.scatter(
                    [p.x for p in points],
                    [p.y for p in points],
                    s=size,
                    marker=marker,
                    facecolor=face,
                    edgecolor=colour,
                    linewidth=0.7,
                    alpha=0.85,
                )
            axes.scatter([], [], s=28, marker=marker, color=colour, label=f"{literal(name)} ({len(own):,})")
        if any(point.wrong for point in embedding.points):
            axes.scatter([], [], s=28, facecolor="none", edgecolor="#566370", label="predicted otherwise")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_title(embedding.method, loc="left", fontsize=11)
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)

    wide, tall = _spans(embedding.points)
    height = min(6.6, max(3.0, 5.5 * tall / wide + 0.4))
    return draw("embedding", embedding.alt, (7.4, height), paint)


def render_embedding(embedding: Embedding) -> bytes:
    """The page: self-contained, escaped; the same input gives the same bytes."""
    place = {name: number for number, name in enumerate(embedding.classes)}
    counts = Counter(point.shown for point in embedding.points)
    legend = [
        {"number": n, "colour": n % len(COLOURS), "shape": _shape(n), "name": name, "count": counts[name]}
        for name, n in place.items()
    ]
    height, places = _placed(embedding.points)
    marks = [
        {
            "x": f"{x:.1f}",
            "y": f"{y:.1f}",
            "number": place[point.shown],
            "colour": place[point.shown] % len(COLOURS),
            "shape": _shape(place[point.shown]),
            "point": point,
        }
        for point, (x, y) in zip(embedding.points, places, strict=True)
    ]
    colours = "".join(f".c{n}{{--c:{colour}}}\n" for n, colour in enumerate(COLOURS))
    return render_page(
        "embedding.html.j2",
        style=read_template("common.css") + read_template("embedding.css") + colours,
        script=read_template("embedding.js"),
        page=embedding,
        legend=legend,
        marks=marks,
        shapes=_SHAPES,
        size=[round(_WIDTH), round(height)],
        radius=_radius(len(marks)),
        wrong=sum(point.wrong for point in embedding.points),
        data=[_data(point) for point in embedding.points],
    )


def _data(point: Point) -> dict[str, Any]:
    return {
        "name": point.name,
        "label": point.label,
        "predicted": point.predicted,
        "probability": f"{point.probability:.3f}",
        "thumbnail": point.thumbnail,
    }


def _shape(number: int) -> int:
    """Which shape a class has: another one for every round through the colours."""
    return number // len(COLOURS) % len(_SHAPES)


def _radius(count: int) -> float:
    return 7.0 if count <= 400 else 5.0 if count <= 1500 else 3.5


def _placed(points: tuple[Point, ...]) -> tuple[float, list[tuple[float, float]]]:
    """Height of the picture, and each point's place in it, x to the right and y down, of one scale for both."""
    xs, ys = [p.x for p in points], [p.y for p in points]
    wide, tall = _spans(points)
    height = min(_TALLEST, max(_LOWEST, _WIDTH * tall / wide))
    scale = min((_WIDTH - 2 * _MARGIN) / wide, (height - 2 * _MARGIN) / tall)
    left, top = (_WIDTH - scale * wide) / 2, (height - scale * tall) / 2
    return height, [
        (left + scale * (x - min(xs)), top + scale * (max(ys) - y)) for x, y in zip(xs, ys, strict=True)
    ]


def _spans(points: tuple[Point, ...]) -> tuple[float, float]:
    """How far the points reach in x and y; 1 where they do not."""
    xs, ys = [p.x for p in points], [p.y for p in points]
    return max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
