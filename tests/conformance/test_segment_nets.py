"""Every segmentation network keeps its contract."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from medvision.core.errors import UsageError, WeightsError
from medvision.models.architectures import ARCHITECTURES
from medvision.models.segmentation import (
    SegmentContract,
    SegmentModel,
    SegmentOptions,
    build_segment_net,
    list_segment_nets,
    load_trunk,
    read_segment_model,
    slim_segment_contract,
    usual_segment_contract,
    write_segment_model,
)
from medvision.models.segmentation.backbones import VGG, AlexNet, GoogLeNet, ResNet
from medvision.models.segmentation.designs import SEGMENTERS
from medvision.models.segmentation.trunk import TrunkNet
from medvision.models.weights import write_weights

NAMES = list_segment_nets()
VOLUMES = {  # windows and options by which a volume takes little time
    "fc-densenet56": ((32, 32, 32), {"width": 0.1}),
    "fc-densenet67": ((32, 32, 32), {"width": 0.1}),
    "fc-densenet103": ((32, 32, 32), {"width": 0.1}),
    "nnunet": ((16, 32, 16), {"width": 0.125, "depth": 3}),
    "nnunet-residual": ((16, 32, 16), {"width": 0.125, "depth": 3}),
    "unet": ((16, 32, 16), {"width": 0.05, "depth": 2}),
    "unet-original": ((44, 48, 44), {"width": 0.05, "depth": 2}),
    "vnet": ((16, 32, 16), {"width": 0.125}),
}


@cache
def network(name: str) -> nn.Module:
    """A slim one, with zeros that a training would leave drawn at random. Tests leave it as it is."""
    torch.manual_seed(5)
    net = build_segment_net(slim_segment_contract(name))
    for weights in net.parameters():
        if weights.ndim > 1 and not weights.any():
            nn.init.normal_(weights, std=0.1)
    return net.eval()


def windows(name: str, count: int = 2) -> torch.Tensor:
    contract = slim_segment_contract(name)
    return torch.rand(
        (count, contract.channels, *contract.window), generator=torch.Generator().manual_seed(7)
    )


def meta(name: str, **changes: Any) -> nn.Module:
    """The whole network, without memory for its weights."""
    with torch.device("meta"):
        return build_segment_net(usual_segment_contract(name, **changes))


def learnt(net: nn.Module) -> int:
    return sum(weights.numel() for weights in net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_as_many_parameters_as_the_list_says(name: str) -> None:
    entry, contract = ARCHITECTURES[name], usual_segment_contract(name)
    assert learnt(meta(name)) == entry.parameters
    assert entry.paper and entry.licence and entry.family and entry.usual == contract
    assert set(SEGMENTERS[name].reads) <= set(SegmentOptions.model_fields)


@pytest.mark.parametrize(
    ("name", "changes", "published", "apart"),
    [
        ("unet-original", {}, 31_030_658, 0),  # of 1 channel and 2 classes; counted from the paper's figure 1
        ("fcn32s-alexnet", {"classes": 21}, 57e6, 0.5e6),  # Long et al., CVPR 2015, table 1
        ("fcn32s-vgg16", {"classes": 21}, 134e6, 0.5e6),
        ("fcn32s-googlenet", {"classes": 21}, 6e6, 0.5e6),
        ("deeplab-v1-largefov", {"classes": 21}, 20.5e6, 0.05e6),  # Chen et al., ICLR 2015, table 2
        ("deeplab-v1", {"classes": 21}, 134.3e6, 0.1e6),
        ("fc-densenet56", {"classes": 11}, 1.5e6, 0.15e6),  # Jégou et al., table 3
        ("fc-densenet67", {"classes": 11}, 3.5e6, 0.05e6),
        ("fc-densenet103", {"classes": 11}, 9.4e6, 0.1e6),
    ],
)
def test_as_many_parameters_as_published(
    name: str, changes: dict[str, int], published: float, apart: float
) -> None:
    said = {"classes": tuple(f"class {n}" for n in range(changes["classes"]))} if changes else {}
    assert abs(learnt(meta(name, **said)) - published) <= apart


def shapes(net: nn.Module, under: str = "") -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in net.get_submodule(under).state_dict().items()}


def test_tensors_are_those_of_the_libraries_where_the_networks_are() -> None:
    import torchvision
    from monai.networks import nets

    with torch.device("meta"):
        theirs = nets.VNet(spatial_dims=3, in_channels=1, out_channels=2, act="prelu")
        filters = [32, 64, 128, 256, 320, 320]
        dynamic = nets.DynUNet(3, 1, 2, [3] * 6, [1, 2, 2, 2, 2, 2], [2] * 5, filters)
        trunks = {
            "alexnet": AlexNet(3, 1.0),
            "googlenet": GoogLeNet(3, 1.0),
            "resnet18": ResNet("resnet18", 3, 1.0),
            "resnet50": ResNet("resnet50", 3, 1.0, stride=8, grid=(1, 2, 4)),
            "vgg11": VGG(11, 3, 1.0),
            "vgg16": VGG(16, 3, 1.0, stride=8),
            "vgg16_bn": VGG(16, 3, 1.0, norm="batch"),
        }
        for name, trunk in trunks.items():
            more = {"init_weights": False} if name == "googlenet" else {}
            library = shapes(getattr(torchvision.models, name)(**more))
            head = ("fc.", "classifier.", "aux")
            assert shapes(trunk) == {k: v for k, v in library.items() if not k.startswith(head)}
    assert shapes(meta("vnet")) == shapes(theirs)
    options = {"depth": 5, "deep_supervision": False}
    ours = meta("nnunet", window=(64, 64, 64), options=options)
    assert learnt(ours) == learnt(dynamic)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    net = deepcopy(network(name)).train()
    count = 3  # two values, normalised, are 1 and -1 whatever they were
    torch.manual_seed(2)
    found = net(windows(name, count))
    outputs = (found,) if isinstance(found, torch.Tensor) else found
    shape = (count, 2, *_answered(name))
    assert outputs[0].shape == shape
    assert all(each.shape[:2] == shape[:2] for each in outputs)
    torch.stack([(each * torch.rand_like(each)).sum() for each in outputs]).sum().backward()
    without = [
        key for key, weights in net.named_parameters() if weights.grad is None or not weights.grad.any()
    ]
    assert without == []
    assert all(bool(weights.grad.isfinite().all()) for weights in net.parameters())


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of sizes; the answers say whether it matters
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_the_same_again_in_any_batch_and_traced(name: str) -> None:
    net, some = network(name), windows(name)
    with torch.inference_mode():
        together = net(some)
        assert torch.equal(together, net(some))
        alone = torch.cat([net(window[None]) for window in some])
    with torch.no_grad():
        traced = torch.jit.trace(net, windows(name, 1), check_trace=False)
        again = traced(some)
    assert together.shape == (2, 2, *_answered(name))
    assert together.std() > 0
    close = {"rtol": 1e-4, "atol": 1e-4 * float(together.abs().max())}
    torch.testing.assert_close(alone, together, **close)
    torch.testing.assert_close(again, together, **close)


def _answered(name: str) -> tuple[int, ...]:
    """Sides of the answer: the window, or of the original U-Net so much less."""
    window = slim_segment_contract(name).window
    return tuple(side - 184 for side in window) if name == "unet-original" else window


def test_volumes_are_listed_for_every_network_that_takes_them() -> None:
    assert set(VOLUMES) == {name for name in NAMES if 3 in SEGMENTERS[name].axes}


@pytest.mark.parametrize("name", VOLUMES)
def test_a_volume_is_answered_for(name: str) -> None:
    window, options = VOLUMES[name]
    net = build_segment_net(slim_segment_contract(name, window=window, options=options)).eval()
    lost = 40 if name == "unet-original" else 0
    with torch.inference_mode():
        assert net(torch.zeros((1, 1 if lost or "dense" not in name else 3, *window))).shape == (
            1,
            2,
            *(side - lost for side in window),
        )


@pytest.mark.parametrize("name", NAMES)
def test_other_channels_and_classes(name: str) -> None:
    said = {"channels": 2, "mean": (0.5,) * 2, "std": (0.25,) * 2, "classes": ("a", "b", "c", "d", "e")}
    with torch.device("meta"):
        net = build_segment_net(slim_segment_contract(name, **said)).eval()
        window = slim_segment_contract(name).window
        assert net(torch.zeros((1, 2, *window))).shape == (1, 5, *_answered(name))


def test_the_original_gives_388_of_572_pixels() -> None:
    with torch.device("meta"):
        net = build_segment_net(usual_segment_contract("unet-original")).eval()
        assert net(torch.zeros((1, 1, 572, 572))).shape == (1, 2, 388, 388)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_original_takes_the_least_window_that_is_allowed(depth: int) -> None:
    design = SEGMENTERS["unet-original"]
    options = {"width": 0.05, "depth": depth}
    contract = slim_segment_contract(
        "unet-original", window=(572 if depth == 4 else 220,) * 2, options=options
    )
    lost, step = design.lost(contract), design.multiple(contract)
    least = slim_segment_contract("unet-original", window=(lost + step, lost + 2 * step), options=options)
    net = build_segment_net(least).eval()
    out = net(torch.zeros((1, 1, *least.window))).shape[2:]
    assert 0 < out[0] <= step
    with pytest.raises(UsageError, match=f"side of {lost}; the nearest are {lost + step} "):
        slim_segment_contract("unet-original", window=(lost, lost), options=options)
    with pytest.raises(RuntimeError):  # and with less there is nothing left
        net(torch.zeros((1, 1, lost, lost)))


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


def test_the_original_unpools_the_middle_of_what_was_pooled() -> None:
    options = {"width": 0.05, "depth": 2, "upsampling": "max-unpooling", "dropout": 0.0}
    net = build_segment_net(slim_segment_contract("unet-original", window=(60, 68), options=options)).eval()
    assert net(torch.rand((1, 1, 60, 68))).shape == (1, 2, 20, 28)


@pytest.mark.parametrize("name", ["nnunet", "fc-densenet56", "ternausnet", "sharpmask", "unet-resnet34"])
def test_ways_to_enlarge_that_a_network_does_not_have_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="upsampling is one of"):
        build_segment_net(slim_segment_contract(name, options={"upsampling": "max-unpooling"}))


def test_fcn_begins_as_interpolation_of_scores() -> None:
    net = build_segment_net(slim_segment_contract("fcn16s-vgg16")).eval()
    scores = torch.rand((1, 2, 5, 5))
    found = net.grow[0](scores)
    expected = functional.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])
    assert not net(torch.rand((1, 3, 64, 64))).any()  # scores begin at zero
    assert "taps" not in dict(net.named_parameters())  # the last step stays as it is


@pytest.mark.parametrize("trunk", ["alexnet", "googlenet", "vgg16"])
def test_fcn_looks_where_it_answers(trunk: str) -> None:
    """What a place of the coarsest maps sees is centred on its cell, up to a fraction of the cell."""
    net = {
        "vgg16": lambda: VGG(16, 1, 0.05),
        "alexnet": lambda: AlexNet(1, 0.1),
        "googlenet": lambda: GoogLeNet(1, 0.1),
    }
    maps = net[trunk]().double().eval()
    for weights in maps.parameters():
        nn.init.constant_(weights, 1e-2)
    for part in maps.modules():
        if isinstance(part, nn.MaxPool2d):
            part.__class__ = _MeanPool  # so that every pixel that is seen has its gradient
    window = torch.ones((1, 1, 768, 768), dtype=torch.float64, requires_grad=True)
    last = maps(window)[-1]
    last = last[1] if isinstance(last, tuple) else last
    last[0, :, 12, 12].sum().backward()
    rows = window.grad[0, 0].sum(1)
    centre = float((rows * torch.arange(768)).sum() / rows.sum())
    assert abs(centre - (12 * 32 + 15.5)) < 6


class _MeanPool(nn.MaxPool2d):
    """The mean of what a max-pooling takes the largest of."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(
            maps, self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode
        )


