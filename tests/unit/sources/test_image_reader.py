from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medvision.core.errors import UnreadableSourceError
from medvision.core.geometry import Box
from medvision.sources import open_source


def whole(path) -> np.ndarray:
    source = open_source(path)
    assert source.reader == "image"
    assert source.spacing is None
    return source.read(Box((0, 0), source.levels[0].shape))


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "jp2"])
def test_lossless_pictures(tmp_path, picture, kind):
    path = tmp_path / f"p.{kind}"
    options = {"lossless": True} if kind == "webp" else {}
    Image.fromarray(picture).save(path, **options)
    np.testing.assert_array_equal(whole(path), picture)


def test_jpeg_and_its_orientation_and_dpi(tmp_path, picture):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(picture).save(tmp_path / "p.jpg", quality=95, exif=exif, dpi=(30_000, 30_000))
    upright = np.rot90(picture, -1)
    found = whole(tmp_path / "p.jpg")
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 4


def test_transparent_is_white(tmp_path, picture):
    alpha = np.zeros(picture.shape[:2], np.uint8)
    alpha[:, 350:] = 255
    Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / "a.png")
    found = whole(tmp_path / "a.png")
    assert (found[:, :350] == 255).all()
    np.testing.assert_array_equal(found[:, 350:], picture[:, 350:])


@pytest.mark.parametrize("mode", ["L", "1", "P", "I;16"])
def test_other_modes(tmp_path, mode):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (20, 1))
    image = (
        Image.fromarray(ramp.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(ramp).convert(mode)
    )
    image.save(tmp_path / "m.png")
    found = whole(tmp_path / "m.png")
    expected = ramp if mode != "1" else np.asarray(image.convert("L"))
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=-1))


def test_truncated_and_animated(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "p.png")
    (tmp_path / "t.png").write_bytes((tmp_path / "p.png").read_bytes()[:5000])
    with pytest.raises(UnreadableSourceError, match=r"t\.png"):
        open_source(tmp_path / "t.png")
    frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    frames[0].save(tmp_path / "two.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableSourceError, match="holds 2 frames"):
        open_source(tmp_path / "two.webp")
