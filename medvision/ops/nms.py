"""Detections from a probability map by non-maximum suppression, as NCRF publishes it (Li & Ping, MIDL 2018).

A map is float `(rows, columns)` with NaN where nothing was read. Cell `(i, j)` covers `[i, i+1) x [j, j+1)` in cell
coordinates, so its centre lies at `(i + 0.5, j + 0.5)`. Positions returned here are (row, column) in these coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError

RADIUS_UM = 12 * 64 * 0.243
"""The published radius on the glass: 12 cells of 64 px of CAMELYON16's level 0, which is 0.243 µm/px: 187 µm."""


@dataclass(frozen=True, slots=True)
class Peak:
    """A detection: the centre of a cell (row, column) in cell coordinates, and its probability."""

    position: tuple[float, float]
    probability: float


def peaks(
    probability: npt.NDArray[np.floating], *, radius_cells: int = 12, threshold: float = 0.5
) -> tuple[Peak, ...]:
    """Detections, the most probable first.

    Take the cell with the highest probability; stop when it does not exceed `threshold`; clear the square around it;
    repeat. As published the square is half open: rows and columns from `-radius_cells` to `radius_cells - 1` of the
    cell, so two detections that are `radius_cells` apart to the right or below both count. Of equal cells the leftmost
    is taken, and of those the uppermost, because the published maps are stored column by column.

    Args:
        probability: `(rows, columns)` in 0..1, NaN where unread. An unread cell is never a detection.
        radius_cells: half the side of the square that is cleared; 12 at a stride of 64 px of 0.25 µm.
        threshold: detections are above it, in 0..1.

    Raises:
        UsageError: for a map that is not two-dimensional, or a radius below 1.
    """
    if probability.ndim != 2:
        raise UsageError(f"a probability map has shape (rows, columns), not {probability.shape}")
    if radius_cells < 1:
        raise UsageError(
            f"radius {radius_cells} must be at least 1 cell, or a detection would not clear itself"
        )
    values = np.nan_to_num(probability.astype(np.float64), nan=-1.0)
    columns, rows = np.nonzero((values > threshold).T)
    order = np.argsort(-values[rows, columns], kind="stable")
    cleared = np.zeros(values.shape, dtype=bool)
    found = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if cleared[row, column]:
            continue
        found.append(Peak((row + 0.5, column + 0.5), float(values[row, column])))
        top, left = max(row - radius_cells, 0), max(column - radius_cells, 0)
        cleared[top : row + radius_cells, left : column + radius_cells] = True
    return tuple(found)


def radius_in_cells(cell_um: float) -> int:
    """The published radius in cells of `cell_um`, at least one: 12 at a stride of 64 px of 0.243 µm."""
    return max(1, round(RADIUS_UM / cell_um))
