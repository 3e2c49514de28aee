"""Labelled images in a NumPy archive as MedMNIST publishes them: `train_images`, `train_labels`, `val_images`, ...

Yang et al., MedMNIST v2 (2023). Nothing in the file is executed, and nothing larger than its limit is unpacked.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import SourceTooLargeError, UnreadableSourceError
from medvision.sources.base import Pixels
from medvision.sources.faults import LIBRARY_ERRORS, reason_of
from medvision.sources.opening import check_file

MAX_ARCHIVE_BYTES = 2**33
"""Most bytes that the arrays of one file may take in memory."""

_BROKEN: tuple[type[Exception], ...] = (*LIBRARY_ERRORS, zipfile.BadZipFile)
_IMAGES, _LABELS = "_images", "_labels"


@dataclass(frozen=True, eq=False)
class ArchivePart:
    """One split as stored: `images` uint8 `(n, rows, columns)` or `(n, rows, columns, 3)`, `labels` int64 `(n,)`."""

    name: str
    images: Pixels
    labels: npt.NDArray[np.int64]


def read_image_archive(path: str | Path) -> tuple[ArchivePart, ...]:
    """The splits of a `.npz` file, in its order.

    Raises:
        UnreadableSourceError: if it is absent or damaged, has no pair of `NAME_images` and `NAME_labels`, or holds
            volumes, other than 8-bit images, or several labels for one image.
        SourceTooLargeError: if its arrays claim more than `MAX_ARCHIVE_BYTES`.
    """
    path = Path(path)
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {name.removesuffix(".npy"): _claimed(archive, name) for name in archive.namelist()}
        if (total := sum(size for _, size in shapes.values())) > MAX_ARCHIVE_BYTES:
            raise SourceTooLargeError(f"claims {total:,} bytes of arrays; the limit is {MAX_ARCHIVE_BYTES:,}")
        names = [name.removesuffix(_IMAGES) for name in shapes if name.endswith(_IMAGES)]
        names = [name for name in names if name + _LABELS in shapes]
        if not names:
            raise UnreadableSourceError(
                f"no arrays such as train_images and train_labels; it holds {', '.join(sorted(shapes)) or 'none'}"
            )
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(_part(name, arrays[name + _IMAGES], arrays[name + _LABELS]) for name in names)
    except SourceTooLargeError as error:
        raise SourceTooLargeError(f"{path}: {error}") from error
    except UnreadableSourceError as error:
        raise UnreadableSourceError(f"{path}: {error}") from error
    except _BROKEN as error:
        raise UnreadableSourceError(f"{path}: not a readable .npz file ({reason_of(error)})") from error


def _claimed(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], int]:
    """Shape and bytes that the header of one array claims."""
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, kind = read(stream)
    size = kind.itemsize
    for side in shape:
        size *= side
    return shape, size


def _part(name: str, images: npt.NDArray[np.generic], labels: npt.NDArray[np.generic]) -> ArchivePart:
    grey, colour = images.ndim == 3, images.ndim == 4 and images.shape[-1] == 3
    if images.dtype != np.uint8 or not (grey or colour):
        raise UnreadableSourceError(
            f"{name}{_IMAGES} is {images.dtype} of shape {images.shape}; read are uint8 images (n, rows, columns) and "
            "(n, rows, columns, 3)"
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise UnreadableSourceError(
            f"{name}{_LABELS} has {labels.shape[1]} labels an image; read is one class each"
        )
    flat = labels.reshape(-1)
    if len(flat) != len(images) or flat.dtype.kind not in "ui" or (len(flat) and int(flat.min()) < 0):
        raise UnreadableSourceError(
            f"{name}{_LABELS} is {labels.dtype} of shape {labels.shape} for {len(images)} images; read are "
            "whole numbers from 0, one for each image"
        )
    images.setflags(write=False)
    return ArchivePart(name, images.view(np.uint8), flat.astype(np.int64))
