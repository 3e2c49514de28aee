"""A classifier of images learns, says how well, continues where it was cut short, and refuses what would leak."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from medvision.cli import run as medvision
from medvision.core.errors import UsageError, WeightsError
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.models.classifiers.start import begin, build, head_of
from medvision.models.image_contract import Scope
from medvision.models.image_model import logits_of, read_image_model
from medvision.models.weights import digest_state, write_weights
from medvision.ops.appearance import Appearance
from medvision.ops.resize import fit_square
from medvision.training.classify import Staged, train_classify
from medvision.training.classify_config import ImageAugmentation, TrainClassifyConfig
from medvision.training.classify_data import change, drawer, mixed
from medvision.training.images_load import load_images
from medvision.training.loop import Check


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures with a bright disc or a bright square, 40 patients with 3 each, called CLASS-PATIENT-NUMBER."""
    folder = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(1)
    for patient in range(40):
        kind = ("DISC", "SQUARE")[patient % 2]
        (folder / kind).mkdir(exist_ok=True)
        for number in range(3):
            pixels = rng.normal(90, 20, (60, 72))
            row, column, size = rng.integers(15, 45), rng.integers(15, 55), int(rng.integers(7, 12))
            if kind == "DISC":
                cv2.circle(pixels, (int(column), int(row)), size, 210.0, -1)
            else:
                cv2.rectangle(
                    pixels,
                    (int(column) - size, int(row) - size),
                    (int(column) + size, int(row) + size),
                    210.0,
                    -1,
                )
            cv2.imwrite(
                str(folder / kind / f"{kind}-{patient}-{number}.png"), pixels.clip(0, 255).astype(np.uint8)
            )
    return folder


def config(folder: Path, **given: object) -> TrainClassifyConfig:
    fields: dict[str, object] = {
        "name": "shapes",
        "images": {
            "folder": str(folder),
            "group": "kermany-oct",
            "split": {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}},
        },
        "trunk": "slim-resnet",
        "input_px": 64,
        "batch_size": 16,
        "check_every": 20,
        "average": 0.9,
        "stages": [{"train": "head", "steps": 10}, {"train": "all", "steps": 80, "learning_rate": 3e-3}],
    }
    return TrainClassifyConfig.model_validate({**fields, **given})


