"""The classical methods and clean-up steps by name: each one runs, chains, and says what it cannot take."""

import numpy as np
import pytest

from medvision.core.errors import UnknownNameError, UsageError
from medvision.core.labels import Segmentation
from medvision.pipelines.segment_classical import CLASSICAL, OtsuOptions, segment
from medvision.pipelines.segment_clean_up import CLEAN_UPS, clean_up
from medvision.pipelines.segment_methods import choose, read_choice

SHAPES = {2: (32, 40), 3: (6, 20, 24)}


def picture(axes: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright box in a dark field, uint8 with one channel."""
    truth = np.zeros(SHAPES[axes], bool)
    truth[tuple(slice(n // 4, -(n // 4)) for n in truth.shape)] = True
    noise = np.random.default_rng(0).normal(0, 10, truth.shape)
    return (np.where(truth, 180, 60) + noise).clip(0, 255).astype(np.uint8)[..., None], truth


@pytest.mark.parametrize("name", list(CLASSICAL))
def test_every_method_finds_the_box(name: str) -> None:
    method = CLASSICAL[name]
    for axes in method.axes:
        image, truth = picture(axes)
        choice = choose(CLASSICAL, name, {"foreground": "bright"} if name == "threshold" else None)
        found = segment(image, choice)
        assert found.labels.shape == truth.shape
        assert found.labels.dtype in (np.uint8, np.int32)
        assert found.objects == method.objects
        assert ((found.labels > 0) != truth).mean() < 0.08
        np.testing.assert_array_equal(found.labels, segment(image, choice).labels)
    assert method.summary and method.paper


@pytest.mark.parametrize("name", list(CLEAN_UPS))
def test_every_step_mends_or_keeps_the_box(name: str) -> None:
    for axes in CLEAN_UPS[name].axes:
        image, truth = picture(axes)
        rng = np.random.default_rng(1)
        rough = truth ^ (rng.random(truth.shape) < 0.05)
        found = clean_up(image, Segmentation(rough.astype(np.uint8)), [choose(CLEAN_UPS, name)])
        assert found.labels.shape == truth.shape
        if name in ("dense-crf", "pairwise-crf", "graph-cut"):
            assert ((found.labels > 0) != truth).mean() < 0.01 < (rough != truth).mean()
        if name in ("dense-crf", "pairwise-crf"):
            assert found.probabilities is not None
            np.testing.assert_array_equal(found.probabilities.argmax(-1), found.labels)
        else:
            assert found.probabilities is None
        assert found.objects == (name == "watershed-split")


def test_steps_chain_in_the_order_given() -> None:
    image, truth = picture(2)
    start = truth.copy()
    start[2:4, 2:4] = True  # a speck
    start[14:16, 14:16] = False  # a hole
    steps = [
        read_choice(CLEAN_UPS, text) for text in ("fill-holes", "drop-small:least=10", "watershed-split")
    ]
    found = clean_up(image, Segmentation(start.astype(np.uint8)), steps)
    np.testing.assert_array_equal(found.labels, truth)
    assert found.objects and found.labels.dtype == np.int32
    with pytest.raises(UsageError, match="dense-crf goes by classes, and objects"):
        clean_up(image, found, [choose(CLEAN_UPS, "dense-crf")])
    smaller = clean_up(image, found, [choose(CLEAN_UPS, "drop-small", {"least": 10_000})])
    assert not smaller.labels.any()


def test_probabilities_are_used_where_they_are_known() -> None:
    image, truth = picture(2)
    unsure = np.where(truth, 0.45, 0.2)  # no pixel is foreground by itself
    beliefs = np.stack([1 - unsure, unsure], -1).astype(np.float32)
    step = read_choice(CLEAN_UPS, "dense-crf:appearance_weight=0,smoothness_weight=0")
    found = clean_up(image, Segmentation.of(beliefs), [step])
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, beliefs, atol=1e-5)


def test_a_choice_is_read_from_a_line() -> None:
    choice = read_choice(CLASSICAL, "otsu:classes=3,background=dark")
    assert choice.options == OtsuOptions(classes=3, background="dark")
    assert choice.fields() == {"method": "otsu", "classes": 3, "smooth": 1.0, "background": "dark"}
    assert read_choice(CLASSICAL, "grabcut:box=1/2/30/40").fields()["box"] == [1, 2, 30, 40]
    assert choose(CLASSICAL, "otsu", OtsuOptions()).options == OtsuOptions()


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("watershed", UnknownNameError, "known: threshold, otsu, otsu-watershed, kmeans"),
        ("otsu:bands=3", UsageError, r"otsu \(options: classes, smooth, background\): bands: no such field"),
        ("otsu:classes=1", UsageError, "greater than or equal to 2"),
        ("otsu:classes", UsageError, "OPTION=VALUE"),
        ("otsu:classes=2,classes=3", UsageError, "once each"),
        ("grabcut:box=1/2", UsageError, "box"),
        ("grabcut:box=a/b/c/d", UsageError, "box"),
    ],
)
def test_a_wrong_line_is_named(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_choice(CLASSICAL, text)


def test_wrong_images_and_options_are_named() -> None:
    image, _ = picture(3)
    with pytest.raises(UsageError, match=r"grabcut takes images \(\*2 axes, channels\)"):
        segment(image, choose(CLASSICAL, "grabcut"))
    with pytest.raises(UsageError, match="do not fit an image"):
        clean_up(image, Segmentation(np.zeros((4, 4), np.uint8)), [])
    with pytest.raises(UsageError, match="kmeans takes options of type KmeansOptions, not OtsuOptions"):
        choose(CLASSICAL, "kmeans", OtsuOptions())
