from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from medvision.core.errors import WindowUnreadableError
from medvision.core.geometry import Box
from medvision.sources.base import READERS
from medvision.sources.opening import _load_readers
from medvision.sources.openslide_reader import OpenSlideSource, _grid_start
from medvision.sources.parts import files_of


def by_openslide(path: Path) -> OpenSlideSource:
    """The reader itself: `open_source` would prefer the TIFF reader for these files."""
    _load_readers()
    source = READERS["openslide"](path)
    assert isinstance(source, OpenSlideSource)
    return source


def test_pixels_and_levels(write_pyramid, picture):
    levels = [picture, picture[::2, ::2], picture[::4, ::4]]
    source = by_openslide(write_pyramid(levels, compression="deflate"))
    assert source.vendor == "generic-tiff"
    assert source.spacing is not None
    assert source.spacing.values == pytest.approx((0.5, 0.5))
    for index, level in enumerate(levels):
        np.testing.assert_array_equal(source.read(Box((0, 0), level.shape[:2]), index), level)
    padded = np.pad(picture, ((9, 9), (9, 9), (0, 0)), constant_values=255)
    np.testing.assert_array_equal(source.read(Box((-9, 3), (31, 58))), padded[0:40, 12:67])


def test_levels_whose_ratio_is_not_whole_are_not_blurred(write_pyramid, picture):
    """250 rows to 83 and 27: OpenSlide's downsample is 3.01, and between whole pixels it would interpolate."""
    base = picture[:500, :698]
    small = np.random.default_rng(0).integers(0, 256, (166, 232, 3), np.uint8)
    source = by_openslide(write_pyramid([base, small], compression="deflate"))
    direct = np.asarray(
        openslide.OpenSlide(source.path).read_region((round(101 * 3.0103), round(57 * 3.0103)), 1, (64, 64))
    )[..., :3]
    found = source.read(Box.at((57, 101), (64, 64)), 1).astype(int)
    assert np.abs(found - small[57:121, 101:165]).max() <= 3
    assert np.abs(direct.astype(int) - small[57:121, 101:165]).max() > 20


def test_grid_start():
    assert _grid_start(100, 4.0) == 100
    assert _grid_start(100, 2.5) == 100
    assert _grid_start(101, 2.5) == 100
    assert _grid_start(3, 4.1) == 0


def spoil(path: Path, tile: int) -> None:
    with tifffile.TiffFile(path) as tiff:
        offset, size = tiff.pages[0].dataoffsets[tile], tiff.pages[0].databytecounts[tile]
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = bytes(size)
    path.write_bytes(data)


def test_a_damaged_tile_spoils_only_its_windows_also_on_threads(write_pyramid, picture):
    """OpenSlide handles are dead after one error, so other threads' windows must not suffer from it."""
    path = write_pyramid([picture], compression="deflate")
    spoil(path, 0)
    source = by_openslide(path)
    boxes = [Box.at((r, c), (64, 64)) for r in range(0, 448, 64) for c in range(0, 640, 64)] * 2

    def read(box: Box) -> np.ndarray | str:
        try:
            return source.read(box)
        except WindowUnreadableError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        for box, found in zip(boxes, pool.map(read, boxes), strict=True):
            if box.start == (0, 0):
                assert isinstance(found, str)
                assert "slide.tif: level 0, rows 0-64, columns 0-64 cannot be decoded" in found
            else:
                np.testing.assert_array_equal(found, picture[box.slices()])


def test_an_empty_tile_of_a_format_without_empty_tiles_is_unreadable(write_pyramid, picture):
    path = write_pyramid([picture], compression="jpeg")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = list(tiff.pages[0].databytecounts)
        counts[12] = 0
        tiff.pages[0].tags[325].overwrite(counts)
    source = by_openslide(path)
    with pytest.raises(WindowUnreadableError):
        source.read(Box((64, 64), (128, 128)))
    assert source.read(Box((128, 0), (192, 64))).shape == (64, 64, 3)


def test_files_of_slides_of_several_files(tmp_path):
    (tmp_path / "a.mrxs").write_bytes(b"x")
    (tmp_path / "a").mkdir()
    for name in ("Slidedat.ini", "Data0000.dat"):
        (tmp_path / "a" / name).write_bytes(b"y")
    found = files_of(tmp_path / "a.mrxs", "mirax")
    assert sorted(p.name for p in found) == ["Data0000.dat", "Slidedat.ini", "a.mrxs"]
    (tmp_path / "v.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=v.jpg\nImageFile(1,0)=v(1,0).jpg\nMapFile=gone.jpg\n"
    )
    for name in ("v.jpg", "v(1,0).jpg", "other.jpg"):
        (tmp_path / name).write_bytes(b"z")
    assert sorted(p.name for p in files_of(tmp_path / "v.vms", "hamamatsu")) == [
        "v(1,0).jpg",
        "v.jpg",
        "v.vms",
    ]
    assert files_of(tmp_path / "v.jpg", "aperio") == [tmp_path / "v.jpg"]


@pytest.mark.shared
def test_dicom_series_counts_as_one_slide(shared: Path):
    folder = shared / "slides/openslide_python"
    found = files_of(folder / "boxes_0.dcm", "dicom")
    assert folder / "boxes_0.dcm" in found
    assert all(p.suffix == ".dcm" for p in found)
