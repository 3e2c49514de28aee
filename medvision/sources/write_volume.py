"""Writers of volumes: MetaImage as LUNA16 has it, NIfTI, and a series of DICOM files.

Every file appears under its name only when it is whole. The bytes depend on the arguments alone: no time stamp, host or
program version goes into a file.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.world import WorldFrame, lps_from_ras
from medvision.sources.pyramid import whole_file

Voxels = npt.NDArray[np.int16] | npt.NDArray[np.uint8]

_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_WRITER = "2.25.302013187411264373146273415027104511077"
"""Of this writer, as DICOM wants it: a UID drawn once at random."""


def write_metaimage(path: Path, voxels: Voxels, frame: WorldFrame, *, compress: bool = False) -> Path:
    """Write `NAME.mhd` and beside it `NAME.raw`, or `NAME.zraw` by zlib; returns the header's path.

    `voxels` is (plane, row, column): int16 is taken for HU and said to be CT, uint8 for labels.

    Raises:
        UsageError: if `path` does not end in .mhd, or `voxels` is of another type or shape.
        OSError: if a file cannot be written.
    """
    if path.suffix.lower() != ".mhd":
        raise UsageError(f"{path}: a MetaImage header ends in .mhd")
    _check(path, voxels)
    data = np.ascontiguousarray(voxels, dtype=voxels.dtype.newbyteorder("<")).tobytes()
    packed = zlib.compress(data, 6) if compress else data
    beside = path.with_suffix(".zraw" if compress else ".raw")
    planes, rows, columns = voxels.shape
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {compress}",
        *([f"CompressedDataSize = {len(packed)}"] if compress else []),
        # One direction after another, of columns, rows and planes.
        f"TransformMatrix = {_numbers(v for axis in frame.directions[::-1] for v in axis)}",
        f"Offset = {_numbers(frame.origin)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_numbers(frame.spacing[::-1])}",
        f"DimSize = {columns} {rows} {planes}",
        *(["Modality = MET_MOD_CT"] if voxels.dtype == np.int16 else []),
        f"ElementType = {'MET_SHORT' if voxels.dtype == np.int16 else 'MET_UCHAR'}",
        f"ElementDataFile = {beside.name}",
    ]
    _write(beside, packed)
    _write(path, ("\n".join(lines) + "\n").encode())
    return path


def write_nifti(path: Path, voxels: Voxels, frame: WorldFrame) -> Path:
    """Write a NIfTI-1 file, `.nii` or `.nii.gz`: axes (column, row, plane), the affine in RAS as the format has it.

    Raises:
        UsageError: if the name ends otherwise, or `voxels` is of another type or shape.
        OSError: if the file cannot be written.
    """
    import nibabel

    packed = path.name.endswith(".nii.gz")
    if not packed and path.suffix != ".nii":
        raise UsageError(f"{path}: a NIfTI file ends in .nii or .nii.gz")
    _check(path, voxels)
    affine = np.eye(4)
    for column, axis in enumerate((2, 1, 0)):
        affine[:3, column] = np.multiply(frame.directions[axis], frame.spacing[axis])
    affine[:3, 3] = frame.origin
    image = nibabel.Nifti1Image(voxels.transpose(), lps_from_ras(affine))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    data = image.to_bytes()
    _write(path, gzip.compress(data, 6, mtime=0) if packed else data)
    return path


def write_dicom_series(
    folder: Path, voxels: npt.NDArray[np.int16], frame: WorldFrame, series_uid: str
) -> list[Path]:
    """Write HU `(plane, row, column)` as CT images, one file per plane, into `folder`; returns the files by plane.

    File names come from digests, so their order says nothing about the planes', as in an archive. Patient and study are
    said to be synthetic.

    Raises:
        UsageError: if `voxels` is not a volume of int16.
        OSError: if a file cannot be written.
    """
    if voxels.dtype != np.int16:
        raise UsageError(f"{folder}: a CT series wants HU as int16, not {voxels.dtype}")
    _check(folder, voxels)
    folder.mkdir(parents=True, exist_ok=True)
    shared = _shared_attributes(voxels, frame, series_uid)
    paths = []
    step = np.multiply(frame.directions[0], frame.spacing[0])
    for number, plane in enumerate(voxels):
        uid = uid_of(f"{series_uid} image {number}")
        position = np.asarray(frame.origin) + number * step
        own = {
            "SOPInstanceUID": uid,
            "InstanceNumber": number + 1,
            "ImagePositionPatient": [_decimal(v) for v in position],
            "SliceLocation": _decimal(float(np.dot(position, frame.directions[0]))),
            "PixelData": np.ascontiguousarray(plane + np.int16(1024)).astype("<i2").tobytes(),
        }
        path = folder / f"CT.{hashlib.sha256(uid.encode()).hexdigest()[:16]}.dcm"
        _write_dicom(path, {**shared, **own})
        paths.append(path)
    return paths


def _shared_attributes(voxels: Voxels, frame: WorldFrame, series_uid: str) -> dict[str, Any]:
    rows, columns = voxels.shape[1:]
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "PRIMARY", "AXIAL"],
        "SOPClassUID": _CT_STORAGE,
        "StudyDate": "20000101",
        "StudyTime": "000000",
        "ContentDate": "20000101",
        "ContentTime": "000000",
        "AccessionNumber": "",
        "Modality": "CT",
        "Manufacturer": "medvision",
        "ReferringPhysicianName": "",
        "StudyDescription": "Synthetic chest CT",
        "SeriesDescription": "Synthetic",
        "PatientName": "Synthetic^Chest",
        "PatientID": uid_of(f"{series_uid} patient")[-12:],
        "PatientBirthDate": "",
        "PatientSex": "",
        "BodyPartExamined": "CHEST",
        "PatientPosition": "HFS",
        "SliceThickness": _decimal(frame.spacing[0]),
        "KVP": "120",
        "StudyInstanceUID": uid_of(f"{series_uid} study"),
        "SeriesInstanceUID": series_uid,
        "StudyID": "1",
        "SeriesNumber": 1,
        "AcquisitionNumber": 1,
        # Directions of growing columns, then rows.
        "ImageOrientationPatient": [_decimal(v) for axis in (2, 1) for v in frame.directions[axis]],
        "FrameOfReferenceUID": uid_of(f"{series_uid} frame"),
        "PositionReferenceIndicator": "",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "PixelSpacing": [_decimal(frame.spacing[1]), _decimal(frame.spacing[2])],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "WindowCenter": "-550",
        "WindowWidth": "1600",
        "RescaleIntercept": "-1024",
        "RescaleSlope": "1",
        "RescaleType": "HU",
    }


def _write_dicom(path: Path, attributes: dict[str, Any]) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(_CT_STORAGE)
    meta.MediaStorageSOPInstanceUID = UID(attributes["SOPInstanceUID"])
    meta.TransferSyntaxUID = UID(_EXPLICIT_LITTLE)
    meta.ImplementationClassUID = UID(_WRITER)
    meta.ImplementationVersionName = "medvision"
    dataset = Dataset()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = meta
    with whole_file(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def uid_of(text: str) -> str:
    """A DICOM UID that is always the same for the same text (root 2.25, as UUIDs have)."""
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"


def _decimal(value: float) -> str:
    """A decimal string of DICOM, at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value) + 0.0)


def _numbers(values: Any) -> str:
    return " ".join(f"{v + 0.0:.10g}" for v in values)


def _write(path: Path, data: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def _check(path: Path, voxels: Voxels) -> None:
    if voxels.ndim != 3 or voxels.dtype not in (np.int16, np.uint8):
        raise UsageError(
            f"{path}: a volume wants three axes of int16 or uint8, not {voxels.dtype} {voxels.shape}"
        )
