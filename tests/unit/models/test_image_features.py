"""Features before the last layer: the vectors from which that layer makes the logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.models.classifiers.start import build, head_of
from medvision.models.image_contract import ImageContract
from medvision.models.image_features import BeforeHead, describe
from medvision.models.image_model import ImageModel, logits_of


@pytest.mark.parametrize("name", ["slim-resnet", "resnet18", "timm/resnet10t", "densenet121"])
def test_the_last_layer_makes_the_logits_of_the_features(name: str) -> None:
    torch.manual_seed(1)
    net = build(name, 3).eval()
    contract = ImageContract(architecture=name, classes=("a", "b", "c"), input_px=64)
    model = ImageModel(name, net, contract)
    images = [np.random.default_rng(n).integers(0, 255, (50, 70 + n), np.uint8) for n in range(5)]
    engine = PatchEngine(EngineSettings(device="cpu", batch_size=2, precision="float32"))
    found = describe(model, images, engine)
    head = net.get_submodule(head_of(net)[0])
    with torch.inference_mode():
        expected = head(torch.from_numpy(found.features).float()).numpy()
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.logits, logits_of(model, images, engine), rtol=1e-4, atol=1e-4)
    assert found.features.shape[0] == 5 and np.ptp(found.features, axis=0).max() > 0


def test_maps_are_averaged_where_the_last_layer_takes_maps() -> None:
    net = build("squeezenet1_1", 4).eval()
    with torch.inference_mode():
        found = BeforeHead(net)(torch.zeros(2, 3, 64, 64))
    assert found.shape == (2, 512 + 4)
