"""Where outputs go: each sink turns a stream of window outputs, in any order, into one result.

A sink never depends on the order or the grouping in which windows arrive. `state()` and `restore()` carry its progress
over a restart; they hold plain arrays, so a checkpoint is an `.npz` file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.geometry import Box, Spacing
from medvision.core.results import FloatArray, Found, Raster, Table
from medvision.engine.plan import Int64Array, TilePlan

R_co = TypeVar("R_co", covariant=True)
State = dict[str, npt.NDArray[np.generic]]
Outputs = FloatArray | list[dict[str, FloatArray]]
"""What a model gives for a batch: an array `(n, ...)`, or for detectors one dictionary of arrays per window."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """A group of windows: their indices in the plan, and their boxes and cores `(n, 2, axes)`."""

    index: Int64Array
    boxes: Int64Array
    cores: Int64Array


class Sink(Protocol[R_co]):
    """Collects outputs of windows and assembles the result."""

    def add(self, windows: Windows, outputs: Outputs) -> None:
        """Take the outputs of a group of windows."""

    def unread(self, windows: Windows) -> None:
        """Take note that these windows could not be read."""

    def finish(self) -> R_co:
        """The result."""

    def state(self) -> State:
        """Progress so far, as arrays."""

    def restore(self, state: State) -> None:
        """Continue from a saved state."""


class RasterSink:
    """Scores `(n, channels)` of a grid plan, one raster cell per window; cells never reached stay NaN."""

    def __init__(self, plan: TilePlan, channels: tuple[str, ...]) -> None:
        if plan.lattice is None or plan.cells is None:
            raise UsageError("a raster needs a grid plan: only its windows lie on a lattice of cells")
        self._plan, self._lattice, self._cells = plan, plan.lattice, plan.cells
        self._channels = channels
        self._values = np.full((int(np.prod(plan.lattice.shape)), len(channels)), np.nan, np.float32)

    def add(self, windows: Windows, outputs: Outputs) -> None:
        """Write each window's scores into its cell."""
        self._values[self._cells[windows.index]] = _array(outputs).reshape(len(windows.index), -1)

    def unread(self, windows: Windows) -> None:
        """Leave the cells NaN."""
        self._values[self._cells[windows.index]] = np.nan

    def finish(self) -> Raster:
        """The raster, in physical units where the plan has them, else in pixels declared as micrometres of side 1."""
        axes = len(self._lattice.shape)
        base = self._plan.spacing or Spacing((1.0,) * axes)
        return Raster(
            values=self._values.reshape(*self._lattice.shape, len(self._channels)),
            spacing=base.scaled(tuple(float(c) for c in self._lattice.cell)),
            channels=self._channels,
            offset=(0.0,) * axes,
            extent=tuple(n * s for n, s in zip(self._plan.extent, base.values, strict=True)),
        )

    def state(self) -> State:
        """The values so far."""
        return {"values": self._values}

    def restore(self, state: State) -> None:
        """Take the values back."""
        self._values[...] = state["values"].astype(np.float32)


