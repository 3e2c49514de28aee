"""Every nodule network keeps its contract: form, gradients, the same answer again, whatever shares the batch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medvision.core.errors import UnknownNameError, UsageError, WeightsError
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import around, grid
from medvision.engine.sinks import ObjectSink, TableSink
from medvision.models.architectures import ARCHITECTURES
from medvision.models.nodules import (
    NoduleDetector,
    NoduleModel,
    Target,
    build_nodule_net,
    list_nodule_nets,
    read_nodule_model,
    usual_contract,
    write_nodule_model,
)
from medvision.models.nodules.detector import TemperedBoxes
from medvision.models.nodules.faster_rcnn_vgg import DeconvolvedVgg
from medvision.models.nodules.model import Contract
from medvision.models.nodules.reduction import CentreCrop
from medvision.models.turns import CUBE_TURNS, turn_cube, with_turns
from medvision.models.weights import read_weights, write_weights
from medvision.sources.array_source import ArraySource

DETECTORS, REDUCTIONS = list_nodule_nets("nodule-detector"), list_nodule_nets("nodule-fpr")
SMALL: dict[str, dict[str, Any]] = {
    "faster": {"window": (3, 64, 64), "options": {"hidden": 16, "proposals": 20, "width": 0.125, "most": 6}},
    "retina": {"window": (16, 48, 48), "options": {"width": 0.125, "most": 6}},
    "nodule": {"window": (12, 20, 20), "crop": (8, 16, 16), "options": {"width": 0.125, "hidden": (16, 8)}},
}
"""Small enough for a test, by the first part of a network's name."""


def contract(name: str, **changes: Any) -> Contract:
    """Small, and of a detector with every box that scores anything: one that has learnt nothing is certain of none."""
    small = SMALL[name[:6]]
    free = {"score_threshold": 0.0} if name in DETECTORS else {}
    return usual_contract(name, hu=(0.0, 255.0), **{**small, **changes, "options": small["options"] | free})


@cache
def network(name: str) -> nn.Module:
    """One for all tests that do not change it."""
    torch.manual_seed(0)
    return build_nodule_net(contract(name)).eval()


