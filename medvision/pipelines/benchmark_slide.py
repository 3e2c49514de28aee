"""The slide that the benchmark measures on where none is given: real texture statistics, cheap to write at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.geometry import Box
from medvision.sources.write import write_slide
from medvision.synthetic import SlideRecipe, render_block

_PIECE = 2048
"""Side of the rendered piece of lymph node that is repeated: rendering all of a large slide would take minutes."""

_TISSUE = 0.6


def write_benchmark_slide(path: Path, side: int) -> Path:
    """A square slide at 0.25 µm/px, 256 px JPEG tiles in a pyramid, a disc of tissue over 60% of it, glass around."""
    recipe = SlideRecipe(seed=11, shape_px=(8192, 8192), metastases="micro", stain="violet", scanner="even")
    middle = (8192 - _PIECE) // 2
    piece = render_block(recipe, Box.at((middle, middle), (_PIECE, _PIECE)))
    centre, radius = side / 2, side * np.sqrt(_TISSUE / np.pi)

    def read(box: Box) -> npt.NDArray[np.uint8]:
        rows, columns = (np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True))
        pixels = piece[np.ix_(rows % _PIECE, columns % _PIECE)]
        outside = (rows[:, None] - centre) ** 2 + (columns[None] - centre) ** 2 > radius**2
        pixels[outside] = 243
        return pixels

    return write_slide(path, (side, side), read, 0.25)