class BlockSink(Generic[R_co]):
    """Scores `(n, rows, columns, channels)` of blocks of cells, handed cell by cell to the sink of the cells' own plan.

    `blocks` is a grid plan with a stride of whole cells of `cells`, another grid plan over the same extent. Cells that
    `cells` does not hold are dropped, so what was left out there stays left out.
    """

    def __init__(self, blocks: TilePlan, cells: TilePlan, sink: Sink[R_co]) -> None:
        if blocks.lattice is None or blocks.cells is None or cells.lattice is None or cells.cells is None:
            raise UsageError("blocks of cells need two grid plans: only those have a lattice of cells")
        sides = [divmod(a, b) for a, b in zip(blocks.lattice.cell, cells.lattice.cell, strict=True)]
        if any(rest for _, rest in sides) or blocks.extent != cells.extent:
            raise UsageError(
                f"blocks of {blocks.lattice.cell} px on {blocks.extent} do not hold whole cells of "
                f"{cells.lattice.cell} px on {cells.extent}"
            )
        self._blocks, self._cells, self._sink = blocks, cells, sink
        shape = tuple(count for count, _ in sides)
        # The window of each cell, or -1 where the plan has none; as large as whole blocks are.
        owner = np.full(tuple(n * m for n, m in zip(blocks.lattice.shape, shape, strict=True)), -1, np.int64)
        owner[np.unravel_index(cells.cells, cells.lattice.shape)] = np.arange(len(cells))
        corners = np.stack(np.unravel_index(blocks.cells, blocks.lattice.shape), axis=1) * np.array(shape)
        self._owner, self._corners, self._shape = owner, corners, shape

    def add(self, windows: Windows, outputs: Outputs) -> None:
        """Take the cells out of each block."""
        arrays = _array(outputs)
        for index, array in zip(windows.index, arrays, strict=True):
            if array.shape[:-1] != self._shape:
                raise UsageError(f"an output of shape {array.shape} is not a block of {self._shape} cells")
            owner = self._owner[Box.at(tuple(self._corners[index].tolist()), self._shape).slices()]
            held = owner >= 0
            mine = owner[held]
            self._sink.add(Windows(mine, self._cells.boxes[mine], self._cells.cores[mine]), array[held])

    def unread(self, windows: Windows) -> None:
        """Leave the cells of these blocks as they were."""

    def cells_of(self, indices: Int64Array) -> Int64Array:
        """Windows of the cells' plan that lie in these blocks, in its order."""
        found = [
            self._owner[Box.at(tuple(self._corners[index].tolist()), self._shape).slices()].ravel()
            for index in indices
        ]
        flat = np.concatenate(found) if found else np.zeros(0, np.int64)
        return np.sort(flat[flat >= 0])

    def finish(self) -> R_co:
        """The result of the cells' sink."""
        return self._sink.finish()

    def state(self) -> State:
        """Progress of the cells' sink."""
        return self._sink.state()

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        self._sink.restore(state)


class TableSink:
    """Vectors `(n, columns)`, one row per window in the plan's order; rows never reached are NaN."""

    def __init__(self, plan: TilePlan, columns: tuple[str, ...]) -> None:
        self._plan, self._columns = plan, columns
        self._rows = np.full((len(plan), len(columns)), np.nan, np.float32)

    def add(self, windows: Windows, outputs: Outputs) -> None:
        """Write each window's vector into its row."""
        self._rows[windows.index] = _array(outputs).reshape(len(windows.index), -1)

    def unread(self, windows: Windows) -> None:
        """Leave the rows NaN."""
        self._rows[windows.index] = np.nan

    def finish(self) -> Table:
        """The table; boxes are the windows' cores in plan pixels."""
        columns = {name: self._rows[:, k] for k, name in enumerate(self._columns)}
        return Table(np.arange(len(self._plan), dtype=np.int64), self._plan.cores, columns)

    def state(self) -> State:
        """The rows so far."""
        return {"rows": self._rows}

    def restore(self, state: State) -> None:
        """Take the rows back."""
        self._rows[...] = state["rows"].astype(np.float32)


class StackSink:
    """Arrays `(n, *shape)` of one shape, kept as they are: the result is `(windows, *shape)` in the plan's order.

    Windows never reached are NaN. Memory grows with the plan: for a few windows, such as a map of each of some images.
    """

    def __init__(self, plan: TilePlan) -> None:
        self._count = len(plan)
        self._stack: FloatArray | None = None

    def add(self, windows: Windows, outputs: Outputs) -> None:
        """Put each window's array in its place."""
        arrays = _array(outputs)
        if self._stack is None:
            self._stack = np.full((self._count, *arrays.shape[1:]), np.nan, np.float32)
        self._stack[windows.index] = arrays

    def unread(self, windows: Windows) -> None:
        """Leave the arrays NaN."""

    def finish(self) -> FloatArray:
        """The stack; without any output `(windows, 0)`."""
        return np.full((self._count, 0), np.nan, np.float32) if self._stack is None else self._stack

    def state(self) -> State:
        """The stack so far."""
        return {} if self._stack is None else {"stack": self._stack}

    def restore(self, state: State) -> None:
        """Take the stack back."""
        self._stack = state["stack"].astype(np.float32) if "stack" in state else None


