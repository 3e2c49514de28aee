"""Stain unmixing is invertible, jitter is seeded, normalisation agrees with the published method."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from sklearn.decomposition import DictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning

from medvision.core.errors import UsageError
from medvision.ops.stain import (
    HED,
    Method,
    _sparse_amounts,
    combine,
    density,
    fit_macenko,
    fit_normaliser,
    fit_vahadane,
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


def plain_macenko(image: Pixels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The published method spelt out: stains as columns, amounts `(2, pixels)`, their 99th percentiles."""
    densities = -np.log((image.reshape(-1, 3).astype(float) + 1) / 240)
    stained = densities[~np.any(densities < 0.15, axis=1)]
    _, vectors = np.linalg.eigh(np.cov(stained.T))
    plane = vectors[:, 1:3]
    on_plane = stained @ plane
    angle = np.arctan2(on_plane[:, 1], on_plane[:, 0])
    ends = [
        plane @ np.array([np.cos(a), np.sin(a)]) for a in (np.percentile(angle, 1), np.percentile(angle, 99))
    ]
    stains = np.array(ends if ends[0][0] > ends[1][0] else ends[::-1]).T
    amounts = np.linalg.lstsq(stains, densities.T, rcond=None)[0]
    return stains, amounts, np.percentile(amounts, 99, axis=1)


def test_macenko_equals_the_method_spelt_out(shared: Path) -> None:
    folder = shared / "histology" / "stain_norm" / "data"
    source, target = read(folder / "source.png"), read(folder / "target.png")
    stains, _, ceiling = plain_macenko(target)
    _, amounts, own_ceiling = plain_macenko(source)
    mixed = 240 * np.exp(-stains @ (amounts * (ceiling / own_ceiling)[:, None])) - 1
    expected = np.clip(np.round(mixed), 0, 255).T.reshape(source.shape)
    difference = np.abs(fit_normaliser(target, "macenko")(source).astype(int) - expected)
    assert difference.max() <= 1


def test_vahadane_finds_the_stains_that_made_the_image() -> None:
    fit = fit_vahadane(two_stain_image(), white=255, least_density=0.02, sparsity=0.02)
    unit = HED[:2] / np.linalg.norm(HED[:2], axis=1, keepdims=True)
    assert (fit.stains * unit).sum(axis=1) == pytest.approx([1, 1], abs=0.02)
    assert np.linalg.norm(fit.stains, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert (fit.stains >= 0).all()


def test_vahadane_reaches_the_optimum_of_scikit_learn() -> None:
    image = two_stain_image(3)[:24, :24]
    densities = (density(image).reshape(-1, 3) - np.float32(np.log(256 / 240))).astype(float)
    densities = densities[(densities >= 0.15).all(axis=1)]
    learner = DictionaryLearning(
        2,
        alpha=0.1,
        fit_algorithm="cd",
        positive_dict=True,
        positive_code=True,
        random_state=0,
        max_iter=400,
        tol=1e-9,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        learner.fit(densities)

    def objective(stains: np.ndarray) -> float:
        amounts = sparse_encode(
            densities, stains, algorithm="lasso_cd", alpha=0.1, positive=True, max_iter=5000
        )
        return float(0.5 * ((densities - amounts @ stains) ** 2).sum() + 0.1 * amounts.sum())

    ours = fit_vahadane(image).stains.astype(float)
    assert objective(ours) <= objective(learner.components_) * 1.0005


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 0.5))
def test_sparse_amounts_equal_a_lasso_of_scikit_learn(seed: int, sparsity: float) -> None:
    rng = np.random.default_rng(seed)
    stains = rng.random((2, 3)) + 0.05
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    densities = rng.random((12, 3)) * 2
    ours = _sparse_amounts(densities, stains, sparsity)
    # scikit-learn takes exactly parallel atoms badly; those of two stains are apart.
    if stains[0] @ stains[1] > 0.995:
        return
    theirs = sparse_encode(
        densities, stains, algorithm="lasso_cd", alpha=sparsity, positive=True, max_iter=20_000
    )

    def objective(amounts: np.ndarray) -> np.ndarray:
        return 0.5 * ((densities - amounts @ stains) ** 2).sum(axis=1) + sparsity * amounts.sum(axis=1)

    assert (ours >= 0).all()
    assert (objective(ours) <= objective(theirs) + 1e-9).all()


@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard"])
class TestNormalisers:
    def test_a_second_time_changes_little(self, method: Method, shared: Path) -> None:
        folder = shared / "histology" / "stain_norm" / "data"
        source, target = read(folder / "source.png"), read(folder / "target.png")
        normalise = fit_normaliser(target, method)
        once = normalise(source)
        assert once.shape == source.shape
        first = np.abs(once.astype(int) - source).mean()
        assert first > 15
        # Not exactly nothing: percentiles of clipped and rounded pixels give slightly other stains.
        assert np.abs(normalise(once).astype(int) - once).mean() < 0.3 * first

    def test_the_target_stays_as_it_is(self, method: Method) -> None:
        image = two_stain_image(5)
        again = fit_normaliser(image, method)(image)
        assert np.abs(again.astype(int) - image).mean() < (1 if method == "reinhard" else 12)

    def test_white_has_no_stain(self, method: Method) -> None:
        white = np.full((30, 30, 3), 250, dtype=np.uint8)
        with pytest.raises(UsageError, match="no stain to fit"):
            fit_normaliser(white, method)
        with pytest.raises(UsageError, match="no stain to fit"):
            fit_normaliser(two_stain_image(), method)(white)

    def test_one_input_gives_one_output(self, method: Method) -> None:
        normalise = fit_normaliser(two_stain_image(1), method)
        assert (normalise(two_stain_image(2)) == normalise(two_stain_image(2))).all()


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(UsageError, match="no stain normalisation 'khan'; known: macenko, vahadane, reinhard"):
        fit_normaliser(two_stain_image(), "khan")  # type: ignore[arg-type]


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
