"""Grad-CAM: the published definition, on networks of every kind, run by the engine; what it cannot do is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import rois
from medvision.engine.sinks import StackSink
from medvision.models.classifiers.start import build
from medvision.models.explain import GradCam, gradcam_model, last_map
from medvision.sources.array_source import ArraySource


class Pooled(nn.Module):
    """Convolutions, global average pooling, one linear layer: the network of class activation maps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU()
        )
        self.head = nn.Linear(5, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.head(self.trunk(images).mean(dim=(2, 3)))
        return pooled


class InPlace(Pooled):
    """The same, whose next step writes into the feature map."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu_(self.trunk(images).sub_(0.05))
        pooled: torch.Tensor = self.head(maps.mean(dim=(2, 3)))
        return pooled


class Branches(nn.Module):
    """A branch that ends in a map, and one that passes beside it: only their sum holds all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.right = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.stem(images))
        joined = torch.cat([self.left(maps), self.right(maps)], dim=1)
        found: torch.Tensor = self.head(joined.mean(dim=(2, 3)))
        return found


@pytest.mark.parametrize("index", range(3))
def test_with_average_pooling_and_one_layer_it_is_the_class_activation_map(index: int) -> None:
    net, images = Pooled().eval(), torch.rand(4, 3, 21, 21)
    last = last_map(net, 21)
    assert last.module == "trunk" and last.shape == (5, 9, 9)
    found = GradCam(net, last, index)(images)
    with torch.no_grad():
        maps = net.trunk(images)
        expected = torch.relu(torch.einsum("nkij,k->nij", maps, net.head.weight[index])) / 81
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_it_is_the_published_formula_on_a_deeper_head() -> None:
    """Finite differences in place of gradients: nothing of the implementation is shared."""
    torch.manual_seed(5)
    net = (
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 7), nn.Tanh(), nn.Linear(7, 2)
        )
        .double()
        .eval()
    )
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    last = last_map(net, 8)
    assert last.module == "1"
    with torch.no_grad():
        maps = net[:2](image)
        slopes = torch.zeros_like(maps)
        for place in np.ndindex(*maps.shape):
            step = torch.zeros_like(maps)
            step[place] = 1e-5
            slopes[place] = (net[2:](maps + step) - net[2:](maps - step))[0, 1] / 2e-5
        expected = torch.relu((slopes.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1))
    torch.testing.assert_close(GradCam(net, last, 1)(image), expected, rtol=1e-6, atol=1e-10)


def test_it_runs_in_inference_mode_and_leaves_the_network_as_it_was() -> None:
    net, images = InPlace().eval(), torch.rand(2, 3, 21, 21)
    with torch.no_grad():
        before = net(images)
    with torch.inference_mode():
        found = GradCam(net, last_map(net, 21), 0)(images.clone())
        assert not torch.is_grad_enabled() and torch.is_inference_mode_enabled()
        assert torch.equal(net(images), before)
    assert torch.is_grad_enabled() and not found.requires_grad
    assert all(weights.grad is None for weights in net.parameters())
    assert not net.trunk._forward_hooks and not net.trunk[0]._forward_hooks


def test_the_engine_gives_the_maps_of_many_windows() -> None:
    net = Pooled().eval()
    model = PatchModel(
        name="pooled",
        net=net,
        window=(21, 21),
        spacing=None,
        normalisation=Normalisation((0.0,) * 3, (1.0,) * 3),
        output="vector",
        classes=(),
        digest="0",
        activation=lambda raw: raw,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (21 * 5, 21, 3), np.uint8)
    source = ArraySource(pixels)
    plan = rois(source.id, (21 * 5, 21), [Box.at((21 * k, 0), (21, 21)) for k in range(5)])
    last = last_map(net, 21)
    engine = PatchEngine(EngineSettings(device="cpu", batch_size=2, readers=1, backend="eager"))
    found, _ = engine.run(source, plan, gradcam_model(model, last, 2), StackSink(plan))
    images = torch.from_numpy(pixels.reshape(5, 21, 21, 3)).permute(0, 3, 1, 2).float() / 255
    np.testing.assert_allclose(found, GradCam(net, last, 2)(images).numpy(), rtol=1e-4, atol=1e-7)
    again = StackSink(plan)
    sink = StackSink(plan)
    sink.restore({"stack": found})
    again.restore(sink.state())
    np.testing.assert_array_equal(again.finish(), found)


@pytest.mark.parametrize(
    ("name", "side", "module"),
    [
        ("slim-resnet", 64, "stages"),
        ("resnet18", 64, "layer4"),
        ("timm/resnet10t", 64, "layer4"),
        ("densenet121", 64, "features"),
        ("vgg11", 64, "avgpool"),
        ("inception_v3", 139, "Mixed_7c"),
    ],
)
def test_the_last_map_of_known_networks(name: str, side: int, module: str) -> None:
    net = build(name, 3).eval()
    last = last_map(net, side)
    assert last.module == module
    found = GradCam(net, last, 1)(torch.rand(1, 3, side, side))
    assert found.shape == (1, *last.shape[1:]) and torch.isfinite(found).all()


def test_a_branch_is_not_the_last_map() -> None:
    assert last_map(Branches().eval(), 16).module == "stem"


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224"])
def test_transformers_are_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(UsageError, match=r"no last feature map.*--saliency occlusion"):
        last_map(build(name, 2).eval(), 224)
