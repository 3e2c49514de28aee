"""A picture of what elastic deformation does to an image, its labels and U-Net's weights: `python -m
medvision.synthetic.deformed_gallery OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.ops.border_weights import border_weights
from medvision.ops.deform import Floats, field_displacement, grid_displacement, sample, window_places

Colours = npt.NDArray[np.uint8]

_SIDE = 256
_EVERY = 16
_GAP = 8
_STEP = 51
_PALETTE = np.array(
    [
        (20, 20, 24),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (213, 94, 0),
        (204, 121, 167),
    ],
    np.uint8,
)


def gallery(seed: int = 2) -> Colours:
    """Rows: as it is, by a coarse grid, by a smoothed field. Columns: image with grid lines, labels, weights."""
    grey, objects = _cells(seed)
    weights = border_weights(objects)
    shape, middle = (_SIDE, _SIDE), ((_SIDE - 1) / 2,) * 2
    rng = np.random.default_rng(seed)
    rows = []
    for displacement in (
        None,
        grid_displacement(shape, rng, 10.0),
        field_displacement(shape, rng, 4.0, 14.0),
    ):
        places = window_places(shape, middle, displacement=displacement)
        labels = sample(objects, places, nearest=True)
        shown = [
            _lined(sample(grey, places), places),
            _PALETTE[np.where(labels, 1 + labels % (len(_PALETTE) - 1), 0)],
            _warm(sample(weights, places) / weights.max()),
        ]
        gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
        rows.append(np.concatenate([shown[0], gap, shown[1], gap, shown[2]], axis=1))
    gap = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([rows[0], gap, rows[1], gap, rows[2]], axis=0)


def _cells(seed: int) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Round cells that nearly touch, grey values 0 to 255, and their numbers."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    lattice = np.stack(np.meshgrid(*(np.arange(_STEP // 2, _SIDE, _STEP),) * 2), axis=-1).reshape(-1, 2)
    centres = [(*(place + rng.uniform(-3, 3, 2)), rng.uniform(19, 23)) for place in lattice]
    away = np.stack([np.hypot(rows - r, columns - c) - size for r, c, size in centres])
    objects = np.where(away.min(axis=0) < 0, away.argmin(axis=0) + 1, 0).astype(np.int32)
    shade = np.clip(-away.min(axis=0) / 10, 0, 1)
    return 60 + 120 * shade + rng.normal(0, 8, shade.shape), objects


def _lined(grey: npt.NDArray[np.float32], places: Floats) -> Colours:
    """The image with the lines that were straight in it: those of every few rows and columns."""
    picture = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    for component in places:
        nearest = np.round(component / _EVERY) * _EVERY
        picture[np.abs(component - nearest) < 0.55] = (86, 180, 233)
    return picture


def _warm(share: npt.NDArray[np.float32]) -> Colours:
    """Black by red to yellow."""
    share = share.clip(0, 1)[..., None]
    return np.asarray(
        (np.concatenate([2 * share, 2 * share - 0.7, 0 * share], axis=-1)).clip(0, 1) * 255, np.uint8
    )


def main() -> None:
    """Write the picture under the path given."""
    from PIL import Image

    Image.fromarray(gallery()).save(Path(sys.argv[1]), optimize=True)


if __name__ == "__main__":
    main()
