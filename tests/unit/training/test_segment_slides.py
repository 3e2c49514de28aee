"""Slides of a table with outlines and masks: what each pixel of the network is said to be, and a training on it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from medvision.core.errors import AnnotationError, UsageError
from medvision.core.geometry import Box
from medvision.models.segmentation import SegmentContract, usual_segment_contract
from medvision.sources.annotations import Annotation, write_asap, write_geojson
from medvision.sources.label_map import read_label_map
from medvision.sources.write import write_mask, write_slide
from medvision.store.cohort import CohortSlide, write_cohort
from medvision.training.config_file import validated
from medvision.training.segment import train_segment
from medvision.training.segment_config import IGNORED, SegmentDataConfig, TrainSegmentConfig
from medvision.training.segment_data import load_images

SHAPE = (512, 640)
CONTRACT = usual_segment_contract(
    "unet",
    classes=("glass", "tissue", "tumor"),
    channels=3,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    window=(32, 32),
    spacing=(8.0, 8.0),
    options={"width": 0.0625, "depth": 2, "norm": "batch"},
)
NODE = np.array([(64.0, 64.0), (64.0, 512.0), (448.0, 512.0), (448.0, 64.0)])
TUMOUR = np.array([(128.0, 128.0), (128.0, 256.0), (256.0, 256.0), (256.0, 128.0)])
SPARED = np.array([(160.0, 160.0), (160.0, 192.0), (192.0, 192.0), (192.0, 160.0)])


def cut(pixels: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8]:
    return pixels[box.slices()]


def truth() -> npt.NDArray[np.uint8]:
    """What the three areas say of pixels of 8 µm, on slides of 2 µm."""
    found = np.zeros((128, 160), np.uint8)
    found[16:112, 16:128] = 1
    found[32:64, 32:64] = 2
    found[40:48, 40:48] = 1
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slides of three patients: pink tissue with a dark tumour on white, drawn on as QuPath does."""
    folder = tmp_path_factory.mktemp("slides")
    colours = np.array([(245, 245, 245), (225, 150, 190), (120, 60, 140)], np.uint8)
    slides = []
    for number in range(6):
        noise = np.random.default_rng(number).integers(-8, 8, (*SHAPE, 3))
        pixels = (colours[np.kron(truth(), np.ones((4, 4), np.uint8))] + noise).clip(0, 255).astype(np.uint8)
        path = write_slide(folder / f"s{number}.tif", SHAPE, partial(cut, pixels), 2.0)
        drawn = folder / f"s{number}.geojson"
        # In any order: what is smaller lies above.
        areas = [("Tissue", SPARED), ("Tumor", TUMOUR), ("Tissue", NODE)]
        write_geojson(drawn, [Annotation(group, group, "polygon", points) for group, points in areas])
        split = "test" if number > 3 else "train"
        slides.append(CohortSlide(f"s{number}", path, None, f"p{number // 2}", split, drawn))
    return write_cohort(folder / "cohort.csv", slides)


def configured(table: Path, **fields: object) -> SegmentDataConfig:
    return validated({"folder": table, **fields}, SegmentDataConfig)


def read(table: Path, contract: SegmentContract = CONTRACT, **fields: object) -> list[npt.NDArray[np.uint8]]:
    return [image.truth for image in load_images(configured(table, **fields), contract).images]


def first_only(table: Path, annotation: Path | None) -> Path:
    slide = CohortSlide("s0", table.parent / "s0.tif", annotation=annotation)
    return write_cohort(table.parent / "one.csv", [slide])


def test_outlines_are_labels_on_the_networks_grid(table: Path) -> None:
    images = load_images(configured(table), CONTRACT)
    assert images.found.layout == "slides"
    assert [image.pair.case for image in images.images] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    for image in images.images:
        assert np.array_equal(image.truth, truth())
        assert image.values.shape == (128, 160, 3)
        assert image.full == SHAPE


