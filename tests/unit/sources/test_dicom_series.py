"""What makes a straight stack of DICOM slices, what is repaired, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medvision.cli import run
from medvision.core.errors import UnreadableSourceError
from medvision.core.geometry import Box
from medvision.sources import open_source
from medvision.sources.volume import open_volume

STEP = 2.5


@pytest.fixture
def affine() -> np.ndarray:
    made = np.diag([0.5, 0.75, STEP, 1.0])
    made[:3, 3] = (-40, -50, 100)
    return made


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(3).integers(-1000, 2000, (8, 5, 6), dtype=np.int16)


def files(folder: Path) -> list[Path]:
    """The slices from the lowest to the highest."""
    return sorted(folder.glob("*.dcm"), key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))


def edit(path: Path, **tags: object) -> None:
    dataset = pydicom.dcmread(path)
    for key, value in tags.items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    dataset.save_as(path, enforce_file_format=True)


def values(path: Path) -> np.ndarray:
    volume = open_volume(path)
    return volume.read(Box((0, 0, 0), volume.levels[0].shape))[..., 0]


def test_a_folder_and_each_of_its_files_open_the_same(volume_files, array, affine):
    folder = volume_files.dicom(array, affine)
    (folder / "notes.txt").write_text("not a slice")
    whole = open_volume(folder)
    np.testing.assert_array_equal(values(folder), array)
    for path in files(folder)[::3]:
        one = open_volume(path)
        assert one.id == whole.id
        assert one.levels == whole.levels
    assert whole.metadata["slices"] == "8"


def test_names_and_numbers_do_not_matter(volume_files, array, affine):
    folder = volume_files.dicom(array, affine, seed=5)
    for number, path in enumerate(files(folder)):
        edit(path, InstanceNumber=(number * 7) % 8)
    np.testing.assert_array_equal(values(folder), array)


def test_a_missing_slice_is_named_with_its_place(volume_files, array, affine):
    folder = volume_files.dicom(array, affine)
    for path in files(folder)[3:5]:
        path.unlink()
    reason = r"missing slices: 2 of 8.*between 105.00 and 112.50 mm.*2.5 mm apart"
    with pytest.raises(UnreadableSourceError, match=reason):
        open_source(folder)


def test_uneven_steps_are_refused(volume_files, array, affine):
    folder = volume_files.dicom(array, affine)
    edit(files(folder)[4], ImagePositionPatient=[-40, -50, 110.4])
    with pytest.raises(UnreadableSourceError, match=r"uneven steps: slices are 2.100 to 2.900 mm apart"):
        open_source(folder)


def test_rounding_of_positions_is_no_unevenness(volume_files, array, affine):
    folder = volume_files.dicom(array, affine)
    for number, path in enumerate(files(folder)):
        edit(path, ImagePositionPatient=[-40, -50, round(100 + 2.4975 * number, 2)])
    assert open_volume(folder).spacing.values[0] == pytest.approx(2.4975, abs=0.002)


def test_copies_are_left_out_and_noted(volume_files, array, affine):
    folder = volume_files.dicom(array, affine)
    shutil.copy(files(folder)[2], folder / "copy.dcm")
    volume = open_volume(folder)
    assert volume.notes == ("1 slices are copies of others, pixel by pixel, and were left out.",)
    np.testing.assert_array_equal(values(folder), array)


def test_different_slices_at_one_place_are_refused(volume_files, array, affine):
    folder = volume_files.dicom(array, affine)
    copy = folder / "copy.dcm"
    shutil.copy(files(folder)[2], copy)
    edit(copy, PixelData=pydicom.dcmread(files(folder)[5]).PixelData)
    with pytest.raises(UnreadableSourceError, match=r"duplicate positions.*copy.dcm|copy.dcm.*duplicate"):
        open_source(folder)


def test_a_tilted_gantry_is_refused_with_its_angle(volume_files, array, affine):
    affine[1, 2] = STEP * np.tan(np.radians(12))  # each slice lies a little further back
    folder = volume_files.dicom(array, affine)
    with pytest.raises(UnreadableSourceError, match=r"gantry tilt: the stack leans 12\.0 degrees"):
        open_source(folder)


def test_a_slice_beside_the_others_is_refused(volume_files, array, affine):
    folder = volume_files.dicom(array, affine)
    edit(files(folder)[4], ImagePositionPatient=[-37, -50, 110])
    with pytest.raises(UnreadableSourceError, match=r"shifted slices.*3\.00 mm beside"):
        open_source(folder)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "mixed orientations"),
        ({"PixelSpacing": [0.75, 0.6]}, "mixed spacings"),
        ({"Rows": 6, "Columns": 5}, "mixed sizes"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient is not stated"),
        ({"ImagePositionPatient": [1, 2]}, "3 numbers"),
        ({"PixelSpacing": [0.0, 0.5]}, "not positive"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angle"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, "unit vectors"),
        ({"RescaleSlope": "0"}, "rescaled by"),
        ({"SamplesPerPixel": 3}, "colour"),
        ({"BitsStored": 17}, "17 bits"),
        ({"Rows": None}, "damaged"),
    ],
)  # fmt: skip
def test_slices_that_do_not_fit(volume_files, array, affine, tags, reason):
    folder = volume_files.dicom(array, affine)
    path = files(folder)[4]
    edit(path, **tags)
    with pytest.raises(UnreadableSourceError, match=reason) as caught:
        open_source(folder)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_series_in_a_folder_want_a_name(volume_files, array, affine):
    folder = volume_files.dicom(array, affine)
    other = volume_files.dicom(array[:3] + 1, affine, "other", seed=1, SeriesInstanceUID="1.2.9")
    for path in other.iterdir():
        path.rename(folder / f"second-{path.name}")
    with pytest.raises(
        UnreadableSourceError, match=r"2 series in one folder \(8 files like .*, 3 files like second-"
    ):
        open_source(folder)
    np.testing.assert_array_equal(values(next(folder.glob("second-*"))), array[:3] + 1)


def test_a_folder_without_slices(tmp_path):
    with pytest.raises(UnreadableSourceError, match="is a folder, and not one of a DICOM series"):
        open_source(tmp_path)


def test_a_single_slice_takes_its_thickness(volume_files, array, affine):
    folder = volume_files.dicom(array[:1], affine)
    volume = open_volume(folder)
    assert volume.spacing.values == (2.5, 0.75, 0.5)
    assert "single slice" in volume.notes[0]
    edit(next(folder.iterdir()), SliceThickness=None)
    with pytest.raises(UnreadableSourceError, match="thickness is not stated"):
        open_source(folder)


def test_several_frames_in_a_file_are_refused(volume_files, array, affine):
    folder = volume_files.dicom(array[:1], affine)
    path = next(folder.iterdir())
    edit(path, NumberOfFrames=2)
    with pytest.raises(UnreadableSourceError, match="several frames in one file"):
        open_source(path)
    edit(path, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1")
    with pytest.raises(UnreadableSourceError, match="enhanced CT with several frames"):
        open_source(path)


def test_other_kinds_of_dicom_are_told_as_such(volume_files, array, affine):
    path = next(volume_files.dicom(array[:1], affine).iterdir())
    edit(path, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    with pytest.raises(UnreadableSourceError, match="nor a slice of a CT, MR or PET"):
        open_source(path)


def test_padding_becomes_air_whatever_its_sign(volume_files, array, affine):
    """The value is often written without a sign although the pixels have one: 63536 for -2000."""
    folder = volume_files.dicom(array, affine)
    path = files(folder)[1]
    stored = (array[1].astype(np.int32) + 1024).astype("<i2")
    stored[0, :3] = -2000
    edit(path, PixelRepresentation=1, PixelData=stored.tobytes())
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    dataset.save_as(path)
    expected = array[1].copy()
    expected[0, :3] = -1000
    np.testing.assert_array_equal(values(folder)[1], expected)


def test_each_slice_has_its_own_scale(volume_files, array, affine):
    folder = volume_files.dicom(np.abs(array), affine)
    edit(files(folder)[2], RescaleSlope="2", RescaleIntercept="-5")
    expected = np.abs(array)
    expected[2] = (expected[2] + 1024) * 2 - 5
    np.testing.assert_array_equal(values(folder), expected)


def test_values_beyond_16_bits_are_cut_and_never_wrap(volume_files, array, affine):
    folder = volume_files.dicom(array, affine, RescaleSlope="20")
    stored = (array.astype(np.int32) + 1024) * 20 - 1024
    np.testing.assert_array_equal(values(folder), np.clip(stored, -(2**15), 2**15 - 1))


def test_other_modalities_keep_their_fractions(volume_files, array, affine):
    folder = volume_files.dicom(
        array, affine, RescaleSlope="0.25", RescaleIntercept="0", Modality="PT",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.128",
    )  # fmt: skip
    volume = open_volume(folder)
    assert (volume.dtype, volume.quantity, volume.fill) == (np.float32, "", 0)
    np.testing.assert_allclose(values(folder), (array.astype(float) + 1024) / 4)


def test_a_truncated_slice_is_an_error_of_its_windows(volume_files, array, affine):
    folder = volume_files.dicom(array, affine)
    path = files(folder)[1]
    path.write_bytes(path.read_bytes()[:-20])
    volume = open_volume(folder)
    assert volume.read(Box((2, 0, 0), (8, 5, 6))).shape == (6, 5, 6, 1)
    with pytest.raises(OSError, match=r"planes 1-2.*cannot be decoded") as caught:
        volume.read(Box((0, 0, 0), (3, 2, 2)))
    assert path.name in str(caught.value)


def test_info_of_a_series(volume_files, array, affine, capsys):
    folder = volume_files.dicom(array, affine)
    picture = folder.parent / "planes.png"
    assert run(["info", str(folder), "--planes", str(picture)]) == 0
    said = capsys.readouterr().out
    for words in ("8 x 5 x 6 voxels", "2.5 x 0.75 x 0.5 mm (from the file)", "SPL: planes go up", " HU (int16)",
                  "manufacturer  Acme", "sorted by position"):  # fmt: skip
        assert words in said
    assert "Doe" not in said
    assert picture.read_bytes()[:4] == b"\x89PNG"
    for path in files(folder)[2:4]:
        path.unlink()
    assert run(["info", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "missing slices: 2 of 8" in error
