"""Random damage ends as one of our errors or as pixels of the right shape: no crash, no hang, no foreign exception."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medvision.core.errors import UnreadableSourceError, WindowUnreadableError
from medvision.core.geometry import Box
from medvision.sources import open_source
from medvision.sources.describe import describe

APERIO = "Aperio Image Library v11.2.1\r\n130x90 [0,0 130x90] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"


def make(kind: str, folder: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    small = np.asarray(Image.fromarray(noise).resize((130, 90)))
    path = folder / "whole"
    if kind == "svs":
        with tifffile.TiffWriter(path) as tiff:
            for index, level in enumerate((small, small[::2, ::2])):
                tiff.write(
                    level,
                    tile=(64, 64),
                    compression="jpeg",
                    photometric="rgb",
                    description=APERIO,
                    metadata=None,
                    subfiletype=index,
                )
    elif kind == "tiff":
        tifffile.imwrite(path, small, rowsperstrip=20, compression="deflate", photometric="rgb", ome=True)
    elif kind == "lzw":
        tifffile.imwrite(
            path, small, tile=(32, 32), compression="lzw", predictor=True, photometric="rgb", bigtiff=True
        )
    else:
        Image.fromarray(small).save(path, format=kind.upper())
    return path.read_bytes()


def mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed (often in the headers), a block zeroed, or the end cut off."""
    data = bytearray(whole)
    way = rng.integers(0, 4)
    if way == 0:
        return bytes(data[: rng.integers(1, len(data))])
    if way == 1:
        at = int(rng.integers(0, len(data)))
        data[at : at + 40] = bytes(len(data[at : at + 40]))
    else:
        top = len(data) if way == 2 else min(len(data), 300)
        base = 0 if rng.random() < 0.5 else len(data) - top
        for _ in range(int(rng.integers(1, 6))):
            data[base + int(rng.integers(0, top))] = int(rng.integers(0, 256))
    return bytes(data)


def outcome(path: Path) -> str:
    """Open, describe and read everything; anything but our errors fails the test."""
    start = time.process_time()
    try:
        source = open_source(path)
    except UnreadableSourceError as error:
        found = "refused" if str(path) in str(error) else f"refused without its name: {error}"
    else:
        found = "read"
        for index, level in enumerate(source.levels):
            shape = (min(level.shape[0], 300), min(level.shape[1], 300))
            try:
                pixels = source.read(Box((0, 0), shape), index)
            except WindowUnreadableError:
                found = "unread"
            else:
                assert pixels.shape == (*shape, 3)
                assert pixels.dtype == np.uint8
        source.close()
    assert found in ("refused", "read", "unread")
    if found == "read":
        describe(path)
    assert time.process_time() - start < 5
    return found


def run(kind: str, folder: Path, seeds: range) -> dict[str, int]:
    whole = make(kind, folder)
    counts: dict[str, int] = {}
    for seed in seeds:
        path = folder / f"{seed}"
        path.write_bytes(mutated(whole, np.random.default_rng(seed)))
        found = outcome(path)
        counts[found] = counts.get(found, 0) + 1
        path.unlink()
    return counts


@pytest.mark.parametrize("kind", ["svs", "tiff", "lzw", "png", "jpeg", "webp"])
def test_damaged_files(kind, tmp_path):
    counts = run(kind, tmp_path, range(12))
    assert counts.get("refused", 0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svs", "tiff", "lzw", "png", "jpeg", "webp"])
def test_many_damaged_files(kind, tmp_path):
    assert sum(run(kind, tmp_path, range(100, 700)).values()) == 600


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        "openslide_python/small.svs",
        "openslide_python/boxes.tiff",
        "openslide_python/boxes_0.dcm",
        "libvips/ojpeg-tile.tif",
    ],
)
def test_many_damaged_real_files(name, tmp_path, shared):
    whole = (shared / "slides" / name).read_bytes()
    for seed in range(300):
        path = tmp_path / str(seed)
        path.write_bytes(mutated(whole, np.random.default_rng(seed)))
        outcome(path)
        path.unlink()
