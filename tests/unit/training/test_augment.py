"""Augmentation keeps shapes, ranges and labels, and does what each part says."""

from __future__ import annotations

import pytest
import torch

from medvision.ops.stain import HED
from medvision.training import augment as changes
from medvision.training.patch_config import AugmentationConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def windows() -> torch.Tensor:
    """Eight smooth coloured windows, values 0.2 to 0.9."""
    coarse = torch.rand((8, 3, 6, 6), generator=generator(1)) * 0.7 + 0.2
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")


LABELS = torch.tensor([0, 1, 0, 1, 0, 0, 1, 1])


def test_the_whole_keeps_shape_and_range_and_repeats(windows: torch.Tensor) -> None:
    how = AugmentationConfig()
    first, labels = changes.augment(windows, LABELS, how, generator(3))
    again, labels_again = changes.augment(windows, LABELS, how, generator(3))
    assert first.shape == windows.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert torch.equal(labels, labels_again)
    assert not torch.equal(first, changes.augment(windows, LABELS, how, generator(4))[0])
    assert (first - windows).abs().mean() > 0.02


def test_orientation_moves_pixels_and_changes_none(windows: torch.Tensor) -> None:
    turned = changes.turn(windows, generator())
    assert torch.allclose(turned.flatten(1).sort(dim=1).values, windows.flatten(1).sort(dim=1).values)
    one = windows[:1].expand(200, -1, -1, -1)
    kinds = {tuple(w.flatten()[:5].tolist()) for w in changes.turn(one, generator())}
    assert len(kinds) == 8


def test_mixing_takes_the_larger_label_and_the_first_one_s_colours() -> None:
    noise = torch.rand((2, 3, 64, 64), generator=generator(2)) * 0.2
    pair = torch.stack([noise[0] + 0.7, noise[1] + 0.2])
    mixed, labels = changes.mix(pair, torch.tensor([0, 1]), 1.0, generator(1))
    assert labels.tolist() == [1, 1]
    assert not torch.equal(mixed, pair)
    assert mixed[0].mean() == pytest.approx(float(pair[0].mean()), abs=0.05)
    same, unchanged = changes.mix(pair, torch.tensor([0, 1]), 0.0, generator())
    assert torch.equal(same, pair)
    assert unchanged.tolist() == [0, 1]


def test_recolouring_moves_towards_the_other_windows(windows: torch.Tensor) -> None:
    pair = torch.stack([windows[0] * 0.5, windows[1] * 0.5 + 0.5])
    seen = torch.cat(
        [changes.recolour(pair, 1.0, generator(seed)).mean((1, 2, 3))[None] for seed in range(8)]
    )
    low, high = pair.mean((1, 2, 3)).tolist()
    assert seen[:, 0].max() > low + 0.1
    assert seen[:, 1].min() < high - 0.1
    assert torch.equal(changes.recolour(pair, 0.0, generator()), pair)


def test_matching_colours_gives_the_target_s_mean_density(windows: torch.Tensor) -> None:
    matched = changes.match_colours(windows[:4], windows[4:5])
    wanted = -torch.log(windows[4]).mean((1, 2))
    found = -torch.log(matched.clamp(1 / 255, 1)).mean((2, 3))
    assert torch.allclose(found, wanted.expand_as(found), atol=0.08)


def test_restaining_scales_and_shifts_the_amounts_of_each_stain(windows: torch.Tensor) -> None:
    how = AugmentationConfig(stain_scale=0.2, stain_shift=0.05, colour_scale=0, grey=0)
    stains = torch.tensor(HED) / torch.tensor(HED).norm(dim=1, keepdim=True)

    def amounts(images: torch.Tensor) -> torch.Tensor:
        return -torch.log(images).permute(0, 2, 3, 1) @ torch.linalg.inv(stains)

    dull = windows.clamp(0.2, 0.6)  # stained everywhere, and nowhere so faint that the change is cut off
    before, after = amounts(dull), amounts(changes.restain(dull, how, generator()))
    draws = generator()
    gain = 1 + 0.2 * (2 * torch.rand((len(dull), 1, 1, 3), generator=draws) - 1)
    shift = 0.05 * (2 * torch.rand((len(dull), 1, 1, 3), generator=draws) - 1)
    assert torch.allclose(after, before * gain + shift, atol=1e-4)
    unchanged = AugmentationConfig(stain_scale=0, stain_shift=0, colour_scale=0, grey=0)
    assert torch.allclose(changes.restain(dull, unchanged, generator()), dull, atol=1e-5)


def test_restaining_leaves_bare_glass_bare() -> None:
    glass = torch.ones((4, 3, 8, 8))
    stained = changes.restain(glass, AugmentationConfig(), generator())
    assert stained.min() > 0.97


def test_grey_windows_have_one_density(windows: torch.Tensor) -> None:
    grey = changes.restain(windows, AugmentationConfig(grey=1.0), generator())
    density = -torch.log(grey)
    ratio = density[:, 0] / density[:, 1]
    assert torch.allclose(ratio, ratio.mean((1, 2), keepdim=True).expand_as(ratio), rtol=1e-3)


def test_blank_windows_get_the_first_class(windows: torch.Tensor) -> None:
    glass, labels = changes.blank(windows, LABELS, 1.0, generator())
    assert labels.tolist() == [0] * 8
    assert glass.std(dim=(2, 3)).max() < 1e-6
    assert glass.min() > 0.7


def test_blurring_smooths_and_keeps_the_mean(windows: torch.Tensor) -> None:
    sharp = (torch.rand(windows.shape, generator=generator()) > 0.5).float()
    smooth = changes.blur(sharp, 1.0, 1.5, generator())
    assert smooth.std() < sharp.std()
    assert smooth.mean() == pytest.approx(float(sharp.mean()), abs=0.01)
    assert torch.equal(changes.blur(sharp, 0.0, 1.5, generator()), sharp)


def test_compression_changes_little_and_keeps_channels_apart(windows: torch.Tensor) -> None:
    compressed = changes.jpeg(windows, 1.0, generator())
    assert 0 < (compressed - windows).abs().mean() < 0.05
    red = torch.zeros((1, 3, 32, 32))
    red[:, 0] = 0.8
    assert (changes.jpeg(red, 1.0, generator()) - red).abs().max() < 0.05


def test_zoom_keeps_a_flat_window_flat_and_some_windows_as_they_are(windows: torch.Tensor) -> None:
    flat = torch.full((6, 3, 32, 32), 0.4)
    assert torch.allclose(changes.zoom(flat, 0.3, generator()), flat, atol=1e-4)
    many = windows[:1].expand(60, -1, -1, -1)
    same = (changes.zoom(many, 0.3, generator()) == many).flatten(1).all(dim=1).float().mean()
    assert 0.15 < same < 0.55
