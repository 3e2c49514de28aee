"""Atrous convolution, and what is built of it, against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from medvision.models.segmentation.backbones import ResNet
from medvision.models.segmentation.layers import convolution


def layer(axes: int, rate: int) -> nn.Module:
    torch.manual_seed(3)
    return convolution(axes, 2, 3, 3, padding=rate, rate=rate).double()


@pytest.mark.parametrize("rate", [1, 2, 4])
def test_a_tap_is_as_far_from_the_next_as_the_rate_says(rate: int) -> None:
    net, maps = layer(2, rate), torch.rand((1, 2, 9, 8), dtype=torch.float64)
    expected = torch.zeros((1, 3, 9, 8), dtype=torch.float64)
    for after in range(3):
        for y in range(9):
            for x in range(8):
                total = net.bias[after].detach().clone()
                for before in range(2):
                    for i in range(3):
                        for j in range(3):
                            from_y, from_x = y + rate * (i - 1), x + rate * (j - 1)
                            if 0 <= from_y < 9 and 0 <= from_x < 8:
                                weight = net.weight[after, before, i, j].detach()
                                total += weight * maps[0, before, from_y, from_x]
                expected[0, after, y, x] = total
    torch.testing.assert_close(net(maps).detach(), expected)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("rate", [2, 3])
def test_it_is_a_larger_kernel_with_holes(axes: int, rate: int) -> None:
    net, maps = layer(axes, rate), torch.rand((1, 2, *(9,) * axes), dtype=torch.float64)
    holes = torch.zeros((3, 2, *(2 * rate + 1,) * axes), dtype=torch.float64)
    holes[(..., *(slice(None, None, rate),) * axes)] = net.weight.detach()
    plain = functional.conv2d if axes == 2 else functional.conv3d
    torch.testing.assert_close(net(maps).detach(), plain(maps, holes, net.bias.detach(), padding=rate))


@pytest.mark.parametrize("rate", [2, 3])
def test_it_is_a_plain_convolution_of_every_sparse_sample(rate: int) -> None:
    net, maps = layer(2, rate), torch.rand((1, 2, 12, 12), dtype=torch.float64)
    expected = torch.empty((1, 3, 12, 12), dtype=torch.float64)
    for y in range(rate):
        for x in range(rate):
            sparse = maps[:, :, y::rate, x::rate]
            expected[:, :, y::rate, x::rate] = functional.conv2d(
                sparse, net.weight.detach(), net.bias.detach(), padding=1
            )
    torch.testing.assert_close(net(maps).detach(), expected)


@pytest.mark.parametrize("stride", [16, 8])
def test_a_trunk_with_spread_taps_gives_what_it_gave_and_the_places_between(stride: int) -> None:
    torch.manual_seed(0)
    plain, spread = (ResNet("resnet50", 1, 0.0625, stride=s).double().eval() for s in (32, stride))
    spread.load_state_dict(plain.state_dict())
    windows = torch.rand((1, 1, 64, 64), dtype=torch.float64)
    with torch.inference_mode():
        coarse, fine = plain(windows)[-1], spread(windows)[-1]
    step = 32 // stride
    assert fine.shape[2:] == (64 // stride, 64 // stride)
    torch.testing.assert_close(fine[:, :, ::step, ::step], coarse)
    assert not torch.allclose(fine[:, :, 1::step, 1::step], coarse)
