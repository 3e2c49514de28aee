"""Images cut out of a detection set: the right pixels, whole pictures on one side, and every fault told by its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvision.core.errors import AnnotationError, MedvisionError, UsageError
from medvision.core.geometry import Box
from medvision.sources.boxes import NamedBox, read_voc
from medvision.training.config_file import validated
from medvision.training.images import LabelledImages
from medvision.training.images_config import ImagesConfig
from medvision.training.images_load import load_images, read_images

Cell = tuple[str, float, float, float, float]
"""Class, xmin, ymin, xmax, ymax."""


def annotation(filename: str, cells: list[Cell], size: str = "<width>40</width><height>30</height>") -> str:
    boxes = "".join(
        f"<object><name>{name}</name><difficult>1</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1 in cells
    )
    return f"<annotation><filename>{filename}</filename><size>{size}</size>{boxes}</annotation>"


def add(folder: Path, stem: str, cells: list[Cell], seed: int = 0) -> np.ndarray:
    """One picture of noise, 30 x 40, and its boxes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
    for name in ("Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / "JPEGImages" / f"{stem}.png")
    (folder / "Annotations" / f"{stem}.xml").write_text(annotation(f"{stem}.png", cells))
    return pixels


def read(folder: Path, **given: object) -> LabelledImages:
    return read_images(validated({"voc": str(folder), **given}, ImagesConfig))


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Six pictures of two red cells, a white one and, in the first three, a platelet."""
    for n in range(6):
        extra: list[Cell] = [("platelet", 30, 20, 34, 24)] if n < 3 else []
        red: list[Cell] = [("red", 1, 1, 10, 8), ("red", 5, 15, 14, 26)]
        add(tmp_path, f"blood {n}", [*red, ("white", 12, 3, 30, 18), *extra], n)
    return tmp_path


def test_pixels_are_those_of_the_box_which_counts_from_one_and_holds_both_ends(tmp_path: Path) -> None:
    pixels = add(tmp_path, "a", [("red", 3, 5, 10, 8), ("white", 31, 21, 40, 30)])
    images = read(tmp_path)
    np.testing.assert_array_equal(images.read(0), pixels[4:8, 2:10])
    np.testing.assert_array_equal(images.read(1), pixels[20:30, 30:40])
    assert images.names == ("a.png 1", "a.png 2") and images.groups == ("a", "a")
    wider = read(tmp_path, box_margin=0.5)
    np.testing.assert_array_equal(wider.read(0), pixels[2:10, 0:14], "cut at the left edge")
    np.testing.assert_array_equal(wider.read(1), pixels[15:30, 25:40], "cut at the lower right corner")
    assert wider.digest != images.digest


def test_a_new_split_keeps_each_picture_whole(cells: Path) -> None:
    images, proof = load_images(
        validated({"voc": str(cells), "split": {"fractions": {"train": 0.5, "test": 0.5}}}, ImagesConfig)
    )
    assert images.counts() == {"platelet": 3, "red": 12, "white": 6}
    train, test = (set(images.of(side).groups or ()) for side in ("train", "test"))
    assert train | test == {f"blood {n}" for n in range(6)} and not train & test
    assert proof.shared_groups == {"train and test": 0}


def test_the_sets_own_lists_are_the_split(cells: Path) -> None:
    lists = cells / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("absent\n")
    with pytest.raises(UsageError, match=r"6 pictures are in none of ImageSets/Main/train.txt: 'blood 0'"):
        read(cells)
    for n in range(6):
        add(cells, f"b{n}", [("red", 1, 1, 10, 8), ("white", 12, 3, 30, 18)], n)
        (cells / "Annotations" / f"blood {n}.xml").unlink()
    (lists / "train.txt").write_text("b0\nb1\nb2\nnot_here\n")
    (lists / "val.txt").write_text("b3\n")
    (lists / "test.txt").write_text("b4\nb5\n")
    images = read(cells)
    assert dict(zip(images.groups or (), images.splits or (), strict=True)) == {
        "b0": "train", "b1": "train", "b2": "train", "b3": "validation", "b4": "test", "b5": "test",
    }  # fmt: skip
    (lists / "test.txt").write_text("b2\nb4\nb5\n")
    with pytest.raises(UsageError, match=r"test.txt: 'b2' is on two sides, train too"):
        read(cells)


def test_classes_have_the_given_order_and_others_are_left_out(cells: Path) -> None:
    images = read(cells, classes=["white", "red"], leave_out=["platelet"])
    assert images.counts() == {"white": 6, "red": 12}
    with pytest.raises(UsageError, match="class 'platelet' in neither list"):
        read(cells, classes=["white", "red"])


def test_a_box_that_begins_at_zero_or_between_pixels_is_rounded_outwards(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text(annotation("a.png", [("red", 0, 0, 4.2, 3), ("white", 2.5, 3.7, 9.1, 8)], size=""))
    assert read_voc(file).boxes == (
        NamedBox("red", Box((0, 0), (3, 5))),
        NamedBox("white", Box((2, 1), (8, 10))),
    )
    assert read_voc(file).shape is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no xml", "not XML that can be read"),
        ("<html/>", "root element <html>; known: <annotation>"),
        ("<annotation><size/></annotation>", "no <filename>"),
        (annotation("a.png", [("", 1, 1, 5, 5)]), "object 1 has no <name>"),
        (annotation("a.png", [("red", 1, 1, 5, 5), ("red", 6, 1, 5, 5)]), r"object 2 \(red\): box from"),
        (annotation("a.png", [("red", 1, 1, 5, 5)]).replace("<ymax>5", "<ymax>x"), "<ymax> is 'x', not a n"),
        (annotation("b.png", [("red", 1, 1, 5, 5), ("white", 1, 1, 9, 9)]), "no picture 'b.png'"),
        (annotation("a.png", []), "no box in any of 1 files"),
        (annotation("a.png", [("red", 50, 1, 60, 5), ("white", 1, 1, 9, 9)]), r"object 1 \(red\): lies outs"),
        (
            annotation("a.png", [("red", 1, 1, 5, 5), ("white", 1, 1, 9, 9)],
                       "<width>30</width><height>40</height>"),
            r"drawn on \(40, 30\) rows and columns; a.png has \(30, 40\), upright",
        ),
    ],
)  # fmt: skip
def test_faults_are_told_by_file_and_object(text: str, reason: str, tmp_path: Path) -> None:
    add(tmp_path, "a", [])
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(MedvisionError, match=reason):
        read(tmp_path, classes=["red", "white"])


def test_what_is_no_detection_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no Annotations/\*.xml"):
        read(tmp_path)
    for given, reason in (
        ({"voc": "a", "group": "image"}, "a picture is the group"),
        ({"folder": "a", "box_margin": 0.1}, "box_margin is for a voc"),
        ({"voc": "a", "csv": "b"}, "not csv and voc"),
    ):
        with pytest.raises(UsageError, match=reason):
            validated(given, ImagesConfig)


def test_the_entities_of_hostile_xml_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotation><filename>&b;</filename></annotation>')
    with pytest.raises(AnnotationError, match="not XML that can be read"):
        read_voc(file)


@pytest.mark.shared
def test_real_blood_cells(shared: Path) -> None:
    images = read(shared / "histology" / "bccd" / "BCCD")
    assert images.counts() == {"Platelets": 54, "RBC": 672, "WBC": 61}
    assert len(set(images.groups or ())) == 60 and set(images.splits or ()) == {"train", "validation", "test"}
    white = [images.read(i).shape for i in np.flatnonzero(images.labels == 2)]
    red = [images.read(i).shape for i in np.flatnonzero(images.labels == 1)]
    assert np.mean([s[0] for s in white]) > 1.5 * np.mean([s[0] for s in red]), "white cells are larger"
