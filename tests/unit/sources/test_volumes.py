"""Volumes of every format: the same voxels in the same place of the patient, whatever the order of the file."""

from __future__ import annotations

import gzip
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medvision.core.errors import (
    MedvisionError,
    SourceTooLargeError,
    SpacingError,
    UnreadableSourceError,
    UsageError,
    WindowUnreadableError,
)
from medvision.core.geometry import Box
from medvision.core.world import WorldFrame
from medvision.sources import Limits, open_guarded, open_source, read_at
from medvision.sources.base import VOLUMES
from medvision.sources.facts import ALLOWED
from medvision.sources.opening import _load_readers
from medvision.sources.volume import open_volume

SHAPE = (6, 7, 9)
UPRIGHT = WorldFrame((-40.0, -50.0, 100.0), (2.5, 0.75, 0.5), ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
TILTED = WorldFrame(UPRIGHT.origin, UPRIGHT.spacing, ((0, 0.28, 0.96), (0, 0.96, -0.28), (1, 0, 0)))

_load_readers()


def scan() -> np.ndarray:
    return np.random.default_rng(7).integers(-1024, 2000, SHAPE, dtype=np.int16)


def matrix(frame: WorldFrame) -> np.ndarray:
    """Index (x, y, z, 1) to LPS, as files state it."""
    affine = np.eye(4)
    affine[:3, :3] = (np.array(frame.directions) * np.array(frame.spacing)[:, None])[::-1].T
    affine[:3, 3] = frame.origin
    return affine


WRITERS = {
    "metaimage": lambda files, array, affine: files.metaimage(array, affine),
    "nifti": lambda files, array, affine: files.nifti(array, affine),
    "nrrd": lambda files, array, affine: files.nrrd(array, affine),
    "dicom-series": lambda files, array, affine: files.dicom(array, affine),
}


def test_every_reader_is_covered():
    assert set(VOLUMES) == set(WRITERS)


@pytest.fixture(params=sorted(WRITERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("frame", [UPRIGHT, TILTED], ids=["straight", "oblique"])
@pytest.mark.parametrize(
    ("order", "flips"),
    [((0, 1, 2), (False,) * 3), ((0, 1, 2), (True, True, False)), ((2, 0, 1), (True, False, True)),
     ((1, 0, 2), (False, True, True))],
)  # fmt: skip
def test_voxels_lie_where_the_file_says(volume_files, name, frame, order, flips):
    """Written in another order, a scan comes back upright, in every format, with its world coordinates."""
    stored = np.ascontiguousarray(np.flip(scan().transpose(order), [k for k, f in enumerate(flips) if f]))
    affine = matrix(frame.rearranged(SHAPE, order, flips))
    volume = open_volume(WRITERS[name](volume_files, stored, affine))
    assert volume.reader == name
    assert volume.frame is not None
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), SHAPE))[..., 0], scan())
    np.testing.assert_allclose(volume.frame.origin, frame.origin, atol=1e-4)
    np.testing.assert_allclose(volume.frame.spacing, frame.spacing, rtol=1e-6)
    np.testing.assert_allclose(volume.frame.directions, frame.directions, atol=1e-6)
    assert volume.frame.letters == "SPL"
    volume.close()


@pytest.fixture(params=[False, True], ids=["here", "guarded"])
def source(name: str, volume_files, request: pytest.FixtureRequest):
    path = WRITERS[name](volume_files, scan(), matrix(UPRIGHT))
    opened = open_guarded(path) if request.param else open_source(path)
    yield opened
    opened.close()


