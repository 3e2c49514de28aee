"""Colours of classes, the same wherever a class is drawn; told apart by readers with colour-blindness as well.

The eight colours of Okabe & Ito (2008) without black, yellow first darkened a little so that it shows on white.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
    (214, 204, 40),
)
INSIDE = 90
"""Opacity of an area, of 255; its edge is opaque."""


def class_colour(label: int) -> Colour:
    """The colour of a label from 1."""
    return _COLOURS[(label - 1) % len(_COLOURS)]


def hex_colour(colour: Colour) -> str:
    """As style sheets have it.

    >>> hex_colour((230, 159, 0))
    '#e69f00'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)


def paint_labels(
    labels: npt.NDArray[np.integer], edge_px: int = 1, objects: npt.NDArray[np.integer] | None = None
) -> Image:
    """RGBA `(rows, columns, 4)` of a label image: areas see-through, edges of `edge_px` opaque, background clear.

    Edges are those of classes, or of numbered `objects` of the same shape.
    """
    told = labels if objects is None else objects
    table = np.zeros((max(1, int(labels.max(initial=0))) + 1, 4), np.uint8)
    for label in range(1, len(table)):
        table[label] = (*class_colour(label), INSIDE)
    painted: Image = table[labels]
    inner = labels > 0
    for _ in range(edge_px):
        wide = np.pad(np.where(inner, told, 0), 1, mode="edge")
        same = np.ones(labels.shape, bool)
        for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
            same &= wide[rows : rows + labels.shape[0], columns : columns + labels.shape[1]] == told
        inner &= same
    painted[(labels > 0) & ~inner, 3] = 255
    return painted
