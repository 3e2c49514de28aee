from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medvision.core.errors import SourceTooLargeError, UnreadableSourceError
from medvision.core.geometry import Box
from medvision.sources import open_source
from medvision.sources.base import READERS
from medvision.sources.faults import MAX_FLAT_PIXELS, DeclinedError
from medvision.sources.opening import _nameless


def test_absent_folder_empty_and_loop(tmp_path):
    loop = tmp_path / "loop.svs"
    loop.symlink_to(loop)
    (tmp_path / "empty.svs").touch()
    (tmp_path / "folder.svs").mkdir()
    os.mkfifo(tmp_path / "pipe.svs")
    for name, says in [
        ("absent.svs", "no such file"),
        ("folder.svs", "is a folder.*Readable are"),
        ("empty.svs", "empty"),
        ("loop.svs", "symbolic|no such file|loop"),
        ("pipe.svs", "not a regular file"),
        ("nul\0.svs", "null|no such file"),
    ]:
        with pytest.raises(UnreadableSourceError, match=says) as caught:
            open_source(tmp_path / name)
        assert name in str(caught.value)


def test_text_is_told_what_would_be_readable(tmp_path):
    (tmp_path / "notes.svs").write_text("not a slide")
    with pytest.raises(
        UnreadableSourceError, match=r"not an image of a known kind\. Readable are .*SVS.*PNG"
    ):
        open_source(tmp_path / "notes.svs")


def test_content_decides_and_not_the_name(tmp_path, write_pyramid, picture):
    as_png = write_pyramid([picture], name="slide.png", compression="deflate")
    assert open_source(as_png).reader == "tiff"
    Image.fromarray(picture).save(tmp_path / "x.png")
    as_svs = (tmp_path / "x.png").rename(tmp_path / "größe 中 slide.svs")
    source = open_source(str(as_svs))
    assert source.reader == "image"
    assert "PNG" in source.why
    np.testing.assert_array_equal(source.read(Box((0, 0), picture.shape[:2])), picture)


def test_a_new_reader_is_asked_before_the_general_ones(tmp_path, monkeypatch):
    path = tmp_path / "x.raw"
    path.write_bytes(b"RAW!" + bytes(12))
    opened = []

    def open_raw(path: Path):
        if path.read_bytes()[:4] != b"RAW!":
            raise DeclinedError("not raw")
        opened.append(path)
        raise UnreadableSourceError("raw, but of no size")

    monkeypatch.setitem(READERS._entries, "raw", open_raw)
    with pytest.raises(UnreadableSourceError, match=r"x\.raw: raw, but of no size"):
        open_source(path)
    assert opened == [path]


def huge_png(path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    )


def claim(path: Path, tags: dict[int, int]) -> None:
    """Overwrite tags of the first page of a TIFF."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for code, value in tags.items():
            tiff.pages[0].tags[code].overwrite(value)


def huge_files(folder: Path) -> dict[str, Path]:
    tile = np.zeros((64, 64, 3), np.uint8)
    made = {}
    for name, options, tags in [
        ("huge.tif", {"tile": (32, 32)}, {256: 2_000_000, 257: 2_000_000}),
        ("huge_tile.tif", {"tile": (32, 32)}, {256: 60_000, 257: 60_000, 322: 60_000, 323: 60_000}),
        (
            "huge_strip.tif",
            {"rowsperstrip": 64, "compression": "deflate"},
            {256: 60_000, 257: 60_000, 278: 60_000},
        ),
        (
            "huge_jpeg.tif",
            {"tile": (32, 32), "compression": "jpeg"},
            {256: 50_000, 257: 50_000, 322: 49_984, 323: 49_984},
        ),
        ("many.tif", {"tile": (32, 32)}, {256: 900_000, 257: 900_000}),
    ]:
        made[name] = folder / name
        tifffile.imwrite(made[name], tile, photometric="rgb", metadata=None, **options)
        claim(made[name], tags)
    made["huge.png"] = folder / "huge.png"
    huge_png(made["huge.png"], 50_000)
    made["large.png"] = folder / "large.png"
    huge_png(made["large.png"], 12_000)
    return made


@pytest.mark.parametrize(
    "name", ["huge.tif", "huge_tile.tif", "huge_strip.tif", "huge_jpeg.tif", "huge.png", "large.png"]
)
def test_claims_beyond_the_limits_are_refused(tmp_path, name):
    with pytest.raises(SourceTooLargeError, match=r"limit|exceeds"):
        open_source(huge_files(tmp_path)[name])


def test_huge_claims_cost_neither_time_nor_memory(tmp_path):
    """Refused in under two seconds and 500 MB above the imports, in a process of its own."""
    script = (
        "import resource, sys, time\n"
        "from medvision.core.errors import UnreadableSourceError\n"
        "from medvision.sources import open_source\n"
        "import cv2, openslide, tifffile, imagecodecs, simplejpeg, PIL.Image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name in sys.argv[1:]:\n"
        "    start = time.process_time()\n"
        "    try:\n"
        "        open_source(name)\n"
        "    except UnreadableSourceError:\n"
        "        pass\n"
        "    else:\n"
        "        raise SystemExit(name + ' opened')\n"
        "    assert time.process_time() - start < 2, name\n"
        "grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024\n"
        "assert grown < 500, grown\n"
    )
    names = [str(path) for path in huge_files(tmp_path).values()]
    limit = 6 << 30

    def cap() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", script, *names], capture_output=True, text=True, preexec_fn=cap, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_flat_limit_is_about_pixels(tmp_path):
    assert 11_000**2 < MAX_FLAT_PIXELS < 12_000**2


def test_importing_is_light():
    script = (
        "import sys, medvision.sources\n"
        "heavy = {'tifffile', 'imagecodecs', 'simplejpeg', 'openslide', 'PIL', 'cv2', 'pydicom', 'torch'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_failed_open_leaves_no_descriptor(tmp_path, write_pyramid, picture):
    path = write_pyramid([picture], compression="jpeg")
    path.write_bytes(path.read_bytes()[:400])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(UnreadableSourceError):
            open_source(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_why_tells_what_was_declined_but_not_the_files_name(write_pyramid, picture):
    """A JPEG of another size than its tile is doubtful to the TIFF reader; OpenSlide is asked instead."""
    path = write_pyramid([picture], name="doe_jane_1970.tif", compression="jpeg")
    claim(path, {256: 880, 322: 80})  # as many tiles as before, each said to be wider
    source = open_source(path)
    assert source.reader == "openslide"
    assert "tiff: tile" in source.why
    assert "doe_jane" not in source.why
    assert _nameless(f"Reading {path}: bad", path) == "Reading the file: bad"


def test_a_wrong_number_of_tiles_is_damage(write_pyramid, picture):
    path = write_pyramid([picture], compression="jpeg")
    claim(path, {256: 720, 322: 80})
    with pytest.raises(UnreadableSourceError, match="lists 88 offsets and 88 sizes for 72 tiles"):
        open_source(path)
