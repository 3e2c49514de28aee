"""Randomness that depends on a place, not on the order of drawing.

Whatever is drawn at a place is derived from the slide's seed and the place's grid cell. So any window of a slide can be
rendered alone, in any order and on any thread, and meets its neighbours without a seam.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_TABLE = 512


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
    total = np.zeros(np.broadcast(y, x).shape)
    table = _table()
    weight, norm = 1.0, 0.0
    for octave in range(octaves):
        angle = 0.5 + 1.1 * octave
        cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
        offset = key(seed, octave)
        v = cos * y - sin * x + (offset & 0xFFFF) / 16.0
        u = sin * y + cos * x + ((offset >> 16) & 0xFFFF) / 16.0
        total += weight * _interpolated(table, v, u)
        norm += weight * weight
        weight *= 0.5
        scale *= 0.5
    return np.asarray(total / np.sqrt(norm) * 1.3)


def _interpolated(table: Floats, v: Floats, u: Floats) -> Floats:
    v0, u0 = np.floor(v), np.floor(u)
    fv, fu = v - v0, u - u0
    fv, fu = fv * fv * (3 - 2 * fv), fu * fu * (3 - 2 * fu)
    i, j = v0.astype(np.int64) % _TABLE, u0.astype(np.int64) % _TABLE
    i1, j1 = (i + 1) % _TABLE, (j + 1) % _TABLE
    top = table[i, j] + fu * (table[i, j1] - table[i, j])
    bottom = table[i1, j] + fu * (table[i1, j1] - table[i1, j])
    return np.asarray(top + fv * (bottom - top))


@lru_cache(maxsize=1)
def _table() -> Floats:
    cells = np.arange(_TABLE, dtype=np.int64)
    row, column = np.meshgrid(cells, cells, indexing="ij")
    return uniform(0x5EED, 0, row, column) * 2 - 1


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
    return ((field - field.mean()) / field.std()).astype(np.float32)