def test_the_contract(source, name):
    """One start of each reader in a process of its own, hence all of the contract in one test."""
    assert (source.reader, source.axes, source.channels, source.dtype) == (name, "zyx", 1, np.int16)
    assert source.levels[0].shape == SHAPE
    assert source.spacing.unit == "mm"
    np.testing.assert_allclose(source.spacing.values, UPRIGHT.spacing)
    assert (source.quantity, source.fill) == ("HU", -1000)
    np.testing.assert_allclose(source.frame.origin, UPRIGHT.origin, atol=1e-4)
    assert set(source.metadata) <= set(ALLOWED)
    said = f"{source.metadata} {source.why} {source.notes} {source.vendor}"
    assert "Doe" not in said and "12345" not in said
    assert source.why and source.vendor
    assert len(source.id) == 64 and source.id == source.id
    margin = 4
    around = np.pad(scan(), margin, constant_values=-1000)
    rng = np.random.default_rng(1)
    boxes = [Box((0, 0, 0), SHAPE), Box((-4, -4, -4), (0, 3, 3)), Box((2, 2, 2), (2, 5, 5))]
    for _ in range(20):
        start = tuple(int(rng.integers(-margin, n)) for n in SHAPE)
        boxes.append(
            Box(start, tuple(int(rng.integers(a, n + margin)) for a, n in zip(start, SHAPE, strict=True)))
        )
    with ThreadPoolExecutor(3) as pool:
        for box, values in zip(boxes, pool.map(source.read, boxes), strict=True):
            assert values.dtype == np.int16
            np.testing.assert_array_equal(values[..., 0], around[box.shift((margin,) * 3).slices()])
    source.read(Box((0, 0, 0), SHAPE))[:] = 7
    np.testing.assert_array_equal(source.read(Box((0, 0, 0), SHAPE))[..., 0], scan())
    isotropic = read_at(source, Box((0, 0, 0), (10, 4, 4)), 1.0)
    assert isotropic.shape == (10, 4, 4, 1) and isotropic.dtype == np.int16
    source.close()
    source.close()
    with pytest.raises(MedvisionError, match="closed"):
        source.read(Box((0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize(
    "kind", ["mha", "mha packed", "mhd packed", "nii.gz", "nifti-2", "nrrd gzip", "nrrd bzip2", "nhdr"]
)
def test_ways_of_packing(volume_files, kind):
    affine = matrix(UPRIGHT)
    made = {
        "mha": lambda: volume_files.metaimage(scan(), affine, "v.mha"),
        "mha packed": lambda: volume_files.metaimage(scan(), affine, "v.mha", packed=True),
        "mhd packed": lambda: volume_files.metaimage(scan(), affine, packed=True),
        "nii.gz": lambda: volume_files.nifti(scan(), affine, "v.nii.gz"),
        "nifti-2": lambda: volume_files.nifti(scan(), affine, kind=nibabel.Nifti2Image),
        "nrrd gzip": lambda: volume_files.nrrd(scan(), affine, encoding="gzip"),
        "nrrd bzip2": lambda: volume_files.nrrd(scan(), affine, encoding="bzip2"),
        "nhdr": lambda: volume_files.nrrd(scan(), affine, "v.nhdr"),
    }[kind]()
    volume = open_volume(made)
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), SHAPE))[..., 0], scan())
    np.testing.assert_allclose(volume.frame.origin, UPRIGHT.origin, atol=1e-4)


@pytest.mark.parametrize("writer", ["metaimage", "nifti", "nrrd"])
@pytest.mark.parametrize(
    ("stored", "dtype"), [(">i2", np.int16), ("<u2", np.float32), ("u1", np.uint8), ("<f4", np.float32), (">f4",
    np.float32)]
)  # fmt: skip
def test_types_of_both_byte_orders(volume_files, writer, stored, dtype):
    values = np.random.default_rng(2).integers(0, 250, SHAPE).astype(stored)
    volume = open_volume(WRITERS[writer](volume_files, values, matrix(UPRIGHT)))
    assert volume.dtype == dtype
    assert volume.quantity == ""
    assert volume.fill == 0
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), SHAPE))[..., 0], values.astype(dtype))


# NIfTI: values


@pytest.mark.parametrize(
    ("slope", "inter", "dtype", "meant"),
    [
        (0.0, 5.0, np.int16, (1, 0)), (float("nan"), float("nan"), np.int16, (1, 0)), (1.0, 0.0, np.int16, (1, 0)),
        (1.0, float("nan"), np.int16, (1, 0)), (1.0, -1024.0, np.float32, (1, -1024)), (0.5, 3.0, np.float32, (0.5, 3)),
        (-1.0, 0.0, np.float32, (-1, 0)),
    ],
)  # fmt: skip
def test_scale_of_a_nifti_file(volume_files, slope, inter, dtype, meant):
    path = volume_files.nifti(scan(), matrix(UPRIGHT))
    patch(path, 112, np.array([slope, inter], "<f4"))
    volume = open_volume(path)
    assert volume.dtype == dtype
    expected = scan().astype(np.float64) * meant[0] + meant[1]
    np.testing.assert_allclose(volume.read(Box((0, 0, 0), SHAPE))[..., 0], expected)