class ImageSink:
    """Arrays `(n, channels, *out)` stitched into one `(*extent, channels)` image: each window contributes its core.

    The output may be smaller than the window (a network without padding): it is then taken as centred in it, and must
    cover the core. What no window covered stays `fill`.
    """

    def __init__(self, plan: TilePlan, channels: int, fill: float = np.nan) -> None:
        self._plan = plan
        self._image = np.full((*plan.extent, channels), fill, np.float32)

    def add(self, windows: Windows, outputs: Outputs) -> None:
        """Cut each output to its window's core and put it in place."""
        arrays = _array(outputs)
        for box, core, array in zip(windows.boxes, windows.cores, arrays, strict=True):
            margin = (np.array(self._plan.window) - array.shape[1:]) // 2
            inner = Box(
                tuple((core[0] - box[0] - margin).tolist()), tuple((core[1] - box[0] - margin).tolist())
            )
            if min(inner.start) < 0 or any(b > n for b, n in zip(inner.stop, array.shape[1:], strict=True)):
                raise UsageError(
                    f"an output of shape {array.shape[1:]} does not cover its core; enlarge the halo"
                )
            outer = Box(tuple(core[0].tolist()), tuple(core[1].tolist()))
            self._image[outer.slices()] = np.moveaxis(array[(slice(None), *inner.slices())], 0, -1)

    def unread(self, windows: Windows) -> None:
        """Leave the core at the fill value."""

    def finish(self) -> FloatArray:
        """The stitched image."""
        return self._image

    def state(self) -> State:
        """The image so far."""
        return {"image": self._image}

    def restore(self, state: State) -> None:
        """Take the image back."""
        self._image[...] = state["image"].astype(np.float32)


class ObjectSink:
    """Detections per window, kept only by the window whose core holds the object's centre, so none counts twice.

    Each output is a dictionary with `boxes` (k, 2, axes) relative to the window, `scores` (k,) and `labels` (k,).
    """

    def __init__(self, plan: TilePlan) -> None:
        self._plan = plan
        self._found: dict[int, tuple[FloatArray, FloatArray, FloatArray]] = {}

    def add(self, windows: Windows, outputs: Outputs) -> None:
        """Keep the objects whose centre lies in the core. A window added again replaces what it gave before."""
        if not isinstance(outputs, list):
            raise UsageError("an object sink takes one dictionary of boxes, scores and labels per window")
        for index, box, core, found in zip(windows.index, windows.boxes, windows.cores, outputs, strict=True):
            placed = found["boxes"].astype(np.float64) + box[0]
            centre = placed.mean(axis=1)
            mine = np.all((centre >= core[0]) & (centre < core[1]), axis=1)
            self._found[int(index)] = (
                placed[mine].astype(np.float32),
                found["scores"][mine].astype(np.float32),
                found["labels"][mine].astype(np.float32),
            )

    def unread(self, windows: Windows) -> None:
        """A window that could not be read holds no objects."""

    def finish(self) -> Found:
        """All objects, the most certain first; ties in array order of their boxes, so that input order is forgotten."""
        state = self.state()
        boxes = state["boxes"].astype(np.float64)
        scores, labels = state["scores"].astype(np.float32), state["labels"].astype(np.int64)
        flat = boxes.reshape(len(boxes), 2 * len(self._plan.extent))
        keys = [flat[:, k] for k in reversed(range(flat.shape[1]))]
        order = np.lexsort((*keys, -scores.astype(np.float64)))
        return Found(boxes[order], scores[order], labels[order])

    def state(self) -> State:
        """Objects so far, with the index of the window that owns each."""
        axes = len(self._plan.extent)
        indices = sorted(self._found)
        rows = [self._found[index] for index in indices]
        counts = [len(row[1]) for row in rows]
        return {
            "boxes": np.concatenate([np.zeros((0, 2, axes), np.float32), *(row[0] for row in rows)]),
            "scores": np.concatenate([np.zeros(0, np.float32), *(row[1] for row in rows)]),
            "labels": np.concatenate([np.zeros(0, np.float32), *(row[2] for row in rows)]),
            "owners": np.repeat(np.array(indices, np.int64), counts),
        }

    def restore(self, state: State) -> None:
        """Take the objects back."""
        boxes, scores, labels = (state[name].astype(np.float32) for name in ("boxes", "scores", "labels"))
        owners = state["owners"].astype(np.int64)
        self._found = {
            int(owner): (boxes[owners == owner], scores[owners == owner], labels[owners == owner])
            for owner in np.unique(owners)
        }


def _array(outputs: Outputs) -> FloatArray:
    if isinstance(outputs, list):
        raise UsageError("this sink takes arrays, and the model gives objects")
    return outputs
