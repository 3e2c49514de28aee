"""The only level choice and the only resampling: a source read on a grid of a wanted spacing.

The *plan grid* at spacing s has pixel i cover [i*s, (i+1)*s) from the corner of level 0. Spacings are micrometres of
slides and millimetres of volumes: one number for a square or cube, or a `Spacing` with one per axis. Every output pixel
is a function of its own index alone, so a window has the same pixels whether it is read alone or cut from a larger
read, and rounding does not add up along a slide.

With f the side of a wanted pixel in pixels of the level that is read:

- f within 1% of an integer k (0.499 served as 0.5; 0.2501 averaged to 0.5): the mean of the k x k whole native pixels
  whose centre is nearest. Nothing is blurred; the position is off by half a native pixel at most, anywhere on a slide.
- f > 1 otherwise: the exact mean over the pixel's area, fractions of native pixels weighted by their share.
- f < 1: linear between native pixel centres; the file is coarser than what was asked for.

Slides, which are bytes in two axes, have one way for both axes, and fast ones. Volumes have a way for each axis
(`medvision.sources.separable`), so that thick slices can be interpolated while their pixels are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from medvision.core.errors import PixelsMissingError, UsageError, WindowUnreadableError
from medvision.core.geometry import Box, Spacing, Unit
from medvision.sources.base import UINT8, ManySource, Pixels, Source, Values
from medvision.sources.separable import first_natives, shares_of_area, weighted_along, write_separable
from medvision.sources.shrink import shrink_into
from medvision.sources.spacing import require_spacing
from medvision.sources.tile_memory import MEMORY

TOLERANCE = 0.01
"""Largest relative difference between a wanted pixel and whole native ones that is served without blending."""
_EXACT = 1e-13
_MOST_TAPS = 8
"""Side of an area in native pixels up to which these are summed one by one."""
_TILE_SHRINK = 8
"""Largest block that is averaged tile by tile; beyond it the reduced tiles are too small to be worth keeping."""
_TILE_SIDE = 128
"""Half the usual side of a native tile: what cannot be read is narrowed down to it."""
_NATIVE_SIDE = 2048
"""Side of the largest native block held while reducing; bounds memory and keeps 32-bit integral images exact."""

_Write = Callable[[Values, Box], None]
Indices = npt.NDArray[np.int64]


def extent_at(source: Source, spacing: float | Spacing) -> tuple[int, ...]:
    """Shape of the plan grid at `spacing`: along each axis the pixels whose centre lies inside, at least one."""
    native, wanted = _fit(source, spacing)
    return tuple(
        max(1, math.ceil(n * side / new - 0.5 - 1e-6))
        for n, side, new in zip(source.levels[0].shape, native, wanted, strict=True)
    )


def read_at(source: Source, box: Box, spacing: float | Spacing, out: Values | None = None) -> Values:
    """Pixels of `box`, in plan pixels at `spacing`, `(*box.shape, channels)`; `source.fill` outside the image.

    With `out` they are written there, and it is returned. Who reads many windows makes one `Reading` instead.

    Raises:
        SpacingError: if the source has no spacing fit to measure with.
        UsageError: if `spacing` is not one of this source's axes and unit.
        WindowUnreadableError: if any part inside the image cannot be decoded.
    """
    return Reading.of(source, spacing).read(box, out)


@dataclass(frozen=True, eq=False, slots=True)
class Reading:
    """A source read at one spacing: the level and the way to resample, chosen once. Safe on any number of threads.

    `factors` is how many pixels of `level` a wanted pixel spans, per axis. `write` fills an array with a box.
    """

    source: Source
    level: int
    factors: tuple[float, ...]
    write: _Write
    own: int = 0
    """Side of the blocks of pixels that the reader itself averages for this; 1 is a plain copy, and 0 is neither."""

    @classmethod
    def of(cls, source: Source, spacing: float | Spacing) -> Reading:
        """Choose level and resampling. Raises what `read_at` raises of spacings."""
        level, factors = choose_level(source, spacing)
        if len(factors) != 2 or source.dtype != UINT8:
            nearest = (max(1, round(f)) for f in factors)
            whole = tuple(
                k if abs(f / k - 1) <= TOLERANCE else 0 for f, k in zip(factors, nearest, strict=True)
            )
            return cls(source, level, factors, partial(write_separable, source, level, factors, whole))
        return cls._of_slide(source, level, (factors[0], factors[1]))

    @classmethod
    def _of_slide(cls, source: Source, level: int, factors: tuple[float, float]) -> Reading:
        row, column = (max(1, round(f)) for f in factors)
        if abs(factors[0] / row - 1) <= TOLERANCE and abs(factors[1] / column - 1) <= TOLERANCE:
            own = _own_means(source, level, factors, (row, column))
            return cls(source, level, factors, _write_whole(source, level, factors, (row, column), own), own)
        mean = _mean_of_area if min(factors) >= 1 else _between
        native = (max(1.0, factors[0]), max(1.0, factors[1]))
        return cls(source, level, factors, _in_parts(native, partial(mean, source, level, factors)))

    def read(self, box: Box, out: Values | None = None) -> Values:
        """Pixels of `box`, in plan pixels, `(*box.shape, channels)`; in `out` where it is given. See `read_at`."""
        source = self.source
        pixels = np.empty((*box.shape, source.channels), source.dtype) if out is None else out
        if pixels.size:
            self.write(pixels, box)
        return pixels

    def read_many(self, boxes: Sequence[Box], out: Values) -> list[WindowUnreadableError | None]:
        """`read` of boxes of one shape into `out[0]`, `out[1]`, ...; for each, what it would raise, or None."""
        if self.own and hasattr(self.source, "read_many"):
            return cast("ManySource", self.source).read_many(out, boxes, self.level, self.own)
        errors: list[WindowUnreadableError | None] = [None] * len(boxes)
        for stack in _stacks(boxes):
            if len(stack) > 1 and self._read_stack([boxes[k] for k in stack], [out[k] for k in stack]):
                continue
            for k in stack:
                try:
                    self.read(boxes[k], out[k])
                except WindowUnreadableError as error:
                    errors[k] = error
        return errors

    def _read_stack(self, boxes: Sequence[Box], out: Sequence[Values]) -> bool:
        """Read windows that share planes at once, each plane one time; False where any part cannot be decoded."""
        first, last = boxes[0], boxes[-1]
        try:
            planes = self.read(Box(first.start, last.stop))
        except WindowUnreadableError:
            return False
        for box, pixels in zip(boxes, out, strict=True):
            pixels[...] = planes[box.start[0] - first.start[0] : box.stop[0] - first.start[0]]
        return True

    def fetch_ahead(self, box: Box) -> None:
        """Have what `read` will need of `box` fetched meanwhile, where the reader can. See `AheadSource`."""
        ahead: Callable[[Box, int], None] | None = getattr(self.source, "fetch_ahead", None)
        if ahead is not None:
            start = tuple(math.floor(n * f) for n, f in zip(box.start, self.factors, strict=True))
            stop = tuple(math.ceil(n * f) for n, f in zip(box.stop, self.factors, strict=True))
            ahead(Box(start, stop), self.level)


def _stacks(boxes: Sequence[Box]) -> Iterator[list[int]]:
    """Indices of boxes of one shape in groups whose planes are to be read together, in the order of the planes.

    Those of a group lie above each other in a volume, and each shares at least half of its planes with the one before.
    """
    columns: dict[tuple[int, ...], list[int]] = {}
    for k, box in enumerate(boxes):
        columns.setdefault(box.start[1:] if len(box.start) == 3 else (k,), []).append(k)
    for column in columns.values():
        column.sort(key=lambda k: boxes[k].start[0])
        stack = column[:1]
        for k in column[1:]:
            if 2 * (boxes[k].start[0] - boxes[stack[-1]].start[0]) > boxes[k].shape[0]:
                yield stack
                stack = []
            stack.append(k)
        yield stack


def _own_means(source: Source, level: int, factors: tuple[float, float], wholes: tuple[int, int]) -> int:
    """The side of the blocks, where the reader's own shortcuts give the same means of whole native pixels, or 0."""
    k = wholes[0]
    # So near to a whole number that no position up to the longest side is rounded to another pixel.
    if k != wholes[1] or max(abs(f - k) for f in factors) >= _EXACT:
        return 0
    if k == 1:
        return 1
    shrinks: Callable[[int, int], bool] | None = getattr(source, "shrinks", None)
    return k if k <= _TILE_SHRINK and shrinks is not None and shrinks(level, k) else 0