def patch(path: Path, at: int, values: np.ndarray) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + values.nbytes] = values.tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("at", "values", "reason"),
    [
        (112, np.array([np.inf, 0], "<f4"), "scaled by inf"),
        (40, np.array([4, 9, 7, 6, 5, 1, 1, 1], "<i2"), "9 x 7 x 6 x 5; three axes"),
        (40, np.array([3, 32000, 32000, 32000], "<i2"), "limit"),
        (40, np.array([3, 9, -7, 6], "<i2"), "empty volume"),
        (40, np.array([3, 900, 700, 600], "<i2"), "truncated"),
        (70, np.array([128], "<i2"), "type"),  # RGB
        (70, np.array([32], "<i2"), "type"),  # complex
        (70, np.array([999], "<i2"), "type"),
        (108, np.array([np.nan], "<f4"), "begin at byte"),
        (108, np.array([1e9], "<f4"), "truncated"),
        (280, np.array([np.nan, 0, 0, 0], "<f4"), "orientation"),
        (280, np.zeros(12, "<f4"), "orientation"),
        (280, np.array([1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], "<f4"), "right angle"),
    ],
)
def test_nifti_headers_that_mean_nothing(volume_files, at, values, reason):
    path = volume_files.nifti(scan(), matrix(UPRIGHT))
    patch(path, at, values)
    with pytest.raises(UnreadableSourceError, match=reason) as caught:
        open_source(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_nifti_file_without_orientation_says_so(volume_files):
    path = volume_files.nifti(scan(), matrix(UPRIGHT))
    patch(path, 252, np.zeros(2, "<i2"))
    volume = open_volume(path)
    assert "does not state its orientation" in volume.notes[0]
    np.testing.assert_allclose(sorted(volume.spacing.values), sorted(UPRIGHT.spacing))


# Bombs, truncation and confinement


def test_a_packed_file_cannot_claim_what_it_cannot_hold(volume_files):
    path = volume_files.nifti(scan(), matrix(UPRIGHT))
    patch(path, 40, np.array([3, 2000, 2000, 1000], "<i2"))
    packed = path.with_suffix(".nii.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(SourceTooLargeError, match="cannot hold"):
        open_source(packed)


@pytest.mark.parametrize("kind", ["nii.gz", "mha packed", "nrrd gzip", "nii", "mhd"])
def test_cut_off_files_are_refused(volume_files, kind):
    affine = matrix(UPRIGHT)
    path, cut = {
        "nii.gz": lambda: (volume_files.nifti(scan(), affine, "v.nii.gz"), None),
        "mha packed": lambda: (volume_files.metaimage(scan(), affine, "v.mha", packed=True), None),
        "nrrd gzip": lambda: (volume_files.nrrd(scan(), affine, encoding="gzip"), None),
        "nii": lambda: (volume_files.nifti(scan(), affine), None),
        "mhd": lambda: (volume_files.metaimage(scan(), affine), "v.raw"),
    }[kind]()
    data = path if cut is None else path.with_name(cut)
    data.write_bytes(data.read_bytes()[:-60])
    with pytest.raises(UnreadableSourceError, match=r"truncated|cannot be unpacked"):
        open_source(path)


def test_a_file_cut_off_while_it_is_open_is_an_error_of_its_windows(volume_files):
    path = volume_files.metaimage(scan(), matrix(UPRIGHT))
    volume = open_volume(path)
    os.truncate(path.with_suffix(".raw"), 3 * 63 * 2)
    assert volume.read(Box((0, 0, 0), (3, 7, 9))).shape == (3, 7, 9, 1)
    with pytest.raises(
        WindowUnreadableError, match=r"planes 3-4, rows 0-2, columns 0-9 cannot be decoded.*ends"
    ):
        volume.read(Box((3, 0, 0), (4, 2, 9)))


@pytest.mark.parametrize("how", ["above", "absolute", "link", "folder"])
@pytest.mark.parametrize("format", ["metaimage", "nrrd"])
def test_a_header_may_not_point_outside_its_folder(volume_files, tmp_path, how, format):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(scan().tobytes())
    inner = tmp_path / "inner"
    inner.mkdir()
    named = {"above": "../secret.raw", "absolute": str(secret), "link": "link.raw", "folder": "sub"}[how]
    (inner / "link.raw").symlink_to(secret)
    (inner / "sub").mkdir()
    if format == "metaimage":
        path = volume_files.metaimage(scan(), matrix(UPRIGHT), "inner/v.mhd", ElementDataFile=named)
    else:
        path = volume_files.nrrd(scan(), matrix(UPRIGHT), "inner/v.nhdr")
        text = path.read_text()
        path.write_text(text.replace("data file: v.raw", f"data file: {named}"))
        assert text != path.read_text()
    with pytest.raises(UnreadableSourceError, match=r"outside its folder|not a regular file"):
        open_source(path)


def test_a_link_within_the_folder_is_followed(volume_files, tmp_path):
    path = volume_files.metaimage(scan(), matrix(UPRIGHT), ElementDataFile="sub/real.raw")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "real.raw").symlink_to(tmp_path / "v.raw")
    np.testing.assert_array_equal(open_volume(path).read(Box((0, 0, 0), SHAPE))[..., 0], scan())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ElementSpacing": "1 0 1"}, "not positive"), ({"ElementSpacing": "1 -1 1"}, "not positive"),
        ({"ElementSpacing": "1 nan 1"}, "3 numbers"), ({"ElementSpacing": "1 1"}, "3 numbers"),
        ({"NDims": 2}, "2 axes"), ({"NDims": 4}, "4 axes"), ({"ElementNumberOfChannels": 3}, "3 channels"),
        ({"ElementType": "MET_OTHER"}, "MET_OTHER"), ({"BinaryData": False}, "as text"),
        ({"DimSize": "9 7 0"}, "empty"), ({"DimSize": "99999999 99999999 99"}, "limit"),
        ({"DimSize": "1000000 1000 4"}, "truncated"),
        ({"TransformMatrix": "1 0 0 0.5 1 0 0 0 1"}, "right angle"), ({"ElementDataFile": "LIST"}, "one file for each"),
        ({"ElementDataFile": "%d.raw 1 6 1"}, "one file for each"), ({"ElementDataFile": "none.raw"}, "not there"),
        ({"HeaderSize": "x"}, "damaged"), ({"HeaderSize": -5}, "HeaderSize"),
    ],
)  # fmt: skip
def test_metaimage_headers_that_mean_nothing(volume_files, fields, reason):
    path = volume_files.metaimage(scan(), matrix(UPRIGHT), **fields)
    with pytest.raises(UnreadableSourceError, match=reason) as caught:
        open_source(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("dimension: 3", "dimension: 2", "axes|header"), ("encoding: raw", "encoding: text", "'text'"),
        ("endian: little", "endian: middle", "middle"), ("type: int16", "type: block", "'block'"),
        ("(0.5,0,0)", "(0,0,0)", "not positive"), ("(0.5,0,0)", "none", "header|geometry"),
        ("(0.5,0,0)", "(0.5,0.3,0)", "right angle"), ("sizes: 9 7 6", "sizes: 9 7 99999", "truncated"),
        ("space: left-posterior-superior", "space: left-posterior-superior\nspace: lps", "Duplicate"),
        ("space: left-posterior-superior", 'space: left-posterior-superior\nspace units: "cm" "cm" "cm"', "in cm"),
        ("encoding: raw", "encoding: raw\nline skip: 3", "skips 3 lines"),
    ],
)  # fmt: skip
def test_nrrd_headers_that_mean_nothing(volume_files, old, new, reason):
    path = volume_files.nrrd(scan(), matrix(UPRIGHT))
    data = path.read_bytes()
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode()))
    with pytest.raises(UnreadableSourceError, match=reason):
        open_source(path)


