"""Maps of voxels that a model or a reader made, labels and confidences, as plain arrays: volumes and NumPy files.

Unlike a source they have no levels and no window: values are read as they are, in the order of their file, so that
two maps of one grid fit voxel by voxel.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import MedvisionError, SourceTooLargeError, UnreadableSourceError
from medvision.core.geometry import Box
from medvision.sources.faults import LIBRARY_ERRORS, reason_of
from medvision.sources.volume import Volume, open_volume

SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".npy")
MAX_VOXELS = 1 << 29


def read_voxel_map(path: Path) -> npt.NDArray[Any]:
    """The values of a volume, scaled as its header says, or of a NumPy file: (planes, rows, columns).

    The axes of a volume are those of its file, slowest first, and not turned upright; a NumPy array is taken to be in
    that order. Pickles are refused.

    Raises:
        UnreadableSourceError: if it is neither, damaged, or not of numbers in three axes.
        SourceTooLargeError: if its header claims more than 2^29 voxels.
    """
    if path.name.endswith(".npy"):
        return _numpy_map(path)
    with contextlib.closing(open_volume(path)) as volume:
        assert isinstance(volume, Volume), "read in this process"
        _check(path, volume.voxels.shape)
        return volume.voxels.read(Box((0, 0, 0), volume.voxels.shape))


def map_name(path: Path) -> str | None:
    """The file's name without its suffix; None if it is no map that can be read."""
    return next((path.name[: -len(s)] for s in SUFFIXES if path.name.endswith(s)), None)


def _numpy_map(path: Path) -> npt.NDArray[np.float64]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        _check(path, array.shape)
        return np.array(array, dtype=np.float64)
    except MedvisionError:
        raise
    except LIBRARY_ERRORS as error:
        raise UnreadableSourceError(
            f"{path}: cannot be read as a map of voxels: {reason_of(error)}"
        ) from error


def _check(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or 0 in shape:
        raise UnreadableSourceError(
            f"{path}: a map of voxels has three axes, none of them 0; this one is {shape}"
        )
    if math.prod(shape) > MAX_VOXELS:
        raise SourceTooLargeError(f"{path}: {shape} are more than {MAX_VOXELS:,} voxels")
