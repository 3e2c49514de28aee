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
from medvision.models.architectures import list_architectures
from medvision.models.segmentation import build_segment_net, slim_segment_contract, write_segment_model
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


@pytest.mark.parametrize("name", list_architectures())
def test_show_says_what_every_network_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry = list_architectures()[name]
    assert run(["models", "show", name]) == 0
    said = capsys.readouterr().out
    count = "asks for" if entry.parameters is None else f"{entry.parameters:,}"
    for words in ("research use only", entry.paper, entry.licence, count, entry.family, "Contract"):
        assert words in said, words
    assert run(["models", "show", name, "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert (fields["architecture"], fields["paper"], fields["parameters"]) == (
        name,
        entry.paper,
        entry.parameters,
    )
    assert fields["contract"] == (None if entry.usual is None else entry.usual.model_dump(mode="json"))


def test_show_says_the_sides_and_options_of_a_segmentation_network(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["models", "show", "unet-original"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "parameters 31,030,658",
        "window 572, 572",
        "sides 172 and a multiple of 16",
        "takes images and volumes",
        "option depth 4",
    ):
        assert words in said, words
    assert "trunk" not in said


def test_show_says_what_segmentation_weights_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"dice": {"value": 0.9, "interval": (0.85, 0.95), "protocol": "of nothing"}}
    contract = slim_segment_contract("unet", window=(16, 16), options={"depth": 1}, figures=figures)
    net = build_segment_net(contract)
    folder = tmp_path / "cells"
    folder.mkdir()
    write_segment_model(folder / "model.safetensors", net, contract)
    for path in (folder, folder / "model.safetensors"):
        assert run(["models", "show", str(path)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        count = sum(weights.numel() for weights in net.parameters())
        for words in ("architecture unet ", f"parameters {count:,}", "window 16, 16", "0.850 to 0.950"):
            assert words in said, words
    assert run(["models", "show", str(folder), "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["contract"] == contract.model_dump(mode="json")
    assert fields["digest"] in said
    (folder / "model.safetensors").write_bytes(b"no")
    assert run(["models", "show", str(folder)]) == 2
    assert "model.safetensors" in capsys.readouterr().err


def test_the_list_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    said = capsys.readouterr().out
    assert "camelyon-mini" in said
    assert "ncrf-resnet18" in said
    assert all(name[:20] in said for name in list_architectures())
    assert "U-Net - what each pixel is; medvision train segment; Apache-2.0" in " ".join(said.split())
    assert run(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed[0]["kind"], listed[0]["name"]) == ("model", "camelyon-mini")
    networks = {row["name"]: row for row in listed if row["kind"] == "network"}
    assert list(networks) == list(list_architectures())
    assert networks["unet-original"]["parameters"] == 31_030_658
