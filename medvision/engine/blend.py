"""Outputs of overlapping windows made one, as a stream: what no later window can change is handed on and forgotten.

Each window counts by its weights: those of its core alone ("none"), the same everywhere ("constant"), or a Gaussian
around its middle ("gaussian"), as in nnU-Net (Isensee et al., Nature Methods 2021) and with the numbers of MONAI's
sliding window. What is held are the places where windows that have come overlap windows that are still to come: with
windows in the order of storage the length of a row of windows, whatever the height of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.core.results import FloatArray
from medvision.engine.plan import Int64Array, TilePlan
from medvision.engine.sinks import Outputs, State, Windows

Blend = Literal["none", "constant", "gaussian"]
BLENDS: tuple[Blend, ...] = get_args(Blend)

SIGMA = 0.125
"""Standard deviation of the Gaussian, as a share of the window's side."""
LEAST = 1e-3
"""Weight of the faintest corner."""

Receive = Callable[[Box, FloatArray], None]
"""Takes a finished box of the extent, values `(channels, *box.shape)`. What no window could read never comes."""


def weights_of(blend: Blend, shape: tuple[int, ...]) -> FloatArray:
    """How much each place of an output of `shape` counts, float32; of "none" everything counts alike within a core."""
    if blend != "gaussian":
        return np.ones(shape, np.float32)
    found = np.ones((), np.float32)
    for side in shape:
        x = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        line = np.exp(-(x**2) / np.float32(2 * (SIGMA * side) ** 2))
        found = found[..., None] * line
    return np.maximum(found, np.float32(max(float(found.min()), LEAST))).astype(np.float32)


@dataclass(eq=False)
class Canvas:
    """A `Receive` that keeps everything: `values` `(channels, *extent)`, NaN where nothing came."""

    values: FloatArray

    @classmethod
    def of(cls, plan: TilePlan, channels: int) -> Canvas:
        """An empty one for a plan."""
        return cls(np.full((channels, *plan.extent), np.nan, np.float32))

    def __call__(self, box: Box, values: FloatArray) -> None:
        """Keep a box."""
        self.values[(slice(None), *box.slices())] = values


class BlendSink:
    """Arrays `(n, channels, *out)` blended, and handed box by box to `receive`; each place once.

    `out` is the window without a margin that is the same before and behind. The boxes that are handed on are bounded by
    the edges of windows, so they are never larger than one. Sums are made in float64 as windows come: another order
    changes a value by its rounding alone. A stream has no progress that could be saved.
    """

    def __init__(self, plan: TilePlan, margin: tuple[int, ...], blend: Blend, receive: Receive) -> None:
        if blend not in BLENDS:
            raise UsageError(f"no blend {blend!r}; choose one of {', '.join(BLENDS)}")
        self._blend, self._receive = blend, receive
        self._out = tuple(side - 2 * lost for side, lost in zip(plan.window, margin, strict=True))
        self._weights = weights_of(blend, self._out)
        lost = np.array(margin, np.int64)
        extent = np.array(plan.extent, np.int64)
        self._starts = plan.boxes[:, 0] + lost
        stops = np.minimum(self._starts + np.array(self._out, np.int64), extent)
        self._parts = (
            plan.cores if blend == "none" else np.stack([np.maximum(self._starts, 0), stops], axis=1)
        )
        # The edges of all windows cut the extent into cells, each of which lies in the same windows as a whole.
        self._edges = [np.unique(self._parts[:, :, axis]) for axis in range(len(extent))]
        self._cells = np.stack(
            [np.searchsorted(edges, self._parts[:, :, axis]) for axis, edges in enumerate(self._edges)],
            axis=2,
        )
        self._left = np.zeros(tuple(max(1, len(edges) - 1) for edges in self._edges), np.int32)
        for first, last in self._cells:
            self._left[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] += 1
        self._sums: dict[tuple[int, ...], npt.NDArray[np.float64]] = {}

    @property
    def held(self) -> int:
        """Bytes of what waits for other windows."""
        return sum(part.nbytes for part in self._sums.values())

    def add(self, windows: Windows, outputs: Outputs) -> None:
        """Add each output by its weights, and hand on what is complete."""
        if isinstance(outputs, list):
            raise UsageError("a blend takes arrays, and the model gives objects")
        if outputs.shape[2:] != self._out:
            raise UsageError(
                f"outputs of {outputs.shape[2:]} are not the {self._out} that the plan counts on"
            )
        for index, array in zip(windows.index.tolist(), outputs, strict=True):
            whole = array if self._blend != "gaussian" else array * self._weights
            for cell, box, inner in self._pieces(index):
                piece = whole[(slice(None), *inner)]
                if self._left[cell] == 1 and cell not in self._sums:  # of one window alone: no sum to make
                    self._left[cell] = 0
                    self._receive(box, array[(slice(None), *inner)])
                    continue
                sums = self._sums.get(cell)
                if sums is None:
                    sums = self._sums[cell] = np.zeros((len(array) + 1, *box.shape))
                sums[:-1] += piece
                sums[-1] += self._weights[inner]
                self._count(cell, box)

    def unread(self, windows: Windows) -> None:
        """What no other window answers for is never handed on."""
        for index in windows.index.tolist():
            for cell, box, _ in self._pieces(index):
                self._count(cell, box)

    def finish(self) -> None:
        """Everything was handed on."""
        self._sums.clear()

    def state(self) -> State:
        """A stream cannot be saved."""
        raise UsageError("a blend hands its results on as they come, and has no progress that could be saved")

    def restore(self, state: State) -> None:  # noqa: ARG002 - of the protocol
        """Nor restored."""
        raise UsageError("a blend hands its results on as they come, and has no progress that could be saved")

    def _pieces(self, index: int) -> Iterator[tuple[tuple[int, ...], Box, tuple[slice, ...]]]:
        """The cells of a window: each with its box of the extent, and where it lies in the output."""
        first, last = self._cells[index]
        start: Int64Array = self._starts[index]
        for offset in np.ndindex(*(last - first).tolist()):
            cell = tuple(int(a) + b for a, b in zip(first, offset, strict=True))
            box = Box(
                tuple(int(edges[k]) for edges, k in zip(self._edges, cell, strict=True)),
                tuple(int(edges[k + 1]) for edges, k in zip(self._edges, cell, strict=True)),
            )
            yield cell, box, box.shift(tuple((-start).tolist())).slices()

    def _count(self, cell: tuple[int, ...], box: Box) -> None:
        self._left[cell] -= 1
        if self._left[cell]:
            return
        sums = self._sums.pop(cell, None)
        if sums is not None:
            self._receive(box, (sums[:-1] / sums[-1]).astype(np.float32))
