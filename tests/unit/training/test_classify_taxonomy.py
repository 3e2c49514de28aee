"""Training classes by partition of a taxonomy: what is learnt, what is summed, and what says so afterwards."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from medvision.cli import run as medvision
from medvision.core.errors import UsageError
from medvision.core.taxonomy import read_taxonomy
from medvision.evaluations.skin import evaluate
from medvision.models.class_tree import ClassTree
from medvision.models.image_model import read_image_model
from medvision.training.classify_config import read_classify_config
from medvision.training.classify_taxonomy import part
from medvision.training.images import ImageArrays, LabelledImages

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
TREE = """
name: skin
tree:
  benign: {nevus: [blue, halo, Spitz], cyst: [wen, milium]}
  malignant: {melanoma: [acral, nodular], carcinoma: [bcc, scc]}
"""
COUNTS = {"blue": 9, "halo": 6, "spitz": 1, "wen": 12, "acral": 8, "nodular": 7, "bcc": 12}
"""Images by disease, each of a patient of its own; the last of Spitz has no other."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tree") / "tree.yaml"
    path.write_text(TREE)
    return path


@pytest.fixture(scope="module")
def trained(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of a training of a few steps on noise, with labels in lower case."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(3)
    with (folder / "truth.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "patient", "label"])
        for disease, count in COUNTS.items():
            for number in range(count):
                name = f"{disease}-{number}.png"
                Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / name)
                writer.writerow([name, name, disease])
    config = tree.with_name("train.yaml")
    config.write_text(f"""
name: parted
data: {folder}
images:
  csv: truth.csv
  columns: {{group: patient}}
  split: {{fractions: {{train: 0.5, validation: 0.25, test: 0.25}}}}
taxonomy: {{file: {tree.name}, max_class_size: 12}}
trunk: slim-resnet
input_px: 32
batch_size: 8
check_every: 2
stages: [{{steps: 2}}]
""")
    out = folder / "out"
    assert medvision(["train", "classify", "--config", str(config), "--out", str(out)]) == 0
    return out


def rows(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Header without the first column, names of images, and the numbers."""
    table = [line.split(",") for line in path.read_text().splitlines()]
    return table[0][1:], [row[0] for row in table[1:]], np.array([row[1:] for row in table[1:]], float)


def test_the_network_learns_the_parts_and_its_file_can_sum_them(trained: Path, tree: Path) -> None:
    contract = read_image_model(trained / "model.safetensors").contract
    assert contract.tree is not None
    assert contract.classes == ("nevus", "cyst", "melanoma", "carcinoma")
    assert sum(contract.tree.images.values()) < sum(COUNTS.values()), "of the training side alone"
    names, images, fine = rows(trained / "predictions.csv")
    assert tuple(names) == contract.classes
    coarse_names, coarse_images, coarse = rows(trained / "predictions-level-1.csv")
    assert (coarse_names, coarse_images) == (["benign", "malignant"], images)
    np.testing.assert_allclose(coarse, np.stack([fine[:, :2].sum(1), fine[:, 2:].sum(1)], axis=1), atol=3e-6)
    (level,) = contract.tree.levels
    np.testing.assert_allclose(level.sum(fine), coarse, atol=3e-6)
    assert not (trained / "predictions-level-2.csv").exists(), "its classes are the training classes"
    assert {"accuracy", "2-way_accuracy"} <= contract.figures.keys()


def test_the_evaluation_takes_the_tables_as_they_are(trained: Path, tree: Path) -> None:
    truth = trained / "truth.csv"
    found = evaluate(trained / "predictions.csv", truth, tree, resamples=0)
    assert [one.title for one in found.questions] == ["4 classes", "2-way (level 1)"]
    coarse = evaluate(trained / "predictions-level-1.csv", truth, tree, resamples=0)
    figure = found.questions[1].figures["accuracy"]
    assert figure is not None and coarse.questions[0].figures["accuracy"] == figure
    contract = read_image_model(trained / "model.safetensors").contract
    assert contract.figures["2-way_accuracy"].value == pytest.approx(figure.value)


def test_truth_and_card_say_what_is_behind_a_class(trained: Path) -> None:
    with (trained / "truth.csv").open() as stream:
        truth = list(csv.DictReader(stream))
    assert {(row["label"], row["finer"]) for row in truth} <= {
        ("nevus", "blue"), ("nevus", "halo"), ("cyst", "wen"), ("melanoma", "acral"), ("melanoma", "nodular"),
        ("carcinoma", "bcc"),
    }  # fmt: skip
    card = (trained / "model-card.md").read_text()
    assert "a node with fewer than 12 training images is one class" in card
    assert "| nevus | 10 | blue 5, halo 4, Spitz 1 |" in card, (
        "one image of Spitz, on one side: the training's"
    )
    assert "2-way (level 1): benign, malignant" in card
    proof = json.loads((trained / "split.json").read_bytes())
    assert "by partition of tree.yaml" in proof["provenance"]["training classes"]


def labelled(labels: list[str], splits: list[str]) -> LabelledImages:
    classes = tuple(sorted(set(labels)))
    n = len(labels)
    store = ImageArrays((np.zeros((n, 4, 4), np.uint8),), np.stack([np.zeros(n, np.int64), np.arange(n)], 1))
    return LabelledImages(
        store, tuple(map(str, range(n))), np.array([classes.index(one) for one in labels]), classes,
        tuple(map(str, range(n))), "hand", tuple(splits), {},
    )  # fmt: skip


def test_images_of_no_class_are_left_out_and_told_of(tree: Path) -> None:
    taxonomy = read_taxonomy(tree)
    # nevus has 4 training images with its own one and is split; scc is tested on alone, but carcinoma learns of bcc.
    labels = ["nevus", "blue", "blue", "halo", "bcc", "scc", "Spitz", "acral"]
    sides = ["train", "train", "train", "train", "train", "test", "test", "test"]
    made = part(labelled(labels, sides), taxonomy, 3, tree)
    assert made.images.classes == ("blue", "halo", "malignant")
    assert made.images.finer == ("blue", "blue", "halo", "bcc", "scc", "acral")
    assert made.images.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert made.left_out == {"nevus": 1, "Spitz": 1}
    assert "left out: Spitz 1, nevus 1" in made.images.provenance["training classes"]
    (level,) = made.tree.levels
    assert level.classes == ("benign", "malignant"), "the second level is below the class malignant"


def test_errors_name_what_is_wrong(tree: Path) -> None:
    taxonomy = read_taxonomy(tree)
    with pytest.raises(
        UsageError, match=r"tree.yaml: label of the images: 'nodulr' is unknown; nearest: nodular;"
    ):
        part(labelled(["nodulr", "blue"], ["train", "train"]), taxonomy, 3, tree)
    with pytest.raises(UsageError, match=r"2 training images make one class, 'skin'.*smaller max_class_size"):
        part(labelled(["bcc", "blue"], ["train", "train"]), taxonomy, 3, tree)
    with pytest.raises(UsageError, match="no node has an image"):
        part(labelled(["bcc", "blue"], ["test", "test"]), taxonomy, 3, tree)


@pytest.mark.parametrize("name", ["train-skin", "train-isic2019", "train-cifar"])
def test_the_configurations_find_their_taxonomy(name: str) -> None:
    config = read_classify_config(CONFIGS / f"{name}.yaml")
    assert config.taxonomy is not None
    taxonomy = read_taxonomy(config.taxonomy.file)
    for disease in config.images.columns.one_hot:
        assert disease == "UNK" or not taxonomy.children[taxonomy.find(disease, name)]


@pytest.mark.parametrize(
    "nodes",
    [
        (("a", None), ("b", "c")),
        (("a", None), ("b", None)),
        (("a", None), ("b", "a"), ("b", "a")),
        (("a", "a"), ("b", "a")),
    ],
)
def test_what_is_no_tree_is_refused(nodes: tuple[tuple[str, str | None], ...]) -> None:
    with pytest.raises(ValidationError, match="has no place in a tree"):
        ClassTree(nodes=nodes, images={"b": 1}, max_class_size=1)
