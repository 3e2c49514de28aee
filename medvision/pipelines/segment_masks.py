"""The mask of a segmentation as a file: PNG, tiled TIFF, NIfTI, or a DICOM segmentation of the series it is of."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from medvision import __version__
from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.core.world import WorldFrame, opposite
from medvision.pipelines.segment_case import Case
from medvision.pipelines.segment_config import MaskFormat
from medvision.pipelines.segment_parts import LabelImage
from medvision.sources.write import write_mask
from medvision.sources.write_segmentation import NEEDED, can_write_segmentation, write_dicom_segmentation
from medvision.sources.write_volume import write_nifti

L = TypeVar("L", np.uint8, np.int16)
Labels = npt.NDArray[np.uint8]

_FITTING: dict[str, tuple[MaskFormat, ...]] = {
    "image": ("png", "tiff"),
    "slide": ("tiff",),
    "volume": ("nifti", "dicom-seg"),
}


def format_for(wanted: MaskFormat, kind: str) -> MaskFormat:
    """The format of a kind of case's mask.

    Raises:
        UsageError: for one that does not fit, with those that do.
    """
    fitting = _FITTING[kind]
    if wanted != "auto" and wanted not in fitting:
        raise UsageError(f"--output {wanted} does not fit {_an(kind)}; choose {' or '.join(fitting)}")
    if wanted == "dicom-seg" and not can_write_segmentation():
        raise UsageError(NEEDED)
    return fitting[0] if wanted == "auto" else wanted


def write_label_mask(
    case: Case,
    image: LabelImage,
    classes: tuple[str, ...],
    form: MaskFormat,
    folder: Path,
    *,
    series: Path | None,
    model: str,
    key: str,
) -> str:
    """Write the labels and return the file's name.

    Of a DICOM segmentation `series` is where the series lies, None where names are hidden, `model` what made the
    labels, and `key` what UIDs are made from.

    Raises:
        UsageError: for a TIFF without a spacing, or a DICOM segmentation of something else than a DICOM series.
    """
    if form == "png":
        Image.fromarray(np.asarray(image.labels)).save(folder / "mask.png", optimize=True)
        return "mask.png"
    if form == "tiff":
        if case.spacing is None:
            raise UsageError(f"{case.info.name}: a TIFF of the mask says its spacing; pass --spacing")
        side = float(np.prod([s * by for s, by in zip(case.spacing.values, image.step, strict=True)])) ** 0.5

        def read(box: Box) -> Labels:
            return np.asarray(image.labels[box.slices()])

        rows, columns = image.labels.shape
        write_mask(folder / "mask.ome.tiff", (rows, columns), read, side)
        return "mask.ome.tiff"
    labels, frame = as_stored(image.labels, case.frame, case.info.metadata.get("orientation", ""))
    if form == "dicom-seg":
        if case.info.reader != "dicom-series":
            raise UsageError(
                f"{case.info.name}: a DICOM segmentation is one of a DICOM series; choose --output nifti"
            )
        if series is None:
            raise UsageError(
                "a DICOM segmentation names the patient, and the run hides names: --output nifti"
            )
        write_dicom_segmentation(
            folder / "mask.dcm", labels, classes, series, version=__version__, model=model, key=key
        )
        return "mask.dcm"
    write_nifti(folder / "mask.nii.gz", labels, frame)
    return "mask.nii.gz"


def write_objects(case: Case, objects: npt.NDArray[np.int32], folder: Path) -> str:
    """Write the numbers of objects, 16 bits a pixel, and return the file's name.

    Raises:
        UsageError: if there are more than such a file can number.
    """
    most = np.iinfo(np.uint16 if case.volume is None else np.int16).max
    if objects.max(initial=0) > most:
        raise UsageError(
            f"{case.info.name}: {objects.max():,} objects; a mask of objects numbers {most:,} at most"
        )
    if case.volume is None:
        Image.fromarray(objects.astype(np.uint16)).save(folder / "objects.png", optimize=True)
        return "objects.png"
    stored, frame = as_stored(objects.astype(np.int16), case.frame, case.info.metadata.get("orientation", ""))
    write_nifti(folder / "objects.nii.gz", stored, frame)
    return "objects.nii.gz"


def as_stored(
    labels: npt.NDArray[L], frame: WorldFrame, orientation: str
) -> tuple[npt.NDArray[L], WorldFrame]:
    """An upright volume with its axes as its file has them, so that voxels of both are counted alike.

    `orientation` begins with the letters of the file's axes (x y z), "LAS", as a volume's facts say them; without
    them the volume stays upright.
    """
    stored = orientation[:3][::-1]
    upright = frame.letters
    places = [
        next((k for k, one in enumerate(upright) if one in (letter, _turned(letter))), -1)
        for letter in stored
    ]
    if sorted(places) != [0, 1, 2]:
        return labels, frame
    flips = tuple(upright[place] != letter for place, letter in zip(places, stored, strict=True))
    turned = frame.rearranged(labels.shape, tuple(places), flips)
    ways = tuple(axis for axis, flip in enumerate(flips) if flip)
    return np.ascontiguousarray(np.flip(labels.transpose(places), ways)), turned


def _turned(letter: str) -> str:
    return opposite(letter) if letter in "RLAPIS" else ""


def _an(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
