"""Images placed in a plane: from files or a training's split, with a page that says no more than is known."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medvision.cli import run as medvision
from medvision.models.class_tree import ClassTree
from medvision.models.classifiers.start import build
from medvision.models.image_contract import ImageContract
from medvision.models.image_model import ImageModel
from medvision.models.weights import write_weights
from medvision.pipelines.embed import _labels as labels_as_named
from medvision.report.embedding import COLOURS, Embedding, Point, draw_embedding, render_embedding


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained classifier of dark and light."""
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("model") / "shades.safetensors"
    contract = ImageContract(architecture="slim-resnet", classes=("dark", "light"), input_px=32)
    write_weights(path, build("slim-resnet", 2).state_dict(), contract.model_dump(mode="json"))
    return path


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class, 12 images each, one name of which is markup."""
    folder = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (folder / name).mkdir()
        for number in range(12):
            file = f"{name} <b>&{number}.png" if number == 0 else f"{name}-{number}.png"
            pixels = rng.normal(level, 15, (40, 52)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / file)
    return folder


def config(folder: Path, images: Path) -> Path:
    path = folder / "set.yaml"
    path.write_text(f"name: shades\nimages: {{folder: '{images}'}}\n")
    return path


def test_a_labelled_set_with_its_figures(model, shades, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["embed", "--config", str(config(tmp_path, shades)), "--split", "all", "--model", str(model)]
    assert medvision([*command, "--out", str(out)]) == 0
    with (out / "embedding.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["image", "label", "predicted", "x", "y"]
    assert len(rows) == 24 and {row["label"] for row in rows} == {"dark", "light"}
    said = json.loads((out / "embedding.json").read_bytes())
    purity = said["figures"]["neighbour purity, features"]
    assert purity["value"] > 0.8, "even an untrained network tells dark from light"
    assert "10 nearest others" in purity["what"] and "by chance 0.478" in purity["what"]
    assert said["classes"][0]["class"] == "dark" and said["failed"] == {}
    page = (out / "embedding.html").read_text()
    assert "not for diagnosis" in page and page.count("<use ") == 24
    assert "data:image/jpeg;base64," in page and "<b>&0" not in page
    assert not re.search(r"(?:src|href)=.(?!data:|#)", page), "nothing is loaded"
    assert (out / "embedding.png").stat().st_size > 5000 and (out / "embedding.svg").is_file()
    again = tmp_path / "again"
    assert medvision([*command, "--out", str(again), "--batch-size", "5"]) == 0
    assert (again / "embedding.csv").read_bytes() == (out / "embedding.csv").read_bytes()
    assert "neighbour purity, features" in capsys.readouterr().out


def test_files_without_labels_and_one_that_is_broken(model, shades, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    out = tmp_path / "out"
    given = [str(shades), str(broken), "--model", str(model), "--method", "pca", "--limit", "20"]
    status = medvision(["embed", *given, "--out", str(out)])
    said = json.loads((out / "embedding.json").read_bytes())
    assert said["images"] + len(said["failed"]) == 20 and said["figures"] == {}
    assert status == len(said["failed"])
    everything = ["embed", str(shades), str(broken), "--model", str(model), "--method", "pca"]
    assert medvision([*everything, "--out", str(out)]) == 1
    assert "failed: broken.png: " in capsys.readouterr().err
    said = json.loads((out / "embedding.json").read_bytes())
    assert said["images"] == 24 and list(said["failed"]) == ["broken.png"]
    page = (out / "embedding.html").read_text()
    assert "No labels: the colour is the predicted class." in page and "left out: 1 of 25 images" in page


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "name images, or a training by --config"),
        (["{shades}", "--config", "x.yaml"], "one of the two"),
        (["{shades}/absent"], "no such file or folder"),
        (["{shades}", "--image-window", "9,1"], "--image-window: '9,1' is no window"),
        (["{shades}", "--limit", "3"], "3 images are too few"),
        (["{shades}", "--neighbours", "0"], "neighbours is at least 1; got 0"),
        (["--config", "{config}", "--image-window", "full"], "a configuration says its own window"),
    ],
)
def test_bad_input_is_one_error(arguments, reason, model, shades, tmp_path, capsys):
    names = {"shades": shades, "config": config(tmp_path, shades)}
    given = [one.format(**names) for one in arguments]
    assert medvision(["embed", *given, "--model", str(model), "--out", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err


def test_labels_are_named_as_the_model_names_its_classes():
    tree = ClassTree(
        nodes=(("skin", None), ("benign", "skin"), ("nv", "benign"), ("bkl", "benign"), ("mel", "skin")),
        images={"nv": 3, "bkl": 2, "mel": 9},
        max_class_size=8,
    )
    contract = ImageContract(architecture="slim-resnet", classes=("benign", "mel"), input_px=32, tree=tree)
    model = ImageModel("x", build("slim-resnet", 2), contract)
    assert labels_as_named(model, ["NV", "mel", "scar", "skin"]) == ["benign", "mel", "scar", "skin"]


def test_classes_are_told_apart_by_colour_and_then_by_shape():
    names = tuple(f"class {n}" for n in range(9))
    points = tuple(Point(f"i{n}", name, names[0], 0.5, float(n), n % 3) for n, name in enumerate(names))
    embedding = Embedding("T", "PCA", "nine", names, points)
    page = render_embedding(embedding).decode()
    marks = re.findall(r'<use href="#s(\d)" x="[^"]+" y="[^"]+" class="c(\d)( wrong)?"', page)
    assert len({(shape, colour) for shape, colour, _ in marks}) == 9
    assert [wrong for *_, wrong in marks] == ["", *[" wrong"] * 8]
    assert marks[len(COLOURS)][:2] == ("1", "0")
    assert render_embedding(embedding) == page.encode()
    plot = draw_embedding(embedding)
    assert plot.png.startswith(b"\x89PNG") and b"<svg" in plot.svg
    assert draw_embedding(embedding).svg == plot.svg