def noise(name: str, count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand((count, 1, *contract(name).window), generator=torch.Generator().manual_seed(seed))


def targets(name: str) -> list[Target]:
    """A nodule in the first window, none in the second."""
    middle = [side / 2 for side in contract(name).window]
    one = torch.tensor([[[middle[0] - 1.5, 10.0, 14.0], [middle[0] + 1.5, 20.0, 24.0]]])
    return [
        {"boxes": one, "labels": torch.zeros(1, dtype=torch.int64)},
        {"boxes": torch.zeros((0, 2, 3)), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_gives_boxes_within_the_window(name: str) -> None:
    with torch.inference_mode():
        outputs = network(name)(noise(name))
    assert [sorted(found) for found in outputs] == [["boxes", "labels", "scores"]] * 2
    for found in outputs:
        count = len(found["scores"])
        assert 0 < count <= 6
        assert found["boxes"].shape == (count, 2, 3) and found["boxes"].dtype == torch.float32
        assert found["labels"].tolist() == [0] * count
        assert found["scores"].min() > 0 and found["scores"].max() <= 1
        assert torch.equal(found["scores"], found["scores"].sort(descending=True).values)
        assert (found["boxes"][:, 0] >= 0).all()
        assert (found["boxes"][:, 1] <= torch.tensor(contract(name).window)).all()
        assert (found["boxes"][:, 0] < found["boxes"][:, 1]).all()
        if name.startswith("faster"):
            assert (found["boxes"][:, :, 0] == torch.tensor([1.0, 2.0])).all()


@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_depend_on_nothing_beside_the_window(name: str) -> None:
    net, windows = network(name), noise(name)
    with torch.inference_mode():
        together, again = net(windows), net(windows)
        alone = [net(window[None])[0] for window in windows]
    for parts in zip(together, again, alone, strict=True):
        for key in ("boxes", "scores"):
            assert torch.equal(parts[0][key], parts[1][key])
            assert torch.equal(parts[0][key], parts[2][key])


@pytest.mark.parametrize("name", DETECTORS)
def test_air_holds_nothing_and_what_is_no_number_is_refused(name: str) -> None:
    net, windows = network(name), noise(name)
    windows[1] = 0.25
    with torch.inference_mode():
        first, second = net(windows)
        assert len(first["scores"]) > 0
        assert second["boxes"].shape == (0, 2, 3) and second["scores"].shape == (0,)
        windows[0, 0, 0, 0, 0] = torch.nan
        with pytest.raises(ValueError, match="not finite"):
            net(windows)
        with pytest.raises(ValueError, match="targets"):
            net(noise(name), targets(name))
        with pytest.raises(ValueError, match="not \\(n, 1, slices"):
            net(windows[0])


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_reach_every_weight(name: str) -> None:
    torch.manual_seed(0)
    net = build_nodule_net(contract(name)).train()
    losses = net(noise(name), targets(name))
    assert len(losses) >= 2
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite() and total > 0
    total.backward()
    gradients = {key: value.grad for key, value in net.named_parameters()}
    assert [key for key, grad in gradients.items() if grad is None] == []
    assert all(bool(grad.isfinite().all()) for grad in gradients.values() if grad is not None)
    for part in ("features.0.", "body.conv1.", "deconvolution."):
        found = [grad for key, grad in gradients.items() if part in key and grad is not None]
        assert all(float(grad.abs().sum()) > 0 for grad in found)
    with pytest.raises(ValueError, match="needs them"):
        net(noise(name))
    with pytest.raises(ValueError, match="1 targets for 2 windows"):
        net(noise(name), targets(name)[:1])


def test_a_detector_of_slices_learns_what_the_middle_slice_cuts() -> None:
    from medvision.models.nodules.slices import _flat

    boxes = torch.tensor(
        [[[0.0, 1, 2], [1.0, 5, 7]], [[0.0, 10, 20], [3.0, 12, 26]], [[1.6, 0, 0], [3.0, 2, 2]]]
    )
    found = _flat({"boxes": boxes, "labels": torch.zeros(3, dtype=torch.int64)})
    assert found["boxes"].tolist() == [[20, 10, 26, 12]]  # x0, y0, x1, y1
    assert found["labels"].tolist() == [1]


def test_a_detector_of_slices_wants_three_slices_of_some_size() -> None:
    net = network("faster-rcnn-vgg-slim")
    for shape in ((1, 1, 2, 64, 64), (1, 1, 3, 48, 64)):
        with pytest.raises(ValueError, match="3 slices"):
            net(torch.rand(shape))


def test_a_lateral_connection_adds_what_is_seen_before_the_third_pool() -> None:
    torch.manual_seed(0)
    with_it, without = DeconvolvedVgg(0.125, False, lateral=True).eval(), DeconvolvedVgg(0.125, False).eval()
    missing = without.load_state_dict(with_it.state_dict(), strict=False)
    assert missing.missing_keys == [] and all(key.startswith("lateral.") for key in missing.unexpected_keys)
    windows = torch.rand((2, 3, 32, 48))
    assert with_it.lateral is not None
    with torch.inference_mode():
        maps = with_it(windows)
        fine = with_it.features[:16](windows)
        assert fine.shape[2:] == maps.shape[2:] == (8, 12)
        deep = with_it.deconvolution(with_it.features(windows))
        torch.testing.assert_close(maps, torch.relu(deep + with_it.lateral(fine)))
        torch.testing.assert_close(without(windows), torch.relu(deep))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rate", "steps"), [("faster-rcnn-vgg-slim", 3e-3, 80), ("retinanet3d-slim", 3e-3, 40)]
)
def test_a_detector_learns_two_balls(name: str, rate: float, steps: int) -> None:
    torch.manual_seed(0)
    shape = contract(name).window
    places = torch.stack(torch.meshgrid(*(torch.arange(side) + 0.5 for side in shape), indexing="ij"))
    centres = torch.tensor([[shape[0] / 2, 16.5, 20.5], [shape[0] / 2, 28.5, 30.5]])
    balls = [((places - centre[:, None, None, None]) ** 2).sum(dim=0) < 25 for centre in centres]
    windows = 0.1 * noise(name) + 0.8 * torch.stack(balls)[:, None]
    reach = torch.tensor([5.0, 5.0, 5.0])
    truth: list[Target] = [
        {
            "boxes": torch.stack([(c - reach).clamp(min=0), torch.minimum(c + reach, torch.tensor(shape))])[
                None
            ],
            "labels": torch.zeros(1, dtype=torch.int64),
        }
        for c in centres
    ]
    net = build_nodule_net(contract(name)).train()
    optimiser = torch.optim.Adam(net.parameters(), rate)
    course = []
    for _ in range(steps):
        loss = torch.stack(list(net(windows, truth).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        course.append(float(loss.detach()))
    assert course[-1] < course[0] / 3
    for part in net.modules():  # so few steps leave the running means of normalisation behind
        if isinstance(part, (nn.BatchNorm2d, nn.BatchNorm3d)):
            part.track_running_stats = False
            part.running_mean = part.running_var = None
    with torch.inference_mode():
        outputs = net.eval()(windows)
    for found, centre in zip(outputs, centres, strict=True):
        middle = found["boxes"][0].mean(dim=0)
        assert float((middle - centre)[1:].abs().max()) < 3
        assert float(found["scores"][0]) > 0.2


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_judge_gives_the_same_probabilities_in_any_batch(name: str) -> None:
    model = NoduleModel(name, network(name), contract(name)).patch_model
    assert (model.output, model.columns, model.positive) == ("scores", ("other", "nodule"), "nodule")
    cubes = (255 * noise(name, 3)).to(torch.uint8).movedim(1, -1)
    with torch.inference_mode():
        together = np.asarray(model(cubes))
        alone = np.concatenate([np.asarray(model(cube[None])) for cube in cubes])
        assert np.array_equal(together, np.asarray(model(cubes)))
    assert together.shape == (3, 2)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_judge_sees_the_middle_of_a_cube(name: str) -> None:
    net, cubes = network(name), noise(name)
    with torch.inference_mode():
        expected = net(cubes)
        torch.testing.assert_close(net(cubes[:, :, 2:-2, 2:-2, 2:-2]), expected)
        cubes[:, :, :2] = 7
        torch.testing.assert_close(net(cubes), expected)
        cubes[:, :, 2:4] = 7
        assert not torch.allclose(net(cubes), expected)


def test_a_cube_without_such_a_middle_is_refused() -> None:
    for side in (8, 11):
        with pytest.raises(ValueError, match="no middle"):
            CentreCrop((10, 10, 10))(torch.zeros((1, 1, 10, 10, side)))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_judge_learns_a_ball_from_a_rod(name: str) -> None:
    torch.manual_seed(0)
    net = build_nodule_net(contract(name)).train()
    cubes = 0.1 * noise(name, 4)
    cubes[:2, :, 4:8, 8:12, 8:12] += 0.8  # a lump, and a vessel that goes through
    cubes[2:, :, :, 9:11, 9:11] += 0.8
    classes = torch.tensor([1, 1, 0, 0])
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for part in net.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    course = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(net(cubes), classes)
        optimiser.zero_grad()
        loss.backward()
        assert all(weight.grad is not None for weight in net.parameters())
        optimiser.step()
        course.append(float(loss.detach()))
    assert course[-1] < course[0] / 3


@pytest.mark.parametrize("name", [*DETECTORS, *REDUCTIONS])
def test_weights_come_back_as_they_were_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    said = contract(name, temperature=2.0)
    write_nodule_model(path, network(name), said)
    model = read_nodule_model(path, said.kind)
    assert model.contract == said and model.name == tmp_path.name, (
        "the folder's, as trainings name all files alike"
    )
    assert model.digest == NoduleModel("any", network(name), said).digest
    assert model.digest != NoduleModel("any", network(name), contract(name)).digest
    with torch.inference_mode():
        expected, found = network(name)(noise(name, 1)), model.net(noise(name, 1))
    if name in DETECTORS:
        expected, found = expected[0]["boxes"], found[0]["boxes"]
    assert torch.equal(expected, found)
    other = "nodule-fpr" if name in DETECTORS else "nodule-detector"
    with pytest.raises(WeightsError, match=f"not {other}"):
        read_nodule_model(path, other)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*DETECTORS, *REDUCTIONS])
def test_a_network_has_the_parameters_that_are_listed(name: str) -> None:
    with torch.device("meta"):
        net = build_nodule_net(usual_contract(name))
    entry = ARCHITECTURES[name]
    assert sum(weight.numel() for weight in net.parameters()) == entry.parameters
    assert entry.paper and entry.licence and entry.family


def shapes(net: nn.Module, under: str = "") -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in net.get_submodule(under).state_dict().items()}


def test_shapes_are_those_of_the_libraries_where_the_networks_are() -> None:
    import torchvision
    from monai.apps.detection.networks import retinanet_detector
    from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
    from monai.networks.nets import resnet
    from torchvision.models.detection import fasterrcnn_resnet50_fpn
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    with torch.device("meta"):
        ours = {name: build_nodule_net(usual_contract(name)) for name in [*DETECTORS, *REDUCTIONS]}
        vgg = torchvision.models.vgg16()
        pyramid = fasterrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=2,
            rpn_anchor_generator=AnchorGenerator(((8, 16),) * 5, ((1.0,),) * 5),
        )
        space = retinanet_detector.retinanet_resnet50_fpn_detector(
            num_classes=1,
            anchor_generator=AnchorGeneratorWithAnchorShape((1, 2, 4), ((6, 8, 4), (8, 6, 5), (10, 10, 6))),
            returned_layers=(1, 2),
            spatial_dims=3,
            n_input_channels=1,
            conv1_t_stride=(1, 2, 2),
        )
        small = {
            f"nodule-{name}": getattr(resnet, name)(spatial_dims=3, n_input_channels=1, num_classes=2)
            for name in ("resnet10", "resnet18")
        }
    assert shapes(ours["faster-rcnn-vgg16"], "net.backbone.features") == shapes(vgg, "features")
    assert shapes(ours["faster-rcnn-resnet50-fpn"], "net") == shapes(pyramid)
    assert shapes(ours["retinanet3d-resnet50"], "detector.network") == shapes(space, "network")
    for name, net in small.items():
        assert shapes(ours[name], "net") == shapes(net)


