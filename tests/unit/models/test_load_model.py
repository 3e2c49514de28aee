"""Models by name: the shipped one, torchvision's and timm's with local weights, and clear refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medvision.core.errors import UnknownNameError, UsageError, WeightsError
from medvision.models import load_model
from medvision.models.classifiers.foreign import find
from medvision.models.contract import WeightsContract
from medvision.models.weights import write_weights


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small torchvision network for three classes, without a contract."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_weights(path, find("squeezenet1_1")[0].build(3).state_dict(), {})
    return path


def test_a_torchvision_network_runs_with_local_weights(tiny: Path) -> None:
    model = load_model("squeezenet1_1", weights=tiny, classes=("a", "b", "c"), spacing_um=0.25)
    assert model.window == (224, 224)
    assert model.positive == "c"
    assert model.normalisation.mean == (0.485, 0.456, 0.406)
    with torch.inference_mode():
        scores = model(torch.zeros(2, 224, 224, 3, dtype=torch.uint8))
    assert scores.shape == (2, 3)
    chosen = load_model(
        "torchvision/squeezenet1_1",
        weights=tiny,
        classes=("a", "b", "c"),
        spacing_um=0.25,
        positive="a",
        window_px=64,
    )
    assert (chosen.positive, chosen.window) == ("a", (64, 64))


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "timm/mobilenetv3_small_050"])
def test_a_timm_network_runs_with_a_plain_state_dictionary(tmp_path: Path, name: str) -> None:
    path = tmp_path / "w.pth"
    torch.save(find(name)[0].build(2).state_dict(), path)
    model = load_model(name, weights=path, classes=["no", "yes"], spacing_um=1.0)
    with torch.inference_mode():
        assert model(torch.zeros(1, 224, 224, 3, dtype=torch.uint8)).shape == (1, 2)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_name_of_both_libraries_takes_the_weights_of_either(tmp_path: Path, library: str) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, find(f"{library}/efficientnet_b0")[0].build(2).state_dict(), {})
    model = load_model("efficientnet_b0", weights=path, classes=("a", "b"), spacing_um=0.5)
    assert model.window == (224, 224)


def test_the_contract_inside_the_file_need_not_be_repeated(tmp_path: Path) -> None:
    contract = WeightsContract(
        architecture="squeezenet1_1",
        classes=("x", "y"),
        window_px=96,
        spacing_um=0.5,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    path = tmp_path / "w.safetensors"
    write_weights(path, find("squeezenet1_1")[0].build(2).state_dict(), contract.model_dump(mode="json"))
    model = load_model("squeezenet1_1", weights=path)
    assert (model.classes, model.window, model.normalisation.std) == (("x", "y"), (96, 96), (1.0, 1.0, 1.0))
    assert "used at 1 instead of 0.5" in load_model("squeezenet1_1", weights=path, spacing_um=1.0).calibration


def test_what_is_missing_is_named_all_at_once(tiny: Path) -> None:
    with pytest.raises(UsageError, match=r"--weights FILE.*--classes.*--spacing"):
        load_model("resnet50")
    with pytest.raises(UsageError) as caught:
        load_model("squeezenet1_1", weights=tiny, classes=("a", "b", "c"))
    assert "--spacing" in str(caught.value)
    assert "--weights" not in str(caught.value)
    assert "--classes" not in str(caught.value)


def test_a_wrong_number_of_classes_is_said_plainly(tiny: Path) -> None:
    with pytest.raises(WeightsError, match="for 3 classes, but 2 are named: a, b"):
        load_model("squeezenet1_1", weights=tiny, classes=("a", "b"), spacing_um=0.5)


def test_weights_of_another_network_are_refused(tiny: Path) -> None:
    with pytest.raises(WeightsError, match="not for this network"):
        load_model("mobilenet_v3_small", weights=tiny, classes=("a", "b", "c"), spacing_um=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ("a", "b", "c"), "positive": "tumor"}, "no class 'tumor'; its classes: a, b, c"),
        ({"classes": ("a", "a", "b")}, "class names repeat"),
        ({"classes": ("a",)}, "classes"),
        ({"classes": ("a", "b", "c"), "spacing_um": -1.0}, "spacing_um"),
    ],
)
def test_impossible_arguments_are_refused(tiny: Path, arguments: dict[str, object], message: str) -> None:
    given = {"spacing_um": 0.5, "weights": tiny} | arguments
    with pytest.raises(UsageError, match=message):
        load_model("squeezenet1_1", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["camelyon-minor", "resnet-50", "hf-hub:someone/something", "hub/resnet50", ""]
)
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"shipped: camelyon-mini|known: torchvision, timm"):
        load_model(name)


def test_close_names_are_suggested() -> None:
    with pytest.raises(UnknownNameError, match=r"close to it:.*resnet50"):
        load_model("resnett50")


def test_a_wrong_contract_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, {"a": torch.ones(1)}, {"architecture": "x", "classes": ["a", "b"], "window_px": 8})
    with pytest.raises(WeightsError, match="wrong at 'spacing_um'"):
        load_model("camelyon-mini", weights=path)


def test_loading_the_default_model_imports_neither_torchvision_nor_timm() -> None:
    code = (
        "import sys; from medvision.models import load_model, list_models; list_models(); load_model(); "
        "print(sorted({'torchvision', 'timm', 'monai', 'cv2'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