def _write_whole(
    source: Source, level: int, factors: tuple[float, float], wholes: tuple[int, int], own: int
) -> _Write:
    """How to write means of whole native pixels: through the reader's own shortcuts where there are some."""
    if own == 1:
        into: Callable[[Pixels, Box, int], None] | None = getattr(source, "read_into", None)
        return partial(_copy, source, level) if into is None else lambda out, box: into(out, box, level)
    if own:
        shrunk: Callable[[Pixels, Box, int, int], None] = source.shrunk_into  # type: ignore[attr-defined]
        return lambda out, box: shrunk(out, box, level, own)
    return _in_parts(wholes, partial(_mean_of_whole, source, level, factors, wholes))


@dataclass(frozen=True, eq=False)
class Whole:
    """A whole source at one spacing: pixels uint8 `(rows, columns, 3)` of `extent_at`, and two masks of what it lacks.

    `damaged` could not be decoded; `missing` was never stored (tiles of zero bytes). Both show `source.fill`.
    """

    pixels: Pixels
    damaged: npt.NDArray[np.bool_]
    missing: npt.NDArray[np.bool_]


def overview(source: Source, spacing_um: float, block: int = 256) -> Whole:
    """The whole source at `spacing_um`, read in blocks of `block` pixels.

    A block that cannot be read is halved again and again down to about the size of a native tile, so that one damaged
    tile hides no more than itself.
    """
    extent = Box((0, 0), extent_at(source, spacing_um))
    shape = extent.shape
    whole = Whole(
        np.full((*shape, 3), source.fill, np.uint8), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    )
    reading = Reading.of(source, spacing_um)
    least = max(1, round(_TILE_SIDE / max(1.0, *reading.factors)))
    waiting = list(_parts(extent, block, block))[::-1]
    while waiting:
        part = waiting.pop()
        try:
            reading.read(part, whole.pixels[part.slices()])
        except WindowUnreadableError as error:
            whole.pixels[part.slices()] = source.fill
            if max(part.shape) > least:
                rows, columns = (max(1, -(-n // 2)) for n in part.shape)
                waiting += list(_parts(part, rows, columns))[::-1]
            else:
                mask = whole.missing if isinstance(error, PixelsMissingError) else whole.damaged
                mask[part.slices()] = True
    return whole


def choose_level(source: Source, spacing: float | Spacing) -> tuple[int, tuple[float, ...]]:
    """The coarsest level whose pixels are at most as large as wanted (within 1%).

    With it, how many of its pixels a wanted pixel spans, per axis. Level 0 where every level is coarser than wanted.
    """
    native, wanted = _fit(source, spacing)
    best, factors = 0, tuple(new / side for new, side in zip(wanted, native, strict=True))
    for index, level in enumerate(source.levels[1:], start=1):
        candidate = tuple(
            new / (side * down) for new, side, down in zip(wanted, native, level.downsample, strict=True)
        )
        if min(candidate) >= 1 - TOLERANCE and max(candidate) <= max(factors):
            best, factors = index, candidate
    return best, factors


def _fit(source: Source, spacing: float | Spacing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Native and wanted spacing per axis."""
    axes = len(source.levels[0].shape)
    unit: Unit = "mm" if axes == 3 else "um"
    wanted = spacing.values if isinstance(spacing, Spacing) else (spacing,) * axes
    if len(wanted) != axes or (isinstance(spacing, Spacing) and spacing.unit != unit):
        raise UsageError(f"cannot read {source.path.name} at {spacing}; it has {axes} axes in {unit}")
    if not all(math.isfinite(new) and new > 0 for new in wanted):
        raise UsageError(
            f"cannot read {source.path.name} at {spacing} {unit} per pixel; give a positive spacing"
        )
    return require_spacing(source, unit).values, wanted


def _in_parts(factors: tuple[float, float], write: _Write) -> _Write:
    """`write(out, box)`, in parts whose native pixels fit in memory."""

    def write_parts(out: Pixels, box: Box) -> None:
        rows, columns = (max(1, int(_NATIVE_SIDE / f)) for f in factors)
        if box.shape[0] <= rows and box.shape[1] <= columns:
            write(out, box)
            return
        for part in _parts(box, rows, columns):
            write(out[part.shift((-box.start[0], -box.start[1])).slices()], part)

    return write_parts


def _parts(box: Box, rows: int, columns: int) -> Iterator[Box]:
    for i in range(box.start[0], box.stop[0], rows):
        for j in range(box.start[1], box.stop[1], columns):
            yield Box((i, j), (min(i + rows, box.stop[0]), min(j + columns, box.stop[1])))


def _copy(source: Source, level: int, out: Pixels, box: Box) -> None:
    out[:] = source.read(box, level)


def _mean_of_whole(
    source: Source,
    level: int,
    factors: tuple[float, float],
    wholes: tuple[int, int],
    out: Pixels,
    box: Box,
) -> None:
    """The mean of k x m whole native pixels for each."""
    rows, columns = (
        first_natives(box.start[axis], box.stop[axis], factors[axis], wholes[axis]) for axis in (0, 1)
    )
    k, m = wholes
    native = Box((int(rows[0]), int(columns[0])), (int(rows[-1]) + k, int(columns[-1]) + m))
    pixels = np.asarray(source.read(native, level))
    # Where the factor is a little off a whole number the positions slip once in a while: runs between the slips.
    for i0, i1 in _runs(rows, k):
        r = int(rows[i0] - rows[0])
        for j0, j1 in _runs(columns, m):
            c = int(columns[j0] - columns[0])
            piece = pixels[r : r + (i1 - i0) * k, c : c + (j1 - j0) * m]
            if k == m == 1:
                out[i0:i1, j0:j1] = piece
            else:
                shrink_into(out[i0:i1, j0:j1], piece)


def _runs(firsts: Indices, whole: int) -> list[tuple[int, int]]:
    """Half-open runs of wanted pixels whose native pixels follow one another without gap or overlap."""
    slips = np.flatnonzero(np.diff(firsts) != whole) + 1
    edges = [0, *slips.tolist(), len(firsts)]
    return list(pairwise(edges))


def _mean_of_area(source: Source, level: int, factors: tuple[float, float], out: Pixels, box: Box) -> None:
    """The exact mean over each pixel's area: of the few native pixels it meets, each weighted by its share."""
    import cv2

    if max(factors) > _MOST_TAPS:
        _mean_of_large_area(source, level, factors, out, box)
        return
    shares = [shares_of_area(box.start[axis], box.stop[axis], factors[axis]) for axis in (0, 1)]
    start = tuple(first for first, _ in shares)
    stop = tuple(first + matrix.shape[1] for first, matrix in shares)
    native = source.read(Box(start, stop), level)
    # Rows are weighted at the speed of a copy, single pixels are not: hence the turn before the second axis.
    rows = weighted_along(shares[0][1], _as_float(native))
    turned = cv2.transpose(rows, dst=_float_array((rows.shape[1], rows.shape[0], 3)))
    columns = weighted_along(shares[1][1], np.asarray(turned, np.float32))
    upright = cv2.transpose(columns, dst=_float_array((columns.shape[1], columns.shape[0], 3)))
    made = cv2.convertScaleAbs(upright, dst=out)  # rounds to the nearest, and to even between two
    if made is not out:  # a layout that OpenCV does not write to
        out[:] = made


def _as_float(pixels: Pixels) -> npt.NDArray[np.float32]:
    values = _float_array(pixels.shape)
    np.copyto(values, pixels)
    return values


def _float_array(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return MEMORY.empty((*shape, 4)).reshape(-1).view(np.float32).reshape(shape)


def _mean_of_large_area(
    source: Source, level: int, factors: tuple[float, float], out: Pixels, box: Box
) -> None:
    """The exact mean over areas of many native pixels.

    The integral image of a piecewise constant picture is bilinear between pixel corners, so its values at the wanted
    pixels' corners, and their second differences, are exact.
    """
    import cv2

    edges = [np.arange(box.start[axis], box.stop[axis] + 1) * factors[axis] for axis in (0, 1)]
    start = tuple(math.floor(e[0]) for e in edges)
    stop = tuple(math.ceil(e[-1]) for e in edges)
    integral = cv2.integral(source.read(Box(start, stop), level), sdepth=cv2.CV_32S)
    rows = _at(integral, edges[0] - start[0])
    sums = _at(rows.transpose(1, 0, 2), edges[1] - start[1]).transpose(1, 0, 2)
    means = np.diff(np.diff(sums, axis=0), axis=1) / (factors[0] * factors[1])
    out[:] = np.clip(np.rint(means), 0, 255)


def _at(table: npt.NDArray[Any], positions: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Values of `table` along its first axis at fractional positions, linear in between."""
    low = np.clip(np.floor(positions).astype(np.int64), 0, len(table) - 2)
    share = (positions - low)[:, None, None]
    below = table[low].astype(np.float64)
    return np.asarray(below + (table[low + 1] - below) * share)


def _between(source: Source, level: int, factors: tuple[float, float], out: Pixels, box: Box) -> None:
    """Bilinear between native centres; beyond the outermost centre the border pixel is kept, outside is `fill`."""
    shape = source.levels[level].shape
    out.fill(source.fill)
    positions = [(np.arange(box.start[axis], box.stop[axis]) + 0.5) * factors[axis] for axis in (0, 1)]
    seen = [(p >= 0) & (p < n) for p, n in zip(positions, shape, strict=True)]
    if not (seen[0].any() and seen[1].any()):
        return
    places = [np.clip(p[s] - 0.5, 0, n - 1) for p, s, n in zip(positions, seen, shape, strict=True)]
    start = tuple(int(p[0]) for p in places)
    stop = tuple(min(int(p[-1]) + 2, n) for p, n in zip(places, shape, strict=True))
    native = source.read(Box(start, stop), level)
    native = np.pad(native, ((0, 1), (0, 1), (0, 0)), mode="edge")
    rows = _at(native, places[0] - start[0])
    blended = _at(rows.transpose(1, 0, 2), places[1] - start[1]).transpose(1, 0, 2)
    out[np.ix_(*seen)] = np.rint(blended).astype(np.uint8)
