"""Small files that claim or unfold to a great deal: refused in under 2 s and 500 MB, parent and child together."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

MOST_SECONDS = 2.0
MOST_BYTES = 500_000_000


def tiff(path: Path, tags: dict[int, int], **options: object) -> None:
    """A TIFF of 64 x 64 px whose first page then claims something else."""
    settings: dict[str, object] = {"tile": (32, 32), "photometric": "rgb", "metadata": None} | options
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), **settings)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for code, value in tags.items():
            file.pages[0].tags[code].overwrite(value)


def unfolding(path: Path, compression: str) -> None:
    """A TIFF whose tiles of 3 KiB unfold to 60 MB, or to 1 GiB."""
    import imagecodecs

    data = zlib.compress(bytes(60_000_000), 9)
    if compression == "zstd":
        data = imagecodecs.zstd_encode(bytes(1 << 30), level=1)
    tifffile.imwrite(
        path, iter([data] * 4), shape=(64, 64, 3), dtype=np.uint8, tile=(32, 32), photometric="rgb",
        compression=compression, metadata=None,
    )  # fmt: skip


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path: Path, side: int, extra: bytes = b"") -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def patched(path: Path, kind: str, old: bytes, new: bytes) -> None:
    """A picture of 64 x 64 px in which some bytes of the header are replaced."""
    Image.new("RGB", (64, 64)).save(path, format=kind)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def large_jpeg_in_a_tile(path: Path) -> None:
    import imagecodecs

    small = imagecodecs.jpeg8_encode(np.zeros((32, 32), np.uint8))
    size, larger = struct.pack(">BHH", 8, 32, 32), struct.pack(">BHH", 8, 60_000, 60_000)
    assert size in small
    large = small.replace(size, larger, 1)
    tifffile.imwrite(
        path, iter([large] * 4), shape=(64, 64), dtype=np.uint8, tile=(32, 32), photometric="minisblack",
        compression="jpeg", metadata=None,
    )  # fmt: skip


def ring_of_pages(path: Path) -> None:
    """A TIFF whose second page says that the first one follows it."""
    with tifffile.TiffWriter(path) as file:
        for _ in range(2):
            file.write(np.zeros((64, 64, 3), np.uint8), photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as file:
        pages = file.pages
        first, last = pages[0].offset, pages[1].offset + 2 + 12 * len(pages[1].tags)
    data = bytearray(path.read_bytes())
    data[last : last + 4] = struct.pack("<I", first)
    path.write_bytes(data)


def ndpi(path: Path) -> None:
    """A slide of Hamamatsu's kind of a million pixels a side."""
    tags = [(271, 2, 0, "Hamamatsu", True), (65420, 4, 1, 1, True), (65421, 11, 1, 20.0, True)]
    tags += [(code, 9, 1, 0, True) for code in (65422, 65423, 65424)]
    tiff(
        path, {256: 4_000_000, 257: 4_000_000}, tile=None, rowsperstrip=64, compression="jpeg", extratags=tags
    )


