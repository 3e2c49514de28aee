"""Copies in a labelled set are found, look-alikes and blank images are not called copies."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from medvision.core.errors import UsageError
from medvision.ops.perceptual import BITS, LEAST_CONTRAST, near_pairs, perceptual_hash
from medvision.training.images import ImageArrays, LabelledImages
from medvision.training.images_config import ImagesConfig
from medvision.training.images_duplicates import settle_duplicates
from medvision.training.images_load import load_images
from medvision.training.images_proof import check_groups
from medvision.training.images_read import read_class_folders

NEAR = ImagesConfig.model_fields["near_bits"].default


def photograph(seed: int, side: int = 64) -> np.ndarray:
    """A smooth random scene `(side, side, 3)`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def altered(image: np.ndarray, how: str) -> np.ndarray:
    if how == "resized":
        return cv2.resize(image, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    if how == "recompressed":
        coded = cv2.imencode(".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
        return cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
    return np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8)


def as_set(images: list[np.ndarray], splits: list[str], labels: list[int] | None = None) -> LabelledImages:
    n = len(images)
    return LabelledImages(
        ImageArrays(tuple(image[None] for image in images), np.stack([np.arange(n), np.zeros(n, int)], axis=1)),
        tuple(f"i{k}" for k in range(n)), np.array(labels or [0] * n), ("a", "b"), tuple(f"g{k}" for k in range(n)),
        "hand", tuple(splits), {},
    )  # fmt: skip


def test_pairs_are_all_pairs_within_the_distance():
    hashes = np.random.default_rng(0).random((60, 24)) < 0.5
    expected = {
        (i, j): int((hashes[i] != hashes[j]).sum())
        for i in range(60)
        for j in range(i + 1, 60)
        if (hashes[i] != hashes[j]).sum() <= 8
    }
    assert {(i, j): d for i, j, d in near_pairs(hashes, 8)} == expected and expected


@pytest.mark.parametrize("how", ["resized", "recompressed", "brighter"])
def test_a_changed_copy_is_near(how):
    for seed in range(20):
        image = photograph(seed)
        first, contrast = perceptual_hash(image)
        assert first.shape == (BITS,) and contrast > LEAST_CONTRAST
        assert (first != perceptual_hash(altered(image, how))[0]).sum() <= NEAR
        assert (first != perceptual_hash(photograph(seed + 100))[0]).sum() > NEAR


def test_copies_across_splits_are_refused_dropped_or_kept():
    a, b, c, d = (photograph(seed) for seed in range(4))
    copy = altered(b, "brighter")
    images = as_set(
        [a, b, c, a, copy, d, d, c],
        ["train", "train", "train", "validation", "test", "train", "train", "test"],
        [0, 1, 0, 0, 0, 1, 1, 1],
    )
    with pytest.raises(
        UsageError,
        match=r"4 images have an exact copy in another split and 2 a near one: .*i0 \(train, a\) = i3",
    ):
        settle_duplicates(images, NEAR, "refuse")
    kept, report = settle_duplicates(images, NEAR, "keep")
    assert len(kept) == 8 and not report.dropped
    counts = {key: (copies.images, copies.other_class) for key, copies in report.found.items()}
    assert counts == {
        "exact within": (2, 0),
        "exact across": (4, 2),
        "near within": (0, 0),
        "near across": (2, 2),
    }
    assert any(
        "i1 (train, b) ~" in one and "i4 (test, a)" in one for one in report.found["near across"].examples
    )
    left, report = settle_duplicates(images, NEAR, "drop")
    assert left.names == ("i3", "i4", "i5", "i6", "i7")
    assert report.dropped == {"train": 3} and "images left out: 3 of train" in report.lines()[-1]
    settle_duplicates(left, NEAR, "refuse")
    check_groups(left)


def test_validation_gives_way_to_test():
    a = photograph(0)
    left, report = settle_duplicates(
        as_set([a, a, photograph(1)], ["validation", "test", "train"]), NEAR, "drop"
    )
    assert left.names == ("i1", "i2") and report.dropped == {"validation": 1}


def test_blank_images_are_no_copies_of_each_other():
    rng = np.random.default_rng(0)
    blank = [np.full((40, 40), 7, np.uint8), np.full((40, 40), 7, np.uint8)]
    noisy = [np.clip(rng.normal(200, 1, (64, 64)), 0, 255).astype(np.uint8) for _ in range(4)]
    images = as_set([*blank, *noisy], ["train", "test"] * 3)
    kept, report = settle_duplicates(images, NEAR, "refuse")
    assert len(kept) == 6 and report.flat == 6
    assert all(copies.images == 0 for copies in report.found.values())


def test_many_equal_images_cost_no_more_than_few():
    a = photograph(0, 16)
    images = as_set([a] * 3000 + [photograph(1, 16)], ["train"] * 3001)
    _, report = settle_duplicates(images, NEAR, "refuse")
    assert report.found["exact within"].images == 3000
    assert len(report.found["exact within"].examples) == 5


def test_planted_copies_of_real_photographs_are_found_and_no_others(shared):
    whole = read_class_folders(shared / "vision" / "cifar10_subset")
    real = [whole.read(i) for i in range(0, len(whole), 7)]
    planted = [
        altered(real[i], how)
        for i, how in zip(range(60), ["resized", "recompressed", "brighter"] * 20, strict=True)
    ]
    images = as_set([*real, *planted], ["train"] * len(real) + ["test"] * 60)
    _, report = settle_duplicates(images, NEAR, "keep")
    assert report.found["near within"].images == report.found["exact within"].images == 0
    assert report.found["near across"].images + report.found["exact across"].images == 120
    left, _ = settle_duplicates(images, NEAR, "drop")
    assert len(left) == len(real)


def test_the_look_alikes_of_real_chest_x_rays(shared):
    """28-pixel X-rays: the published split has equal images on two sides, and few that are only alike."""
    path = shared / "classification" / "pneumoniamnist" / "data" / "pneumoniamnist.npz"
    content = {"npz": path, "classes": ["normal", "pneumonia"], "group": "image"}
    with pytest.raises(UsageError, match=r"18 images have an exact copy in another split and 0 a near one"):
        load_images(ImagesConfig.model_validate(content))
    images, proof = load_images(ImagesConfig.model_validate({**content, "duplicates": "drop"}))
    assert proof.duplicates.dropped == {"train": 10} and len(images) == 5020
    assert proof.duplicates.found["near within"].images == 2
    assert proof.splits["test"].classes == {"normal": 234, "pneumonia": 390}
    assert not proof.groups_known
