"""Randomness that depends on a place, not on the order of drawing.

Whatever is drawn at a place is derived from the slide's seed and the place's grid cell. So any window of a slide can be
rendered alone, in any order and on any thread, and meets its neighbours without a seam.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_TABLE = 256


def key(*parts: int) -> int:
    """One 64-bit key from several integers, by the finaliser of SplitMix64 after each."""
    state = 0
    for part in parts:
        state = _mix_int((state + (part & _MASK64) + _GOLDEN) & _MASK64)
    return state


def uniform(seed: int, stream: int, row: Ints, column: Ints) -> Floats:
    """A number in [0, 1) for every grid cell `(row, column)` of a stream; the same on every machine."""
    state = np.full(row.shape, key(seed, stream), dtype=np.uint64)
    for part in (row, column):
        state = _mix(state + part.astype(np.uint64) + np.uint64(_GOLDEN))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def smooth(seed: int, y: Floats, x: Floats, scale: float, octaves: int = 2) -> Floats:
    """Value noise of about unit range [-1, 1] whose blobs measure about `scale`, at the places `(y, x)`.

    Each further octave is half as large and half as strong, and turned, so that the lattice does not show.
    """
    total = np.zeros(np.shape(y), dtype=np.float32)
    weight, norm = 1.0, 0.0
    for octave in range(octaves):
        angle = 0.5 + 1.1 * octave
        cos, sin = float(np.cos(angle)) / scale, float(np.sin(angle)) / scale
        offset = key(seed, octave)
        v = cos * y - sin * x + (offset & 0xFFFF) / 16.0
        u = sin * y + cos * x + ((offset >> 16) & 0xFFFF) / 16.0
        total += np.float32(weight) * _interpolated(v, u)
        norm += weight * weight
        weight *= 0.5
        scale *= 0.5
    return np.asarray(total * (1.3 / norm**0.5), dtype=np.float64)


def _interpolated(v: Floats, u: Floats) -> Image:
    v0, u0 = np.floor(v), np.floor(u)
    fv, fu = (v - v0).astype(np.float32), (u - u0).astype(np.float32)
    fv, fu = fv * fv * (3 - 2 * fv), fu * fu * (3 - 2 * fu)
    i, j = v0.astype(np.int32) & (_TABLE - 1), u0.astype(np.int32) & (_TABLE - 1)
    table = _table()
    at = i * (_TABLE + 1) + j
    top, bottom = table.take(at), table.take(at + (_TABLE + 1))
    top += fu * (table.take(at + 1) - top)
    bottom += fu * (table.take(at + (_TABLE + 2)) - bottom)
    top += fv * (bottom - top)
    return np.asarray(top)


@lru_cache(maxsize=1)
def _table() -> Image:
    """Random values in [-1, 1], with the first row and column again after the last."""
    cells = np.arange(_TABLE, dtype=np.int64)
    row, column = np.meshgrid(cells, cells, indexing="ij")
    values = uniform(0x5EED, 0, row, column) * 2 - 1
    return np.ascontiguousarray(np.pad(values, ((0, 1), (0, 1)), mode="wrap").astype(np.float32).ravel())


class Grid:
    """Jittered seeds of a square grid: for every place, the nine around it, with random numbers of their own."""

    def __init__(self, seed: int, pitch: float, y: Floats, x: Floats) -> None:
        self.seed, self.pitch, self.y, self.x = seed, pitch, y, x
        rows, columns = (
            np.arange(int(np.floor(a.min() / pitch)) - 1, int(np.floor(a.max() / pitch)) + 2) for a in (y, x)
        )
        self.rows, self.columns = (g.ravel() for g in np.meshgrid(rows, columns, indexing="ij"))
        self._width = len(columns)
        i, j = (
            np.floor(y / pitch).astype(np.int64) - rows[0],
            np.floor(x / pitch).astype(np.int64) - columns[0],
        )
        self._middle = i * self._width + j

    def number(self, stream: int) -> Floats:
        """A number in [0, 1) for every seed."""
        return uniform(self.seed, stream, self.rows, self.columns)

    def centres(self, margin: float) -> tuple[Floats, Floats]:
        """Places of the seeds, at least `margin` pitches inside their cell."""
        spread = 1 - 2 * margin
        return (
            (self.rows + margin + spread * self.number(1)) * self.pitch,
            (self.columns + margin + spread * self.number(2)) * self.pitch,
        )

    def neighbours(self) -> Iterator[Ints]:
        """For each of nine neighbours: the number of the seed, at every place."""
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                yield self._middle + (dr * self._width + dc)


def _mix_int(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: npt.NDArray[Any] = value ^ (value >> np.uint64(31))
    return result


def periodic(seed: int, side: int, sigma: float) -> Image:
    """A square of Gaussian-filtered white noise, unit variance, that repeats without a seam. `sigma` in pixels."""
    rng = np.random.Generator(np.random.Philox(key=key(seed, side)))
    white = rng.standard_normal((side, side), dtype=np.float32)
    frequency = np.fft.fftfreq(side)
    gain = np.exp(-2 * (np.pi * sigma * frequency) ** 2)
    spectrum = np.fft.fft2(white) * gain[:, None] * gain[None, :]
    field = np.fft.ifft2(spectrum).real
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)
