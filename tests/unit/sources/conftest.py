"""Small slides made by tifffile, independent of the project's own writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

Write = Callable[..., Path]


def texture(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Smooth coloured blobs, so that JPEG keeps them well: uint8 (rows, columns, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (rows // 8 + 2, columns // 8 + 2, 3), np.uint8)
    return cv2.resize(noise, (columns, rows), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def picture() -> np.ndarray:
    return texture(500, 700)


@pytest.fixture
def write_pyramid(tmp_path: Path) -> Write:
    """Write levels (largest first) as a tiled TIFF with reduced pages, 0.5 um/px unless told."""

    def write(
        levels: list[np.ndarray], name: str = "slide.tif", spacing_um: float | None = 0.5, **options: object
    ) -> Path:
        path = tmp_path / name
        settings = {"tile": (64, 64), "photometric": "rgb", "metadata": None} | options
        with tifffile.TiffWriter(path) as tiff:
            for index, level in enumerate(levels):
                per_cm = None if spacing_um is None else (1e4 / spacing_um / 2**index,) * 2
                unit = None if spacing_um is None else "CENTIMETER"
                tiff.write(
                    level, subfiletype=int(index > 0), resolution=per_cm, resolutionunit=unit, **settings
                )
        return path

    return write
