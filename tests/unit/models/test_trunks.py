"""Trunks: vectors of the right length from every kind of name, and errors that say what to pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision

from medvision.core.errors import UsageError, WeightsError
from medvision.models import load_model
from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD
from medvision.models.trunks import (
    INCEPTION_BLOCKS,
    TrunkContract,
    TrunkSpec,
    _Blocks,
    _build,
    dimension_of,
    load_trunk,
    read_contract,
)


def pixels(side: int, count: int = 2) -> torch.Tensor:
    return torch.randint(
        0, 255, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64, depth=2)
    torch.save(net.state_dict(), folder / "toy.pth")
    (folder / "toy.yaml").write_text(
        "architecture: vit_tiny_patch16_224\nwindow_px: 64\nspacing_um: 0.5\nmean: [0.5, 0.5, 0.5]\n"
        "std: [0.5, 0.5, 0.5]\noptions: {img_size: 64, depth: 2}\n"
    )
    return folder


def test_the_shipped_models_features_are_those_before_its_head() -> None:
    trunk, classifier = load_trunk(TrunkSpec()), load_model()
    batch = pixels(128)
    with torch.inference_mode():
        found = trunk(batch)
        expected = classifier.net.features(classifier.prepare(batch))  # type: ignore[operator]
    assert isinstance(found, torch.Tensor)
    assert found.shape == (2, dimension_of(trunk)) == (2, 192)
    torch.testing.assert_close(found, expected)
    assert (trunk.window, trunk.spacing) == (classifier.window, classifier.spacing)
    assert trunk.digest != classifier.digest


def test_a_torchvision_network_loses_its_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None, num_classes=3).eval()
    torch.save(net.state_dict(), tmp_path / "r.pth")
    trunk = load_trunk(TrunkSpec("resnet18", tmp_path / "r.pth", 64, 0.5))
    with torch.inference_mode():
        found = trunk(pixels(64))
        assert isinstance(found, torch.Tensor)
        assert found.shape == (2, 512)
        torch.testing.assert_close(net.fc(found), net(trunk.prepare(pixels(64))))


def test_a_contract_file_says_everything(vit: Path) -> None:
    trunk = load_trunk(TrunkSpec(str(vit / "toy.yaml")))
    assert (trunk.name, trunk.window, dimension_of(trunk)) == ("toy", (64, 64), 192)
    assert trunk.spacing is not None
    assert trunk.spacing.mean == 0.5
    net = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64, depth=2).eval()
    net.load_state_dict(torch.load(vit / "toy.pth", weights_only=True))
    with torch.inference_mode():
        found = trunk(pixels(64))
        expected = net.forward_head(net.forward_features(trunk.prepare(pixels(64))), pre_logits=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("pooling", "dimension"), [("class token", 192), ("patch mean", 192), ("class token and patch mean", 384)]
)
def test_tokens_are_pooled_as_the_contract_says(vit: Path, pooling: str, dimension: int) -> None:
    file = vit / f"{pooling.replace(' ', '-')}.yaml"
    file.write_text((vit / "toy.yaml").read_text() + f"pooling: {pooling}\nweights: toy.pth\n")
    trunk = load_trunk(TrunkSpec(str(file)))
    assert dimension_of(trunk) == dimension
    with torch.inference_mode():
        tokens = trunk.net.net.forward_features(trunk.prepare(pixels(64)))  # type: ignore[operator,union-attr]
        found = trunk(pixels(64))
    parts = {"class token": [tokens[:, 0]], "patch mean": [tokens[:, 1:].mean(dim=1)]}
    parts["class token and patch mean"] = [*parts["class token"], *parts["patch mean"]]
    torch.testing.assert_close(found, torch.cat(parts[pooling], dim=1))


def test_the_last_blocks_of_inception_give_5376_features() -> None:
    contract = TrunkContract(
        architecture="inception_v3", window_px=96, spacing_um=0.42, blocks=INCEPTION_BLOCKS
    )
    net, _ = _build(contract)
    with torch.inference_mode():
        found = _Blocks(net, contract.blocks).eval()(torch.randn(1, 3, 96, 96))
    assert found.shape == (1, 1280 + 2048 + 2048)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_torchvisions_inceptions_see_what_their_published_weights_saw(name: str, tmp_path: Path) -> None:
    """torchvision sets `transform_input` where it loads them: ImageNet's normalisation in, -1..1 to the first layer."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None, init_weights=False, transform_input=True).eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    trunk = load_trunk(TrunkSpec(name, tmp_path / "w.pth", 96, 0.5))
    imagenet = (
        pixels(96).permute(0, 3, 1, 2) / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    ) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    net.fc = torch.nn.Identity()
    with torch.inference_mode():
        torch.testing.assert_close(trunk(pixels(96)), net(imagenet), atol=1e-4, rtol=1e-4)


