"""Which windows of a source are looked at. A plan is computed once, frozen, and says everything about the sampling.

Two boxes belong to each window: `box` is what is read, `core` what the window answers for. On a grid the cores
partition the extent, so every pixel has exactly one owner whatever the overlap: a stride smaller than the window gives
each window a small core in its middle (a dense heatmap), and a halo around a large core gives seamless images.
`overlapped` keeps its windows inside the extent instead, so that a network that pads sees the same edges as in one run
over the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.core.geometry import Box, Spacing

Int64Array = npt.NDArray[np.int64]
Outside = Literal["fill", "mirror"]
"""What is read beyond the extent: the source's fill value, or the image mirrored at its last pixels."""

_IN_FLIGHT = 3_500_000
"""Plan pixels of a strip from the upper edge of one row of windows to the lower edge of the tiles under it."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """The regular grid of cells behind a grid plan: `shape` cells of `cell` plan pixels each."""

    shape: tuple[int, ...]
    cell: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Windows over one source, in pixels of a grid at `spacing` (None: level-0 pixels of a source without spacing).

    `boxes` and `cores` have shape `(n, 2, axes)`: start and stop, array order. Boxes may leave the extent; cores do
    not. `cells` holds, for a grid plan, the flat index of each window's lattice cell.
    """

    source_id: str
    spacing: Spacing | None
    extent: tuple[int, ...]
    window: tuple[int, ...]
    boxes: Int64Array
    cores: Int64Array
    lattice: Lattice | None = None
    cells: Int64Array | None = None
    outside: Outside = "fill"

    def __len__(self) -> int:
        return len(self.boxes)

    def box(self, index: int) -> Box:
        """What window `index` reads."""
        start, stop = self.boxes[index]
        return Box(tuple(int(v) for v in start), tuple(int(v) for v in stop))

    def core(self, index: int) -> Box:
        """What window `index` answers for."""
        start, stop = self.cores[index]
        return Box(tuple(int(v) for v in start), tuple(int(v) for v in stop))

    def keep(self, mask: npt.NDArray[np.bool_]) -> TilePlan:
        """The plan with only the windows where `mask` (n,) is true; order, lattice and extent stay."""
        if mask.shape != (len(self),):
            raise UsageError(f"a mask of shape {mask.shape} cannot choose among {len(self)} windows")
        cells = None if self.cells is None else self.cells[mask]
        return replace(self, boxes=self.boxes[mask], cores=self.cores[mask], cells=cells)

    def storage_order(self) -> Int64Array:
        """Order of reading: down strips, row by row inside, as a tiled file is laid out.

        Within a strip every native tile stays in the reader's cache until the last window that needs it, so tiles are
        decoded twice at the strips' borders only. A strip is as wide as the cache holds rows of tiles, about 4,700
        plan pixels for small windows.
        """
        start = self.boxes[:, 0, :]
        strip = max(2048, _IN_FLIGHT // (self.window[0] + 512))
        keys = [start[:, axis] for axis in reversed(range(start.shape[1]))]
        keys += [start[:, axis] // strip for axis in reversed(range(1, start.shape[1]))]
        return np.lexsort(keys).astype(np.int64)

    @property
    def digest(self) -> str:
        """SHA-256 over everything the plan says."""
        spacing = None if self.spacing is None else [list(self.spacing.values), self.spacing.unit]
        head = [self.source_id, spacing, list(self.extent), list(self.window)]
        head += [] if self.outside == "fill" else [self.outside]
        return digest_json([head, _array_digest(self.boxes), _array_digest(self.cores)])


def grid(
    source_id: str,
    extent: tuple[int, ...],
    window: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    spacing: Spacing | None = None,
) -> TilePlan:
    """Windows on a regular grid: cell `k` covers `[k * stride, (k + 1) * stride)`, clipped to the extent.

    The window is centred on its cell, so `stride < window` overlaps windows, and `stride = window - 2 * halo` gives a
    halo. `stride` defaults to the window.

    Raises:
        UsageError: for a window or stride that is not positive, or that differs in axes from the extent.
    """
    stride = window if stride is None else stride
    if not (len(extent) == len(window) == len(stride)):
        raise UsageError(f"extent {extent}, window {window} and stride {stride} differ in number of axes")
    if min(window) < 1 or min(stride) < 1 or min(extent) < 1:
        raise UsageError(f"extent {extent}, window {window} and stride {stride} must all be at least 1 pixel")
    shape = tuple(-(-size // step) for size, step in zip(extent, stride, strict=True))
    cells = np.stack([axis.ravel() for axis in np.indices(shape)], axis=1).astype(np.int64)
    step, side = np.array(stride, np.int64), np.array(window, np.int64)
    core_start = cells * step
    core_stop = np.minimum(core_start + step, np.array(extent, np.int64))
    box_start = core_start - (side - step) // 2
    return TilePlan(
        source_id=source_id,
        spacing=spacing,
        extent=extent,
        window=window,
        boxes=np.stack([box_start, box_start + side], axis=1),
        cores=np.stack([core_start, core_stop], axis=1),
        lattice=Lattice(shape, stride),
        cells=np.arange(len(cells), dtype=np.int64),
    )


def overlapped(
    source_id: str,
    extent: tuple[int, ...],
    window: tuple[int, ...],
    step: tuple[int, ...],
    *,
    margin: tuple[int, ...] | None = None,
    multiple: int = 1,
    spacing: Spacing | None = None,
    outside: Outside = "mirror",
) -> TilePlan:
    """Windows every `step` pixels, the last of each axis moved back so that none reaches further than it must.

    `margin` are the pixels of a window, before each side, that get no answer (a network without padding). The answers
    begin at pixel 0 and end at the extent, or less than `multiple` beyond it: all windows are multiples of that apart,
    so that a network that pools has the same grid in each. Cores part the overlap of neighbours in the middle.

    Raises:
        UsageError: for sizes that are not positive, differ in axes, a step larger than what a window answers for, or
            one that is not a multiple of `multiple`.
    """
    margin = (0,) * len(extent) if margin is None else margin
    if not len(extent) == len(window) == len(step) == len(margin):
        raise UsageError(
            f"extent {extent}, window {window}, step {step} and margin {margin} differ in number of axes"
        )
    answered = tuple(side - 2 * lost for side, lost in zip(window, margin, strict=True))
    if (
        min(extent) < 1
        or min(margin) < 0
        or any(not 1 <= s <= n for s, n in zip(step, answered, strict=True))
    ):
        raise UsageError(
            f"windows of {window} that answer for {answered} cannot follow each other every {step} pixels over {extent}"
        )
    if multiple < 1 or any(by % multiple for by in step):
        raise UsageError(f"steps of {step} px are not multiples of {multiple} px, the pooling grid")
    axes = [_line(n, side, by, multiple) for n, side, by in zip(extent, answered, step, strict=True)]
    index = np.stack([axis.ravel() for axis in np.indices(tuple(len(line) for line in axes))], axis=1)
    parts = np.stack([line[index[:, axis]] for axis, line in enumerate(axes)], axis=2)  # (n, 3, axes)
    start = parts[:, 0] - np.array(margin, np.int64)
    return TilePlan(
        source_id=source_id,
        spacing=spacing,
        extent=extent,
        window=window,
        boxes=np.stack([start, start + np.array(window, np.int64)], axis=1),
        cores=parts[:, 1:],
        outside=outside,
    )


def _line(extent: int, side: int, step: int, multiple: int) -> Int64Array:
    """Along one axis, for each window: where what it answers for begins, and its core's start and stop; `(n, 3)`."""
    last = max(0, -(-(extent - side) // multiple) * multiple)
    starts = np.unique(np.minimum(np.arange(0, last + step, step, dtype=np.int64), last))
    between = (starts[1:] + starts[:-1] + side) // 2
    core_start = np.concatenate([[0], between])
    core_stop = np.concatenate([between, [extent]])
    return np.stack([starts, core_start, core_stop], axis=1).astype(np.int64)


def around(
    source_id: str,
    extent: tuple[int, ...],
    points: npt.NDArray[np.float64],
    window: tuple[int, ...],
    spacing: Spacing | None = None,
) -> TilePlan:
    """One window centred on each of `points` (n, axes), in plan pixels; each owns what it reads of the extent."""
    side = np.array(window, np.int64)
    start = np.floor(np.asarray(points, np.float64).reshape(-1, len(extent)) - side / 2 + 0.5).astype(
        np.int64
    )
    return _from_boxes(source_id, extent, np.stack([start, start + side], axis=1), window, spacing)


def rois(
    source_id: str, extent: tuple[int, ...], boxes: list[Box], spacing: Spacing | None = None
) -> TilePlan:
    """Given boxes of one shape, each of which owns what it reads of the extent."""
    shapes = {box.shape for box in boxes}
    if len(shapes) != 1:
        raise UsageError(f"regions of one plan must share a shape; these have {sorted(shapes)}")
    stacked = np.array([[box.start, box.stop] for box in boxes], np.int64)
    return _from_boxes(source_id, extent, stacked, boxes[0].shape, spacing)


def whole(source_id: str, extent: tuple[int, ...], spacing: Spacing | None = None) -> TilePlan:
    """The source as one window."""
    return rois(source_id, extent, [Box(tuple(0 for _ in extent), extent)], spacing)


def _from_boxes(
    source_id: str,
    extent: tuple[int, ...],
    boxes: Int64Array,
    window: tuple[int, ...],
    spacing: Spacing | None,
) -> TilePlan:
    cores = np.clip(boxes, 0, np.array(extent, np.int64))
    return TilePlan(source_id, spacing, extent, window, boxes, cores)


def _array_digest(array: Int64Array) -> str:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
