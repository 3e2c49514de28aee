"""The layers of segmentation networks, on arrays whose answers are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from medvision.models.segmentation.layers import (
    Enlarge,
    Pooled,
    bed_of_nails,
    bilinear_taps,
    crop_to,
    doubling,
)


def identity(how: str, axes: int = 2) -> Enlarge:
    """An enlargement whose convolution passes its one map on."""
    net = Enlarge(axes, 1, 1, how)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.learnt.weight[(0, 0, *(n // 2 for n in net.learnt.weight.shape[2:]))] = 1
    return net


def test_nearest_repeats_and_a_bed_of_nails_leaves_zeros() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    repeated = [[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    nails = [[1.0, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    assert identity("nearest")(maps).tolist() == [[repeated]]
    assert bed_of_nails(maps).tolist() == identity("bed-of-nails")(maps).tolist() == [[nails]]


def test_a_resize_convolution_interpolates_between_cells() -> None:
    found = identity("resize-convolution")(torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]]))
    assert found.tolist() == [[[[0.0, 1.0, 3.0, 4.0]] * 4]]


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("side", [2, 3, 4])
def test_a_transposed_convolution_doubles_the_side(axes: int, side: int) -> None:
    net = doubling(axes, 1, 1, side, bias=False)
    maps = torch.rand((1, 1, *(3, 4, 5)[:axes]))
    found = net(maps)
    assert found.shape[2:] == tuple(2 * n for n in maps.shape[2:])
    plane = functional.conv_transpose2d if axes == 2 else functional.conv_transpose3d
    whole = plane(maps, net.weight, stride=2)  # of which the sides are what padding takes off
    first = {2: 0, 3: 1, 4: 1}[side]
    for axis in range(2, whole.ndim):
        whole = whole.narrow(axis, first, min(found.shape[axis], whole.shape[axis] - first))
        found = found.narrow(axis, 0, whole.shape[axis])
    torch.testing.assert_close(found, whole)


@pytest.mark.parametrize(("sides", "kept"), [((12, 12), (4, 4)), ((13, 18), (4, 5)), ((9, 8, 10), (2, 4, 3))])
def test_unpooling_puts_values_back_where_they_were_in_a_middle_too(
    sides: tuple[int, ...], kept: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    maps = torch.rand((2, 3, *sides))
    pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[len(sides)](2, return_indices=True)
    pooled, places = pool(maps)
    middle = crop_to(pooled, torch.empty((1, 1, *kept)))
    net = Enlarge(len(sides), 3, 3, "max-unpooling")
    found = net._unpooled(middle, Pooled(places, sides).under(middle))
    first = [2 * ((n // 2 - k) // 2) for n, k in zip(sides, kept, strict=True)]
    where = (..., *(slice(f, f + 2 * k) for f, k in zip(first, kept, strict=True)))
    largest = torch.zeros_like(maps).flatten(2).scatter(2, places.flatten(2), 1.0).reshape(maps.shape)
    torch.testing.assert_close(found, (maps * largest)[where])


def test_unpooling_without_places_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the places"):
        Enlarge(2, 1, 1, "max-unpooling")(torch.zeros((1, 1, 2, 2)))


@pytest.mark.parametrize("factor", [2, 8, 32])
def test_bilinear_taps_interpolate(factor: int) -> None:
    maps = torch.rand((1, 1, 6, 5))
    found = functional.conv_transpose2d(maps, bilinear_taps(factor), stride=factor, padding=factor // 2)
    expected = functional.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    inside = (
        ...,
        slice(factor, -factor),
        slice(factor, -factor),
    )  # beyond the outermost values there are zeros
    assert found.shape == expected.shape
    torch.testing.assert_close(found[inside], expected[inside])