def test_a_network_of_timm_has_the_normalisation_that_timm_says(tmp_path: Path) -> None:
    name = "timm/vit_tiny_patch16_224"
    net = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    assert load_trunk(TrunkSpec(name, tmp_path / "w.pth", 224, 0.5)).normalisation.mean == (0.5,) * 3
    given = TrunkSpec(name, tmp_path / "w.pth", 224, 0.5, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert load_trunk(given).normalisation.mean == IMAGENET_MEAN
    file = tmp_path / "w.yaml"
    file.write_text("architecture: vit_tiny_patch16_224\nwindow_px: 224\nspacing_um: 0.5\n")
    with pytest.raises(UsageError, match=r"w\.yaml: mean and std are missing, and cannot be guessed"):
        load_trunk(TrunkSpec(str(file)))


def test_pooled_blocks_are_means_of_their_maps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None).eval()
    torch.save(net.state_dict(), tmp_path / "r.pth")
    trunk = load_trunk(TrunkSpec("resnet18", tmp_path / "r.pth", 64, 0.5, blocks=("layer3", "layer4")))
    with torch.inference_mode():
        x = trunk.prepare(pixels(64))
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        third = net.layer3(net.layer2(net.layer1(x)))
        expected = torch.cat([third.mean(dim=(2, 3)), net.layer4(third).mean(dim=(2, 3))], dim=1)
        torch.testing.assert_close(trunk(pixels(64)), expected)


def test_one_changed_weight_or_fact_changes_the_digest(vit: Path) -> None:
    first = load_trunk(TrunkSpec(str(vit / "toy.yaml"))).digest
    moved = vit / "moved.yaml"
    moved.write_text((vit / "toy.yaml").read_text().replace("0.5\nmean", "0.25\nmean") + "weights: toy.pth\n")
    assert load_trunk(TrunkSpec(str(moved))).digest != first
    state = torch.load(vit / "toy.pth", weights_only=True)
    state["cls_token"] = state["cls_token"] + 1e-3
    torch.save(state, vit / "changed.pth")
    assert load_trunk(TrunkSpec(str(vit / "toy.yaml"), vit / "changed.pth")).digest != first


def test_what_is_missing_is_named(vit: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--weights.*--spacing"):
        load_trunk(TrunkSpec("resnet18"))
    lone = tmp_path / "lone.yaml"
    lone.write_text((vit / "toy.yaml").read_text())
    with pytest.raises(WeightsError, match=r"lone\.safetensors"):
        read_contract(lone)
    wrong = vit / "wrong.yaml"
    wrong.write_text((vit / "toy.yaml").read_text() + "pooling: largest\nspacng: 2\n")
    with pytest.raises(UsageError, match=r"pooling.*spacng"):
        read_contract(wrong)


def test_unfit_networks_and_blocks_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_0(weights=None).state_dict(), tmp_path / "s.pth")
    with pytest.raises(UsageError, match="linear layer"):
        load_trunk(TrunkSpec("squeezenet1_0", tmp_path / "s.pth", 64, 0.5))
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r.pth")
    with pytest.raises(UsageError, match=r"'layer9'; its parts: .*layer4"):
        load_trunk(TrunkSpec("resnet18", tmp_path / "r.pth", 64, 0.5, blocks=("layer9",)))
    with pytest.raises(WeightsError, match="not for this network"):
        load_trunk(TrunkSpec("resnet18", tmp_path / "s.pth", 64, 0.5))
