"""Files that are damaged in one place, state no spacing, have hostile names, or are links: one clear outcome each."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from medvision.core.errors import PixelsMissingError, SpacingError, WindowUnreadableError
from medvision.core.geometry import Box, Spacing
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import grid
from medvision.engine.sinks import RasterSink
from medvision.sources import open_guarded, open_source
from medvision.sources.spacing import require_spacing
from medvision.store.files import atomic_write, safe_names

TILE = 64
SHAPE = (512, 640)
BAD = (3, 4)


def picture() -> np.ndarray:
    noise = np.random.default_rng(3).integers(0, 200, (40, 50, 3), np.uint8)
    return cv2.resize(noise, SHAPE[::-1], interpolation=cv2.INTER_CUBIC)


def write(path: Path, **options: object) -> Path:
    settings = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    spacing = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, picture(), **(settings | spacing | options))
    return path


def spoil(path: Path, how: str) -> None:
    """Damage, or empty, the one tile `BAD`."""
    index = BAD[0] * (SHAPE[1] // TILE) + BAD[1]
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages[0]
        counts = list(page.databytecounts)
        if how == "damaged":
            tiff.filehandle.seek(page.dataoffsets[index] + 2)
            tiff.filehandle.write(b"\x55" * (counts[index] - 2))
        else:
            counts[index] = 0
            page.tags[325].overwrite(tuple(counts))


class Recording(nn.Module):
    """Means of windows, and every window that it was fed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.extend(x.mul(255).round().byte())
        return x.flatten(1).mean(1, keepdim=True)


def model(net: nn.Module) -> PatchModel:
    return PatchModel(
        name="mean", net=net, window=(TILE, TILE), spacing=None,
        normalisation=Normalisation((0.0,) * 3, (1.0,) * 3), output="scores", classes=("mean",), digest="mean",
        activation=lambda x: x,
    )  # fmt: skip


@pytest.mark.parametrize("guard", [False, True], ids=["plain", "guarded"])
@pytest.mark.parametrize("how", ["damaged", "empty"])
def test_one_bad_tile_is_unread_and_the_others_are_identical(how, guard, tmp_path, fault_row):
    whole = open_source(write(tmp_path / "whole.tif"))
    spoil(write(tmp_path / "bad.tif"), how)
    bad = (open_guarded if guard else open_source)(tmp_path / "bad.tif")
    place = Box.at((BAD[0] * TILE, BAD[1] * TILE), (TILE, TILE))
    with pytest.raises(PixelsMissingError if how == "empty" else WindowUnreadableError):
        bad.read(place)
    net = Recording()
    plan = grid(bad.id, SHAPE, (TILE, TILE), spacing=Spacing((0.5, 0.5)))
    settings = EngineSettings(device="cpu", batch_size=7, readers=2)
    raster, stats = PatchEngine(settings).run(bad, plan, model(net), RasterSink(plan, ("mean",)))
    expected, _ = PatchEngine(settings).run(whole, plan, model(Recording()), RasterSink(plan, ("mean",)))
    assert [plan.box(i) for i in stats.unread] == [place]
    assert np.isnan(raster.channel("mean")[BAD])
    seen = raster.coverage
    assert (~seen).sum() == 1
    np.testing.assert_array_equal(raster.channel("mean")[seen], expected.channel("mean")[seen])
    fed = {window.numpy().tobytes() for window in net.seen}
    stored = {
        np.ascontiguousarray(whole.read(plan.box(i)).transpose(2, 0, 1)).tobytes()
        for i in range(len(plan)) if plan.box(i) != place
    }  # fmt: skip
    blank = bytes(3 * TILE * TILE)
    assert stored <= fed
    assert fed - stored <= {blank}, "a slot of an unread window holds zeros or is not fed at all"
    row = fault_row("one bad tile" if how == "damaged" else "zero-byte tile", "guarded" if guard else "plain")
    row.count("tile unread", 1)
    row.count("tiles identical", int(seen.sum()))
    bad.close()
    whole.close()