@pytest.mark.parametrize(("space", "signs"), [("RAS", (-1, -1, 1)), ("left-anterior-superior", (1, -1, 1))])
def test_spaces_of_nrrd(volume_files, space, signs):
    flip = np.diag([*signs, 1.0])
    affine = flip @ matrix(UPRIGHT)
    volume = open_volume(volume_files.nrrd(scan(), affine, space=space))
    np.testing.assert_allclose(volume.frame.origin, UPRIGHT.origin)
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), SHAPE))[..., 0], scan())


def test_a_missing_spacing_is_missing_until_it_is_supplied(volume_files):
    path = volume_files.metaimage(scan(), matrix(UPRIGHT), ElementSpacing=None)
    volume = open_volume(path)
    assert volume.spacing is None and volume.frame is None
    with pytest.raises(SpacingError, match="--volume-spacing"):
        read_at(volume, Box((0, 0, 0), (1, 1, 1)), 1.0)
    for limits in (None, Limits()):
        given = open_volume(path, (2.5, 0.75, 0.5), limits)
        assert given.spacing.origin == "supplied"
        np.testing.assert_allclose(given.frame.to_world((0.5, 0.5, 1.5)), (-39.5, -50, 100))
        given.close()
    with pytest.raises(UsageError, match="millimetres"):
        open_source(path, 0.5)
    with pytest.raises(UsageError, match="not positive"):
        open_volume(path, 0.0)


