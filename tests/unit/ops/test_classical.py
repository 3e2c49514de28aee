"""Thresholds, clusters, superpixels and GrabCut on pictures whose parts are known, and against the libraries' own."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import filters

from medvision.core.errors import UsageError
from medvision.ops.clustering import cut_by_colour, kmeans, slic, slic_kmeans
from medvision.ops.colours import colours, in_order, lightness
from medvision.ops.grab_cut import grab_cut
from medvision.ops.thresholds import darkness, fit_threshold, otsu, threshold
from medvision.ops.watershed import nuclei

TRUTH = np.zeros((48, 64), np.uint8)
TRUTH[12:36, 8:28] = 1
TRUTH[12:36, 38:56] = 2
COLOURS = np.array([[235, 225, 235], [90, 60, 150], [215, 130, 175]])  # glass, nucleus, stroma


def picture(noise: float = 8.0, seed: int = 0) -> np.ndarray:
    drawn = COLOURS[TRUTH] + np.random.default_rng(seed).normal(0, noise, (*TRUTH.shape, 3))
    return drawn.clip(0, 255).astype(np.uint8)


def test_otsu_is_that_of_scikit_image() -> None:
    image = picture()[..., :1]
    level = filters.threshold_otsu(image[..., 0])
    np.testing.assert_array_equal(otsu(image), image[..., 0] <= level)
    np.testing.assert_array_equal(otsu(image, background="dark"), image[..., 0] > level)


def test_several_bands_are_numbered_from_the_dark_one() -> None:
    found = otsu(picture(3.0), classes=3)
    assert (found != TRUTH).mean() < 0.01


def test_an_image_of_one_colour_is_background() -> None:
    flat = np.full((8, 9, 3), 120, np.uint8)
    assert not otsu(flat).any()
    assert not kmeans(flat).any()
    assert not nuclei(flat).any()


@pytest.mark.parametrize("method", [kmeans, slic_kmeans])
def test_colours_are_grouped_whatever_the_seed(method) -> None:  # type: ignore[no-untyped-def]
    for seed in (0, 1):
        found = method(picture(), 3, seed=seed)
        assert found.dtype == np.uint8
        assert (found != TRUTH).mean() < 0.03
    np.testing.assert_array_equal(method(picture(), 3), method(picture(), 3))


def test_superpixels_are_connected_numbered_and_keep_to_edges() -> None:
    found = slic(picture(), 60)
    assert found.dtype == np.int32 and found.min() == 1
    assert 20 < found.max() <= 90
    for number in range(1, found.max() + 1):
        assert ndimage.label(found == number)[1] == 1
    counts = np.zeros((found.max() + 1, 3))
    np.add.at(counts, (found, TRUTH), 1)
    assert counts.max(1).sum() / TRUTH.size > 0.97  # nearly each in one part


def test_a_cut_mends_a_rough_start_and_keeps_the_numbers() -> None:
    image = picture(35.0)
    start = kmeans(image, 3)
    found = cut_by_colour(image, start)
    assert (start != TRUTH).mean() > 0.03
    assert (found != TRUTH).mean() < 0.01


def test_planes_of_a_volume_are_taken_together() -> None:
    volume = np.stack([picture(seed=k) for k in range(3)])
    for found in (
        otsu(volume, classes=3, smooth=1.0),
        kmeans(volume, 3),
        slic_kmeans(volume, 3, superpixels=300),
    ):
        assert found.shape == (3, *TRUTH.shape)
    assert (kmeans(volume, 3) != TRUTH).mean() < 0.03
    assert cut_by_colour(volume, kmeans(volume, 3)).shape == (3, *TRUTH.shape)


def test_grab_cut_finds_what_is_in_the_box() -> None:
    image = picture()
    found = grab_cut(image, box=(9, 5, 39, 31))
    assert found.dtype == np.uint8
    assert (found != (TRUTH == 1)).mean() < 0.01
    np.testing.assert_array_equal(found, grab_cut(image, box=(9, 5, 39, 31)))


def test_grab_cut_decides_a_band_around_a_guess() -> None:
    image = picture()
    guess = np.roll(TRUTH == 1, (2, -2), (0, 1))
    found = grab_cut(image, start=guess, margin=5)
    assert (found != (TRUTH == 1)).mean() < 0.01 < (guess != (TRUTH == 1)).mean()


def test_a_fitted_threshold_is_the_best_of_all_levels() -> None:
    image, truth = picture(40.0), TRUTH > 0
    level, dice = fit_threshold([image, image[:20]], [truth, truth[:20]], smooth=0.5)
    both = [(lightness(image, 0.5), truth), (lightness(image[:20], 0.5), truth[:20])]
    light = np.concatenate([part.ravel() for part, _ in both])
    wanted = np.concatenate([part.ravel() for _, part in both])

    def score(at: float) -> float:
        return 2 * ((light <= at) & wanted).sum() / ((light <= at).sum() + wanted.sum())

    assert dice == pytest.approx(score(level))
    assert dice >= max(score(at) for at in np.linspace(light.min(), light.max(), 50)) - 1e-3
    np.testing.assert_array_equal(threshold(image, level, smooth=0.5), lightness(image, 0.5) <= level)
    bright, again = fit_threshold([image], [~truth], foreground="bright")
    assert again == pytest.approx(
        2
        * ((lightness(image) >= bright) & ~truth).sum()
        / ((lightness(image) >= bright).sum() + (~truth).sum())
    )


def test_darkness_is_a_map_of_probabilities() -> None:
    grey = np.array([[[0], [255]], [[51], [102]]], np.uint8)
    np.testing.assert_allclose(darkness(grey)[..., 1], [[1, 0], [0.8, 0.6]], atol=1e-6)
    np.testing.assert_allclose(darkness(grey).sum(-1), 1)


def test_nuclei_are_counted_dark_and_bright() -> None:
    grid = np.indices((60, 80))
    image = np.full((60, 80), 30.0)
    middles = [(15, 15), (15, 29), (40, 20), (40, 60)]
    for middle in middles:
        image[((grid - np.array(middle)[:, None, None]) ** 2).sum(0) <= 64] = 180
    image[5, 70] = 255  # a speck
    noisy = (
        (image + np.random.default_rng(0).normal(0, 5, image.shape)).clip(0, 255).astype(np.uint8)[..., None]
    )
    for shown in (noisy, 255 - noisy):
        found = nuclei(shown)
        assert found.max() == 4
        assert len({int(found[middle]) for middle in middles} - {0}) == 4


def test_colours_are_lab_for_rgb_and_stretched_otherwise() -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    np.testing.assert_allclose(colours(white)[0, 0], [100, 0, 0], atol=0.01)
    np.testing.assert_allclose(lightness(white), 100, atol=0.01)
    hounsfield = np.array([[[-1000], [0]], [[500], [1000]]], np.int16)
    np.testing.assert_allclose(lightness(hounsfield), [[0, 50], [75, 100]])
    assert in_order(np.array([[3, 3], [3, 1]]), np.array([[9, 9], [9, 1.0]]), "dark").tolist() == [
        [1, 1],
        [1, 0],
    ]


def test_wrong_parameters_are_named() -> None:
    image = picture()
    for call, words in (
        (lambda: otsu(image, classes=9), "9 classes"),
        (lambda: otsu(image[..., 0][..., 0]), "channels"),
        (lambda: otsu(image.astype(float) * np.nan), "NaN"),
        (lambda: kmeans(image, 1), "1 classes"),
        (lambda: slic(image, 0), "0 superpixels"),
        (lambda: grab_cut(image), "give one of them"),
        (lambda: grab_cut(image, box=(0, 0, 99, 5)), "lies not in an image of 48 x 64"),
        (lambda: grab_cut(image, box=(0, 0, 48, 64)), "likely background"),
        (lambda: grab_cut(image, start=np.zeros((48, 64))), "likely foreground"),
        (lambda: grab_cut(image.astype(float), box=(0, 0, 9, 9)), "uint8"),
        (lambda: fit_threshold([], []), "0 images"),
        (lambda: fit_threshold([image], [TRUTH * 0]), "no mask holds foreground"),
        (lambda: cut_by_colour(image, TRUTH[:4]), "do not fit"),
        (lambda: in_order(TRUTH, TRUTH * 1.0, "blue"), "frame, dark or bright"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match=words):
            call()