def aperio(mpp: str) -> dict[str, object]:
    head = "Aperio Image Library v11.2.1\r\n640x512 [0,0 640x512] (64x64) JPEG/RGB Q=70|AppMag = 20"
    return {"description": f"{head}|MPP = {mpp}" if mpp else head}


SPACINGS: dict[str, dict[str, object]] = {
    "TIFF without resolution": {"resolution": None, "resolutionunit": None},
    "TIFF with resolution 0": {"resolution": ((0, 1), (0, 1))},
    "TIFF at 72 dpi": {"resolution": (72, 72), "resolutionunit": "INCH"},
    "TIFF of 1 nm": {"resolution": (10_000_000, 10_000_000)},
    "TIFF of 0.5 by 0.25 µm": {"resolution": (20_000, 40_000)},
    "SVS without MPP": aperio(""),
    "SVS with MPP 0": aperio("0"),
    "SVS with MPP 0.0000001": aperio("0.0000001"),
    "SVS with MPP 5000": aperio("5000"),
    "SVS with MPP in words": aperio("half"),
}


def test_an_unfit_spacing_is_an_error_or_supplied(tmp_path, fault_row):
    row = fault_row("spacing missing, 0, absurd or anisotropic", "TIFF and SVS-like")
    for index, options in enumerate(SPACINGS.values()):
        path = write(tmp_path / f"{index}.tif", **options)
        source = open_guarded(path)
        with pytest.raises(SpacingError, match="--slide-spacing") as caught:
            require_spacing(source)
        assert path.name in str(caught.value)
        source.spacing = Spacing((0.5, 0.5), "um", "supplied")
        assert require_spacing(source).origin == "supplied"
        source.close()
        row.count("a clear error, and accepted with a supplied value")


NAMES = [
    "<script>alert(1)</script>.svs".replace("/", "∕"),
    "..svs",
    "…∕..∕etc∕passwd.svs",
    "line\nbreak.svs",
    "tab\tand\rreturn.svs",
    "\u202egvs.exe",
    "é".join("x" * 2),
    "e\u0301.svs",
    "n" * 251 + ".svs",
    " leading and trailing ",
    "-rf",
    "$(touch trace).svs",
    "CON.svs",
    os.fsdecode(b"\xff\xfe broken.svs"),
]


def test_hostile_names_are_read_and_named_safely(tmp_path, fault_row):
    row = fault_row("hostile names", "readers and output folders")
    whole = write(tmp_path / "whole.tif").read_bytes()
    (tmp_path / "in").mkdir()
    for name in NAMES:
        path = tmp_path / "in" / name
        path.write_bytes(whole)
        source = open_guarded(path)
        assert source.path == path
        source.read(Box((0, 0), (TILE, TILE)))
        assert name not in source.why
        source.close()
        path.write_bytes(whole[:200])
        with pytest.raises(ValueError, match="damaged") as caught:
            open_guarded(path)
        assert str(path) in str(caught.value)
        row.count("read, refused by name when damaged, and given a safe folder")
    given = safe_names([tmp_path / "in" / name for name in NAMES])
    assert len(set(given)) == len(NAMES)
    for folder in given:
        assert Path(folder).name == folder
        assert folder.isprintable() and folder not in (".", "..") and len(folder.encode()) <= 255
        assert not set(folder) & set("<>/\\\n\r\t\0$")


def test_links_are_read_but_never_written_through(tmp_path, fault_row):
    row = fault_row("symbolic links", "slides and outputs")
    slide = write(tmp_path / "slide.tif")
    link = tmp_path / "link.tif"
    link.symlink_to(slide)
    source, plain = open_guarded(link), open_source(slide)
    assert source.id == plain.id
    source.close()
    row.count("slide read through a link")
    for place in (tmp_path / "loop.svs", tmp_path / "dangling.svs"):
        place.symlink_to(place if "loop" in place.name else tmp_path / "absent")
        with pytest.raises(ValueError, match=place.name):
            open_guarded(place)
        row.count("refused")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    inside = tmp_path / "result.json"
    inside.symlink_to(outside)
    atomic_write(inside, b"new")
    assert outside.read_text() == "mine"
    row.count("replaced, and what it pointed to untouched")
