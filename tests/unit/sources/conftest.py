"""Small slides made by tifffile, independent of the project's own writer, and small volumes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel
import nrrd
import numpy as np
import pydicom
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


class VolumeFiles:
    """Writes small volumes in every format, by other libraries or by hand, never by the code under test.

    `array` is (planes, rows, columns) in the order of the file, `affine` takes its index (x, y, z, 1) to LPS
    millimetres.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def metaimage(
        self,
        array: np.ndarray,
        affine: np.ndarray,
        name: str = "v.mhd",
        packed: bool = False,
        **fields: object,
    ) -> Path:
        path = self.folder / name
        local = path.suffix == ".mha"
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        kinds = {"int16": "MET_SHORT", "uint8": "MET_UCHAR", "uint16": "MET_USHORT", "float32": "MET_FLOAT"}
        data = array.tobytes()
        data = zlib.compress(data, 1) if packed else data
        head: dict[str, object] = {
            "ObjectType": "Image", "NDims": 3, "BinaryData": True,
            "BinaryDataByteOrderMSB": array.dtype.byteorder == ">", "CompressedData": packed,
            "TransformMatrix": words((affine[:3, :3] / spacing).T.ravel()), "Offset": words(affine[:3, 3]),
            "ElementSpacing": words(spacing), "DimSize": words(array.shape[::-1]),
            "ElementType": kinds[array.dtype.newbyteorder("=").name],
        }  # fmt: skip
        head |= fields
        head["ElementDataFile"] = fields.get("ElementDataFile", "LOCAL" if local else f"{path.stem}.raw")
        text = "".join(f"{key} = {value}\n" for key, value in head.items() if value is not None)
        path.write_bytes(text.encode() + (data if local else b""))
        if not local:
            path.with_suffix(".raw").write_bytes(data)
        return path

    def nifti(
        self, array: np.ndarray, affine: np.ndarray, name: str = "v.nii", kind: type = nibabel.Nifti1Image
    ) -> Path:
        path = self.folder / name
        image = kind(array.transpose(), np.diag([-1, -1, 1, 1]) @ affine)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, path)
        return path

    def nrrd(self, array: np.ndarray, affine: np.ndarray, name: str = "v.nrrd", **fields: object) -> Path:
        path = self.folder / name
        head = {
            "space": "left-posterior-superior", "space directions": affine[:3, :3].T,
            "space origin": affine[:3, 3], "encoding": "raw",
        }  # fmt: skip
        nrrd.write(str(path), array.transpose(), {**head, **fields}, index_order="F")
        return path

    def dicom(
        self, array: np.ndarray, affine: np.ndarray, name: str = "series", seed: int = 0, **tags: object
    ) -> Path:
        """A folder of slices, named in an order that has nothing to do with their places; HU as stored less 1024."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        names = np.random.default_rng(seed).permutation(len(array))
        for k, plane in enumerate(array):
            dataset = self.slice(plane, (affine @ [0, 0, k, 1])[:3], affine[:3, :3] / spacing, spacing)
            dataset.SOPInstanceUID = f"1.2.3.{seed + 1}.{k + 1}"
            for key, value in tags.items():
                setattr(dataset, key, value)
            dataset.save_as(folder / f"{names[k]:03d}.dcm", enforce_file_format=True)
        return folder

    @staticmethod
    def slice(
        plane: np.ndarray, position: np.ndarray, directions: np.ndarray, spacing: np.ndarray
    ) -> pydicom.Dataset:
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.SOPInstanceUID = "1.2.3.4"
        dataset.SeriesInstanceUID = "1.2.3"
        dataset.PatientName, dataset.PatientID = "Doe^Jane", "12345"
        dataset.Modality, dataset.Manufacturer = "CT", "Acme"
        dataset.SliceThickness = "2.5"
        dataset.ImagePositionPatient = [f"{v:.6f}" for v in position]
        dataset.ImageOrientationPatient = [f"{v:.8f}" for v in directions[:, :2].T.ravel()]
        dataset.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
        dataset.Rows, dataset.Columns = plane.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
        dataset.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()
        return dataset


def words(values: object) -> str:
    return " ".join(f"{v:.10g}" for v in np.asarray(values).ravel())


@pytest.fixture
def volume_files(tmp_path: Path) -> VolumeFiles:
    return VolumeFiles(tmp_path)
