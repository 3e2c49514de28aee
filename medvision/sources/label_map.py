"""Label images as plain arrays: what each pixel or voxel was found to be, in whatever file it was kept.

PNG, TIFF and BMP, stacks in TIFF, volumes of every kind that `open_volume` knows, DICOM segmentations, NumPy arrays,
and folders of one mask per object. Values are those that the file stores: a palette's numbers and not its colours,
nothing windowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import MedvisionError, SourceTooLargeError, UnreadableSourceError
from medvision.core.geometry import Box, Spacing
from medvision.core.world import WorldFrame
from medvision.sources.dicom_segmentation import read_dicom_segmentation
from medvision.sources.faults import LIBRARY_ERRORS, MAX_FLAT_PIXELS, check_pixels, quiet, reason_of
from medvision.sources.opening import check_file
from medvision.sources.volume import open_volume

PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
VOLUME_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".npy")
LABEL_SUFFIXES = (*PICTURE_SUFFIXES, *VOLUME_SUFFIXES, ".dcm")
"""Endings by which a folder's label images are told from its other files."""
MAX_VOXELS = 1 << 29
_MASKS = "masks"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GREY = {"1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L"}


@dataclass(frozen=True, eq=False)
class LabelMap:
    """`values` (rows, columns) or (planes, rows, columns) as stored: bool, whole numbers or floating point.

    `spacing` is in mm, of volumes whose file states it, else None. `frame` is where a volume lies, and `stored` the
    order of its file's axes; planes, rows and columns are upright, as of every volume source. `objects`: made from a
    folder of one mask per object, of which `shared` pixels were in several masks and went to the first.
    """

    values: npt.NDArray[Any]
    spacing: Spacing | None = None
    frame: WorldFrame | None = None
    stored: str = ""
    objects: bool = False
    shared: int = 0

    @property
    def top(self) -> float:
        """What a pixel of full probability holds: 255 or 65535 of such integers, else 1."""
        return {"u1": 255.0, "u2": 65535.0}.get(self.values.dtype.str[1:], 1.0)

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """The values as labels.

        Raises:
            UnreadableSourceError: if one is negative, above 2^31 - 1, or no whole number.
        """
        values = self.values
        if values.dtype.kind not in "bu" or values.dtype.itemsize > 2:
            low, high = (values.min(), values.max()) if values.size else (0, 0)
            if not (low >= 0 and high < 2**31):  # NaN fails this too
                raise UnreadableSourceError(f"holds values from {low} to {high}; labels are 0 to 2^31 - 1")
            if values.dtype.kind == "f" and (values != np.floor(values)).any():
                raise UnreadableSourceError("holds fractions; labels are whole numbers")
        return values.astype(np.int32)


def label_name(path: Path) -> str | None:
    """The file's name without its ending; None if it has none of a label image."""
    lower = path.name.lower()
    return next((path.name[: -len(s)] for s in LABEL_SUFFIXES if lower.endswith(s)), None)


def mask_files(folder: Path) -> list[Path]:
    """The masks of one image, one per object: the pictures in `folder/masks`, or those in `folder` if it has none."""
    inner = folder / _MASKS
    where = inner if inner.is_dir() else folder
    return sorted(p for p in where.iterdir() if p.name.lower().endswith(PICTURE_SUFFIXES) and _seen(p))


def read_label_map(path: Path) -> LabelMap:
    """A label image from a file, or from a folder of one mask per object.

    Raises:
        UnreadableSourceError: if it is absent, damaged, of an unknown kind, in colours, or has other than two or three
            axes; or if a folder has no masks, or masks of several sizes.
        SourceTooLargeError: if it claims more than the limits.
    """
    if path.is_dir():
        return _from_masks(path)
    check_file(path)
    with path.open("rb") as stream:
        head = stream.read(132)
    try:
        if head.startswith(b"\x93NUMPY"):
            return _array(path)
        if head[128:] == b"DICM":
            return _segmentation(path)
        if head[:4] in _TIFF:
            return _tiff(path)
        if head.startswith((b"\x89PNG", b"BM")):
            return _picture(path)
        if head.startswith(b"\xff\xd8"):
            raise UnreadableSourceError("a JPEG, which does not keep labels; save them as PNG or TIFF")
    except MedvisionError as error:
        raise type(error)(f"{path}: {error}") from error
    except LIBRARY_ERRORS as error:
        raise UnreadableSourceError(f"{path}: damaged or unsupported ({reason_of(error)})") from error
    return _volume(path)


