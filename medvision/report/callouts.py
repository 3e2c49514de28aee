"""Numbers beside spots of a picture, each where it covers no other number and no spot, with a line to its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Rect = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Point = tuple[float, float]

LABEL_HEIGHT = 26.0
SPOT_RADIUS = 4.0
_DIGIT = 11.0
_ROOM = 3.0
"""Between a label and whatever else there is."""
_NEAREST, _STEP, _FARTHEST = 22.0, 9.0, 260.0
_WAYS = 24


@dataclass(frozen=True)
class Callout:
    """A spot at `(x, y)` in units of the picture. `label` is the middle of its number; None where there is no room."""

    number: int
    x: float
    y: float
    linked: bool
    label: Point | None = None

    @property
    def width(self) -> float:
        """Of the label."""
        return label_width(self.number)

    @property
    def rect(self) -> Rect | None:
        """What the label covers."""
        return None if self.label is None else _around(self.label, self.width)


def label_width(number: int) -> float:
    """Width of a number's label: a circle for one digit and for two."""
    return max(LABEL_HEIGHT, _DIGIT * len(str(number)) + 8)


def place_labels(
    spots: Sequence[Callout], size: tuple[float, float], taken: Sequence[Rect] = (), most: int = 40
) -> tuple[Callout, ...]:
    """The first `most` spots with places for their labels, in the order of their right to one, and the others without.

    Labels stay inside the picture of `size` (width, height), and cover neither one another, nor a spot, nor what is
    `taken`; their lines do not cross. A label goes as near to its spot as that allows, and rather away from the middle
    of all spots; a spot that has no such place within reach keeps none.
    """
    held: list[Rect] = list(taken)
    lines: list[tuple[Point, Point]] = []
    middle = _middle([(one.x, one.y) for one in spots])
    placed = []
    for number, one in enumerate(spots):
        spot = (one.x, one.y)
        label: Point | None = None
        # Better a longer line than one over another spot; better that than no number.
        for over_none in (True, False):
            label = label or next(
                (
                    at
                    for at in (_proposals(spot, middle) if number < most else ())
                    if _is_free(_around(at, one.width), size, held, spots)
                    and _line_is_free(spot, at, held, lines)
                    and (not over_none or _passes_by(spot, at, spots))
                ),
                None,
            )
        if label is not None:
            held.append(_around(label, one.width))
            lines.append((spot, label))
        placed.append(Callout(one.number, one.x, one.y, one.linked, label))
    return tuple(placed)


def _proposals(spot: Point, middle: Point) -> Iterator[Point]:
    """Middles of labels about a spot, nearest first; of equally near ones those away from `middle` first."""
    away = math.atan2(spot[1] - middle[1], spot[0] - middle[0])
    turns = sorted(range(_WAYS), key=lambda k: (min(k, _WAYS - k), k))
    reach = _NEAREST
    while reach <= _FARTHEST:
        for turn in turns:
            angle = away + 2 * math.pi * turn / _WAYS
            yield round(spot[0] + reach * math.cos(angle), 2), round(spot[1] + reach * math.sin(angle), 2)
        reach += _STEP


def _is_free(rect: Rect, size: tuple[float, float], held: Sequence[Rect], spots: Sequence[Callout]) -> bool:
    left, top, right, bottom = rect
    if left < 1 or top < 1 or right > size[0] - 1 or bottom > size[1] - 1:
        return False
    if any(_overlap(rect, other) for other in held):
        return False
    reach = SPOT_RADIUS + 1
    return not any(
        left - reach < one.x < right + reach and top - reach < one.y < bottom + reach for one in spots
    )


def _line_is_free(
    spot: Point, label: Point, held: Sequence[Rect], lines: Sequence[tuple[Point, Point]]
) -> bool:
    """Whether the line from a spot to its label crosses no other line and no other label."""
    if any(_crosses(spot, label, *line) for line in lines):
        return False
    return not any(_meets(spot, label, rect) for rect in held)


def _passes_by(spot: Point, label: Point, spots: Sequence[Callout]) -> bool:
    """Whether the line from a spot to its label leaves all other spots aside."""
    return all(
        (one.x, one.y) == spot or _distance((one.x, one.y), spot, label) >= SPOT_RADIUS for one in spots
    )


def _around(at: Point, width: float) -> Rect:
    return at[0] - width / 2, at[1] - LABEL_HEIGHT / 2, at[0] + width / 2, at[1] + LABEL_HEIGHT / 2


def _overlap(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] + _ROOM and b[0] < a[2] + _ROOM and a[1] < b[3] + _ROOM and b[1] < a[3] + _ROOM


def _side(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _crosses(a: Point, b: Point, c: Point, d: Point) -> bool:
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _meets(a: Point, b: Point, rect: Rect) -> bool:
    """Whether the line from `a` to `b` passes through a rectangle."""
    left, top, right, bottom = rect
    if any(left < x < right and top < y < bottom for x, y in (a, b)):
        return True
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return any(_crosses(a, b, corners[k - 1], corners[k]) for k in range(4))


def _distance(point: Point, a: Point, b: Point) -> float:
    """From a point to the line between two others."""
    along = (b[0] - a[0], b[1] - a[1])
    length = along[0] ** 2 + along[1] ** 2
    share = 0.0 if not length else ((point[0] - a[0]) * along[0] + (point[1] - a[1]) * along[1]) / length
    share = min(max(share, 0.0), 1.0)
    return math.hypot(point[0] - a[0] - share * along[0], point[1] - a[1] - share * along[1])


def _middle(points: Sequence[Point]) -> Point:
    if not points:
        return 0.0, 0.0
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