ZTXT = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9))
ICCP = chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(200_000_000), 9))
BOMBS: dict[str, Callable[[Path], None]] = {
    "TIFF of 2,000,000 px a side": lambda path: tiff(path, {256: 2_000_000, 257: 2_000_000}),
    "TIFF of 900,000 px a side": lambda path: tiff(path, {256: 900_000, 257: 900_000}),
    "TIFF with one tile of 60,000 px": lambda path: tiff(
        path, {256: 60_000, 257: 60_000, 322: 60_000, 323: 60_000}
    ),
    "TIFF with one strip of 60,000 px": lambda path: tiff(
        path, {256: 60_000, 257: 60_000, 278: 60_000}, tile=None, rowsperstrip=64, compression="deflate"
    ),
    "JPEG TIFF with one tile of 49,984 px": lambda path: tiff(
        path, {256: 50_000, 257: 50_000, 322: 49_984, 323: 49_984}, compression="jpeg"
    ),
    "TIFF whose deflate tiles unfold to 60 MB": lambda path: unfolding(path, "deflate"),
    "TIFF whose zstd tiles unfold to 1 GiB": lambda path: unfolding(path, "zstd"),
    "TIFF tile that holds a JPEG of 60,000 px a side": large_jpeg_in_a_tile,
    "TIFF whose pages form a ring": ring_of_pages,
    "NDPI-like of 4,000,000 px a side": ndpi,
    "PNG of 50,000 px a side": lambda path: png(path, 50_000),
    "PNG of 12,000 px a side": lambda path: png(path, 12_000),
    "PNG with 200 MB of text": lambda path: png(path, 64, ZTXT),
    "PNG with a colour profile of 200 MB": lambda path: png(path, 64, ICCP),
    "JPEG of 65,500 px a side": lambda path: patched(
        path, "JPEG", b"\x08\x00\x40\x00\x40\x03", b"\x08\xff\xdc\xff\xdc\x03"
    ),
    "BMP of 60,000 px a side": lambda path: patched(
        path, "BMP", struct.pack("<ii", 64, 64), struct.pack("<ii", 60_000, 60_000)
    ),
    "JPEG 2000 of 100,000 px a side": lambda path: patched(
        path, "JPEG2000", struct.pack(">II", 64, 64), struct.pack(">II", 100_000, 100_000)
    ),
    "WebP of 16,384 px a side": lambda path: patched(
        path, "WEBP", b"\x9d\x01\x2a\x40\x00\x40\x00", b"\x9d\x01\x2a\xff\x3f\xff\x3f"
    ),
}

CUT_SHORT = {"TIFF whose deflate tiles unfold to 60 MB", "TIFF whose zstd tiles unfold to 1 GiB"}
"""Decoded into the memory of one tile, and what comes after it is never unfolded: readable, at no cost."""

MEASURE = """
import json, resource, sys
from medvision.core.errors import MedvisionError
from medvision.sources import open_guarded
from medvision.core.geometry import Box
for name in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        source = open_guarded(name)
        try:
            source.read(Box((0, 0), (64, 64)))
            said = ''
        finally:
            source.close()
    except MedvisionError as error:
        said = str(error)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # The system counts what this process was before it became this program among its own peak, so ask elsewhere.
    own = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
    print(json.dumps([said, spent, (own + after.ru_maxrss) * 1024]), flush=True)
"""


def test_bombs_are_refused_cheaply(tmp_path, fault_row):
    """Each is opened and its first tile read, in processes whose times and peaks the system has counted."""
    row = fault_row("bomb", "any reader")
    paths = [tmp_path / f"{index}.bin" for index in range(len(BOMBS))]
    for make, path in zip(BOMBS.values(), paths, strict=True):
        make(path)
        assert path.stat().st_size < 10_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True, check=True
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = {
        name: figures
        for name, figures in zip(BOMBS, told, strict=True)
        if bool(figures[0]) == (name in CUT_SHORT) or figures[1] > MOST_SECONDS or figures[2] > MOST_BYTES
    }
    assert not wrong
    row.count("refused", len(told) - len(CUT_SHORT))
    row.count("unfolded no further than a tile", len(CUT_SHORT))
    row.note = (
        f"at most {max(spent for _, spent, _ in told):.1f} s of CPU and {max(peak for *_, peak in told) / 1e6:.0f} MB, "
        "parent and child together"
    )


@pytest.mark.parametrize("name", ["TIFF of 2,000,000 px a side", "PNG of 50,000 px a side"])
def test_a_bomb_says_what_it_claims(name, tmp_path):
    from medvision.core.errors import SourceTooLargeError
    from medvision.sources import open_guarded

    BOMBS[name](tmp_path / "bomb")
    with pytest.raises(SourceTooLargeError, match=r"bomb: .*(2,000,000|50,000|2500000000)"):
        open_guarded(tmp_path / "bomb")
