"""Whose scan a DICOM series is, and which images it is made of: for a document that is to be filed beside them.

The only place at which a patient's name leaves a reader. Nothing asks for it but such a document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medvision.core.errors import UnreadableSourceError
from medvision.sources.base import Source
from medvision.sources.dicom_series import Slice
from medvision.sources.dicom_series_reader import SliceVoxels
from medvision.sources.faults import LIBRARY_ERRORS, quiet, reason_of
from medvision.sources.volume import Volume

_DATE, _TIME = r"\d{8}", r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"
_FORMS = {
    "PatientName": ".*", "PatientID": ".*", "IssuerOfPatientID": ".*", "PatientBirthDate": _DATE,
    "PatientSex": "[MFO]", "StudyInstanceUID": r"[0-9.]{1,64}", "StudyID": ".*", "StudyDate": _DATE, "StudyTime": _TIME,
    "AccessionNumber": ".*", "ReferringPhysicianName": ".*",
}  # fmt: skip
"""By what an archive files an object, and the form of each; what has another form is taken for absent."""


@dataclass(frozen=True, slots=True)
class SeriesOrigin:
    """The images of a volume that was read from a DICOM series. `slices` are in its stored order.

    `study` holds the attributes of patient and study by their DICOM keyword, each of `_FORMS`, as text; empty where the
    series does not state one.
    """

    study: Mapping[str, str]
    class_uid: str
    series_uid: str
    slices: tuple[Slice, ...]


def series_origin(source: Source) -> SeriesOrigin | None:
    """Where a volume comes from; None for what is no DICOM series, or is read by a process of its own.

    Raises:
        UnreadableSourceError: if the series does not say of what study it is, or an image has no UID of its own.
    """
    voxels = source.voxels if isinstance(source, Volume) else None
    if not isinstance(voxels, SliceVoxels):
        return None
    series = voxels.series
    first = series.slices[0].path
    study = _study(first)
    if not study["StudyInstanceUID"]:
        raise UnreadableSourceError(f"{first.name}: does not say of what study it is (StudyInstanceUID)")
    known: set[str] = set()
    for one in series.slices:
        if not re.fullmatch(r"[0-9.]{1,64}", one.uid) or one.uid in known:
            raise UnreadableSourceError(f"{one.path.name}: has no SOPInstanceUID of its own")
        known.add(one.uid)
    header = series.header
    return SeriesOrigin(study, str(header.SOPClassUID), str(header.SeriesInstanceUID), series.slices)


def _study(path: Any) -> dict[str, str]:
    import pydicom

    try:
        with quiet():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_FORMS))
            stated = {name: str(header.get(name) or "").strip() for name in _FORMS}
    except LIBRARY_ERRORS as error:
        raise UnreadableSourceError(f"{path.name}: damaged DICOM header: {reason_of(error)}") from error
    return {name: value if re.fullmatch(_FORMS[name], value) else "" for name, value in stated.items()}