def volume(seed: int = 0) -> ArraySource:
    values = np.random.default_rng(seed).integers(0, 255, (5, 70, 90, 1), dtype=np.uint8)
    values[2, :, 60:] = 9
    return ArraySource(values, axes="zyx", fill=0)


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_the_engine_finds_boxes_slice_by_slice_whatever_the_batch(backend: str) -> None:
    name, source = "faster-rcnn-vgg-slim", volume()
    model = NoduleModel(name, network(name), contract(name)).patch_model
    plan = grid(source.id, source.levels[0].shape, model.window, (1, 48, 48))
    results = []
    for size, readers in ((1, 1), (4, 2)):
        engine = PatchEngine(
            EngineSettings(
                device="cpu", backend=backend, precision="float32", batch_size=size, readers=readers
            )
        )
        results.append(engine.run(source, plan, model, ObjectSink(plan))[0])
    for key in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(results[0], key), getattr(results[1], key))
    layers = results[0].boxes[:, :, 0]
    assert set(layers[:, 0]) == set(range(5))  # every slice, the first and the last too
    np.testing.assert_array_equal(layers[:, 1] - layers[:, 0], 1)


def test_the_engine_judges_cubes_around_points_in_all_orientations() -> None:
    name, source = "nodule-cnn3d-slim", volume()
    model = with_turns(NoduleModel(name, network(name), contract(name)).patch_model, CUBE_TURNS)
    points = np.array([[2.0, 30.0, 40.0], [0.0, 0.0, 0.0], [4.0, 69.0, 89.0]])
    plan = around(source.id, source.levels[0].shape, points, model.window)
    engine = PatchEngine(EngineSettings(device="cpu", backend="eager", precision="float32", batch_size=2))
    table, _ = engine.run(source, plan, model, TableSink(plan, model.columns))[:2]
    found = np.stack([table.columns[key] for key in ("other", "nodule")], axis=1)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert np.isfinite(table.columns["spread"]).all()


