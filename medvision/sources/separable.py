"""Resampling axis by axis: the way of any number of axes and of values that are not bytes, hence of volumes.

Each axis has a sparse matrix from native values to wanted ones; `medvision.sources.resample` says which is taken when.
A wanted value depends on its own place alone: the matrices have the same row for it in every window, and a sparse
product adds the few values of a row in their order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.geometry import Box
from medvision.sources.base import Source, Values

_MOST_VALUES = 1 << 23
"""Native values that are weighted at once: 32 MiB as float32, whatever the window."""
_TURNED_AT_ONCE = 1 << 18
"""Values whose axes change places at once: a mebibyte, which a processor's cache holds."""


@dataclass(frozen=True, eq=False, slots=True)
class Weights:
    """How wanted values `start..stop` of one axis come from native ones.

    `first` is the first native value needed and `matrix` (wanted, native) weighs them; `matrix` is None for a plain
    copy. `seen` are the wanted values, counted from `start`, that get one; the others lie outside.
    """

    first: int
    count: int
    matrix: Any | None
    seen: slice


def write_separable(
    source: Source,
    level: int,
    factors: tuple[float, ...],
    wholes: tuple[int, ...],
    out: Values,
    box: Box,
) -> None:
    """Values of `box`, in wanted ones, into `out`. `wholes` are the axes' whole factors, or 0 where there is none."""
    shape = source.levels[level].shape
    for part in _parts(box, factors):
        piece = out[part.shift(tuple(-a for a in box.start)).slices()]
        weights = [
            axis_weights(a, b, f, k, n)
            for a, b, f, k, n in zip(part.start, part.stop, factors, wholes, shape, strict=True)
        ]
        if any(w.seen.stop <= w.seen.start for w in weights):
            piece[...] = source.fill
            continue
        first = tuple(w.first for w in weights)
        native = source.read(Box.at(first, tuple(w.count for w in weights)), level)
        seen = tuple(w.seen for w in weights)
        if piece[seen].shape != piece.shape:
            piece[...] = source.fill
        if any(w.matrix is not None for w in weights):
            write_as_type(_weighted(native, weights, factors), piece[seen])
        else:
            piece[seen] = native


@lru_cache(maxsize=512)
def axis_weights(start: int, stop: int, factor: float, whole: int, size: int) -> Weights:
    """The weights of wanted values `start..stop` of an axis of `size` native ones. See `medvision.sources.resample`."""
    every = slice(0, stop - start)
    if whole:
        firsts = first_natives(start, stop, factor, whole)
        if whole == 1 and np.all(np.diff(firsts) == 1):
            return Weights(int(firsts[0]), len(firsts), None, every)
        columns = (firsts - firsts[0])[:, None] + np.arange(whole)
        shares = np.full(columns.shape, 1 / whole, np.float32)
        return Weights(int(firsts[0]), int(columns[-1, -1]) + 1, _sparse(columns, shares), every)
    if factor > 1:
        first, matrix = shares_of_area(start, stop, factor)
        return Weights(first, matrix.shape[1], matrix, every)
    centres = (np.arange(start, stop) + 0.5) * factor
    inside = np.flatnonzero((centres >= 0) & (centres < size))
    if not len(inside):
        return Weights(0, 0, None, slice(0, 0))
    places = np.clip(centres[inside] - 0.5, 0, size - 1)
    low = np.minimum(places.astype(np.int64), max(0, size - 2))
    share = (places - low).astype(np.float32)
    columns = np.stack([low, np.minimum(low + 1, size - 1)], axis=1) - low[0]
    matrix = _sparse(columns, np.stack([1 - share, share], axis=1))
    return Weights(int(low[0]), int(columns.max()) + 1, matrix, slice(int(inside[0]), int(inside[-1]) + 1))


def first_natives(start: int, stop: int, factor: float, whole: int) -> npt.NDArray[np.int64]:
    """First of the `whole` native values nearest to the centre of each wanted one."""
    centres = (np.arange(start, stop) + 0.5) * factor
    # Half a millionth keeps exact multiples on their value whatever the last bit of `factor`.
    firsts: npt.NDArray[np.int64] = np.floor(centres - whole / 2 + 0.5 + 5e-7).astype(np.int64)
    return firsts


