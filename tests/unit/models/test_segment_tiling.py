"""Windows of segmentation networks: how far they look, and that tiles agree with one run over the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medvision.core.errors import UsageError
from medvision.engine.blend import BlendSink, Canvas
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.models.segmentation import (
    SegmentContract,
    SegmentModel,
    build_segment_net,
    usual_segment_contract,
)
from medvision.models.segmentation.reach import reach_of
from medvision.models.segmentation.tiling import SEAMLESS, Tiling, choose_tiling, seam_difference
from medvision.sources.array_source import ArraySource

SLIM = {"width": 1 / 16, "depth": 2}


def model_of(contract: SegmentContract) -> SegmentModel:
    """Weights at random, larger than usual, so that seams would show."""
    torch.manual_seed(1)
    net = build_segment_net(contract).eval()
    with torch.no_grad():
        for values in net.parameters():
            values.mul_(1.7)
    return SegmentModel("test", net, contract)


def tiled(model: SegmentModel, image: np.ndarray, tiling: Tiling) -> np.ndarray:
    """Probabilities `(classes, *extent)` by the engine."""
    source = ArraySource(image[..., None], axes="zyx"[-image.ndim :], fill=0)
    plan = tiling.plan(source.id, image.shape)
    canvas = Canvas.of(plan, len(model.contract.classes))
    patch = replace(model.patch_model(), window=tiling.window)
    engine = PatchEngine(EngineSettings(device="cpu", batch_size=2, readers=1))
    engine.run(source, plan, patch, BlendSink(plan, tiling.margin, tiling.blend, canvas))
    return canvas.values


def whole(model: SegmentModel, image: np.ndarray, tiling: Tiling) -> np.ndarray:
    """The same by one pass of the network over the image, mirrored as far as the network needs."""
    reach = tiling.reach
    pads = []
    for n, lost in zip(image.shape, reach.margin, strict=True):
        side = reach.least
        while side - 2 * lost < n:
            side += reach.multiple
        pads.append((lost, side - n - lost))
    wide = torch.from_numpy(np.pad(image, pads, mode="reflect")).float()
    contract = model.contract
    values = (wide / 255 - contract.mean[0]) / contract.std[0]
    with torch.inference_mode():
        found = torch.softmax(model.net(values[None, None]), dim=1)[0].numpy()
    return found[(slice(None), *(slice(0, n) for n in image.shape))]


def noise(*shape: int) -> np.ndarray:
    """An image without any structure: every pixel matters."""
    return np.random.default_rng(5).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "window", "shape"),
    [
        ("unet-original", (108, 108), (190, 203)),
        ("unet", (96, 96), (190, 203)),
        ("unet", (96, 96), (50, 190)),
        ("unet", (64, 64), (33, 30)),
    ],
)
def test_tiles_are_the_whole(name: str, window: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Up to the noise of float32, in the middle and at the borders."""
    contract = usual_segment_contract(name, window=window, options=SLIM)
    model = model_of(contract)
    tiling = choose_tiling(contract, shape)
    image = noise(*shape)
    assert tiling.exact
    assert tiling.blend == "none"
    found, expected = tiled(model, image, tiling), whole(model, image, tiling)
    assert expected[1].std() > 0.01  # the network says something
    assert np.abs(found - expected).max() < SEAMLESS
    assert seam_difference(model, model.net, tiling) < SEAMLESS


def test_volumes_are_the_whole() -> None:
    """In three axes."""
    options = {"width": 1 / 32, "depth": 1}
    contract = usual_segment_contract("unet", window=(32, 32, 32), options=options)
    model = model_of(contract)
    image = noise(40, 37, 52)
    tiling = choose_tiling(contract, image.shape)
    assert tiling.exact
    assert np.abs(tiled(model, image, tiling) - whole(model, image, tiling)).max() < SEAMLESS


def test_too_small_a_halo_shows() -> None:
    """It is called inexact, and the measured difference says so, too."""
    contract = usual_segment_contract("unet", window=(64, 64), options=SLIM)
    model = model_of(contract)
    image = noise(150, 150)
    tiling = choose_tiling(contract, image.shape, halo=4, blend="none")
    apart = np.abs(tiled(model, image, tiling) - whole(model, image, tiling)).max()
    assert not tiling.exact
    assert apart > SEAMLESS
    assert seam_difference(model, model.net, tiling) > SEAMLESS


def test_off_the_pooling_grid_is_not_the_whole() -> None:
    """Why the published tiles of 388 pixels are laid 384 apart: 388 is not a multiple of the pooling grid."""
    original = choose_tiling(usual_segment_contract("unet-original"), (2000, 2000))
    assert (original.margin, original.step, original.exact) == ((92, 92), (384, 384), True)
    contract = usual_segment_contract("unet-original", window=(220, 220), options=SLIM | {"depth": 4})
    tiling = choose_tiling(contract, (500, 500))
    assert tiling.step == (32, 32)  # of 36 that a window answers for
    net = model_of(contract).net
    wide = torch.randn((1, 1, 188, 268), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole_row = net(wide)
        on_grid, off_grid = (net(wide[..., k : k + 220]) for k in (32, 36))
    assert (on_grid - whole_row[..., 32:68]).abs().max() < SEAMLESS
    assert (off_grid - whole_row[..., 36:72]).abs().max() > SEAMLESS


@pytest.mark.parametrize(
    ("name", "changes", "influence"),
    [
        ("unet", {"depth": 1}, 8),
        ("unet", {"depth": 2}, 22),
        ("unet", {"depth": 4}, 94),
        ("unet", {"depth": 2, "upsampling": "resize-convolution"}, None),
        ("unet", {"depth": 2, "norm": "instance"}, None),
    ],
)
def test_influence(name: str, changes: dict[str, object], influence: int | None) -> None:
    """At each halving two convolutions look 2 pixels of their scale further, on the way down and on the way up."""
    reach = reach_of(usual_segment_contract(name, options=changes))
    if changes.get("norm") == "instance":
        assert reach.influence is None
    elif influence is not None:
        assert reach.influence == (influence, influence)
    else:
        assert reach.influence is not None
        assert reach.influence[0] > 22
    assert reach.margin == (0, 0)


def test_choices() -> None:
    """What is asked for is taken, and an image smaller than the window gets a window of its size."""
    contract = usual_segment_contract("unet", window=(256, 256), options={"norm": "batch"})
    assert choose_tiling(contract, (1000, 1000)).blend == "gaussian"  # 94 px on each side leave too little
    assert choose_tiling(contract, (1000, 1000), window=(768, 768)).exact
    assert choose_tiling(contract, (1000, 1000), overlap=0.25).step == (192, 192)
    small = choose_tiling(contract, (100, 250))
    assert (small.window, small.exact) == ((112, 256), True)
    with pytest.raises(UsageError, match="give one of them"):
        choose_tiling(contract, (1000, 1000), overlap=0.25, halo=3)
    with pytest.raises(UsageError, match="between 0 and below 1"):
        choose_tiling(contract, (1000, 1000), overlap=1.0)
    with pytest.raises(UsageError, match="leaves nothing"):
        choose_tiling(contract, (1000, 1000), halo=128)
    with pytest.raises(UsageError, match="the nearest are 240 and 256"):
        choose_tiling(contract, (1000, 1000), window=(250, 256))
