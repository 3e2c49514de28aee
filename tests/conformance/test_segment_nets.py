"""Every segmentation network keeps its contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medvision.core.errors import UsageError, WeightsError
from medvision.models.architectures import ARCHITECTURES
from medvision.models.segmentation import (
    SegmentModel,
    build_segment_net,
    list_segment_nets,
    read_segment_model,
    usual_segment_contract,
    write_segment_model,
)
from medvision.models.weights import write_weights


@pytest.mark.parametrize("name", list_segment_nets())
def test_as_many_parameters_as_the_list_says(name: str) -> None:
    with torch.device("meta"):
        net = build_segment_net(usual_segment_contract(name))
    assert sum(p.numel() for p in net.parameters()) == ARCHITECTURES[name].parameters


def test_the_original_gives_388_of_572_pixels() -> None:
    with torch.device("meta"):
        net = build_segment_net(usual_segment_contract("unet-original")).eval()
        assert net(torch.zeros((1, 1, 572, 572))).shape == (1, 2, 388, 388)


@pytest.mark.parametrize("window", [(64, 64), (32, 32, 32)])
@pytest.mark.parametrize(
    "how", ["transposed", "nearest", "bed-of-nails", "max-unpooling", "resize-convolution"]
)
def test_a_padded_u_net_answers_for_all_of_its_window(window: tuple[int, ...], how: str) -> None:
    options = {"width": 0.05, "depth": 2, "upsampling": how}
    contract = usual_segment_contract("unet", window=window, options=options)
    net = build_segment_net(contract).eval()
    assert net(torch.zeros((2, 1, *window))).shape == (2, 2, *window)
    assert SegmentModel("m", net, contract).margin == (0,) * len(window)


def test_a_window_that_does_not_fit_is_refused_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="side of 256; the nearest are 252 and 268"):
        usual_segment_contract("unet-original", window=(256, 256))


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    contract = usual_segment_contract("unet", window=(32, 32), options={"width": 0.05, "depth": 2})
    net = build_segment_net(contract).eval()
    write_segment_model(tmp_path / "model.safetensors", net, contract)
    again = read_segment_model(tmp_path)
    assert again.contract == contract
    assert again.digest == SegmentModel("m", net, contract).digest
    probabilities = again.patch_model().activation(again.net(torch.rand((1, 1, 32, 32))))
    assert isinstance(probabilities, torch.Tensor)
    torch.testing.assert_close(probabilities.sum(1), torch.ones((1, 32, 32)))


def test_other_weights_are_refused(tmp_path: Path) -> None:
    write_weights(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {"kind": "nodule-fpr"})
    with pytest.raises(WeightsError, match="of kind 'nodule-fpr', not 'segmentation'"):
        read_segment_model(tmp_path / "other.safetensors")
