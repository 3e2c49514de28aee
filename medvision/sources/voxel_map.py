"""Maps of voxels that a model or a reader made, labels and confidences, as plain arrays: NIfTI and NumPy files.

Unlike a source they have no levels and no window: values are read as they are, in the order of their file, so that
two maps of one grid fit voxel by voxel.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import MedvisionError, SourceTooLargeError, UnreadableSourceError
from medvision.sources.faults import LIBRARY_ERRORS, reason_of

SUFFIXES = (".nii.gz", ".nii", ".npy")
MAX_VOXELS = 1 << 29


def read_voxel_map(path: Path) -> npt.NDArray[np.float64]:
    """The values of a NIfTI file, scaled as its header says, or of a NumPy file: (planes, rows, columns).

    NIfTI's axes (column, row, plane) are turned round; a NumPy array is taken to be in our order. Pickles are refused.

    Raises:
        UnreadableSourceError: if it is neither, damaged, or not of numbers in three axes.
        SourceTooLargeError: if its header claims more than 2^29 voxels.
    """
    from nibabel import Nifti1Image
    from nibabel.filebasedimages import ImageFileError

    damaged: tuple[type[Exception], ...] = (*LIBRARY_ERRORS, ImageFileError)
    try:
        if path.name.endswith(".npy"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            _check(path, array.shape)
            return np.array(array, dtype=np.float64)
        image = Nifti1Image.from_filename(path)
        _check(path, image.shape)
        return np.asarray(image.get_fdata(dtype=np.float64)).T
    except MedvisionError:
        raise
    except damaged as error:
        raise UnreadableSourceError(
            f"{path}: cannot be read as a map of voxels: {reason_of(error)}"
        ) from error


def map_name(path: Path) -> str | None:
    """The file's name without its suffix; None if it is no map that can be read."""
    return next((path.name[: -len(s)] for s in SUFFIXES if path.name.endswith(s)), None)


def _check(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or 0 in shape:
        raise UnreadableSourceError(
            f"{path}: a map of voxels has three axes, none of them 0; this one is {shape}"
        )
    if math.prod(shape) > MAX_VOXELS:
        raise SourceTooLargeError(f"{path}: {shape} are more than {MAX_VOXELS:,} voxels")
