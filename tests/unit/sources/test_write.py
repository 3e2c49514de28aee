"""Streaming writers: what is read back is what was given, and the bytes repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import pytest
import tifffile

from medvision.core.errors import StoreError, UnreadableSourceError, UsageError, WindowUnreadableError
from medvision.core.geometry import Box, Spacing
from medvision.core.results import Raster
from medvision.sources.pyramid import largest_of_four, mean_of_four
from medvision.sources.write import read_raster, write_mask, write_raster, write_slide

SHAPE = (1501, 2307)


def smooth_block(box: Box) -> npt.NDArray[np.uint8]:
    y, x = np.meshgrid(
        np.arange(box.start[0], box.stop[0]), np.arange(box.start[1], box.stop[1]), indexing="ij"
    )
    waves = [128 + 90 * np.sin(y / 90 + k) * np.cos(x / 130 - k) for k in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def label_block(box: Box) -> npt.NDArray[np.uint8]:
    y, x = np.meshgrid(
        np.arange(box.start[0], box.stop[0]), np.arange(box.start[1], box.stop[1]), indexing="ij"
    )
    return (((y // 37 + x // 53) % 5 == 0) * (1 + (x > 1000))).astype(np.uint8)


def halves(full: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Independent reference for one reduction: plain means over reshaped squares, edges repeated."""
    odd = [(0, n % 2) for n in full.shape[:2]] + [(0, 0)] * (full.ndim - 2)
    even = np.pad(full, odd, mode="edge").astype(np.float64)
    r, c = even.shape[0] // 2, even.shape[1] // 2
    return even.reshape(r, 2, c, 2, -1).mean(axis=(1, 3)).reshape(r, c, *full.shape[2:])


def test_openslide_opens_levels_spacing_and_pixels(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", SHAPE, smooth_block, 0.25, quality=95, subsampling="444")
    slide = openslide.OpenSlide(path)
    assert slide.properties["openslide.vendor"] == "generic-tiff"
    assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
    assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.25)
    assert slide.level_dimensions == ((2307, 1501), (1154, 751), (577, 376), (289, 188), (145, 94))
    expected = smooth_block(Box((0, 0), SHAPE)).astype(np.float64)
    for level, size in enumerate(slide.level_dimensions):
        found = np.asarray(slide.read_region((0, 0), level, size).convert("RGB"), dtype=np.float64)
        assert np.abs(found - expected).mean() < 2.0, level
        assert np.abs(found - expected).max() < 14, level
        expected = halves(np.rint(expected).astype(np.uint8))


def test_an_edge_lies_on_the_same_pixel_in_all_levels(tmp_path: Path) -> None:
    def edge(box: Box) -> npt.NDArray[np.uint8]:
        columns = np.arange(box.start[1], box.stop[1])
        row = np.where(columns < 1024, 30, 220).astype(np.uint8)
        return np.broadcast_to(row[None, :, None], (*box.shape, 3)).copy()

    path = write_slide(tmp_path / "e.tif", (512, 2048), edge, 0.5, quality=100, subsampling="444")
    with tifffile.TiffFile(path) as tif:
        for level, page in enumerate(tif.pages):
            row = page.asarray()[10, :, 1].astype(int)
            where = 1024 >> level
            assert row[where - 1] < 60, level
            assert row[where] > 190, level


def test_bytes_do_not_depend_on_threads_or_time(tmp_path: Path) -> None:
    one = write_slide(tmp_path / "a.tif", SHAPE, smooth_block, 0.25, threads=1).read_bytes()
    assert write_slide(tmp_path / "b.tif", SHAPE, smooth_block, 0.25, threads=4).read_bytes() == one
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.tif"]


def test_mask_is_exact_and_keeps_the_largest_label(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "m.tif", SHAPE, label_block, 0.25, tile=256)
    expected = label_block(Box((0, 0), SHAPE))
    with tifffile.TiffFile(path) as tif:
        for page in tif.pages:
            np.testing.assert_array_equal(page.asarray(), expected)
            odd = [(0, n % 2) for n in expected.shape]
            even = np.pad(expected, odd, mode="edge")
            expected = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).max(axis=(1, 3))


def test_single_labelled_pixel_is_on_every_level(tmp_path: Path) -> None:
    def lonely(box: Box) -> npt.NDArray[np.uint8]:
        block = np.zeros(box.shape, np.uint8)
        if box.start[0] <= 3001 < box.stop[0] and box.start[1] <= 77 < box.stop[1]:
            block[3001 - box.start[0], 77 - box.start[1]] = 1
        return block

    path = write_mask(tmp_path / "m.tif", (5000, 9000), lonely, 0.25)
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 6
        assert [int(page.asarray().sum()) for page in tif.pages] == [1] * 6


