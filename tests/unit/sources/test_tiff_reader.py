from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from medvision.core.errors import UnreadableSourceError, WindowUnreadableError
from medvision.core.geometry import Box
from medvision.sources import open_source
from medvision.sources.tiff_codec import jpeg2000_shape, on_white
from medvision.sources.write import write_slide

WHOLE = Box((0, 0), (500, 700))


def read_whole(path: Path) -> np.ndarray:
    source = open_source(path)
    assert source.reader == "tiff", source.why
    return source.read(Box((0, 0), source.levels[0].shape))


def openslide_pixels(path: Path, level: int) -> np.ndarray:
    slide = openslide.OpenSlide(path)
    rgba = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
    assert (rgba[..., 3] == 255).all()
    return rgba[..., :3]


LOSSLESS = [
    {"compression": None},
    {"compression": "lzw", "predictor": True},
    {"compression": "deflate", "predictor": True},
    {"compression": "adobe_deflate"},
    {"compression": "packbits"},
    {"compression": "zstd"},
    {"compression": "jpeg2000", "compressionargs": {"reversible": True}},
    {"compression": "lzw", "byteorder": ">"},
    {"compression": "deflate", "bigtiff": True},
    {"compression": "deflate", "planarconfig": "separate"},
]


@pytest.mark.parametrize("stored", ["tiles", "strips", "one strip"])
@pytest.mark.parametrize("options", LOSSLESS, ids=lambda o: "-".join(f"{v}" for v in o.values()))
def test_lossless_encodings_give_the_stored_pixels(tmp_path, picture, options, stored):
    path = tmp_path / "picture.tif"
    options = dict(options)
    file = {key: options.pop(key) for key in ("byteorder", "bigtiff") if key in options}
    layout = {
        "tiles": {"tile": (128, 64)},
        "strips": {"rowsperstrip": 37},
        "one strip": {"rowsperstrip": 500},
    }[stored]
    data = picture.transpose(2, 0, 1) if options.get("planarconfig") == "separate" else picture
    with tifffile.TiffWriter(path, **file) as tiff:
        tiff.write(data, photometric="rgb", **layout, **options)
    np.testing.assert_array_equal(read_whole(path), picture)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_grey_of_any_depth_becomes_eight_bits(tmp_path, bits, photometric):
    top = 2**bits - 1
    stored = (
        np.random.default_rng(bits)
        .integers(0, top + 1, (61, 80))
        .astype(np.uint8 if bits <= 8 else np.uint16)
    )
    stored[0, :2] = (0, top)
    path = tmp_path / "grey.tif"
    if bits == 1:
        tifffile.imwrite(path, stored.astype(bool), photometric=photometric, metadata=None)
    else:
        tifffile.imwrite(path, stored, photometric=photometric, bitspersample=bits, metadata=None)
    expected = np.floor(stored.astype(float) * 255 / top + 0.5)
    if photometric == "miniswhite":
        expected = 255 - expected
    np.testing.assert_array_equal(read_whole(path), np.repeat(expected[..., None], 3, axis=-1))


def test_palette(tmp_path):
    index = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
    colours = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", index, photometric="palette", colormap=colours * 257)
    np.testing.assert_array_equal(read_whole(tmp_path / "p.tif"), colours.T[index])


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_alpha_is_laid_on_white(tmp_path, picture, kind):
    alpha = np.zeros(picture.shape[:2], np.uint8)
    alpha[:, 100:] = 255
    alpha[:, 300:] = 128
    colour = picture.copy()
    if kind == "assocalpha":
        colour = np.rint(colour * (alpha[..., None] / 255)).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([colour, alpha]), photometric="rgb", extrasamples=[kind], tile=(64, 64)
    )
    found = read_whole(tmp_path / "a.tif").astype(int)
    assert (found[:, :100] == 255).all()
    np.testing.assert_array_equal(found[:, 100:300], picture[:, 100:300])
    half = picture[:, 300:].astype(float) * 128 / 255 + 127
    assert np.abs(found[:, 300:] - half).max() <= 1.5