def _seen(path: Path) -> bool:
    return not path.name.startswith(".")  # such as the ._NAME that macOS leaves in archives


def _volume(path: Path) -> LabelMap:
    volume = open_volume(path)
    try:
        shape = volume.levels[0].shape
        if math.prod(shape) > MAX_VOXELS:
            raise SourceTooLargeError(f"{path}: {shape} are more than {MAX_VOXELS:,} voxels")
        values = volume.read(Box((0, 0, 0), shape))[..., 0]
        return LabelMap(values, volume.spacing, volume.frame, volume.metadata.get("orientation", ""))
    finally:
        volume.close()


def _segmentation(path: Path) -> LabelMap:
    values, frame, stored = read_dicom_segmentation(path)
    return LabelMap(values, Spacing(frame.spacing, "mm", "file"), frame, stored)


def _array(path: Path) -> LabelMap:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if math.prod(values.shape) > MAX_VOXELS:
        raise SourceTooLargeError(f"{values.shape} are more than {MAX_VOXELS:,} values")
    return _checked(np.array(values))


def _tiff(path: Path) -> LabelMap:
    import tifffile

    try:
        with quiet(), tifffile.TiffFile(path) as tiff:
            if len(tiff.series) != 1:
                raise UnreadableSourceError(
                    f"holds {len(tiff.series)} images of different kinds; save the labels alone"
                )
            if math.prod(tiff.series[0].shape) > MAX_VOXELS:
                raise SourceTooLargeError(f"{tiff.series[0].shape} are more than {MAX_VOXELS:,} values")
            axes, values = tiff.series[0].axes, tiff.series[0].asarray(maxworkers=1)
    except tifffile.TiffFileError as error:
        raise UnreadableSourceError(f"damaged or unsupported ({reason_of(error)})") from error
    if "S" in axes and values.ndim > 2:
        values = _one_channel(np.moveaxis(values, axes.index("S"), -1))
    return _checked(values)


def _picture(path: Path) -> LabelMap:
    from PIL import Image

    with quiet(), Image.open(path, formats=["PNG", "BMP"]) as picture:
        check_pixels("the picture", (picture.height, picture.width), MAX_FLAT_PIXELS)
        values = np.array(picture)
        if picture.mode not in _GREY:
            values = _one_channel(values)
    return _checked(values)


def _one_channel(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Grey that was saved as colours, with or without a channel of opacity."""
    colours = values[..., :3] if values.shape[-1] >= 3 else values[..., :1]
    if (colours != colours[..., :1]).any():
        raise UnreadableSourceError(
            "a picture in colours, not of labels; save labels as grey values or as a palette's numbers"
        )
    return colours[..., 0]


def _checked(values: npt.NDArray[Any]) -> LabelMap:
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise UnreadableSourceError(
            f"labels have two or three axes, none of them 0; these are {values.shape}"
        )
    if values.dtype.kind not in "buif":
        raise UnreadableSourceError(f"holds {values.dtype}; labels are numbers")
    return LabelMap(values)


def _from_masks(folder: Path) -> LabelMap:
    """Objects numbered from 1 in the order of their masks' names."""
    files = mask_files(folder)
    if not files:
        raise UnreadableSourceError(
            f"{folder}: holds no masks ({', '.join(PICTURE_SUFFIXES)}), nor a folder {_MASKS!r} of them"
        )
    first = read_label_map(files[0])
    labels = np.zeros(first.values.shape, dtype=np.int32)
    shared = 0
    for number, path in enumerate(files, 1):
        mask = read_label_map(path).values != 0
        if mask.shape != labels.shape:
            raise UnreadableSourceError(f"{path}: is {mask.shape}, and {files[0].name} {labels.shape}")
        shared += int(np.count_nonzero(labels[mask]))
        labels[mask & (labels == 0)] = number
    return replace(first, values=labels, objects=True, shared=shared)
