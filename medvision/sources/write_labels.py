"""Label images as files: PNG in two axes, NIfTI in three."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.world import WorldFrame
from medvision.sources.pyramid import whole_file
from medvision.sources.write_volume import write_nifti


def write_labels(
    folder: Path, name: str, values: npt.NDArray[np.integer], frame: WorldFrame | None = None
) -> Path:
    """Write labels `(rows, columns)` as `NAME.png`, `(planes, rows, columns)` as `NAME.nii.gz`; returns the path.

    Values up to 255 take 8 bits, up to 65,535 (32,767 of a volume) 16. `frame` is where a volume lies.

    Raises:
        UsageError: for a value out of range, a volume without a frame, or other numbers of axes.
        StoreError: if the file cannot be written whole.
    """
    largest = 32_767 if values.ndim == 3 else 65_535
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if values.ndim not in (2, 3) or low < 0 or high > largest:
        raise UsageError(
            f"{folder / name}: labels of {values.ndim} axes from {low} to {high}; two or three axes, up to {largest:,}"
        )
    if values.ndim == 2:
        return _picture(folder / f"{name}.png", values.astype(np.uint8 if high < 256 else np.uint16))
    if frame is None:
        raise UsageError(
            f"{folder / name}: a volume of labels needs its place, which its image does not state"
        )
    path = folder / f"{name}.nii.gz"
    return write_nifti(path, values.astype(np.uint8) if high < 256 else values.astype(np.int16), frame)


def _picture(path: Path, values: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> Path:
    from imagecodecs import png_encode

    with whole_file(path) as temporary:
        temporary.write_bytes(png_encode(values))
    return path
