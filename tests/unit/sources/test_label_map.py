"""Label images from every kind of file, with the values that are stored, and what is refused."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from medvision.core.errors import UnreadableSourceError
from medvision.sources.label_map import label_name, mask_files, read_label_map

LABELS = np.array([[0, 1, 2], [3, 200, 255]], dtype=np.uint8)


def saved(path, values):
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, values, photometric="minisblack")
    else:
        Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.npy"])
def test_values_are_those_stored(tmp_path, name):
    got = read_label_map(saved(tmp_path / name, LABELS))
    assert np.array_equal(got.values, LABELS) and got.values.dtype == np.uint8
    assert got.labels.dtype == np.int32 and got.labels.tolist() == LABELS.tolist()
    assert (got.spacing, got.objects, got.top) == (None, False, 255)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
def test_sixteen_bits(tmp_path, name):
    values = LABELS.astype(np.uint16) * 256
    got = read_label_map(saved(tmp_path / name, values))
    assert np.array_equal(got.values, values) and got.top == 65535


def test_a_palette_gives_its_numbers_and_grey_may_be_saved_as_colours(tmp_path):
    picture = Image.fromarray(LABELS)
    picture.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
    picture.save(tmp_path / "palette.png")
    assert np.array_equal(read_label_map(tmp_path / "palette.png").values, LABELS)
    Image.fromarray(np.repeat(LABELS[..., None], 3, axis=2)).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([LABELS, LABELS], axis=2)).save(tmp_path / "opacity.png")
    tifffile.imwrite(tmp_path / "grey.tif", np.repeat(LABELS[..., None], 3, axis=2), photometric="rgb")
    for name in ("grey.png", "opacity.png", "grey.tif"):
        assert np.array_equal(read_label_map(tmp_path / name).values, LABELS)
    Image.fromarray(LABELS > 1).save(tmp_path / "bits.png")
    assert read_label_map(tmp_path / "bits.png").values.tolist() == (LABELS > 1).tolist()


def test_stacks_and_a_single_plane(tmp_path):
    stack = np.stack([LABELS, LABELS.copy()[::-1]])
    assert np.array_equal(read_label_map(saved(tmp_path / "a.tif", stack)).values, stack)
    assert read_label_map(saved(tmp_path / "b.npy", LABELS[None])).values.shape == (2, 3)


def test_volumes_lie_upright_with_their_spacing(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)  # x, y, z
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2, 3, 4, 1])), tmp_path / "a.nii.gz")  # RAS
    got = read_label_map(tmp_path / "a.nii.gz")
    assert np.array_equal(
        got.values, values.transpose(2, 1, 0)[:, ::-1, ::-1]
    )  # planes up, rows back, columns left
    assert got.spacing.values == (4, 3, 2) and got.spacing.unit == "mm"
    turned = nibabel.Nifti1Image(
        values[::-1], np.diag([-2, 3, 4, 1]) + np.array([[0, 0, 0, 2]] + [[0] * 4] * 3)
    )
    nibabel.save(turned, tmp_path / "b.nii")
    other = read_label_map(tmp_path / "b.nii")
    assert np.array_equal(other.values, got.values) and other.frame == got.frame
    assert other.stored != got.stored


def test_a_folder_of_masks(tmp_path):
    (tmp_path / "case" / "masks").mkdir(parents=True)
    (tmp_path / "case" / "images").mkdir()
    masks = np.zeros((3, 4, 5), dtype=np.uint8)
    masks[0, 0, :2], masks[1, 0, 1:4], masks[2, 3] = 255, 255, 255
    for name, mask in zip("bac", masks, strict=True):
        saved(tmp_path / "case" / "masks" / f"{name}.png", mask)
    saved(tmp_path / "case" / "masks" / "._a.png", masks[0])
    got = read_label_map(tmp_path / "case")
    assert got.labels[0].tolist() == [2, 1, 1, 1, 0] and (got.labels[3] == 3).all()
    assert (got.objects, got.shared) == (True, 1)
    assert [path.name for path in mask_files(tmp_path / "case")] == ["a.png", "b.png", "c.png"]
    with pytest.raises(UnreadableSourceError, match="holds no masks"):
        read_label_map(tmp_path / "case" / "images")
    saved(tmp_path / "case" / "masks" / "d.png", masks[0, :2])
    with pytest.raises(UnreadableSourceError, match=r"d\.png: is \(2, 5\), and a\.png \(4, 5\)"):
        read_label_map(tmp_path / "case")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[0.0, 0.5]]), "fractions"),
        (np.array([[0.0, np.nan]]), "values from nan"),
        (np.array([[-1, 0]]), "values from -1"),
        (np.array([[0, 2**31]]), "values from 0 to 2147483648"),
    ],
)
def test_what_is_no_label(tmp_path, values, reason):
    with pytest.raises(UnreadableSourceError, match=reason):
        _ = read_label_map(saved(tmp_path / "a.npy", values)).labels


def test_what_is_refused(tmp_path):
    colours = np.zeros((4, 4, 3), dtype=np.uint8)
    colours[0, 0] = 1, 2, 3
    Image.fromarray(colours).save(tmp_path / "colours.png")
    Image.fromarray(LABELS).save(tmp_path / "a.jpg")
    (tmp_path / "cut.png").write_bytes((saved(tmp_path / "a.png", LABELS)).read_bytes()[:40])
    (tmp_path / "cut.tif").write_bytes(b"II*\0")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.arange(3))
    for name, reason in (
        ("colours.png", "in colours"), ("a.jpg", "JPEG"), ("cut.png", "damaged"), ("cut.tif", "damaged"),
        ("objects.npy", "Python objects"), ("line.npy", "two or three axes"), ("absent.png", "no such file"),
    ):  # fmt: skip
        with pytest.raises(UnreadableSourceError, match=reason) as raised:
            read_label_map(tmp_path / name)
        assert name in str(raised.value)


def test_names():
    from pathlib import Path

    names = ["a.b.nii.gz", "c.PNG", "d.tiff", "e.txt", "f.jpg"]
    assert [label_name(Path(name)) for name in names] == ["a.b", "c", "d", None, None]
