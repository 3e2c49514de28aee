"""Images and labels from every layout, their split, and the windows drawn from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from medvision.core.errors import UsageError
from medvision.models.segmentation import usual_segment_contract
from medvision.sources.label_map import read_label_map
from medvision.sources.write import write_slide
from medvision.sources.write_labels import write_labels
from medvision.training.config_file import validated
from medvision.training.segment_config import (
    IGNORED,
    BorderConfig,
    SegmentAugmentation,
    SegmentDataConfig,
    SegmentSplitConfig,
    TrainSegmentConfig,
)
from medvision.training.segment_data import SegmentImages, border_map, load_images
from medvision.training.segment_split import deal_folds, proof_of, split_of
from medvision.training.segment_windows import SegmentBatches, changed_values, drawn_places

Draw = Callable[[int], tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]]

FLAT = usual_segment_contract("unet", window=(32, 32), options={"width": 0.0625, "depth": 2})
SPACE = usual_segment_contract(
    "unet",
    window=(16, 16, 16),
    classes=("background", "inner", "outer"),
    spacing=(1.0, 1.0, 1.0),
    unit="mm",
    intensity="source",
    range=(1.0, 99.0),
    options={"width": 0.0625, "depth": 2},
)
STILL = validated(
    {"flip": False, "deformed": 0, "brightness": 0, "contrast": 0, "gamma": 0, "noise": 0},
    SegmentAugmentation,
)


def data(folder: Path, **given: object) -> SegmentDataConfig:
    return validated({"folder": folder, **given}, SegmentDataConfig)


@pytest.fixture(scope="module")
def flat(toy_pictures: Path) -> SegmentImages:
    return load_images(data(toy_pictures, case="^(p\\d+)_"), FLAT)


def test_pairs_are_read_as_they_lie(flat: SegmentImages, toy_picture: Draw) -> None:
    assert [image.name for image in flat.images] == ["p0_0", "p0_1", "p1_2", "p1_3", "p2_4", "p2_5"]
    grey, objects = toy_picture(3)
    assert np.array_equal(flat.images[3].values[..., 0], grey)
    assert np.array_equal(flat.images[3].truth, objects > 0)
    assert flat.images[3].pair.case == "p1"


def test_what_is_alone_is_passed_over_and_told(toy_pictures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_pictures, tmp_path / "one" / "two")
    (folder / "images" / "p0_0.png").unlink()
    (folder / "labels" / "p2_5.png").unlink()
    (folder / "images" / "._p1_2.png").write_bytes(b"not an image")
    found = load_images(data(tmp_path / "one"), FLAT).found
    assert [pair.name for pair in found.pairs] == ["p0_1", "p1_2", "p1_3", "p2_4"]
    assert found.notes == (
        "1 images without labels passed over (p2_5)",
        "1 labels without an image passed over (p0_0)",
    )


def test_a_folder_for_each_image_gives_objects(toy_objects: Path, toy_picture: Draw) -> None:
    images = load_images(data(toy_objects), FLAT)
    assert images.found.layout == "objects"
    _, objects = toy_picture(2)
    found = images.images[2].objects
    assert found is not None
    assert np.array_equal(found > 0, objects > 0)
    assert len(np.unique(found)) == 4
    weights = border_map(images.images[2], validated({}, BorderConfig), FLAT)
    assert weights.max() > 0.1
    assert not weights[objects > 0].any()


def test_volumes_come_upright_at_the_networks_spacing(toy_volumes: Path) -> None:
    images = load_images(data(toy_volumes), SPACE)
    straight, turned = images.images[0], images.images[1]
    assert straight.values.shape == (24, 22, 20, 1) == turned.values.shape
    assert straight.full == (12, 22, 20)
    file = read_label_map(straight.pair.labels)
    assert np.array_equal(straight.truth[::2], file.values)  # every slice of 2 mm becomes two of 1 mm
    assert np.array_equal(straight.truth[1::2], file.values)
    for image in (straight, turned):
        scaled = image.scaled()[..., 0]
        assert scaled.min() == 0
        assert scaled.max() == 1
        assert scaled[image.truth == 1].mean() > scaled[image.truth == 2].mean() + 0.2
        assert scaled[image.truth == 2].mean() > scaled[image.truth == 0].mean() + 0.2


def test_values_name_classes_and_one_may_be_ignored(toy_pictures: Path, toy_picture: Draw) -> None:
    swapped = load_images(data(toy_pictures, values={"background": 1, "foreground": 0}), FLAT)
    assert np.array_equal(swapped.images[0].truth == 0, toy_picture(0)[1] > 0)
    with pytest.raises(UsageError, match="holds the value 1, which is of no class"):
        load_images(data(toy_pictures, values={"background": 0, "foreground": 7}), FLAT)
    with pytest.raises(UsageError, match="no label shows the class 'foreground'"):
        load_images(data(toy_pictures, values={"background": 0, "foreground": 7}, ignore=1), FLAT)
    with pytest.raises(
        UsageError, match=r"data\.values names a, b, and the classes are background, foreground"
    ):
        load_images(data(toy_pictures, values={"a": 1, "b": 0}), FLAT)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": "pictures"}, "no folder pictures of images; there: images, labels"),
        ({"leave_out": ["p9"]}, "has no image 'p9' to leave out"),
        ({"case": "^q(\\d)"}, "the name 'p0_0' has no case"),
        ({"label_suffix": "_seg"}, "no image has labels"),
        ({"layout": "objects"}, "no image has labels"),
    ],
)
def test_what_does_not_fit_is_told(toy_pictures: Path, given: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_images(data(toy_pictures, **given), FLAT)


def test_a_label_of_another_size_is_told(toy_pictures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_pictures, tmp_path / "copy")
    shutil.copy(folder / "images" / "p0_0.png", folder / "images" / "p0_1.png")
    write_labels(folder / "labels", "p0_1", np.zeros((4, 5), np.uint8))
    with pytest.raises(UsageError, match=r"p0_1.png: labels of \(4, 5\) for an image of \(48, 48\)"):
        load_images(data(folder), FLAT)


def test_folds_keep_cases_whole_and_hold_each_image_once(flat: SegmentImages) -> None:
    how = validated({"folds": 3, "validation": 0.3}, SegmentSplitConfig)
    folds = deal_folds(flat, how)
    assert sorted(name for fold in folds for name in fold) == [image.name for image in flat.images]
    assert all(len({name.split("_")[0] for name in fold}) == 1 for fold in folds)
    assert folds == deal_folds(flat, how)
    split = split_of(flat, how, folds[1], 1)
    assert proof_of(flat, split).startswith(
        "train 2 images of 1 cases; validation 2 images of 1 cases; held out 2"
    )
    with pytest.raises(UsageError, match="3 cases cannot be split into 4 folds"):
        deal_folds(flat, validated({"folds": 4}, SegmentSplitConfig))


def test_a_copy_in_another_part_is_told(toy_pictures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_pictures, tmp_path / "copy")
    for number in range(1, 6):
        name = f"p{number // 2}_{number}.png"
        shutil.copy(folder / "images" / "p0_0.png", folder / "images" / name)
    images = load_images(data(folder), FLAT)
    how = validated({"folds": 3}, SegmentSplitConfig)
    with pytest.raises(UsageError, match="has the content of"):
        split_of(images, how, deal_folds(images, how)[0], 0)


def batches(
    images: SegmentImages, augmentation: object, weights: bool = False, **given: object
) -> SegmentBatches:
    config = validated(
        {
            "name": "toy",
            "data": {"folder": "x"},
            "augmentation": augmentation.model_dump()
            if isinstance(augmentation, SegmentAugmentation)
            else augmentation,
            **given,
        },
        TrainSegmentConfig,
    )
    how = validated({"objects": "foreground"}, BorderConfig)
    maps = {image.name: border_map(image, how, FLAT) for image in images.images} if weights else {}
    return SegmentBatches(images.images, maps, config, FLAT, FLAT.window)


def test_a_batch_is_a_function_of_its_step(flat: SegmentImages) -> None:
    draw = batches(flat, {})
    inputs, targets = draw(7)
    again, labels = batches(flat, {})(7)
    assert inputs.shape == (4, 1, 32, 32)
    assert targets.shape == (4, 2, 32, 32)
    assert bool((inputs == again).all()) and bool((targets == labels).all())
    assert not bool((draw(8)[0] == inputs).all())
    assert set(np.unique(targets[:, 0])) == {0, 1}


def test_windows_that_nothing_is_done_to_are_cuts_of_the_image(flat: SegmentImages) -> None:
    inputs, targets = batches(flat, STILL, weights=True, foreground_share=0)(0)
    values = (inputs * FLAT.std[0] + FLAT.mean[0])[:, 0].numpy() * 255
    for window, target in zip(values, targets.numpy(), strict=True):
        cut = [
            (image, r, c)
            for image in flat.images
            for r in range(17)
            for c in range(17)
            if np.allclose(image.values[r : r + 32, c : c + 32, 0], window, atol=0.01)
        ]
        assert len(cut) == 1
        image, r, c = cut[0]
        assert np.array_equal(target[0], image.truth[r : r + 32, c : c + 32])
        whole = border_map(image, validated({"objects": "foreground"}, BorderConfig), FLAT)
        assert np.allclose(target[1], whole[r : r + 32, c : c + 32], atol=1e-5)


def test_image_labels_and_weights_are_deformed_alike(flat: SegmentImages) -> None:
    how = {
        **STILL.model_dump(),
        "flip": True,
        "deformed": 1,
        "elastic_px": 4,
        "rotate_degrees": 180,
        "scale": 0.2,
    }
    inputs, targets = batches(flat, how, weights=True, foreground_share=1, batch_size=16)(3)
    values = (inputs * FLAT.std[0] + FLAT.mean[0])[:, 0].numpy() * 255
    truth, weights = targets[:, 0].numpy(), targets[:, 1].numpy()
    assert set(np.unique(truth)) == {0, 1}
    assert ((values > 120) == (truth == 1)).mean() > 0.97
    assert weights[truth == 1].max() < 1  # gaps lie outside the objects, but for a pixel of interpolation
    assert weights.max() > 0.05


def test_windows_about_the_foreground_have_it_in_their_middle(flat: SegmentImages) -> None:
    _, targets = batches(flat, STILL, foreground_share=1, batch_size=12)(0)
    middle = targets[:, 0, 15:17, 15:17].numpy()
    assert (middle.max(axis=(1, 2)) == 1).all()


def test_ignored_pixels_stay_ignored(flat: SegmentImages, toy_picture: Draw) -> None:
    image = flat.images[0]
    image.truth[:, :20] = IGNORED
    try:
        _, targets = batches(SegmentImages((image,), flat.found), {}, batch_size=8)(0)
    finally:
        image.truth[:, :20] = toy_picture(0)[1][:, :20] > 0
    assert set(np.unique(targets[:, 0])) == {0, 1, IGNORED}


def test_thick_slices_are_turned_as_space_is() -> None:
    """A quarter turn between an axis of 2 mm and one of 1 mm doubles the steps along one and halves the other."""
    how = validated(
        {**STILL.model_dump(), "deformed": 1, "elastic": "none", "scale": 0, "rotate_degrees": 180},
        SegmentAugmentation,
    )
    for seed in range(5):
        places = drawn_places((6, 8), np.array([2.5, 3.5]), how, (2.0, 1.0), np.random.default_rng(seed))
        step = np.stack([places[:, 1, 0] - places[:, 0, 0], places[:, 0, 1] - places[:, 0, 0]])
        lengths = np.linalg.norm(step * [2.0, 1.0], axis=1)
        assert lengths == pytest.approx([2.0, 1.0])
        assert (step * [2.0, 1.0])[0] @ (step * [2.0, 1.0])[1] == pytest.approx(0, abs=1e-9)


def test_axes_are_mirrored_where_they_may_be() -> None:
    how = validated({**STILL.model_dump(), "flip": [False, True]}, SegmentAugmentation)
    starts = {
        tuple(
            drawn_places((4, 6), np.array([1.5, 2.5]), how, None, np.random.default_rng(k))[:, 0, 0].tolist()
        )
        for k in range(12)
    }
    assert starts == {(0.0, 0.0), (0.0, 5.0)}


def test_values_change_within_what_was_asked() -> None:
    values = np.full((1, 8, 8), 0.5, np.float32)
    assert np.array_equal(changed_values(values, STILL, np.random.default_rng(0)), values)
    how = validated({**STILL.model_dump(), "brightness": 0.1}, SegmentAugmentation)
    shifted = [float(changed_values(values, how, np.random.default_rng(k))[0, 0, 0]) for k in range(50)]
    assert min(shifted) < 0.42 < 0.58 < max(shifted)
    assert all(0.4 <= v <= 0.6 for v in shifted)


def test_slides_are_read_at_the_networks_spacing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (30, 40, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    (tmp_path / "images").mkdir()
    write_slide(
        tmp_path / "images" / "a.tif", (240, 320), lambda box: pixels[box.slices()], 0.5, tile=64, quality=95
    )
    write_labels(tmp_path / "labels", "a", (pixels[..., 0] > 127).astype(np.uint8))
    contract = FLAT.model_copy(
        update={"channels": 3, "spacing": (4.0, 4.0), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    )
    image = load_images(data(tmp_path), contract).images[0]
    assert image.full == (240, 320)
    assert image.values.shape == (30, 40, 3)
    assert (
        np.abs(image.values.astype(int) - pixels[::8, ::8]).mean() < 40
    )  # JPEG halves the colours' resolution
    assert np.array_equal(image.truth, pixels[::8, ::8, 0] > 127)
