"""Stain unmixing is invertible, jitter is seeded, normalisation agrees with the published method."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from medvision.core.errors import UsageError
from medvision.ops.stain import (
    HED,
    combine,
    density,
    fit_macenko,
    jitter_hed,
    normalise_macenko,
    normalise_reinhard,
    separate,
)

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def noise(shape: tuple[int, ...], seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def two_stain_image(seed: int = 0) -> Pixels:
    """Haematoxylin and eosin only, in random amounts, with the rows of `HED`."""
    rng = np.random.default_rng(seed)
    amounts = np.zeros((64, 64, 3), dtype=np.float32)
    amounts[..., 0] = rng.gamma(2.0, 0.25, (64, 64))
    amounts[..., 1] = rng.gamma(2.0, 0.25, (64, 64))
    return combine(amounts)


def read(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


def test_density_by_hand() -> None:
    pixels = np.array([[[255, 127, 0]]], dtype=np.uint8)
    assert density(pixels)[0, 0] == pytest.approx([0, np.log(2), np.log(256)], rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3))))
def test_combine_inverts_separate(pixels: Pixels) -> None:
    assert (combine(separate(pixels)) == pixels).all()


def test_pure_eosin_is_eosin() -> None:
    amounts = np.array([[[0.0, 0.8, 0.0]]], dtype=np.float32)
    assert separate(combine(amounts))[0, 0] == pytest.approx([0, 0.8, 0], abs=0.02)


def test_jitter_of_no_strength_changes_nothing() -> None:
    images = noise((3, 8, 9, 3))
    assert (jitter_hed(images, np.random.default_rng(1), 0.0) == images).all()


def test_jitter_repeats_with_its_seed_and_differs_between_images() -> None:
    images = np.repeat(two_stain_image()[None], 2, axis=0)
    first = jitter_hed(images, np.random.default_rng(5), 0.1)
    assert (first == jitter_hed(images, np.random.default_rng(5), 0.1)).all()
    assert (first[0] != first[1]).any()
    assert (jitter_hed(images[0], np.random.default_rng(5), 0.1)).shape == images[0].shape


def test_jitter_scales_and_shifts_the_amounts() -> None:
    image = two_stain_image()
    before, after = separate(image), separate(jitter_hed(image, np.random.default_rng(2), 0.1))
    dull = (image > 20).all(axis=2) & (jitter_hed(image, np.random.default_rng(2), 0.1) < 250).all(axis=2)
    rng = np.random.default_rng(2)
    factor, shift = rng.uniform(0.9, 1.1, 3), rng.uniform(-0.1, 0.1, 3)
    assert np.abs(after - (before * factor + shift))[dull].max() < 0.08
    assert np.abs(after - (before * factor + shift))[dull].mean() < 0.01


@pytest.mark.parametrize("strength", [-0.1, 1.0])
def test_jitter_refuses_impossible_strengths(strength: float) -> None:
    with pytest.raises(UsageError, match=f"{strength:g}"):
        jitter_hed(noise((4, 4, 3)), np.random.default_rng(0), strength)


def test_macenko_finds_the_stains_that_made_the_image() -> None:
    fit = fit_macenko(two_stain_image(), white=255, least_density=0.02)
    unit = HED[:2] / np.linalg.norm(HED[:2], axis=1, keepdims=True)
    assert (fit.stains * unit).sum(axis=1) == pytest.approx([1, 1], abs=0.01)  # cosine of the angle between


def test_macenko_onto_itself_keeps_a_two_stain_image() -> None:
    image = two_stain_image()
    again = normalise_macenko(image, fit_macenko(image, white=255))
    assert np.abs(again.astype(int) - image).mean() < 1


def test_macenko_needs_stain() -> None:
    with pytest.raises(UsageError, match="0 stained pixels"):
        fit_macenko(np.full((20, 20, 3), 255, dtype=np.uint8))


def test_macenko_matches_the_published_figure(shared: Path) -> None:
    folder = shared / "histology" / "stain_norm" / "data"
    figure = read(folder / "result.png")
    panel = figure[58:226, 351:575]  # "Normalized", of four panels
    ours = normalise_macenko(read(folder / "source.png"), fit_macenko(read(folder / "target.png")))
    small = cv2.resize(ours, panel.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - panel).mean() < 2.5


def test_reinhard_takes_over_mean_and_spread(shared: Path) -> None:
    folder = shared / "histology" / "stain_norm" / "data"
    source, target = read(folder / "source.png"), read(folder / "target.png")
    lab = [
        cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB).reshape(-1, 3)
        for image in (normalise_reinhard(source, target), target)
    ]
    assert lab[0].mean(axis=0) == pytest.approx(lab[1].mean(axis=0), abs=1.5)
    assert lab[0].std(axis=0) == pytest.approx(lab[1].std(axis=0), rel=0.1)


def test_reinhard_leaves_what_the_mask_leaves_out() -> None:
    image, mask = two_stain_image(1), np.zeros((64, 64), dtype=bool)
    assert (normalise_reinhard(image, two_stain_image(2), mask) == image).all()
    mask[:32] = True
    changed = normalise_reinhard(image, noise((64, 64, 3)), mask)
    assert (changed[32:] == image[32:]).all()
    assert (changed[:32] != image[:32]).any()


def test_other_pixels_are_refused() -> None:
    with pytest.raises(UsageError, match="float64"):
        separate(np.zeros((3, 3, 3)))  # type: ignore[arg-type]
