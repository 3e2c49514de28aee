"""`medvision models`: the list, what one says of itself, and measuring the ways to compute it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.io import imsave

from medvision.cli import run
from medvision.models import load_model, read_model
from medvision.models.weights import read_weights
from medvision.pipelines import measure
from medvision.synthetic import SlideRecipe, synthetic_patches, write_synthetic_slide
from medvision.training.difference import Ways, prepare_ways


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    """Six rendered windows, three of each class."""
    images, labels = synthetic_patches(6, seed=3)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        inner = tmp_path / "windows" / ("normal", "tumor")[int(label)]
        inner.mkdir(parents=True, exist_ok=True)
        imsave(inner / f"{number}.png", image, check_contrast=False)
    return tmp_path / "windows"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways that take no conversion, and one that cannot be had."""
    ways = [("fused", "float32"), ("fused", "bfloat16"), ("onnxruntime", "bfloat16")]

    def prepared(model: object) -> Ways:
        return prepare_ways(model, ways)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "prepare_ways", prepared)


@pytest.mark.usefixtures("quick")
def test_a_measured_copy_has_the_same_tensors_and_digest_and_a_card_that_says_so(
    windows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = SlideRecipe(seed=4, shape_px=(1024, 1024), metastases="none")
    slide = write_synthetic_slide(recipe, tmp_path / "s").slide
    out = tmp_path / "made" / "copy.safetensors"
    command = ["models", "measure", "camelyon-mini", "--windows", str(windows), "--out", str(out)]
    assert run([*command, "--slides", str(slide), str(slide)]) == 0
    said = capsys.readouterr().out
    assert "not measured: onnxruntime in bfloat16: " in said
    copy, original = read_model(weights=out), read_model()
    assert copy.model.digest == original.model.digest
    before, after = read_weights(original.path)[0], read_weights(out)[0]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    exact, rough = copy.contract.differences
    assert (exact.windows, rough.windows) == (48, 48)
    assert exact.heatmap is not None and rough.heatmap is not None and rough.heatmap_mean is not None
    assert exact.heatmap < 1e-4 < rough.heatmap
    assert 0 < rough.heatmap_mean < rough.heatmap
    assert rough.cells % 2 == 0  # the slide was given twice
    assert copy.contract.model_copy(update={"differences": ()}) == original.contract.model_copy(
        update={"differences": ()}
    )
    card = out.with_suffix(".md").read_text(encoding="utf-8")
    assert f"on 48 labelled windows, and on {rough.cells:,} cells of heatmaps" in card
    assert card.count("## Ways to compute it") == 1
    assert run([*command]) == 2
    assert "name a new file" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_measured_is_refused_with_its_name(
    windows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["models", "measure", "camelyon-mini", "--windows"]
    assert run([*command, str(tmp_path / "absent")]) == 2
    assert "absent: no such folder" in capsys.readouterr().err
    assert run([*command, str(windows), "--out", str(tmp_path / "x.pt")]) == 2
    assert ".safetensors" in capsys.readouterr().err
    assert run([*command, str(windows), "--slides", str(tmp_path / "no.svs")]) == 2
    assert "no.svs: no such file" in capsys.readouterr().err
    white = tmp_path / "white.png"
    imsave(white, np.full((600, 600, 3), 250, np.uint8), check_contrast=False)
    assert run([*command, str(windows), "--slides", str(white)]) == 2
    assert "white.png" in capsys.readouterr().err


def test_show_says_what_the_weights_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", "camelyon-mini"]) == 0
    said = capsys.readouterr().out
    loaded = read_model()
    for words in (
        "research use only",
        "227,842",
        load_model().digest,
        loaded.contract.calibration,
        "Apache-2.0",
        "128 px at 0.5 µm/px",
        "bfloat16",
    ):
        assert words in said, words
    assert run(["models", "show", "camelyon-mini", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["contract"] == loaded.contract.model_dump(mode="json")
    assert fields["digest"] == loaded.model.digest
    assert run(["models", "show", "no-such-model"]) == 2
    assert "no-such-model" in capsys.readouterr().err


def test_the_list_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    said = capsys.readouterr().out
    assert "camelyon-mini" in said
    assert "ncrf-resnet18" in said
    assert run(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "camelyon-mini"
