"""Connected parts of a label image that is never held whole: bands of rows go in, parts with outlines come out.

A part is a set of pixels of one label that hang together by their sides, so that its outline is one polygon, with
holes. What crosses the border of bands is joined (union-find). A part is finished when a row goes by without it; only
then is its outline closed, so that memory grows with the width of the image and the borders of what is open, not with
the height or the number of parts. The result does not depend on where bands are cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.ops.outlines import Polygon, polygon_of_borders

LabelBand = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """A connected part of one label. Positions are (row, column) in pixels of the image.

    `number` counts from 1 in the order in which parts end: by their last row, then by `first`, their first pixel in row
    order. `centroid` is that of the pixels' squares, `bbox` half-open `((r0, c0), (r1, c1))`. `value` is the mean of
    the values that were given beside the labels, NaN without any.
    """

    number: int
    label: int
    pixels: int
    first: tuple[int, int]
    centroid: tuple[float, float]
    bbox: tuple[tuple[int, int], tuple[int, int]]
    value: float
    polygon: Polygon


@dataclass(eq=False)
class _Open:
    """What is known of a part, or of a piece of one, so far."""

    label: int
    pixels: int = 0
    first: tuple[int, int] = (1 << 62, 0)
    sums: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    low: tuple[int, int] = (1 << 62, 1 << 62)
    high: tuple[int, int] = (0, 0)
    borders: list[Int64] = field(default_factory=list)
    """`(n, 3)`: row and column of a cell, and the direction of a border of it."""

    def take(self, other: _Open) -> None:
        """Become one with another piece."""
        self.pixels += other.pixels
        self.first = min(self.first, other.first)
        self.sums += other.sums
        self.low = (min(self.low[0], other.low[0]), min(self.low[1], other.low[1]))
        self.high = (max(self.high[0], other.high[0]), max(self.high[1], other.high[1]))
        self.borders += other.borders


def connected_parts(
    bands: Iterable[LabelBand | tuple[LabelBand, npt.NDArray[Any]]],
) -> Iterator[Part]:
    """The parts of an image given as bands of rows, from the top; each as soon as its last row is past.

    A band is labels uint8 `(rows, columns)`, of which 0 is background, or such labels with values of the same shape.
    """
    open_parts = _OpenParts()
    number = 0
    for band in bands:
        labels, values = band if isinstance(band, tuple) else (band, None)
        if not len(labels):
            continue
        for one in open_parts.feed(labels, values):
            number += 1
            yield _finished(one, number)
    for one in open_parts.end():
        number += 1
        yield _finished(one, number)


class _OpenParts:
    """The pieces of the bands so far that may still grow."""

    def __init__(self) -> None:
        self._row = 0
        self._pieces: dict[int, _Open] = {}
        self._parent: dict[int, int] = {}
        self._next = 1
        self._labels: LabelBand | None = None
        """Last row, and the pieces in it."""
        self._ids: Int64 | None = None

    def feed(self, labels: LabelBand, values: npt.NDArray[Any] | None) -> Iterator[_Open]:
        """Take a band; gives the parts that are over."""
        ids, own = self._numbered(labels)
        above = np.zeros_like(labels[0]) if self._labels is None else self._labels
        above_ids = np.zeros(labels.shape[1], np.int64) if self._ids is None else self._ids
        for one, label in own.items():
            self._pieces[one], self._parent[one] = _Open(label), one
        self._measure(labels, ids, values)
        self._trace(labels, ids, above, above_ids)
        joined = (above == labels[0]) & (above > 0)
        for a, b in np.unique(np.stack([above_ids[joined], ids[0][joined]], axis=1), axis=0).tolist():
            self._join(a, b)
        self._row += len(labels)
        # Those of the last row stay open, by the names of what they were joined to.
        self._labels = labels[-1].copy()
        roots = {one: self._root(one) for one in np.unique(ids[-1]).tolist() if one}
        self._ids = np.array([0, *roots.values()], np.int64)[
            np.searchsorted(np.array([0, *roots], np.int64), ids[-1])
        ]
        alive = set(roots.values())
        over = [self._pieces.pop(one) for one in list(self._pieces) if one not in alive]
        self._parent = {one: one for one in alive}
        yield from sorted(over, key=_order)

    def end(self) -> Iterator[_Open]:
        """The parts of the last row."""
        if self._labels is not None and self._ids is not None:
            self._add_borders(self._ids, self._labels > 0, np.full(len(self._ids), self._row - 1), 2)
        yield from sorted(self._pieces.values(), key=_order)

    def _numbered(self, labels: LabelBand) -> tuple[Int64, dict[int, int]]:
        """Pieces of a band, each with a number that no other has, and the label of each."""
        from scipy import ndimage  # half a second to load

        ids = np.zeros(labels.shape, np.int64)
        own: dict[int, int] = {}
        for label in np.unique(labels).tolist():
            if label == 0:
                continue
            found, count = ndimage.label(labels == label)
            ids += np.where(found > 0, found.astype(np.int64) + (self._next - 1), 0)
            own |= {self._next + k: label for k in range(count)}
            self._next += count
        return ids, own

    def _measure(self, labels: LabelBand, ids: Int64, values: npt.NDArray[Any] | None) -> None:
        rows, columns = np.nonzero(labels)
        if not len(rows):
            return
        one = ids[rows, columns]
        order = np.argsort(one, kind="stable")
        one, rows, columns = one[order], rows[order] + self._row, columns[order]
        start = np.flatnonzero(np.diff(one, prepend=0))
        counts = np.diff(start, append=len(one))
        seen = np.full(len(one), np.nan) if values is None else values[labels > 0][order].astype(np.float64)
        sums = np.stack([np.add.reduceat(v.astype(np.float64), start) for v in (rows, columns, seen)], axis=1)
        lows = np.stack([rows[start], np.minimum.reduceat(columns, start)], axis=1).tolist()
        highs = np.stack([np.maximum.reduceat(v, start) + 1 for v in (rows, columns)], axis=1).tolist()
        firsts = np.stack([rows[start], columns[start]], axis=1).tolist()
        for k, name in enumerate(one[start].tolist()):
            piece = self._pieces[name]
            piece.pixels, piece.sums = int(counts[k]), sums[k]
            piece.first, piece.low = (firsts[k][0], firsts[k][1]), (lows[k][0], lows[k][1])
            piece.high = (highs[k][0], highs[k][1])

    def _trace(self, labels: LabelBand, ids: Int64, above: LabelBand, above_ids: Int64) -> None:
        """Borders of the band's pixels with what lies left, right and above, and between its rows."""
        wide = np.pad(labels, ((0, 0), (1, 1)))
        rows = np.broadcast_to((np.arange(len(labels)) + self._row)[:, None], labels.shape)
        over = np.concatenate([above[None], labels[:-1]])
        inside = labels > 0
        self._add_borders(ids, inside & (labels != over), rows, 0)
        self._add_borders(ids, inside & (labels != wide[:, 2:]), rows, 1)
        self._add_borders(ids, inside & (labels != wide[:, :-2]), rows, 3)
        upper = np.concatenate([above_ids[None], ids[:-1]])
        self._add_borders(upper, (over > 0) & (over != labels), rows - 1, 2)

    def _add_borders(
        self, ids: Int64, where: npt.NDArray[np.bool_], rows: npt.NDArray[Any], way: int
    ) -> None:
        at = np.nonzero(where)
        if not len(at[0]):
            return
        one = ids[at]
        borders = np.stack([rows[at], at[-1], np.full(len(one), way)], axis=1).astype(np.int64)
        order = np.argsort(one, kind="stable")
        one, borders = one[order], borders[order]
        cuts = np.flatnonzero(np.diff(one)) + 1
        for name, part in zip(one[np.r_[0, cuts]].tolist(), np.split(borders, cuts), strict=True):
            self._pieces[name].borders.append(part)

    def _root(self, one: int) -> int:
        while self._parent[one] != one:
            self._parent[one] = self._parent[self._parent[one]]
            one = self._parent[one]
        return one

    def _join(self, a: int, b: int) -> None:
        a, b = self._root(a), self._root(b)
        if a != b:
            self._parent[b] = a
            self._pieces[a].take(self._pieces.pop(b))


def _order(one: _Open) -> tuple[int, tuple[int, int]]:
    return one.high[0], one.first


def _finished(one: _Open, number: int) -> Part:
    row, column, value = (one.sums / one.pixels).tolist()
    return Part(
        number=number,
        label=one.label,
        pixels=one.pixels,
        first=one.first,
        centroid=(row + 0.5, column + 0.5),
        bbox=(one.low, one.high),
        value=value,
        polygon=polygon_of_borders(np.concatenate(one.borders)),
    )
