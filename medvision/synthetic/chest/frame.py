"""Grids of a scan: its voxels, the finer slices that are drawn, and the coarse lattice that anatomy is computed on.

Places in this package are (z, y, x) in mm from the outer corner of the first voxel, before any flip: z to superior, y
to posterior, x to the patient's left. Only `world` and `place` know about the world.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
import numpy.typing as npt

from medvision.core.world import WorldFrame
from medvision.synthetic.chest.recipe import ChestRecipe
from medvision.synthetic.noise import Floats, Image

Triple = tuple[float, float, float]

_LATTICE_MM = 2.5
_SUBSLICE_MM = 1.0


@dataclass(frozen=True)
class Frame:
    """The grids of one recipe."""

    recipe: ChestRecipe

    @cached_property
    def parts(self) -> int:
        """Drawn slices for each of the scan's, none thicker than 1 mm, or than a pixel where that is more."""
        between, in_plane, _ = self.recipe.spacing_mm
        return max(1, ceil(between / max(_SUBSLICE_MM, in_plane) - 1e-9))

    @cached_property
    def step(self) -> Triple:
        """Sides of what is drawn: drawn slice, row, column."""
        z, y, x = self.recipe.spacing_mm
        return z / self.parts, y, x

    @cached_property
    def lattice_shape(self) -> tuple[int, int, int]:
        """Nodes of the lattice."""
        z, y, x = (max(8, ceil(length / _LATTICE_MM)) for length in self.recipe.extent_mm)
        return z, y, x

    @cached_property
    def lattice_step(self) -> Triple:
        """Distances of the lattice's nodes; the first lies half a step inside the volume's corner."""
        z, y, x = (a / n for a, n in zip(self.recipe.extent_mm, self.lattice_shape, strict=True))
        return z, y, x

    def nodes(self) -> tuple[Image, Image, Image]:
        """Places of the lattice's nodes, three arrays that broadcast to its shape."""
        axes = [
            ((np.arange(n) + 0.5) * s).astype(np.float32)
            for n, s in zip(self.lattice_shape, self.lattice_step, strict=True)
        ]
        return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]

    def at(self, field: Image | Floats, places: Floats) -> Floats:
        """A lattice field at places `(..., 3)`, linear between nodes, the nearest node's value outside."""
        from scipy.ndimage import map_coordinates

        index = np.moveaxis(places / np.asarray(self.lattice_step) - 0.5, -1, 0)
        return np.asarray(map_coordinates(field, index, order=1, mode="nearest", output=np.float64))

    @cached_property
    def upright(self) -> WorldFrame:
        """Where the volume lies in the world before any flip; scanners put it anywhere."""
        rng = self.recipe.rng(1)
        z, y, x = self.recipe.extent_mm
        origin = (
            round(float(-x / 2 + rng.uniform(-15, 15)), 3),
            round(float(-y / 2 + rng.uniform(-40, 10)), 3),
            round(float(-z + rng.uniform(-250, 150)), 3),
        )
        return WorldFrame(origin, self.recipe.spacing_mm, ((0, 0, 1), (0, 1, 0), (1, 0, 0)))

    @property
    def flips(self) -> tuple[bool, bool, bool]:
        """Which axes of the array the recipe's orientation turns about."""
        column, row, plane = self.recipe.orientation
        return plane == "I", row == "A", column == "R"

    @property
    def written(self) -> WorldFrame:
        """Where the volume lies in the world as it is written."""
        return self.upright.rearranged(self.recipe.shape, (0, 1, 2), self.flips)

    def world(self, place: npt.ArrayLike) -> Triple:
        """World place (x, y, z) in mm, LPS, of a place here."""
        x, y, z = self.upright.to_world(np.asarray(place, np.float64) / np.asarray(self.recipe.spacing_mm))
        return float(x), float(y), float(z)

    def place(self, world: Triple) -> Floats:
        """Place here of a world place (x, y, z): the inverse of `world`."""
        return np.asarray(self.upright.to_voxels(world) * np.asarray(self.recipe.spacing_mm), np.float64)
