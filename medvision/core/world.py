"""Where a volume lies in the patient: the one mapping between its voxels and millimetres.

World points are millimetres in LPS, as (x, y, z): x grows to the patient's left, y to the back (posterior), z to the
head (superior), as in DICOM and ITK. Voxel points are in array order (plane, row, column) and continuous: voxel `i`
covers `[i, i + 1)`, so its centre lies at `i + 0.5`. DICOM, NIfTI and ITK count from the first voxel's centre instead:
their index `i` is `i + 0.5` here, and the half is added in this module alone.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = tuple[float, float, float]
Points = npt.NDArray[np.float64]

SKEW = 1e-3
"""Largest cosine between two axes that counts as a right angle: 0.06 degrees, the rounding of files."""

_GROWS = (("R", "L"), ("A", "P"), ("I", "S"))


@dataclass(frozen=True, slots=True)
class WorldFrame:
    """A straight grid in the patient.

    `origin` is the centre of voxel (0, 0, 0) in LPS millimetres (x, y, z). `spacing` is in millimetres along the
    axes of the array (plane, row, column), and `directions` holds for each of these axes the LPS unit vector along
    which its index grows. The axes are perpendicular; the frame may be right- or left-handed.

    Raises:
        ValueError: for numbers that are not finite, a spacing that is not positive, or axes that are not perpendicular.
    """

    origin: Vector
    spacing: Vector
    directions: tuple[Vector, Vector, Vector]

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in self.origin):
            raise ValueError(f"an origin of {self.origin} mm is not finite")
        if not all(math.isfinite(v) and v > 0 for v in self.spacing):
            raise ValueError(f"a spacing of {self.spacing} mm is not positive and finite")
        object.__setattr__(self, "directions", unit_axes(self.directions))

    def to_world(self, voxels: npt.ArrayLike) -> Points:
        """LPS millimetres `(..., 3)` as (x, y, z) of continuous voxel points `(..., 3)` in array order."""
        points = np.asarray(voxels, np.float64)
        return np.asarray((points - 0.5) @ self._steps() + np.array(self.origin))

    def to_voxels(self, world: npt.ArrayLike) -> Points:
        """Continuous voxel points `(..., 3)` in array order of LPS millimetres `(..., 3)` as (x, y, z)."""
        points = np.asarray(world, np.float64) - np.array(self.origin)
        return np.asarray(points @ np.linalg.inv(self._steps()) + 0.5, np.float64)

    def at(self, spacing: Vector) -> WorldFrame:
        """The frame of the grid that begins at the same corner and has voxels of `spacing` millimetres.

        This is the grid on which windows are planned and read: see `docs/coordinates.md`.
        """
        halves = [(new - old) / 2 for new, old in zip(spacing, self.spacing, strict=True)]
        moved = np.array(self.origin) + np.array(halves) @ np.array(self.directions)
        return WorldFrame(_vector(moved), spacing, self.directions)

    def shifted(self, start: tuple[float, ...]) -> WorldFrame:
        """The frame of a crop whose corner is the voxel point `start`."""
        origin = self.to_world(np.array(start, np.float64) + 0.5)
        return WorldFrame(_vector(origin), self.spacing, self.directions)

    def rearranged(
        self, shape: tuple[int, ...], order: tuple[int, ...], flips: tuple[bool, ...]
    ) -> WorldFrame:
        """The frame of `np.transpose(array, order)` of an array of `shape`, then reversed along each axis of `flips`.

        `flips` counts in the axes of the result.
        """
        corner = np.full(3, 0.5)
        for axis, flip in zip(order, flips, strict=True):
            corner[axis] += (shape[axis] - 1) * flip
        signs = [-1.0 if flip else 1.0 for flip in flips]
        directions = [
            tuple(sign * v + 0.0 for v in self.directions[axis])
            for sign, axis in zip(signs, order, strict=True)
        ]
        spacing = tuple(self.spacing[axis] for axis in order)
        return WorldFrame(_vector(self.to_world(corner)), spacing, tuple(directions))  # type: ignore[arg-type]

    def upright(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """How to transpose, then flip, so that planes go up, rows to the back and columns to the left, or nearly so.

        No voxel changes. Of an oblique volume each axis goes where it points most.
        """
        toward = np.array(self.directions)  # axis of the array by axis of the world (x, y, z)
        order = max(
            itertools.permutations(range(3)),
            key=lambda taken: sum(abs(toward[axis, 2 - k]) for k, axis in enumerate(taken)),
        )
        return order, tuple(bool(toward[axis, 2 - k] < 0) for k, axis in enumerate(order))

    @property
    def letters(self) -> str:
        """Where each axis of the array leads, most of all: "SPL" is up, to the back, to the left."""
        return "".join(letter(direction) for direction in self.directions)

    @property
    def obliqueness(self) -> float:
        """Largest angle in degrees between an axis of the array and the patient's axis that is nearest to it."""
        most = np.abs(np.array(self.directions)).max(axis=1).min()
        return math.degrees(math.acos(min(1.0, float(most))))

    def _steps(self) -> Points:
        """One row per axis of the array: the way in millimetres from one voxel to the next."""
        return np.asarray(np.array(self.directions) * np.array(self.spacing)[:, None])