def test_the_mean_of_orientations_does_not_mind_how_a_cube_lies() -> None:
    name = "nodule-cnn3d-slim"
    plain = NoduleModel(name, network(name), contract(name)).patch_model
    model = with_turns(plain, CUBE_TURNS)
    cubes = (255 * noise(name, 2)).to(torch.uint8)
    with torch.inference_mode():
        expected = np.asarray(model(cubes.movedim(1, -1)))
        views = [np.asarray(plain(turn_cube(cubes, k).movedim(1, -1))) for k in range(CUBE_TURNS)]
        for which in (3, 9, 14):
            found = np.asarray(model(turn_cube(cubes, which).movedim(1, -1)))
            np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(expected[:, :2], np.mean(views, axis=0), atol=1e-6)
    assert model.digest not in (plain.digest, with_turns(plain, 8).digest)


def test_orientations_of_a_cube_are_sixteen_and_keep_every_voxel() -> None:
    cube = torch.arange(2 * 3 * 3).reshape(1, 2, 3, 3)
    views = {tuple(turn_cube(cube, which).flatten().tolist()) for which in range(CUBE_TURNS)}
    assert len(views) == CUBE_TURNS
    assert all(sorted(view) == list(range(18)) for view in views)
    assert torch.equal(turn_cube(cube, 8), cube.flip(-3))