@pytest.fixture(scope="module")
def trained(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train_classify(config(discs), out)
    return out


def test_it_learns_and_says_how_well(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_bytes())
    assert report["figures"]["auc"]["value"] > 0.95
    low, high = report["figures"]["auc"]["interval"]
    assert low <= report["figures"]["auc"]["value"] <= high
    assert "groups" in report["figures"]["accuracy"]["protocol"], "patients are resampled, not images"
    card = (trained / "model-card.md").read_text()
    assert "not for diagnosis" in card and "| test | 24 | 8 |" in card and "Groups in two splits: 0" in card
    assert "10 steps of the head alone" in card


def test_the_file_alone_gives_the_predictions_of_the_training(trained: Path, discs: Path) -> None:
    model = read_image_model(trained / "model.safetensors")
    images, _ = load_images(config(discs).images)
    test = images.of("test")
    engine = PatchEngine(EngineSettings(device="cpu", batch_size=5))
    found = model.probabilities(logits_of(model, (test.read(i) for i in range(len(test))), engine))
    rows = [line.split(",") for line in (trained / "predictions.csv").read_text().splitlines()]
    assert rows[0] == ["image", "DISC", "SQUARE"]
    assert [row[0] for row in rows[1:]] == list(test.names)
    np.testing.assert_allclose(found, np.array([row[1:] for row in rows[1:]], float), atol=2e-5)


def test_scope_knows_its_own_images_and_flags_strangers(trained: Path, discs: Path) -> None:
    scope = read_image_model(trained / "model.safetensors").contract.scope
    assert scope is not None and scope.grey and scope.smallest_px == 60
    assert scope.complaints(Appearance((60, 72), 0.4, colour=0.0), scope.energy - 1) == []
    strange = scope.judge(Appearance((20, 200), 0.99, colour=40.0), scope.energy + 1)
    assert [measure.name for measure, _ in strange if not measure.ok] == [
        "smaller side",
        "aspect",
        "brightness",
        "colour",
        "energy",
    ]


@pytest.mark.slow
def test_an_interrupted_training_ends_like_an_undisturbed_one(
    trained: Path, discs: Path, tmp_path: Path
) -> None:
    seen: list[int] = []

    def stop(run: str, check: Check) -> None:
        seen.append(check.step)
        if run == "stage 2" and check.step == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_classify(config(discs), tmp_path, stop)
    report = train_classify(config(discs), tmp_path)
    digest = json.loads((trained / "report.json").read_bytes())["weights_digest"]
    assert digest_state(report.model.net.state_dict()) == digest


def test_what_does_not_learn_stays_as_it_is() -> None:
    net = build("slim-resnet", 2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    staged = Staged(net, head_of(net))
    staged.train()
    optimiser = torch.optim.SGD([p for p in staged.parameters() if p.requires_grad], lr=1.0)
    staged(torch.randn(8, 3, 64, 64)).square().sum().backward()
    optimiser.step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}, "neither weights nor statistics of norms"
    with pytest.raises(UsageError, match=r"no module 'neck' to train; its parts: stem, stages"):
        Staged(net, ("neck",))


@pytest.mark.parametrize("name", ["inception_v3", "resnet18", "timm/resnet10t", "slim-resnet"])
def test_a_trunk_of_any_library_keeps_its_weights_and_gets_a_new_head(name: str, tmp_path: Path) -> None:
    other = build(name, 7)
    file = tmp_path / "trunk.safetensors"
    write_weights(file, other.state_dict(), {})
    start = begin(name, 3, file, None)
    own, given = start.net.state_dict(), other.state_dict()
    same = {key for key in own if own[key].shape == given[key].shape and torch.equal(own[key], given[key])}
    assert {key for key in own if not key.startswith(start.head)} <= same
    assert own[f"{start.head[0]}.weight"].shape[0] == 3


def test_own_weights_bring_their_trunk_and_the_head_where_the_classes_are_the_same(
    trained: Path, discs: Path
) -> None:
    file = trained / "model.safetensors"
    model = read_image_model(file)
    same, other = (
        begin("slim-resnet", ("DISC", "SQUARE"), file, None),
        begin("slim-resnet", ("A", "B"), file, None),
    )
    turned = begin("slim-resnet", ("SQUARE", "DISC"), file, None)
    head, stem = model.net.state_dict()["head.weight"], model.net.state_dict()["stem.0.weight"]
    assert torch.equal(same.net.state_dict()["head.weight"], head) and same.loaded == other.loaded + 2
    for start in (other, turned):
        assert torch.equal(start.net.state_dict()["stem.0.weight"], stem)
        assert not torch.equal(start.net.state_dict()["head.weight"], head)
    assert other.said == "weights of model.safetensors (slim-resnet of DISC, SQUARE), head left out"
    assert same.head == other.head == ("head",), "a stage that trains the head trains it in either case"
    with pytest.raises(
        WeightsError, match=r"are of slim-resnet, and the network to train is resnet18; say `trunk: sl"
    ):
        begin("resnet18", 2, file, None)


def test_own_weights_bring_their_normalisation(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    contract = {"architecture": "slim-resnet", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.4]}
    write_weights(file, build("slim-resnet", 2).state_dict(), contract)
    start = begin("slim-resnet", 3, file, None)
    assert (start.recipe.mean, start.recipe.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.4))


def test_a_training_continues_from_the_weights_that_the_command_names(
    trained: Path, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        f"name: x\ntrunk: slim-resnet\ninput_px: 64\ncheck_every: 5\nbatch_size: 8\nimages: {{folder: {discs}, "
        "group: kermany-oct, split: {fractions: {train: 0.6, test: 0.4}}}\nstages: [{train: head, steps: 5}]\n"
    )
    own = str(trained / "model.safetensors")
    command = ["train", "classify", "--config", str(file), "--weights", own, "--out", str(tmp_path / "out")]
    assert medvision(command) == 0
    card = (tmp_path / "out" / "model-card.md").read_text()
    assert "From weights of model.safetensors (slim-resnet of DISC, SQUARE), head included." in card
    start = json.loads((tmp_path / "out" / "report.json").read_bytes())["start"]
    assert start["digest"] == json.loads((trained / "report.json").read_bytes())["weights_digest"]