def test_on_white_by_hand():
    pixels = np.array([[[0, 100, 255]]], np.uint8)
    assert on_white(pixels, np.array([[0]], np.uint8)).tolist() == [[[255, 255, 255]]]
    assert on_white(pixels, np.array([[255]], np.uint8)).tolist() == [[[0, 100, 255]]]
    assert on_white(pixels, np.array([[51]], np.uint8)).tolist() == [[[204, 224, 255]]]
    assert on_white(pixels // 5, np.array([[51]], np.uint8), premultiplied=True).tolist() == [
        [[204, 224, 255]]
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "rgb"},
        {"photometric": "ycbcr", "subsampling": (1, 1)},
        {"photometric": "ycbcr", "subsampling": (2, 1)},
        {"photometric": "ycbcr", "subsampling": (2, 2)},
    ],
    ids=["rgb", "444", "422", "420"],
)
def test_jpeg_tiles_have_the_pixels_of_openslide(write_pyramid, picture, options):
    path = write_pyramid(
        [picture, picture[::2, ::2], picture[::4, ::4]],
        compression="jpeg",
        compressionargs={"level": 80},
        **options,
    )
    source = open_source(path)
    assert source.reader == "tiff"
    assert [level.shape for level in source.levels] == [(500, 700), (250, 350), (125, 175)]
    for index, level in enumerate(source.levels):
        np.testing.assert_array_equal(
            source.read(Box((0, 0), level.shape), index), openslide_pixels(path, index)
        )


@pytest.mark.parametrize("stored", [{}, {"tile": (64, 64)}])
def test_grey_jpeg(tmp_path, picture, stored):
    grey = picture[..., 0]
    tifffile.imwrite(tmp_path / "g.tif", grey, compression="jpeg", photometric="minisblack", **stored)
    found = read_whole(tmp_path / "g.tif")
    assert (found[..., 0] == found[..., 2]).all()
    assert np.abs(found[..., 0].astype(int) - grey).max() < 25


def test_subifds_and_ome(tmp_path, picture):
    path = tmp_path / "pyramid.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        meta = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 250.0, "PhysicalSizeYUnit": "nm"}
        tiff.write(picture, tile=(64, 64), photometric="rgb", subifds=2, metadata=meta)
        tiff.write(picture[::2, ::2], tile=(64, 64), photometric="rgb", subfiletype=1)
        tiff.write(picture[::4, ::4], tile=(64, 64), photometric="rgb", subfiletype=1)
    source = open_source(path)
    assert (source.reader, source.vendor) == ("tiff", "ome")
    assert source.spacing is not None
    assert source.spacing.values == (0.25, 0.25)
    assert [level.downsample for level in source.levels] == [(1, 1), (2, 2), (4, 4)]
    np.testing.assert_array_equal(source.read(Box((0, 0), (125, 175)), 2), picture[::4, ::4])


@pytest.mark.parametrize("ome", [True, False])
def test_a_stack_is_refused(tmp_path, ome):
    path = tmp_path / ("stack.ome.tif" if ome else "stack.tif")
    tifffile.imwrite(path, np.zeros((5, 64, 64), np.uint8), photometric="minisblack", ome=ome, tile=(16, 16))
    with pytest.raises(UnreadableSourceError, match="holds 5 planes"):
        open_source(path)


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint32"])
def test_samples_that_are_no_picture_are_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((64, 64), dtype), photometric="minisblack")
    with pytest.raises(UnreadableSourceError, match=r"bits a sample|unsigned"):
        open_source(tmp_path / "x.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation):
    """Against Pillow's reading of the same tag; windows at odd places, leaving the image too."""
    stored = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    path = tmp_path / "turned.tif"
    tifffile.imwrite(
        path, stored, tile=(16, 16), photometric="rgb", extratags=[(274, "H", 1, orientation, True)]
    )
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    image = Image.fromarray(stored)
    seen = np.asarray(image.transpose(turns[orientation]) if orientation > 1 else image)
    source = open_source(path)
    assert source.levels[0].shape == seen.shape[:2]
    np.testing.assert_array_equal(source.read(Box((0, 0), seen.shape[:2])), seen)
    padded = np.pad(seen, ((9, 9), (9, 9), (0, 0)), constant_values=255)
    np.testing.assert_array_equal(source.read(Box((-9, 3), (31, 58))), padded[0:40, 12:67])


def tile_range(path: Path, page: int, tile: int) -> tuple[int, int]:
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page]
        return found.dataoffsets[tile], found.databytecounts[tile]


