"""The slide that the benchmark measures on where none is given: real texture statistics, cheap to write at any size."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from medvision.core.geometry import Box
from medvision.sources.base import Pixels
from medvision.sources.repeated import write_repeated_slide
from medvision.synthetic import SlideRecipe, render_block

_PIECE = 2048
"""Side of the rendered piece of lymph node that is repeated: rendering all of a large slide would take minutes."""

TISSUE = 0.6
"""Share of the slide that is tissue."""


def write_benchmark_slide(path: Path, side: int) -> Path:
    """A square slide at 0.25 µm/px, 256 px JPEG tiles in a pyramid, a disc of tissue over 60% of it, glass around."""
    return write_repeated_slide(path, side, _piece(), TISSUE, 0.25)


@lru_cache(maxsize=1)
def _piece() -> Pixels:
    recipe = SlideRecipe(seed=11, shape_px=(8192, 8192), metastases="micro", stain="violet", scanner="even")
    middle = (8192 - _PIECE) // 2
    return render_block(recipe, Box.at((middle, middle), (_PIECE, _PIECE)))