def test_sharpmask_is_trained_in_two_stages() -> None:
    whole, coarse, fine = (
        build_segment_net(slim_segment_contract("sharpmask", options=options))
        for options in ({}, {"coarse": True}, {"frozen_trunk": True})
    )
    assert shapes(whole) == shapes(coarse) == shapes(fine)
    some = windows("sharpmask")
    refined, first = whole(some)
    alone = coarse(some)
    assert isinstance(alone, torch.Tensor) and alone.shape == refined.shape == first.shape
    alone.sum().backward()
    assert {key.partition(".")[0] for key, p in coarse.named_parameters() if p.grad is not None} == {"trunk"}
    fine(some)[0].sum().backward()
    assert not any(key.startswith("trunk") for key, p in fine.named_parameters() if p.grad is not None)


def test_a_frozen_trunk_stays_as_it_is_in_training() -> None:
    net = build_segment_net(slim_segment_contract("deeplab-v3", options={"frozen_trunk": True})).train()
    before = {key: value.clone() for key, value in net.trunk.state_dict().items()}
    net(windows("deeplab-v3")).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in net.trunk.state_dict().items())
    assert {p.requires_grad for p in net.trunk.parameters()} == {False}
    assert net.aspp.training and not net.trunk.training


def test_weights_of_a_classifier_start_a_trunk(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(1)
    classifier = torchvision.models.mobilenet_v2()
    torch.save(classifier.state_dict(), tmp_path / "mobilenet.pth")
    grey = {"channels": 1, "mean": (0.5,), "std": (0.25,)}
    colour_net = build_segment_net(slim_segment_contract("linknet")).eval()
    grey_net = build_segment_net(slim_segment_contract("linknet", **grey)).eval()
    assert len({load_trunk(net, tmp_path / "mobilenet.pth") for net in (colour_net, grey_net)}) == 1
    some = torch.rand((1, 1, 64, 64))
    with torch.inference_mode():
        expected = classifier.eval().features(some.expand(-1, 3, -1, -1))
        torch.testing.assert_close(colour_net.trunk(some.expand(-1, 3, -1, -1))[-1], expected)
        torch.testing.assert_close(grey_net.trunk(some)[-1], expected)


@pytest.mark.parametrize("name", ["sharpmask", "deeplab-v3-cascaded"])
def test_weights_of_a_residual_classifier_start_its_stages(name: str, tmp_path: Path) -> None:
    net = build_segment_net(slim_segment_contract(name))
    torch.manual_seed(1)
    whole = ResNet("resnet50", 3, slim_segment_contract(name).options.width)
    write_weights(tmp_path / "r.safetensors", {**whole.state_dict(), "fc.weight": torch.zeros((9, 4))}, {})
    load_trunk(net, tmp_path / "r.safetensors")
    taken = net.classifier().state_dict()
    assert "layer3.0.conv1.weight" in taken
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in taken.items())