def test_no_other_windows_and_numbers_are_turned() -> None:
    judge = NoduleModel("judge", network("nodule-cnn3d-slim"), contract("nodule-cnn3d-slim")).patch_model
    with pytest.raises(UsageError, match="12 orientations"):
        with_turns(judge, 12)
    name = "faster-rcnn-vgg-slim"
    with pytest.raises(UsageError, match="nothing to turn"):
        with_turns(NoduleModel(name, network(name), contract(name)).patch_model, 8)


def test_a_temperature_divides_the_log_odds_of_boxes() -> None:
    found = [
        {"boxes": torch.zeros((3, 2, 3)), "scores": torch.tensor([1.0, 0.8, 0.5]), "labels": torch.zeros(3)}
    ]
    (cooled,) = TemperedBoxes(2.0)(found)
    torch.testing.assert_close(cooled["scores"], torch.tensor([1.0, 2 / 3, 0.5]))  # odds of 4 become 2
    assert TemperedBoxes()(found) is found


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("faster-rcnn-vgg16", {"window": (3, 0, 64)}, "empty"),
        ("faster-rcnn-vgg16", {"spacing_mm": (1.0, -1.0, 1.0)}, "spacing_mm"),
        ("faster-rcnn-vgg16", {"spacing_mm": (1.0, float("inf"), 1.0)}, "spacing_mm"),
        ("faster-rcnn-vgg16", {"hu": (400, -1000)}, "HU window"),
        ("faster-rcnn-vgg16", {"options": {"anchors_px": (1, 6, 10, 16, 22, 32)}}, "anchors"),
        ("faster-rcnn-vgg16", {"options": {"hiden": 3}}, "hiden"),
        ("nodule-cnn3d", {"crop": (20, 36, 37)}, "middle"),
        ("nodule-cnn3d", {"temperature": 0}, "temperature"),
        ("nodule-cnn3d", {"classes": ("a", "b", "c")}, "classes"),
    ],
)
def test_an_impossible_contract_is_refused(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        usual_contract(name, **changes)


def test_an_unknown_network_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match=r"faster-rcnn-vgg16.*nodule-resnet18"):
        usual_contract("alexnet")


def test_weights_that_are_none_of_these_networks_are_refused(tmp_path: Path) -> None:
    name, path = "nodule-cnn3d-slim", tmp_path / "model.safetensors"
    write_nodule_model(path, network(name), contract(name))
    state, said = read_weights(path)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "kind 'unsaid'"),
        (said | {"kind": "image"}, "kind 'image'"),
        (said | {"crop": [9, 9, 9]}, "middle"),
        (said | {"architecture": "alexnet"}, "alexnet"),
        (said | {"crop": [4, 4, 4]}, "vanishes"),
        (said | {"options": said["options"] | {"width": 0.5}}, "another shape"),
    ]
    for metadata, message in wrong:
        write_weights(path, state, metadata)
        with pytest.raises(WeightsError, match=message):
            read_nodule_model(path)


def test_a_detector_is_a_detector() -> None:
    assert all(isinstance(network(name), NoduleDetector) for name in DETECTORS)
