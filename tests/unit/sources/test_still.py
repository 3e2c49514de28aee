"""Still images for classifiers: every kind of file, every bit depth, and nothing guessed."""

from __future__ import annotations

import hashlib
import struct
import zlib
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from medvision.core.errors import SourceTooLargeError, UnreadableSourceError, UsageError
from medvision.core.geometry import Box
from medvision.sources import open_source, still
from medvision.sources.guarded_still import read_still_guarded
from medvision.sources.still import read_still
from medvision.sources.still_image import between

GREY = np.array([[0, 50, 100], [150, 200, 255]], np.uint8)
DEEP = np.array([[0, 1000, 2000], [3000, 4000, 65535]], np.uint16)
COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14


def dicom(path: Path, values: np.ndarray, **facts: object) -> Path:
    """A secondary capture of `values` `([frames,] rows, columns)`, grey unless `facts` say otherwise."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=["still"])
    data.Rows, data.Columns = values.shape[-2:]
    if values.ndim == 3:
        data.NumberOfFrames = len(values)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = values.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(values.dtype.kind == "i")
    data.PixelData = values.tobytes()
    for name, value in facts.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_pictures_keep_their_values_and_their_number_of_channels(ending, tmp_path):
    for name, values in (("grey", GREY), ("colour", COLOUR)):
        path = tmp_path / f"{name}.{ending}"
        Image.fromarray(values).save(path)
        read = read_still(path)
        assert read.pixels.dtype == np.uint8
        np.testing.assert_array_equal(read.pixels, values)
        assert (read.bits, str(read.windowing)) == (8, "as stored")
        assert read.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_exif_orientation_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_still(tmp_path / "a.png").pixels, np.rot90(COLOUR, -1))
    Image.fromarray(np.repeat(np.repeat(GREY, 16, 0), 16, 1)).save(tmp_path / "b.jpg", exif=exif, quality=95)
    assert read_still(tmp_path / "b.jpg").pixels.shape == (48, 32)


def test_tiff_orientations_are_those_of_the_slide_reader(shared):
    for n in range(1, 9):
        path = shared / f"slides/large_image/test_orient{n}.tif"
        source = open_source(path)
        whole = source.read(Box((0, 0), source.levels[0].shape))
        source.close()
        np.testing.assert_array_equal(read_still(path).pixels, whole[..., 0])


def test_transparency_is_white_and_palettes_are_looked_up(tmp_path):
    alpha = np.array([[255, 255, 255], [0, 0, 255]], np.uint8)
    Image.fromarray(np.dstack([GREY, alpha]), "LA").save(tmp_path / "la.png")
    expected = np.where(alpha == 0, 255, GREY)
    np.testing.assert_array_equal(read_still(tmp_path / "la.png").pixels, expected)
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([9, 8, 7, 90, 80, 70, 200, 100, 50])
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(
        read_still(tmp_path / "p.png").pixels, [[[9, 8, 7], [90, 80, 70], [200, 100, 50]]]
    )


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_deep_grey_wants_a_window(ending, tmp_path):
    path = tmp_path / f"deep.{ending}"
    if ending == "png":
        path.write_bytes(imagecodecs.png_encode(DEEP))
    else:
        tifffile.imwrite(path, DEEP, photometric="minisblack", compression="zlib")
    with pytest.raises(UsageError, match=rf"deep.{ending}: .*\(low, high\).*percentiles.*full"):
        read_still(path)
    given = read_still(path, (1000, 3000))
    np.testing.assert_array_equal(given.pixels, [[0, 0, 128], [255, 255, 255]])  # 127.5 is rounded up
    assert str(given.windowing) == "given window 1000 to 3000"
    np.testing.assert_array_equal(read_still(path, "full").pixels, [[0, 4, 8], [12, 16, 255]])
    own = read_still(path, "percentiles")
    low, high = np.percentile(DEEP, (0.5, 99.5))
    assert own.windowing.how.startswith("percentiles 0.5 and 99.5")
    assert (own.windowing.low, own.windowing.high) == (low, high)
    assert (own.bits, own.pixels.min(), own.pixels.max()) == (16, 0, 255)


def test_deep_colour_is_scaled_from_its_full_range(tmp_path):
    deep = COLOUR.astype(np.uint16) * 257
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep))
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    for name in ("a.png", "a.tif"):
        read = read_still(tmp_path / name)
        np.testing.assert_array_equal(read.pixels, COLOUR)
        assert str(read.windowing) == "full range 0 to 65535"


def test_white_is_zero_is_inverted_after_the_window(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="miniswhite")
    read = read_still(tmp_path / "a.tif", (1000, 3000))
    np.testing.assert_array_equal(read.pixels, [[255, 255, 127], [0, 0, 0]])
    assert read.windowing.inverted


def test_equal_ends_part_the_values():
    np.testing.assert_array_equal(between(np.array([[1, 2, 3]]), 2, 2), [[0, 0, 255]])


VALUES = np.array([[-1000, -160, 40], [240, 241, 1000]], np.int16)


def test_dicom_is_rescaled_and_shown_through_its_window(tmp_path):
    stored = ((VALUES + 1024) / 2).astype(np.uint16)  # rescaling undoes it
    facts = {"RescaleSlope": 2, "RescaleIntercept": -1024, "BitsStored": 12, "HighBit": 11}
    path = dicom(tmp_path / "a.dcm", stored, WindowCenter=[40, 500], WindowWidth=[400, 2000], **facts)
    read = read_still(path)
    assert str(read.windowing) == "window 1 of 2 of the file -160 to 239"
    assert (read.bits, read.kind) == (12, "DICOM")
    dataset = pydicom.dcmread(path)
    reference = apply_voi_lut(dataset.pixel_array * 2.0 - 1024, dataset)
    scaled = 255 * (reference - reference.min()) / (reference.max() - reference.min())
    assert np.abs(read.pixels - scaled).max() <= 0.5
    given = read_still(path, (-1000, 1000))
    assert str(given.windowing) == "given window -1000 to 1000"
    np.testing.assert_array_equal(given.pixels[0, [0]], [0])
    bare = dicom(tmp_path / "b.dcm", stored, **facts)
    with pytest.raises(UsageError, match=r"b.dcm: grey of 12 bits, and neither the file nor a parameter"):
        read_still(bare)
    assert str(read_still(bare, "full").windowing) == "full range -1024 to 7166"


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_functions_are_those_of_the_standard(function, tmp_path):
    values = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
    path = dicom(
        tmp_path / "a.dcm", values, BitsStored=12, HighBit=11, WindowCenter=2000, WindowWidth=1500,
        VOILUTFunction=function,
    )  # fmt: skip
    reference = apply_voi_lut(values.astype(np.float64), pydicom.dcmread(path)) * 255 / 4095
    assert np.abs(read_still(path).pixels - reference).max() <= 0.51


def test_monochrome1_is_inverted_and_padding_does_not_count(tmp_path):
    values = np.tile(np.arange(100, 200, dtype=np.uint16), (10, 1))
    values[:5] = 4095
    path = dicom(
        tmp_path / "a.dcm", values, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=4095,
        BitsStored=12, HighBit=11,
    )  # fmt: skip
    read = read_still(path, "percentiles")
    assert read.windowing.inverted and read.windowing.high < 200
    assert (read.pixels[9, 0], read.pixels[9, -1], read.pixels[0, 0]) == (255, 0, 0)


def test_a_voi_lut_is_looked_up(tmp_path):
    table = Dataset()
    table.add_new(0x00283002, "US", [4, 0, 8])
    table.add_new(0x00283006, "US", [0, 10, 200, 255])
    values = np.array([[0, 1, 2, 3, 9]], np.uint16)
    path = dicom(tmp_path / "a.dcm", values, VOILUTSequence=Sequence([table]), WindowCenter=2, WindowWidth=4)
    read = read_still(path)
    np.testing.assert_array_equal(read.pixels, [[0, 10, 200, 255, 255]])
    assert str(read.windowing) == "VOI LUT of the file"


def test_a_frame_is_named_and_has_its_own_window(tmp_path):
    groups = []
    for centre in (100, 1000):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = centre, 100
        group = Dataset()
        group.FrameVOILUTSequence = Sequence([window])
        groups.append(group)
    frames = np.stack([np.full((2, 2), 100, np.uint16), np.full((2, 2), 1049, np.uint16)])
    path = dicom(tmp_path / "a.dcm", frames, PerFrameFunctionalGroupsSequence=Sequence(groups))
    with pytest.raises(UnreadableSourceError, match=r"a.dcm: holds 2 frames; name one, 0 to 1"):
        read_still(path)
    assert read_still(path, frame=1).pixels.tolist() == [[255, 255], [255, 255]]
    assert read_still(path, frame=0).windowing.low == 50
    with pytest.raises(UsageError, match="no frame 2"):
        read_still(path, frame=2)
    with pytest.raises(UnreadableSourceError, match="width"):
        read_still(dicom(tmp_path / "b.dcm", frames[0], WindowCenter=1, WindowWidth=0))


def test_real_dicom_files(shared):
    folder = shared / "volumes" / "pydicom"
    plain, packed = (read_still(folder / name) for name in ("MR_small.dcm", "MR_small_RLE.dcm"))
    np.testing.assert_array_equal(plain.pixels, packed.pixels)
    assert str(plain.windowing) == "window of the file -200 to 1399"
    assert read_still(folder / "SC_rgb_jpeg_dcmtk.dcm").pixels.shape == (100, 100, 3)
    assert read_still(folder / "JPEG2000.dcm", "percentiles").pixels.shape == (1024, 256)
    assert read_still(shared / "slides/highdicom/dx_image.dcm").windowing.inverted
    for name, reason in (
        ("JPEG-lossy.dcm", "JPEG Extended"),
        ("MR_truncated.dcm", "fewer|less than expected"),
        ("UN_sequence.dcm", "no Rows"),
        ("no_meta.dcm", "not an image of a known kind"),
    ):
        with pytest.raises(UnreadableSourceError, match=f"{name}: .*({reason})"):
            read_still(folder / name)


def test_a_deflated_dicom_file_is_not_unfolded(tmp_path):
    path = dicom(tmp_path / "a.dcm", GREY)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    data.save_as(path)
    with pytest.raises(UnreadableSourceError, match=r"a.dcm: a deflated DICOM"):
        read_still(path)


def test_damage_and_other_files_are_named(tmp_path, shared):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    stream = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(stream, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(stream.getvalue()[:-400])
    tifffile.imwrite(tmp_path / "whole.tif", np.zeros((64, 64), np.uint16))
    (tmp_path / "cut.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:-400])
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((8, 8), np.float32))
    for name in ("text.png", "empty.png", "cut.jpg", "cut.tif", "float.tif", "absent.png", "."):
        with pytest.raises(UnreadableSourceError, match=str(tmp_path / name)):
            read_still(tmp_path / name, "full")
    with pytest.raises(UnreadableSourceError, match="truncated"):
        read_still(shared / "slides/libvips/truncated.jpg")


def test_windows_that_mean_nothing_are_refused(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    for window in ((3, 3), (5, 1), (0, float("nan")), "auto"):
        with pytest.raises(UsageError, match="cannot be shown"):
            read_still(tmp_path / "a.png", window)
    with pytest.raises(UsageError, match="only DICOM frames"):
        read_still(tmp_path / "a.png", frame=1)


def test_claims_beyond_the_limits_are_refused(tmp_path, monkeypatch):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for depth in (8, 16):
        header = struct.pack(">IIBBBBB", 50_000, 50_000, depth, 0, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        with pytest.raises(SourceTooLargeError, match=r"bomb.png"):
            read_still(tmp_path / "bomb.png", "full")
    huge = dicom(tmp_path / "bomb.dcm", GREY, Rows=60_000, Columns=60_000)
    with pytest.raises(SourceTooLargeError, match="60,000"):
        read_still(huge)
    monkeypatch.setattr(still, "MAX_FILE_BYTES", 10)
    with pytest.raises(SourceTooLargeError, match="limit is 10"):
        read_still(huge)


def test_in_a_process_of_its_own_it_is_the_same_image(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "colour.png")
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(DEEP))
    scanner = {"Manufacturer": "Some, Co", "ManufacturerModelName": "X-1", "PatientName": "Doe^Jane"}
    dicom(tmp_path / "frames.dcm", np.stack([GREY, GREY[::-1]]), **scanner)
    for name, window, frame in (
        ("colour.png", None, None),
        ("deep.png", (0, 4000), None),
        ("frames.dcm", "full", 1),
    ):
        path = tmp_path / name
        here, there = read_still(path, window, frame), read_still_guarded(path, window, frame)
        np.testing.assert_array_equal(there.pixels, here.pixels)
        for what in ("windowing", "bits", "kind", "digest"):
            assert getattr(there, what) == getattr(here, what)
        assert dict(there.metadata) == dict(here.metadata)
    assert dict(here.metadata) == {
        "scanner_manufacturer": "Some, Co",
        "scanner_model": "X-1",
        "compression": "Explicit VR Little Endian",
    }
    (tmp_path / "none.png").write_bytes(b"no image")
    for path, window in (
        (tmp_path / "none.png", None),
        (tmp_path / "absent.png", None),
        (tmp_path / "deep.png", None),
    ):
        with pytest.raises((UnreadableSourceError, UsageError)) as plain:
            read_still(path, window)
        with pytest.raises(type(plain.value)) as guarded:
            read_still_guarded(path, window)
        assert str(guarded.value) == str(plain.value)