def names_of_the_other_port(repeats: tuple[int, ...]) -> list[str]:
    """Of an EfficientNet without squeeze and excitation, as the package efficientnet_lite_pytorch calls its tensors."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", *(f"_bn0.{part}" for part in norm)]
    for block in range(sum(repeats)):
        layers = [("_expand_conv", "_bn0")] if block else []
        for conv, bn in [*layers, ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]:
            names += [f"_blocks.{block}.{conv}.weight", *(f"_blocks.{block}.{bn}.{part}" for part in norm)]
    return [*names, "_conv_head.weight", *(f"_bn1.{part}" for part in norm), "_fc.weight", "_fc.bias"]


def test_published_weights_of_another_port_are_renamed(tmp_path: Path) -> None:
    own = build("timm/tf_efficientnet_lite0", 1000).state_dict()
    names = names_of_the_other_port((1, 2, 2, 3, 3, 4, 1))
    assert len(names) == len(own), "both ports list the same tensors in the same order"
    file = tmp_path / "published.pth"
    torch.save(dict(zip(names, own.values(), strict=True)), file)
    start = begin("timm/tf_efficientnet_lite0", 2, file, None)
    found = start.net.state_dict()
    assert start.loaded == len(own) - 2 and start.head == ("classifier",)
    assert all(torch.equal(found[name], own[name]) for name in own if not name.startswith("classifier"))
    torch.save({name: own[key] for name, key in zip(names[:40], own, strict=False)}, file)
    with pytest.raises(WeightsError, match="are missing, such as"):
        begin("timm/tf_efficientnet_lite0", 2, file, None)


@pytest.mark.parametrize("name", ["timm/tf_efficientnet_lite0", "mobilenet_v3_small"])
def test_a_new_head_of_few_classes_begins_small(name: str) -> None:
    """EfficientNets draw by the number of classes: up to 0.5 for four, over 1,280 features."""
    start = begin(name, 4, None, None)
    layer = start.net.get_submodule(start.head[0])
    assert isinstance(layer, torch.nn.Linear)
    assert layer.weight.abs().max() <= 1 / layer.in_features**0.5
    assert layer.weight.std() > 0.5 / layer.in_features**0.5, "and is drawn, not zero"


def test_weights_are_fetched_only_when_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="allow it with --download, or name a local file"):
        begin("resnet18", 2, "library", None)

    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(UsageError, match=r"could not be fetched \(Name or service not known\)"):
        begin("resnet18", 2, "library", tmp_path)
    file = tmp_path / "other.safetensors"
    write_weights(file, build("slim-resnet", 2).state_dict(), {})
    with pytest.raises(WeightsError, match="not for this network"):
        begin("resnet18", 2, file, None)


def test_batches_are_balanced_or_go_through_every_image(discs: Path) -> None:
    images, _ = load_images(config(discs).images)
    train = images.of("train")
    few = train.take(
        [*np.flatnonzero(train.labels == 0)[:3].tolist(), *np.flatnonzero(train.labels == 1).tolist()]
    )
    chosen = drawer(few, config(discs), 0)(5)
    assert np.bincount(few.labels[chosen]).tolist() == [8, 8]
    assert np.array_equal(chosen, drawer(few, config(discs), 0)(5))
    natural = drawer(few, config(discs, sampling="natural"), 0)
    steps = -(-len(few) // 16)
    first = np.concatenate([natural(step) for step in range(steps)])[: len(few)]
    assert sorted(first) == list(range(len(few)))


def test_changes_keep_the_range_and_can_be_switched_off() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, 3, 32, 32, generator=generator)
    off = ImageAugmentation(flip=0, rotation_deg=0, shift=0, scale=0, brightness=0, contrast=0, noise=0)
    assert torch.allclose(change(images, off, generator), images, atol=1e-6)
    mirrored = change(images, off.model_copy(update={"flip": 1.0}), generator)
    assert torch.allclose(mirrored, images.flip(3), atol=1e-5)
    changed = change(images, ImageAugmentation(erase=1.0), generator)
    assert changed.shape == images.shape and 0 <= float(changed.min()) <= float(changed.max()) <= 1
    assert (changed == 0.5).all(dim=1).flatten(1).sum(dim=1).min() >= 0.02 * 32 * 32 * 0.5


def test_mixup_blends_inputs_and_targets_alike() -> None:
    inputs = torch.eye(4).reshape(4, 1, 2, 2)
    found, targets = mixed(inputs, torch.eye(4), 1.0, np.random.default_rng(3))
    assert torch.allclose(found.reshape(4, 4), targets)
    assert torch.allclose(targets.sum(dim=1), torch.ones(4))


@pytest.mark.parametrize(("how", "where"), [("squash", None), ("crop", 60), ("pad", 0)])
def test_oblong_images_become_squares(how: str, where: int | None) -> None:
    pixels = np.zeros((20, 40), np.uint8)
    pixels[:, 10:30] = 60
    found = fit_square(pixels, 20, how)  # type: ignore[arg-type]
    assert found.shape == (20, 20, 3)
    if how == "squash":
        assert found[10, 2, 0] == 0 and found[10, 10, 0] == 60
    else:
        assert found[1, 10, 0] == where


def test_scope_of_images_in_colour() -> None:
    scope = Scope(energy=0, brightness=(0, 1), aspect=(0.5, 2), smallest_px=8, grey=False)
    assert scope.complaints(Appearance((9, 9), 0.5, colour=0.0), energy=-1) == [
        "it is grey (the training images were in colour)"
    ]


def test_bad_input_is_one_error(discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(text: str) -> str:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        assert medvision(["train", "classify", "--config", str(file), "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    base = f"name: x\ntrunk: slim-resnet\ninput_px: 32\nimages: {{folder: {discs}"
    assert "nothing says which of the 120 images are of one patient" in said(
        base + ", split: {fractions: {train: 0.5, test: 0.5}}}\n"
    )
    assert "no such field" in said(base + ", colour: red}\n")
    assert "resnet-18" in said(
        base.replace("slim-resnet", "resnet-18")
        + ", group: kermany-oct, split: {fractions: {train: 0.5, test: 0.5}}}\n"
    )
    assert "none of" in said(base + ", classes: [A, B]}\npositive: C\n")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trunk": "resnet81"}, "no model is called 'resnet81'; close to it: resnet18, "),
        ({"trunk": "resnet18", "weights": "library"}, "allow it with --download, or name a local file"),
        ({"trunk": "slim-resnet", "weights": "library"}, "slim-resnet has no weights of a library"),
        (
            {"trunk": "slim-resnet", "weights": "absent.safetensors"},
            "absent.safetensors: no such weights file",
        ),
    ],
)
def test_what_cannot_be_begun_is_told_before_any_image_is_read(
    given: dict[str, str], words: str, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    images = {"folder": str(tmp_path / "absent")}  # read first, it would be the error
    file.write_text(yaml.safe_dump({"name": "x", "images": images, "input_px": 32, **given}))
    assert medvision(["train", "classify", "--config", str(file), "--out", str(tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert words in said
    near = said.partition("close to it: ")[2].partition(";")[0].split(", ")
    assert len(set(near)) == len(near), "each suggestion once"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (
            [{"train": "layer4", "steps": 3}],
            "stages.0.train: head, all, or a list of names of modules such as",
        ),
        ([{"train": 4, "steps": 3}], "stages.0.train: head, all, or a list of names of modules such as"),
        ([{"train": "head"}], "stages.0.steps: is missing"),
        ({"train": "head", "steps": 3}, "stages: expected a list"),
        ([], "stages: expected at least 1 in the list, not []"),
        (["head"], "stages.0: expected a mapping of names to values"),
    ],
)
def test_a_wrong_stage_is_told_once_and_in_words_of_yaml(
    stages: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"name": "x", "images": {"folder": "y"}, "stages": stages}))
    assert medvision(["train", "classify", "--config", str(file), "--out", str(tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert words in said and said.count("stages") == 1
    assert "Input should" not in said and "tuple" not in said
