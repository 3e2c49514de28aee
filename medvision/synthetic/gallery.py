"""A picture of synthetic tissue: an overview and windows at high power. `python -m medvision.synthetic.gallery OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from medvision.core.geometry import Box
from medvision.synthetic.noise import key
from medvision.synthetic.patches import Label, render_patch
from medvision.synthetic.recipe import demo_recipes
from medvision.synthetic.render import CHUNK, Pixels, render_block

_SHRINK = 16


def gallery(seed: int = 0) -> Pixels:
    """The demo slide with a macrometastasis at 4 um/px beside normal (above) and tumour patches at 0.25 um/px."""
    recipe = demo_recipes(seed)[2]
    rows, columns = (n // CHUNK * CHUNK for n in recipe.shape_px)
    overview = np.empty((rows // _SHRINK, columns // _SHRINK, 3), np.uint8)
    side = CHUNK // _SHRINK
    for r in range(0, rows, CHUNK):
        for c in range(0, columns, CHUNK):
            block = render_block(recipe, Box.at((r, c), (CHUNK, CHUNK))).astype(np.float32)
            small = block.reshape(side, _SHRINK, side, _SHRINK, 3).mean(axis=(1, 3))
            place = (slice(r // _SHRINK, r // _SHRINK + side), slice(c // _SHRINK, c // _SHRINK + side))
            overview[place] = np.rint(small)
    size = overview.shape[0] // 2
    labels: tuple[Label, ...] = ("normal", "tumour")
    lines = [
        np.concatenate([render_patch(key(seed, line, k), label, 0.25, size) for k in range(4)], axis=1)
        for line, label in enumerate(labels)
    ]
    return np.concatenate([overview, np.concatenate(lines)], axis=1)


def main() -> None:
    """Write the picture as JPEG under the path given."""
    from PIL import Image

    Image.fromarray(gallery()).save(Path(sys.argv[1]), quality=82)


if __name__ == "__main__":
    main()
