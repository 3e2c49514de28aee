"""Tapered tubes drawn into a block of voxels: vessels, airways and their walls, ribs.

A tube is a row of eight numbers: start (z, y, x), end (z, y, x), radius at the start and at the end, all in mm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvision.synthetic.chest.frame import Triple
from medvision.synthetic.noise import Floats, Image


def polyline(points: Floats, radii: Floats) -> Floats:
    """Tubes `(n - 1, 8)` along `points` `(n, 3)` with a radius at each."""
    return np.concatenate([points[:-1], points[1:], radii[:-1, None], radii[1:, None]], axis=1)


def joined(parts: Sequence[Floats]) -> Floats:
    """All tubes of several arrays; none gives `(0, 8)`."""
    return np.concatenate([np.zeros((0, 8)), *parts])


def draw_tubes(cover: Image, tubes: Floats, corner: Triple, step: Triple, flat: float = 1.0) -> None:
    """Raise `cover` to the share of each voxel that lies in a tube; where tubes overlap, the larger share stands.

    `cover` is (slices, rows, columns) of values in [0, 1] whose first voxel's outer corner lies at `corner`; `step` are
    the voxel's sides. Edges are ramps one pixel wide. A tube thinner than a pixel is drawn one pixel wide and paler, so
    that its cross-section keeps its area. `flat` below 1 stretches the cross-section along z by its inverse.
    """
    if not len(tubes):
        return
    width = step[1]
    # A disc of radius r with a rim `width` wide covers pi (r^2 + width^2 / 12).
    least = width / 3**0.5
    scale = np.array([flat, 1.0, 1.0])
    ends = tubes[:, :6].reshape(-1, 2, 3)
    reach = np.maximum(tubes[:, 6:].max(axis=1), width / 2) + width / 2
    low, high = ends.min(axis=1) - reach[:, None] / scale, ends.max(axis=1) + reach[:, None] / scale
    side = np.asarray(step)
    # A voxel's centre lies at corner + (i + 0.5) * side.
    first = np.ceil((low - corner) / side - 0.5).astype(np.int64).clip(0, cover.shape)
    last = (np.floor((high - corner) / side - 0.5).astype(np.int64) + 1).clip(0, cover.shape)
    seen = np.flatnonzero((last > first).all(axis=1))
    centres = [
        ((np.arange(n) + 0.5) * s + c).astype(np.float32)
        for n, s, c in zip(cover.shape, step, corner, strict=True)
    ]
    centres[0] = centres[0] * np.float32(flat)
    starts = (ends[:, 0] * scale).astype(np.float32)
    along = ((ends[:, 1] - ends[:, 0]) * scale).astype(np.float32)
    lengths2 = np.maximum((along * along).sum(axis=1), np.float32(1e-6))
    radii = tubes[:, 6:].tolist()
    shown = np.sqrt(tubes[:, 6:].clip(least) ** 2 - width**2 / 12).tolist()
    for k in seen.tolist():
        i0, j0, k0 = first[k].tolist()
        i1, j1, k1 = last[k].tolist()
        dz, dy, dx = (
            centres[0][i0:i1] - starts[k, 0],
            centres[1][j0:j1] - starts[k, 1],
            centres[2][k0:k1] - starts[k, 2],
        )
        az, ay, ax = along[k]
        length2 = lengths2[k]
        dot = (dz * az)[:, None, None] + ((dy * ay)[:, None] + dx * ax)
        square = (dz * dz)[:, None, None] + ((dy * dy)[:, None] + dx * dx)
        t = dot * (1 / length2)
        np.minimum(np.maximum(t, 0, out=t), 1, out=t)
        dot *= 2
        dot -= t * length2
        dot *= t
        square -= dot
        np.maximum(square, 0, out=square)
        distance = np.sqrt(square, out=square)
        (r0, r1), (shown0, shown1) = radii[k], shown[k]
        t *= np.float32((shown1 - shown0) / width)
        t += np.float32(shown0 / width + 0.5)
        distance *= np.float32(1 / width)
        t -= distance
        np.minimum(np.maximum(t, 0, out=t), 1, out=t)
        pale = ((r0 + r1) / 2 / least) ** 2
        if pale < 1:
            t *= np.float32(pale)
        there = cover[i0:i1, j0:j1, k0:k1]
        np.maximum(there, t, out=there)
