"""Damaged and hostile bytes: an error of the package with the file's name, or voxels; nothing else, and soon."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from medvision.core.errors import MedvisionError
from medvision.core.geometry import Box
from medvision.sources import open_source

AFFINE = np.diag([0.5, 0.75, 2.5, 1.0])
WRITERS = {
    "mha": lambda files, array: files.metaimage(array, AFFINE, "v.mha"),
    "mha packed": lambda files, array: files.metaimage(array, AFFINE, "v.mha", packed=True),
    "nii": lambda files, array: files.nifti(array, AFFINE),
    "nii.gz": lambda files, array: files.nifti(array, AFFINE, "v.nii.gz"),
    "nrrd": lambda files, array: files.nrrd(array, AFFINE, encoding="gzip"),
    "dicom": lambda files, array: next(files.dicom(array[:1], AFFINE).iterdir()),
}
_HEADER = 700
"""Bytes within which most faults are planted: beyond the header, any value is a voxel."""


def mutated(whole: bytes, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, min(len(data), _HEADER)))
        kind = int(rng.integers(0, 5))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[at : at + 4] = rng.bytes(4)
        elif kind == 2:
            data[at : at + 2] = b"\xff\xff"
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 30))]
        else:
            data[at : at + 1] = bytes(str(int(rng.integers(0, 10**9))), "ascii")
    return bytes(data[: int(rng.integers(1, len(data) + 1))] if rng.random() < 0.15 else data)


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_mutations_end_in_an_error_with_a_name_or_in_voxels(volume_files, tmp_path: Path, kind: str):
    array = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6), dtype=np.int16)
    whole = WRITERS[kind](volume_files, array).read_bytes()
    errors: list[str] = []
    for seed in range(150):
        folder = tmp_path / f"{seed}"  # alone: other slices in its folder would be looked at as well
        folder.mkdir()
        path = folder / "damaged"
        path.write_bytes(mutated(whole, seed))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                source = open_source(path)
                box = Box(
                    (0,) * len(source.levels[0].shape), tuple(min(9, n) for n in source.levels[0].shape)
                )
                assert source.read(box).shape[:-1] == box.shape
                source.close()
        except MedvisionError as error:
            errors.append(str(error))
    assert all("damaged" in said and "\n" not in said for said in errors)
    assert 3 < len(errors) < 147