def test_a_damaged_tile_spoils_only_its_windows(write_pyramid, picture):
    path = write_pyramid([picture], compression="jpeg")
    good = open_source(path).read(WHOLE)
    offset, size = tile_range(path, 0, 0)
    data = bytearray(path.read_bytes())
    data[offset + size // 2 : offset + size] = bytes(size - size // 2)
    path.write_bytes(data)
    source = open_source(path)
    assert source.reader == "tiff"
    with pytest.raises(
        WindowUnreadableError, match=r"slide\.tif: level 0, rows 10-20, columns 10-100 cannot be decoded"
    ):
        source.read(Box((10, 10), (20, 100)))
    np.testing.assert_array_equal(source.read(Box((64, 0), (500, 700))), good[64:])
    np.testing.assert_array_equal(source.read(Box((0, 64), (64, 700))), good[:64, 64:])


def test_a_transient_fault_is_read_again(write_pyramid, picture):
    """The file is mended between the first look and the second."""
    path = write_pyramid([picture], compression="deflate")
    good = path.read_bytes()
    offset, size = tile_range(path, 0, 0)
    path.write_bytes(good[:offset] + bytes(size) + good[offset + size :])
    source = open_source(path)
    mended = path.with_suffix(".new")
    mended.write_bytes(good)
    mended.replace(path)  # the open descriptor still sees the damaged file
    np.testing.assert_array_equal(source.read(Box((0, 0), (64, 64))), picture[:64, :64])


def test_an_empty_tile_is_unreadable_and_never_black(write_pyramid, picture):
    path = write_pyramid([picture], compression="jpeg")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = list(tiff.pages[0].databytecounts)
        counts[12] = 0
        tiff.pages[0].tags[325].overwrite(counts)
    source = open_source(path)
    with pytest.raises(WindowUnreadableError, match="empty"):
        source.read(Box((64, 64), (128, 128)))
    assert source.read(Box((128, 0), (192, 64))).shape == (64, 64, 3)


def test_truncated_file(write_pyramid, picture):
    path = write_pyramid([picture], compression="deflate")
    last = max(tile_range(path, 0, i)[0] for i in range(88))
    whole = path.read_bytes()
    assert len(whole) > last
    path.write_bytes(whole[: last + 10])
    source = open_source(path)
    with pytest.raises(WindowUnreadableError, match="truncated"):
        source.read(Box((490, 690), (500, 700)))


def test_threads_get_the_same_pixels_and_each_tile_is_decoded_once(write_pyramid, picture, monkeypatch):
    path = write_pyramid([picture], compression="jpeg")
    expected = open_source(path).read(WHOLE)
    source = open_source(path)
    decoded: list[tuple[int, int]] = []
    original = type(source)._decode
    lock = threading.Lock()

    def counting(self, page, i, j, empty):
        with lock:
            decoded.append((i, j))
        return original(self, page, i, j, empty)

    monkeypatch.setattr(type(source), "_decode", counting)
    source.cache.clear()
    boxes = [Box.at((r, c), (90, 90)) for r in range(0, 410, 50) for c in range(0, 610, 50)]
    with ThreadPoolExecutor(4) as pool:
        for box, pixels in zip(boxes, pool.map(source.read, boxes), strict=True):
            np.testing.assert_array_equal(pixels, expected[box.slices()])
    assert len(decoded) == len(set(decoded)) == 88


def test_a_window_may_be_written_to(write_pyramid, picture):
    source = open_source(write_pyramid([picture], compression="deflate"))
    first = source.read(Box((0, 0), (64, 64)))
    first[:] = 0
    np.testing.assert_array_equal(source.read(Box((0, 0), (64, 64))), picture[:64, :64])


def test_jpeg2000_header():
    with pytest.raises(ValueError, match="header"):
        jpeg2000_shape(b"\0" * 100)


def test_an_unknown_encoding_is_named(write_pyramid, picture):
    path = write_pyramid([picture], compression="jpeg")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags[259].overwrite(34713)  # a camera's raw encoding
    with pytest.raises(UnreadableSourceError, match=r"slide\.tif: .*compression"):
        open_source(path)


@pytest.mark.parametrize("subsampling", ["444", "420"])
def test_reads_what_the_projects_writer_writes(tmp_path, picture, subsampling):
    path = write_slide(
        tmp_path / "w.tif",
        (500, 700),
        lambda box: picture[box.slices()],
        0.25,
        tile=64,
        subsampling=subsampling,
    )
    source = open_source(path)
    assert source.reader == "tiff"
    assert source.spacing is not None
    assert source.spacing.values == pytest.approx((0.25, 0.25))
    assert [level.downsample[0] for level in source.levels] == [2**k for k in range(len(source.levels))]
    assert len(source.levels) > 2
    for index in range(len(source.levels)):
        shape = source.levels[index].shape
        np.testing.assert_array_equal(source.read(Box((0, 0), shape), index), openslide_pixels(path, index))


def test_qptiff_levels_leave_the_thumbnail_out(tmp_path, picture):
    path = tmp_path / "scan.qptiff"
    root = "PerkinElmer-QPI-ImageDescription"
    described = f"<?xml version='1.0'?><{root}><Objective>20x</Objective></{root}>"
    settings = {
        "photometric": "rgb",
        "software": "PerkinElmer-QPI",
        "description": described,
        "metadata": None,
    }
    with tifffile.TiffWriter(path) as tiff:
        per_cm = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
        tiff.write(picture, tile=(64, 64), **per_cm, **settings)
        tiff.write(picture[::5, ::5], rowsperstrip=16, **settings)
        for k in (2, 4):
            tiff.write(picture[::k, ::k], tile=(64, 64), subfiletype=1, **settings)
    source = open_source(path)
    assert (source.reader, source.vendor) == ("tiff", "perkinelmer")
    assert [level.shape for level in source.levels] == [(500, 700), (250, 350), (125, 175)]
    assert source.metadata["objective_power"] == "20"
    assert source.spacing is not None
    assert source.spacing.values == pytest.approx((0.5, 0.5))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system cannot be asked ahead")
@pytest.mark.parametrize("options", [{}, {"planarconfig": "separate"}, {"extratags": [(274, 3, 1, 6, True)]}])
def test_tiles_are_asked_for_once_and_before_they_are_read(tmp_path, picture, monkeypatch, options):
    path = tmp_path / "picture.tif"
    data = picture.transpose(2, 0, 1) if "planarconfig" in options else picture
    tifffile.imwrite(path, data, tile=(128, 64), photometric="rgb", compression="deflate", **options)
    source = open_source(path)
    asked: list[tuple[int, int]] = []
    fetched: list[tuple[int, int]] = []
    fetch = os.pread

    def ask(_file: int, offset: int, size: int, _advice: int) -> None:
        asked.append((offset, size))

    def pread(file: int, size: int, offset: int) -> bytes:
        fetched.append((offset, size))
        return fetch(file, size, offset)

    monkeypatch.setattr(os, "posix_fadvise", ask)
    monkeypatch.setattr(os, "pread", pread)
    corner = Box((-50, -50), (200, 300))
    source.fetch_ahead(corner)
    assert len(asked) == len(set(asked)) > 0
    assert fetched == []
    source.read(corner)
    assert len(fetched) >= len(asked) - 3  # opening has tried a tile, of three planes at most
    assert set(fetched) <= set(asked)

    before = len(asked)
    source.fetch_ahead(corner)
    source.fetch_ahead(Box((-50, -50), (0, 300)))
    source.close()
    source.fetch_ahead(Box((0, 0), source.levels[0].shape))
    assert len(asked) == before


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system cannot be asked ahead")
def test_an_empty_tile_is_not_asked_for(tmp_path, picture, monkeypatch):
    path = tmp_path / "picture.tif"
    tifffile.imwrite(path, picture, tile=(128, 64), photometric="rgb", compression="deflate")
    source = open_source(path)
    sizes: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, _offset, size, _advice: sizes.append(size))
    source.pages[0].sizes[3] = 0
    source.fetch_ahead(WHOLE)
    assert len(sizes) == len(source.pages[0].sizes) - 1
    assert min(sizes) > 0  # 0 would ask for all of the file