def test_dense_layers_of_a_classifier_become_convolutions(tmp_path: Path) -> None:
    contract = slim_segment_contract("fcn32s-vgg16")
    net = build_segment_net(contract).eval()
    torch.manual_seed(1)
    trunk = VGG(16, 3, contract.options.width).eval()
    state = dict(trunk.state_dict())
    first, second = nn.Linear(64 * 49, 512), nn.Linear(512, 512)
    for name, part in (
        ("classifier.0", first),
        ("classifier.3", second),
        ("classifier.6", nn.Linear(512, 9)),
    ):
        state |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    torch.save(state, tmp_path / "vgg.pt")
    load_trunk(net, tmp_path / "vgg.pt")
    some = torch.rand((1, 3, 224, 224))
    with torch.inference_mode():
        maps = trunk(some)[-1][1]
        expected = functional.relu(second(functional.relu(first(maps.flatten(1)))))
        found = functional.relu(net.trunk.fc7(functional.relu(net.trunk.fc6(maps))))
    torch.testing.assert_close(found[:, :, 0, 0], expected)


def test_weights_that_no_trunk_takes_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros((8, 3, 3, 3))}, tmp_path / "part.pt")
    with pytest.raises(UsageError, match="no trunk"):
        load_trunk(network("unet"), tmp_path / "part.pt")
    net = build_segment_net(slim_segment_contract("ternausnet"))
    with pytest.raises(WeightsError, match=r"part.pt: these weights are not for this network; \d+ of its"):
        load_trunk(net, tmp_path / "part.pt")
    two = {"channels": 2, "mean": (0.5,) * 2, "std": (0.25,) * 2}
    with pytest.raises(WeightsError, match="for windows of 3 channels, and this network is for 2"):
        load_trunk(build_segment_net(slim_segment_contract("ternausnet", **two)), tmp_path / "part.pt")


@pytest.mark.parametrize(
    ("name", "trunk", "said"),
    [
        ("fpn", "resnet43", "no encoder 'resnet43'; close to it or common: resnet"),
        ("fpn", "mit_b0", "for research and evaluation only"),
        ("deeplab-v3", "resnet18", "cannot spread their taps"),
        ("sharpmask", "vgg", "no trunk is called 'vgg' here; known: resnet18"),
    ],
)
def test_trunks_that_are_not_there_are_refused(name: str, trunk: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build_segment_net(slim_segment_contract(name, options={"trunk": trunk}))


def test_trunks_are_those_networks_whose_reads_say_so() -> None:
    for name in NAMES:
        assert isinstance(network(name), TrunkNet) == ("frozen_trunk" in SEGMENTERS[name].reads)


def test_options_that_are_not_possible_are_refused() -> None:
    with pytest.raises(UsageError, match="output_stride"):
        usual_segment_contract("deeplab-v3", options={"output_stride": 4})
    with pytest.raises(UsageError, match="width"):
        usual_segment_contract("unet", options={"width": 0})
    assert isinstance(usual_segment_contract("deeplab-v3", options={"output_stride": 8}), SegmentContract)


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