def unit_axes(directions: tuple[Vector, Vector, Vector]) -> tuple[Vector, Vector, Vector]:
    """The three directions at length 1.

    Raises:
        ValueError: if one is not finite or of length 0, or two are not perpendicular within `SKEW`.
    """
    matrix = np.array(directions, np.float64)
    lengths = np.linalg.norm(matrix, axis=1) if matrix.shape == (3, 3) else np.zeros(3)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ValueError(f"directions {directions} are not three finite vectors")
    matrix /= lengths[:, None]
    skew = np.abs(matrix @ matrix.T - np.eye(3))
    if skew.max() > SKEW:
        first, second = (int(v) for v in np.unravel_index(skew.argmax(), skew.shape))
        angle = math.degrees(math.acos(float(np.clip(matrix[first] @ matrix[second], -1, 1))))
        raise ValueError(f"axes {first} and {second} meet at {angle:.2f} degrees, not at a right angle")
    return tuple(_vector(row) for row in matrix)  # type: ignore[return-value]


def from_matrix(matrix: npt.ArrayLike) -> WorldFrame:
    """The frame of an array (k, j, i) from the 4x4 matrix that takes an index (i, j, k, 1) to LPS millimetres.

    Raises:
        ValueError: as `WorldFrame`.
    """
    affine = np.asarray(matrix, np.float64)
    steps = affine[:3, :3].T[::-1]  # row 0 is what k adds
    lengths = np.linalg.norm(steps, axis=1)
    return WorldFrame(_vector(affine[:3, 3]), _vector(lengths), tuple(_vector(row) for row in steps))  # type: ignore[arg-type]


def lps_from_ras(matrix: npt.ArrayLike) -> Points:
    """The same points with x and y turned about: RAS to LPS, and LPS to RAS. A 4x4 matrix or points `(..., 3)`."""
    values = np.array(matrix, np.float64)
    if values.shape == (4, 4):
        values[:2] *= -1
    else:
        values[..., :2] *= -1
    return values


def letter(direction: Vector) -> str:
    """The letter of where an LPS direction leads most: L or R, P or A, S or I."""
    axis = max(range(3), key=lambda k: abs(direction[k]))
    return _GROWS[axis][direction[axis] > 0]


def opposite(name: str) -> str:
    """The letter of the other way: "L" for "R"."""
    for pair in _GROWS:
        if name in pair:
            return pair[1 - pair.index(name)]
    raise ValueError(f"{name!r} is none of {''.join(itertools.chain(*_GROWS))}")


def _vector(values: npt.ArrayLike) -> Vector:
    x, y, z = (float(v) for v in np.asarray(values, np.float64))
    return x, y, z
