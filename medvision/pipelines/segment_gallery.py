"""A picture of every classical method and clean-up step: `python -m medvision.pipelines.segment_gallery OUT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.labels import Segmentation
from medvision.pipelines.segment_classical import CLASSICAL, segment
from medvision.pipelines.segment_clean_up import CLEAN_UPS, clean_up
from medvision.pipelines.segment_methods import choose

Picture = npt.NDArray[np.uint8]
_SIDE = 256
_COLOURS = np.array(
    [[230, 60, 40], [40, 120, 230], [40, 180, 70], [230, 180, 30], [150, 60, 200], [20, 190, 190]], np.uint8
)
_GAP = 4


def gallery(image: Picture) -> Picture:
    """The image and what each method makes of it; below, again the image and what each step makes of Otsu's mask.

    `image` is uint8 `(rows, columns, 1 or 3)`. A label has the colour of its number, six in turn; 0 is clear.
    """
    rough = segment(image, choose(CLASSICAL, "otsu", {"smooth": 0}))
    methods = [segment(image, choose(CLASSICAL, name)) for name in CLASSICAL]
    steps = [rough] + [clean_up(image, rough, [choose(CLEAN_UPS, name)]) for name in CLEAN_UPS]
    plain = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    width = max(len(methods) + 1, len(steps))
    lines = [[plain, *(_painted(plain, one) for one in methods)], [_painted(plain, one) for one in steps]]
    blank = np.full_like(plain, 255)
    return np.concatenate([_in_line(line + [blank] * (width - len(line))) for line in lines])


def _painted(plain: Picture, found: Segmentation) -> Picture:
    from skimage.segmentation import find_boundaries

    colours = _COLOURS[(found.labels - 1) % len(_COLOURS)]
    painted = plain.copy()
    inside = found.labels > 0
    painted[inside] = np.rint(0.6 * plain[inside] + 0.4 * colours[inside]).astype(np.uint8)
    border = find_boundaries(found.labels, mode="inner") & inside
    painted[border] = colours[border]
    return painted


def _in_line(tiles: list[Any]) -> Picture:
    return np.concatenate(
        [np.pad(tile, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for tile in tiles], 1
    )


def main() -> None:
    """Write the picture under the path given, of an image file or else of synthetic tissue."""
    from PIL import Image

    from medvision.synthetic.noise import key
    from medvision.synthetic.patches import render_patch

    if len(sys.argv) > 2:
        image = np.asarray(Image.open(sys.argv[2]).convert("RGB"))[:_SIDE, :_SIDE]
    else:
        image = render_patch(key(0, 0, 0), "normal", 0.25, _SIDE)
    Image.fromarray(gallery(image)).save(Path(sys.argv[1]), quality=85)


if __name__ == "__main__":
    main()
