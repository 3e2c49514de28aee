"""A sink for long vectors: rows go to a file as they come, so that memory does not grow with the slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.results import FloatArray
from medvision.engine.plan import TilePlan
from medvision.engine.sinks import Outputs, State, Windows


class RowsSink:
    """Vectors `(n, dimension)`, one row per window in the plan's order, in a float32 file that is mapped into memory.

    The result is the map itself, `(windows, dimension)`; rows never reached are NaN. Progress (`state`) is which rows
    are in the file, so a checkpoint stays small: a restart with the same `path` finds the rows there.
    """

    def __init__(self, plan: TilePlan, dimension: int, path: Path) -> None:
        self._shape, self._path = (len(plan), dimension), path
        self._done = np.zeros(len(plan), bool)
        self._rows: FloatArray | None = None

    def add(self, windows: Windows, outputs: Outputs) -> None:
        """Write each window's vector into its row."""
        if isinstance(outputs, list) or outputs.shape[1:] != self._shape[1:]:
            raise UsageError(
                f"rows of {self._shape[1]} features are taken, and the model gives something else"
            )
        self._map()[windows.index] = outputs
        self._done[windows.index] = True

    def unread(self, windows: Windows) -> None:
        """Leave the rows NaN."""
        self._done[windows.index] = False

    def finish(self) -> FloatArray:
        """The rows, as a map of the file."""
        rows = self._map()
        rows[~self._done] = np.nan
        self._flush()
        return rows

    def state(self) -> State:
        """Which rows the file holds."""
        self._flush()
        return {"done": self._done}

    def restore(self, state: State) -> None:
        """Continue with the rows that are in the file; without the file nothing is done.

        Raises:
            ValueError: if the file is absent or of another size, so that the run starts from the beginning.
        """
        size = int(np.prod(self._shape)) * np.dtype(np.float32).itemsize
        if not self._path.is_file() or self._path.stat().st_size != size:
            raise ValueError(f"{self._path} does not hold the rows of this state")
        self._done = state["done"].astype(bool)
        self._rows = np.memmap(self._path, np.float32, "r+", shape=self._shape)

    def _map(self) -> FloatArray:
        if self._rows is None:
            empty: npt.NDArray[np.float32] = np.zeros(self._shape, np.float32)
            # A map of no bytes is refused by the system.
            self._rows = (
                empty if 0 in self._shape else np.memmap(self._path, np.float32, "w+", shape=self._shape)
            )
        return self._rows

    def _flush(self) -> None:
        if isinstance(self._rows, np.memmap):
            self._rows.flush()
