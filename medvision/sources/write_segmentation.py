"""Writing labels of a DICOM series as a DICOM segmentation, filed in the study of the series, by highdicom.

Needs the extra "dicom". Patient and study are those of the series: the file names the patient as the series does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UnreadableSourceError, UsageError
from medvision.sources.dicom_series_reader import series_files
from medvision.sources.faults import LIBRARY_ERRORS, quiet, reason_of
from medvision.sources.pyramid import whole_file

NEEDED = "a DICOM segmentation needs highdicom: pip install 'medvision[dicom]'"
_SERIES_NUMBER = 9902
"""Beyond those that scanners give."""


def can_write_segmentation() -> bool:
    """Whether highdicom is installed."""
    return importlib.util.find_spec("highdicom") is not None


def write_dicom_segmentation(
    path: Path,
    labels: npt.NDArray[np.uint8],
    classes: Sequence[str],
    series: Path,
    *,
    version: str,
    model: str,
    key: str,
) -> None:
    """Write `labels` (slice, row, column), in the order and grid of the series' slices, as one segment for each class.

    Args:
        path: of the file.
        labels: 0 the background, k the class `classes[k]`.
        classes: all names, the background's first.
        series: folder of the series, or one of its files.
        version: of this program.
        model: what made the labels, in words.
        key: from which the UIDs are made: equal keys give equal bytes.

    Raises:
        UsageError: if highdicom is not installed.
        UnreadableSourceError: if `series` is no series of as many slices, or lacks what must be repeated of it.
        OSError: if the file cannot be written.
    """
    if not can_write_segmentation():
        raise UsageError(NEEDED)
    from highdicom.seg import Segmentation
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    images = _images(series)
    if len(images) != len(labels):
        raise UnreadableSourceError(f"{series}: {len(images)} slices, and labels of {len(labels)}")
    with quiet():
        try:
            made = Segmentation(
                source_images=images,
                pixel_array=labels,
                segmentation_type="BINARY",
                segment_descriptions=[
                    _segment(number, name, version, model) for number, name in enumerate(classes) if number
                ],
                series_instance_uid=generate_uid(entropy_srcs=[key, "series"]),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=generate_uid(entropy_srcs=[key, "segmentation"]),
                instance_number=1,
                manufacturer="medvision",
                manufacturer_model_name="medvision",
                software_versions=version,
                device_serial_number="0",
                content_description="Segmentation: research use only",
                content_label="RESEARCH",
                series_description="Segmentation: research use only",
                transfer_syntax_uid=ExplicitVRLittleEndian,
                # A class that was not found has its segment all the same, with frames of zeros.
                omit_empty_frames=bool(labels.any()),
            )
        except LIBRARY_ERRORS as error:
            raise UnreadableSourceError(
                f"{series}: no DICOM segmentation can be made of it ({reason_of(error)})"
            ) from error
        _without_clock(made, images[0], key)
        with whole_file(path) as temporary:
            made.save_as(temporary, enforce_file_format=True)


def _images(series: Path) -> list[Any]:
    """Headers of the slices, in their order."""
    import pydicom

    files = series_files(series)
    with quiet():
        return [pydicom.dcmread(path, stop_before_pixels=True) for path in files]


def _segment(number: int, name: str, version: str, model: str) -> Any:
    import highdicom
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    tissue = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
    return SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=tissue,
        segmented_property_type=tissue,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=f"medvision segment: research use only; {model}"[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=version,
        ),
    )


def _without_clock(made: Any, image: Any, key: str) -> None:
    """Dates of the study in place of today's, so that equal input gives equal bytes."""
    from pydicom.uid import generate_uid

    date, time = str(image.get("StudyDate", "")) or "20000101", str(image.get("StudyTime", "")) or "000000"
    for name in ("Content", "Series", "InstanceCreation", "Acquisition"):
        if f"{name}Date" in made:
            setattr(made, f"{name}Date", date)
        if f"{name}Time" in made:
            setattr(made, f"{name}Time", time)
    for equipment in made.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = f"{date}{time}"
    for number, organisation in enumerate(made.get("DimensionOrganizationSequence", [])):
        uid = generate_uid(entropy_srcs=[key, "dimensions", str(number)])
        organisation.DimensionOrganizationUID = uid
        for index in made.get("DimensionIndexSequence", []):
            index.DimensionOrganizationUID = uid