def test_absurd_spacings_are_not_measured_with(volume_files):
    frame = WorldFrame(UPRIGHT.origin, (2500.0, 0.75, 0.5), UPRIGHT.directions)
    volume = open_volume(volume_files.metaimage(scan(), matrix(frame)))
    with pytest.raises(SpacingError, match=r"outside 0.005 to 50 mm"):
        read_at(volume, Box((0, 0, 0), (1, 1, 1)), 1.0)


def test_slides_are_no_volumes(write_pyramid, picture):
    with pytest.raises(UnreadableSourceError, match="not a volume"):
        open_volume(write_pyramid([picture]))


# Real files


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    ["nibabel/reoriented_anat_moved.nii", "nibabel/anatomical.nii", "nibabel/standard.nii.gz",
    "nifti_ct/CT_pitch.nii.gz",
     "nifti_ct/CT_AVM.nii.gz", "nifti_ct/chris_MRA.nii.gz", "nifti_ct/fmri_pitch.nii.gz"],
)  # fmt: skip
def test_real_nifti_files_are_nibabel_s(shared: Path, name: str):
    """World coordinates and values of random voxels, against nibabel's own reading."""
    path = shared / "volumes" / name
    theirs = nibabel.load(path)
    data = np.asarray(theirs.dataobj)
    volume = open_volume(path)
    assert sorted(volume.levels[0].shape) == sorted(data.shape)
    rng = np.random.default_rng(0)
    for _ in range(20):
        index = tuple(int(rng.integers(0, n)) for n in data.shape)
        x, y, z = nibabel.affines.apply_affine(theirs.affine, index)
        voxel = volume.frame.to_voxels((-x, -y, z))
        at = tuple(int(v) for v in np.floor(voxel))
        np.testing.assert_allclose(voxel, np.array(at) + 0.5, atol=1e-3)
        np.testing.assert_allclose(volume.read(Box.at(at, (1, 1, 1))).item(), data[index], rtol=1e-6)
    left, back, up = (np.array(volume.frame.directions)[k] for k in (2, 1, 0))
    assert min(left[0], back[1], up[2]) > 0.7


@pytest.mark.shared
def test_a_real_luna16_header_without_its_voxels_fails_clearly(shared: Path):
    path = next((shared / "volumes" / "luna16_crops" / "cts").glob("*.mhd"))
    with pytest.raises(UnreadableSourceError, match=r"data file .*raw' is not there"):
        open_source(path)


@pytest.mark.shared
def test_a_real_dicom_series(shared: Path):
    import pydicom

    volume = open_volume(shared / "volumes" / "nibabel" / "1.dcm")
    assert volume.levels[0].shape == (2, 256, 256)
    for name in ("0.dcm", "1.dcm"):
        theirs = pydicom.dcmread(shared / "volumes" / "nibabel" / name)
        plane, row, column = volume.frame.to_voxels([float(v) for v in theirs.ImagePositionPatient])
        assert (abs(row - 0.5), abs(column - 0.5)) < (0.01, 0.01)
        values = volume.read(Box.at((int(plane), 0, 0), (1, 256, 256)))[0, ..., 0]
        np.testing.assert_array_equal(values, theirs.pixel_array)


@pytest.mark.shared
def test_a_real_ct_slice(shared: Path):
    volume = open_volume(shared / "volumes" / "pydicom" / "CT_small.dcm")
    assert (volume.quantity, volume.levels[0].shape) == ("HU", (1, 128, 128))
    assert "single slice" in volume.notes[0]