@lru_cache(maxsize=256)
def shares_of_area(start: int, stop: int, factor: float) -> tuple[int, Any]:
    """How much each native value adds to each wanted one of `start..stop`: a sparse matrix (wanted, native).

    With it, the first native value. Neighbouring windows share their rows or columns, hence the cache.
    """
    from scipy.sparse import csr_array  # a quarter of a second to load, and needed for few spacings

    edges = np.arange(start, stop + 1) * factor
    first, last = math.floor(edges[0]), math.ceil(edges[-1])
    edges -= first
    lower, upper = edges[:-1, None], edges[1:, None]
    at = np.floor(lower) + np.arange(int((np.ceil(upper) - np.floor(lower)).max(initial=1)))
    covered = np.clip(np.minimum(upper, at + 1) - np.maximum(lower, at), 0, None)
    met = covered > 0
    ends = np.concatenate([[0], met.sum(axis=1).cumsum()]).astype(np.int32)
    values = (covered / (upper - lower))[met].astype(np.float32)
    return first, csr_array((values, at[met].astype(np.int32), ends), shape=(stop - start, last - first))


def weighted_along(matrix: Any, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """`values` (n, ...) weighted along their first axis.

    A sparse product adds the few values of each in their order, whatever else is computed with it, so that a value does
    not depend on its window. It releases the interpreter lock.
    """
    means: npt.NDArray[np.float32] = matrix @ values.reshape(len(values), -1)
    return means.reshape(len(means), *values.shape[1:])


def _weighted(native: Values, weights: list[Weights], factors: tuple[float, ...]) -> npt.NDArray[np.float32]:
    values: npt.NDArray[Any] = native
    # The axis that shrinks most goes first, which leaves least to do; the order is the same for every window.
    order = [
        k for k in sorted(range(len(weights)), key=lambda k: -factors[k]) if weights[k].matrix is not None
    ]
    for axis in order:
        matrix = weights[axis].matrix
        planes = max(1, _TURNED_AT_ONCE * len(values) // max(1, values.size))
        if axis == 0 or planes >= len(values):
            values = _along(values, axis, matrix)
            continue
        parts = [_along(values[k : k + planes], axis, matrix) for k in range(0, len(values), planes)]
        values = np.concatenate(parts)
    return values


def _along(values: npt.NDArray[Any], axis: int, matrix: Any) -> npt.NDArray[np.float32]:
    """`weighted_along` of any axis, as a view whose axes are in the order of `values`."""
    first = (axis, *(k for k in range(values.ndim) if k != axis))
    back = (*range(1, axis + 1), 0, *range(axis + 1, values.ndim))
    turned = np.ascontiguousarray(values.transpose(first), np.float32)
    return weighted_along(matrix, turned).transpose(back)


def as_type(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> Values:
    """Values of `dtype`: whole numbers rounded, and cut to what the type can hold."""
    if dtype.kind == "f":
        return values.astype(dtype)
    ends = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(values), ends.min, ends.max).astype(dtype))


def write_as_type(values: npt.NDArray[np.float32], out: Values) -> None:
    """`as_type` into `out`; `values` are no longer what they were."""
    if out.dtype.kind != "f":
        ends = np.iinfo(out.dtype)
        np.rint(values, out=values)
        np.clip(values, ends.min, ends.max, out=values)
    out[...] = values


def _sparse(columns: npt.NDArray[Any], shares: npt.NDArray[np.float32]) -> Any:
    """A matrix with the same number of entries in each row; entries of one place are added."""
    from scipy.sparse import csr_array

    rows, taps = columns.shape
    ends = np.arange(rows + 1, dtype=np.int32) * taps
    shape = (rows, int(columns.max()) + 1)
    return csr_array((shares.ravel(), columns.ravel().astype(np.int32), ends), shape=shape)


def _parts(box: Box, factors: tuple[float, ...]) -> Iterator[Box]:
    """Parts of a box whose native values are few enough to be weighted at once."""
    native = [n * max(1.0, f) + 2 for n, f in zip(box.shape, factors, strict=True)]
    if math.prod(native) <= _MOST_VALUES or max(box.shape, default=0) < 2:
        if box.size:
            yield box
        return
    axis = max((k for k in range(len(native)) if box.shape[k] > 1), key=lambda k: native[k])
    middle = (box.start[axis] + box.stop[axis]) // 2
    for start, stop in ((box.start[axis], middle), (middle, box.stop[axis])):
        yield from _parts(
            Box(
                (*box.start[:axis], start, *box.start[axis + 1 :]),
                (*box.stop[:axis], stop, *box.stop[axis + 1 :]),
            ),
            factors,
        )