def test_reductions_round_and_pick() -> None:
    square = np.array([[0, 1, 10, 10], [1, 0, 10, 12]], np.uint8)
    assert mean_of_four(square).tolist() == [[1, 11]]
    assert largest_of_four(square).tolist() == [[1, 12]]


def test_a_failed_read_leaves_nothing_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    before = write_slide(path, (300, 300), smooth_block, 0.25).read_bytes()

    def broken(box: Box) -> npt.NDArray[np.uint8]:
        raise WindowUnreadableError("block cannot be decoded")

    with pytest.raises(WindowUnreadableError, match="decoded"):
        write_slide(path, (300, 300), broken, 0.25)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s.tif"]


def test_unwritable_folder_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="could not be written"):
        write_slide(tmp_path / "file" / "s.tif", (300, 300), smooth_block, 0.25)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": (0, 10)}, "0 x 10"),
        ({"spacing_um": float("nan")}, "nan"),
        ({"tile": 100}, "multiple of 16"),
        ({"quality": 0}, "quality 0"),
        ({"read": lambda box: np.zeros((4, 4, 3), np.uint8)}, "not uint8"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    arguments: dict[str, object] = {"shape": (300, 300), "read": smooth_block, "spacing_um": 0.25} | changes
    with pytest.raises(UsageError, match=words):
        write_slide(tmp_path / "s.tif", **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def raster_with_holes(channels: tuple[str, ...] = ("tumour", 'odd <"&µ> name')) -> Raster:
    values = np.random.default_rng(1).random((613, 401, len(channels)), dtype=np.float32)
    values[:200] = np.nan
    values[300, 300] = np.nan
    return Raster(
        values, Spacing((64.0, 64.0 / 3), "um", "supplied"), channels, (12.5, 1 / 3), (39_220.1, 8550.0)
    )


def same(a: Raster, b: Raster) -> None:
    np.testing.assert_array_equal(a.values, b.values)
    assert a.values.dtype == b.values.dtype == np.float32
    assert (a.spacing, a.channels, a.offset, a.extent) == (b.spacing, b.channels, b.offset, b.extent)


def test_raster_round_trip_is_exact(tmp_path: Path) -> None:
    given = raster_with_holes()
    same(read_raster(write_raster(tmp_path / "r.ome.tif", given)), given)


def test_raster_of_a_volume_round_trips(tmp_path: Path) -> None:
    values = np.random.default_rng(2).random((5, 40, 30, 2), dtype=np.float32)
    given = Raster(values, Spacing((2.5, 0.7, 0.7), "mm"), ("a", "b"), (0.0, -3.5, 1e-9))
    same(read_raster(write_raster(tmp_path / "v.ome.tif", given)), given)


def test_raster_is_an_ome_tiff_with_spacing_and_a_subifd_pyramid(tmp_path: Path) -> None:
    given = raster_with_holes()
    path = write_raster(tmp_path / "r.ome.tif", given)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        (series,) = tif.series
        assert series.axes == "CYX"
        assert [level.shape for level in series.levels] == [(2, 613, 401), (2, 307, 201), (2, 154, 101)]
        assert len(tif.pages) == 2  # the pyramid hides in SubIFDs
        pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
        assert pixels["PhysicalSizeY"] == 64.0
        assert pixels["PhysicalSizeYUnit"] == "µm"
        assert pixels["PhysicalSizeX"] == pytest.approx(64 / 3)
        assert [c["Name"] for c in pixels["Channel"]] == list(given.channels)
        half = series.levels[1].asarray()[0]
    expected = np.pad(given.values[..., 0], ((0, 1), (0, 1)), constant_values=np.nan)
    squares = expected.reshape(307, 2, 201, 2).transpose(0, 2, 1, 3).reshape(307, 201, 4)
    present = ~np.isnan(squares).all(axis=-1)
    np.testing.assert_allclose(half[present], np.nanmean(squares[present], axis=-1), rtol=1e-6)
    assert np.isnan(half[~present]).all()


def test_raster_bytes_repeat(tmp_path: Path) -> None:
    one = write_raster(tmp_path / "a.tif", raster_with_holes()).read_bytes()
    assert write_raster(tmp_path / "b.tif", raster_with_holes()).read_bytes() == one


def test_what_is_no_raster_is_refused(tmp_path: Path) -> None:
    for name, content in (("no.tif", b"no tiff at all"), ("short.tif", b"II*\0")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableSourceError, match=name):
            read_raster(tmp_path / name)
    with pytest.raises(UnreadableSourceError, match="absent"):
        read_raster(tmp_path / "absent.tif")
    slide = write_slide(tmp_path / "slide.tif", (100, 100), smooth_block, 0.25)
    with pytest.raises(UnreadableSourceError, match="slide"):
        read_raster(slide)
    with pytest.raises(UsageError, match="no cell"):
        write_raster(tmp_path / "e.tif", Raster(np.empty((0, 3, 1), np.float32), Spacing((1.0, 1.0)), ("a",)))