def test_groups_have_the_classes_that_the_configuration_says(table: Path) -> None:
    expected = np.where(truth() == 1, np.uint8(IGNORED), truth())
    two = CONTRACT.model_copy(update={"classes": ("glass", "cancer")})
    found = read(table, two, groups={"Tumor": "cancer", "Tissue": None})
    assert np.array_equal(found[0], np.where(expected == 2, 1, expected))
    with pytest.raises(UsageError, match=r"s0\.geojson: areas of the group 'Tissue', which is of no class"):
        read(table, two)
    with pytest.raises(UsageError, match=r"data\.groups: 'tumour' is none of glass, cancer"):
        read(table, two, groups={"Tumor": "tumour"})


def test_masks_may_be_coarser_than_their_slide(table: Path) -> None:
    labels = (truth() * 10).astype(np.uint8)
    mask = write_mask(table.parent / "s0_classes.tif", labels.shape, partial(cut, labels), 8.0)
    values = {"glass": 0, "tissue": 10, "tumor": 20}
    assert np.array_equal(read(first_only(table, mask), values=values)[0], truth())
    # Beside outlines, by what follows the slide's name.
    beside = first_only(table, table.parent / "s0.geojson")
    assert np.array_equal(read(beside, values=values, label_suffix="_classes")[0], truth())
    with pytest.raises(UsageError, match=r"no file s0_mask\.\* with the labels of 's0'"):
        read(beside, label_suffix="_mask")
    with pytest.raises(UsageError, match="holds the value 10, which is of no class"):
        read(beside, label_suffix="_classes")
    square = write_mask(table.parent / "square.tif", (128, 128), partial(cut, labels[:, :128]), 8.0)
    with pytest.raises(AnnotationError, match="not of one shape"):
        read(first_only(table, square))


def test_tissue_that_nobody_drew_is_found_by_its_colour(table: Path) -> None:
    path = table.parent / "tumour.xml"
    write_asap(path, [Annotation("a", "Tumor", "polygon", TUMOUR)])
    (found,) = read(first_only(table, path), tissue="tissue")
    wanted = np.where((truth() > 0) & (found != 2), 1, found)
    assert (found == 2).sum() == 32 * 32
    assert (found != wanted).mean() < 0.03
    with pytest.raises(UsageError, match=r"data\.tissue: 'stroma' is none of"):
        read(first_only(table, path), tissue="stroma")


def test_networks_that_do_not_look_at_slides(table: Path) -> None:
    with pytest.raises(UsageError, match="3 channels and a `spacing`"):
        read(table, CONTRACT.model_copy(update={"spacing": None}))
    with pytest.raises(UsageError, match="slides have a fixed range"):
        read(table, CONTRACT.model_copy(update={"intensity": "source", "range": (0.5, 99.5)}))
    with pytest.raises(UsageError, match="no such folder of images and labels, or table of slides"):
        read(table.parent / "absent.csv")


def test_a_network_is_trained_and_scored_on_the_split_of_the_table(table: Path, tmp_path: Path) -> None:
    config = validated(
        {
            "name": "slides",
            "data": {"folder": table},
            "split": {"held_out": "test", "validation": 0.5},
            "contract": CONTRACT.model_dump(
                include={"classes", "channels", "window", "spacing", "options"}, mode="json"
            ),
            "steps": 2,
            "check_every": 2,
        },
        TrainSegmentConfig,
    )
    report = train_segment(config, tmp_path, device="cpu")
    assert "held out 2 images of 1 cases" in report.proof
    assert (tmp_path / "held-out.txt").read_text().split() == ["s4", "s5"]
    for name in ("s4", "s5"):
        assert np.array_equal(read_label_map(tmp_path / "truth" / f"{name}.png").values, truth())
        assert read_label_map(tmp_path / "predictions" / f"{name}.png").values.shape == (128, 160)
    absent = config.model_copy(update={"split": config.split.model_copy(update={"held_out": "exam"})})
    with pytest.raises(UsageError, match="nothing lies in 'exam'; splits: test, train"):
        train_segment(absent, tmp_path / "other", device="cpu")
