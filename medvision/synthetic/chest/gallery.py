"""A picture of synthetic scans: planes of one, and nodules beside what may be taken for one.

`python -m medvision.synthetic.chest.gallery OUT`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.synthetic.chest import render, scene
from medvision.synthetic.chest.findings import Finding
from medvision.synthetic.chest.recipe import ChestRecipe, NoduleSpec
from medvision.synthetic.noise import Floats

Grey = npt.NDArray[np.uint8]

_LUNG_HU = (-1350.0, 150.0)
_CROP_MM = 30.0
_TILE = 130
_HEIGHT = 400
NODULES = (
    NoduleSpec(11.0, "solid", "smooth", "parenchyma"),
    NoduleSpec(13.0, "solid", "spiculated", "parenchyma"),
    NoduleSpec(12.0, "solid", "lobulated", "juxtavascular"),
    NoduleSpec(10.0, "solid", "smooth", "juxtapleural"),
    NoduleSpec(12.0, "ground-glass", "smooth", "parenchyma"),
    NoduleSpec(14.0, "part-solid", "lobulated", "parenchyma"),
    NoduleSpec(8.0, "calcified", "smooth", "parenchyma"),
    NoduleSpec(4.5, "solid", "smooth", "parenchyma"),
)


def gallery(seed: int = 4) -> Grey:
    """Axial, coronal and sagittal planes of a small child's scan; a row of nodules; a row of other findings."""
    recipe = ChestRecipe(seed, (150, 280, 280), (1.0, 0.76, 0.76), 198.0, NODULES, dose=0.8, distractors=2.0)
    made = scene.build(recipe)
    hu = render.render(made)
    z, y, x = recipe.shape
    side = recipe.spacing_mm
    top = [
        _fit(hu[int(0.52 * z)], side[1], side[2], _HEIGHT),
        _fit(hu[::-1, int(0.47 * y)], side[0], side[2], _HEIGHT),
        _fit(hu[::-1, :, int(0.30 * x)], side[0], side[1], _HEIGHT),
    ]
    nodules = np.concatenate([_crop(hu, one, side) for one in made.nodules], axis=1)
    shown = sorted(made.others, key=lambda f: f.what)
    picked = [shown[int(k)] for k in np.linspace(0, len(shown) - 1, len(NODULES))]
    others = np.concatenate([_crop(hu, one, side) for one in picked], axis=1)
    width = nodules.shape[1]
    planes = _stretched(np.concatenate(top, axis=1), width)
    return np.concatenate([planes, nodules, others], axis=0)


def _crop(hu: npt.NDArray[np.int16], finding: Finding, side: tuple[float, float, float]) -> Grey:
    """The axial plane through a finding, 30 mm wide."""
    import cv2

    z, y, x = (finding.centre / side).astype(int)
    half = round(_CROP_MM / 2 / side[1])
    padded = np.pad(hu[z], half, mode="edge")
    tile = cv2.resize(
        _window(padded[y : y + 2 * half, x : x + 2 * half]), (_TILE, _TILE), interpolation=cv2.INTER_CUBIC
    )
    tile[:, -2:] = 0
    tile[:2] = 0
    return np.asarray(tile, np.uint8)


def _fit(plane: npt.NDArray[np.int16], tall: float, wide: float, height: int) -> Grey:
    import cv2

    width = round(height * plane.shape[1] * wide / (plane.shape[0] * tall))
    return np.asarray(cv2.resize(_window(plane), (width, height), interpolation=cv2.INTER_CUBIC))


def _stretched(picture: Grey, width: int) -> Grey:
    import cv2

    height = round(picture.shape[0] * width / picture.shape[1])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))


def _window(hu: npt.NDArray[np.int16]) -> Grey:
    low, high = _LUNG_HU
    share: Floats = ((hu - low) / (high - low)).clip(0, 1)
    return np.asarray(share * 255, np.uint8)


def main() -> None:
    """Write the picture as JPEG under the path given."""
    from PIL import Image

    Image.fromarray(gallery()).save(Path(sys.argv[1]), quality=80)


if __name__ == "__main__":
    main()
