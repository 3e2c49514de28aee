"""The dense CRF against its formula in plain loops, and its lattice against all pairs."""

import math

import numpy as np
import pytest
import torch

from medvision.core.errors import UsageError
from medvision.models.segmentation.crf import (
    DenseCrfSettings,
    all_pairs_filter,
    appearance_features,
    dense_crf,
    grid_filter,
)
from medvision.models.segmentation.permutohedral import PermutohedralLattice


def scene(
    shape: tuple[int, ...], channels: int, classes: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of one: a bright half with noise, and uncertain probabilities of it."""
    rng = np.random.default_rng(seed)
    image = rng.normal(80, 12, (channels, *shape))
    image[..., shape[-1] // 2 :] += 70
    logits = rng.normal(0, 1.0, (classes, *shape))
    logits[1, ..., shape[-1] // 2 :] += 1.0
    logits[0, ..., : shape[-1] // 2] += 1.0
    beliefs = torch.softmax(torch.tensor(logits, dtype=torch.float32), dim=0)
    return torch.tensor(image.clip(0, 255), dtype=torch.float32)[None], beliefs[None]


def plain_step(
    image: torch.Tensor, beliefs: torch.Tensor, s: DenseCrfSettings, spacing: tuple[float, ...]
) -> np.ndarray:
    """One update, pixel by pixel and pair by pair."""
    shape = image.shape[1:]
    places = list(np.ndindex(*shape))
    c, q = image.double().numpy(), beliefs.double().numpy()
    n = len(places)
    kernels = np.zeros((2, n, n))
    for i, p in enumerate(places):
        for j, r in enumerate(places):
            place = sum(((a - b) * step) ** 2 for a, b, step in zip(p, r, spacing, strict=True))
            colour = float(((c[(slice(None), *p)] - c[(slice(None), *r)]) ** 2).sum())
            kernels[0, i, j] = math.exp(
                -place / (2 * s.appearance_position**2) - colour / (2 * s.appearance_colour**2)
            )
            kernels[1, i, j] = math.exp(-place / (2 * s.smoothness_position**2))
    if s.normalisation == "symmetric":
        sums = kernels.sum(2)
        kernels /= np.sqrt(sums[:, :, None] * sums[:, None, :])
    after = np.zeros_like(q)
    for i, p in enumerate(places):
        for label in range(len(q)):
            told = 0.0
            for j, r in enumerate(places):
                if j != i:
                    k = s.appearance_weight * kernels[0, i, j] + s.smoothness_weight * kernels[1, i, j]
                    told += k * q[(label, *r)]
            after[(label, *p)] = q[(label, *p)] * math.exp(told)
    return after / after.sum(0)


@pytest.mark.parametrize("normalisation", ["symmetric", "none"])
@pytest.mark.parametrize(
    ("shape", "channels", "classes", "spacing"),
    [((5, 6), 3, 2, (1.0, 1.0)), ((4, 5), 1, 3, (2.0, 0.5)), ((3, 3, 4), 1, 2, (2.5, 1.0, 1.0))],
)
def test_one_exact_step_is_the_formula(
    shape: tuple[int, ...], channels: int, classes: int, spacing: tuple[float, ...], normalisation: str
) -> None:
    image, beliefs = scene(shape, channels, classes)
    weights = (2.0, 1.5) if normalisation == "symmetric" else (0.2, 0.1)
    settings = DenseCrfSettings(
        weights[0], 4.0, 40.0, weights[1], 1.5, iterations=1, filter="exact", normalisation=normalisation
    )
    found = dense_crf(image, beliefs, settings, spacing)
    expected = plain_step(image[0], beliefs[0], settings, spacing)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-5)
    assert np.abs(expected - beliefs[0].numpy()).max() > 0.02


@pytest.mark.parametrize("filter_", ["lattice", "exact"])
def test_without_weights_the_network_has_the_last_word(filter_: str) -> None:
    image, beliefs = scene((6, 8), 3, 3)
    settings = DenseCrfSettings(appearance_weight=0, smoothness_weight=0, filter=filter_)
    torch.testing.assert_close(dense_crf(image, beliefs, settings), beliefs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("shape", "channels", "position", "colour"),
    [((40, 40), 3, 40, 13), ((40, 40), 1, 20, 13), ((40, 40), 3, 10, 30), ((10, 14, 14), 1, 8, 20)],
)
def test_the_lattice_is_near_all_pairs(
    shape: tuple[int, ...], channels: int, position: float, colour: float
) -> None:
    image, beliefs = scene(shape, channels, 2)
    features = appearance_features(image[0], position, colour, (1.0,) * len(shape))
    values = beliefs[0].flatten(1).T.contiguous()
    lattice, exact = PermutohedralLattice(features), all_pairs_filter(features)
    means = [weigh(values) / weigh(torch.ones(len(values), 1)) for weigh in (lattice, exact)]
    assert (means[0] - means[1]).abs().mean() < 0.015
    assert (means[0] - means[1]).abs().max() < 0.1
    sums = [weigh(torch.ones(len(values), 1)).flatten() for weigh in (lattice, exact)]
    ratio = sums[0] / sums[1]
    assert 0.8 < ratio.mean() < 1.05 and ratio.std() < 0.06  # the published constant, not a fitted one
    assert (values - means[1]).abs().mean() > 0.1  # what the filter does is far above its error


def test_the_lattice_is_symmetric_and_knows_its_diagonal() -> None:
    image, _ = scene((6, 7), 1, 2)
    lattice = PermutohedralLattice(appearance_features(image[0], 5.0, 25.0, (1.0, 1.0)))
    matrix = lattice(torch.eye(42))
    torch.testing.assert_close(matrix, matrix.T, atol=1e-5, rtol=0)
    torch.testing.assert_close(lattice.own_weights(), matrix.diagonal(), atol=0.08, rtol=0)
    assert 0.7 < matrix.diagonal().mean() < 1.05


def test_the_two_filters_give_one_field() -> None:
    image, beliefs = scene((32, 32), 3, 3)
    settings = DenseCrfSettings(appearance_weight=4.0)
    exact = dense_crf(image, beliefs, DenseCrfSettings(appearance_weight=4.0, filter="exact"))
    found = dense_crf(image, beliefs, settings)
    assert (found.argmax(1) != exact.argmax(1)).float().mean() < 0.02
    assert (found - exact).abs().mean() < 0.02
    # and it does its work: the noise is gone, the edge of the image stays
    truth = torch.zeros(32, 32, dtype=torch.long)
    truth[:, 16:] = 1
    assert (found[0].argmax(0) != truth).float().mean() < 0.01
    assert (beliefs[0].argmax(0) != truth).float().mean() > 0.1


def test_smoothness_is_all_pairs_of_places() -> None:
    shape, spacing, width = (5, 4, 3), (2.0, 1.0, 0.5), 1.7
    values = torch.rand(60, 2, generator=torch.Generator().manual_seed(0))
    features = appearance_features(torch.zeros(1, *shape), width, 1.0, spacing)
    torch.testing.assert_close(
        grid_filter(shape, width, spacing, torch.device("cpu"))(values), all_pairs_filter(features)(values)
    )


def test_images_of_a_batch_stand_alone_and_runs_repeat() -> None:
    one, two = scene((12, 14), 3, 2, seed=1), scene((12, 14), 3, 2, seed=2)
    both = dense_crf(torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]]))
    assert torch.equal(both[:1], dense_crf(*one))
    assert torch.equal(both[1:], dense_crf(*two))
    assert both.dtype == torch.float32
    torch.testing.assert_close(both.sum(1), torch.ones(2, 12, 14))


def test_bytes_are_taken_as_numbers() -> None:
    image, beliefs = scene((10, 10), 3, 2)
    whole = image.round().to(torch.uint8)
    assert torch.equal(dense_crf(whole, beliefs), dense_crf(whole.float(), beliefs))


def test_wrong_input_is_named() -> None:
    image, beliefs = scene((6, 8), 3, 2)
    for images, given, words in (
        (image, beliefs[..., :7], "of the same n and shape"),
        (image, beliefs[:, :1], "two classes"),
        (image, beliefs * 2, "0..1"),
        (image * torch.nan, beliefs, "NaN"),
        (image[..., 0], beliefs[..., 0], "two or three axes"),
    ):
        with pytest.raises(UsageError, match=words):
            dense_crf(images, given)
    with pytest.raises(UsageError, match="spacing of 2 lengths"):
        dense_crf(image, beliefs, spacing=(1.0,))
    for wrong in (
        {"appearance_colour": 0.0},
        {"smoothness_weight": -1.0},
        {"iterations": 0},
        {"filter": "fast"},
    ):
        with pytest.raises(UsageError):
            DenseCrfSettings(**wrong)
    with pytest.raises(UsageError, match="larger standard deviations"):
        PermutohedralLattice(torch.tensor([[0.0] * 6, [1e4] * 6]))
