"""Segmentation from training to held-out label images: small pictures and volumes, few steps, all of a real run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medvision.core.errors import StoreError, UsageError
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.metrics.overlap import dice
from medvision.models.segmentation import (
    build_segment_net,
    list_segment_nets,
    read_segment_model,
    usual_segment_contract,
)
from medvision.sources.label_map import read_label_map
from medvision.training.config_file import validated
from medvision.training.loop import Check
from medvision.training.segment import SegmentReport, contract_of, train_segment
from medvision.training.segment_config import (
    SegmentDataConfig,
    TrainSegmentConfig,
    read_segment_config,
)
from medvision.training.segment_data import load_images
from medvision.training.segment_score import Segmenter, figures_of, mean_dice

CONFIGS = Path(__file__).parents[3] / "configs"


class Interrupted(Exception):
    """Stands for whatever ends a training half-way."""


def changed(config: TrainSegmentConfig, **fields: object) -> TrainSegmentConfig:
    return validated({**config.model_dump(), **fields}, TrainSegmentConfig)


@pytest.fixture(scope="module")
def flat(toy_pictures: Path) -> TrainSegmentConfig:
    config = read_segment_config(CONFIGS / "train-segment-smoke.yaml", toy_pictures)
    return changed(config, data={**config.data.model_dump(), "case": "^(p\\d+)_"})


@pytest.fixture(scope="module")
def trained(flat: TrainSegmentConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SegmentReport]:
    out = tmp_path_factory.mktemp("segment") / "out"
    return out, train_segment(flat, out, device="cpu")


def test_a_network_learns_and_writes_what_is_scored(
    trained: tuple[Path, SegmentReport], toy_pictures: Path
) -> None:
    out, report = trained
    assert report.checks[-1].loss < report.checks[0].loss
    assert {path.name for path in out.iterdir()} == {
        *("model.safetensors", "model-card.md", "report.json", "split.json", "held-out.txt"),
        *("predictions", "probabilities", "progress", "tensorboard"),
    }
    model = read_segment_model(report.weights)
    assert set(model.contract.figures) == {"dice"}
    assert model.contract.calibration == "temperature scaling on pixels of 2 validation images"
    assert 0.3 < model.contract.mean[0] < 0.5
    card = report.card.read_text()
    assert "Research use only" in card
    assert report.proof in card
    assert str(toy_pictures) not in card
    run = json.loads((out / "split.json").read_text())["runs"]["fold 0"]
    files = sorted((out / "predictions").iterdir())
    assert [path.stem for path in files] == sorted(run["held_out"])
    assert (out / "held-out.txt").read_text().split() == run["held_out"]
    scores = []
    for path in files:
        found = read_label_map(path).values
        truth = read_label_map(toy_pictures / "labels" / path.name).values
        assert set(np.unique(found)) <= {0, 1}
        scores.append(dice(found == 1, truth == 1))
        blob = np.load(out / "probabilities" / "blob" / f"{path.stem}.npy")
        assert np.array_equal(blob > 0.5, found == 1)
    assert report.figures["dice"].value == pytest.approx(np.mean(scores), abs=1e-4)
    assert np.mean(scores) > 0.5


def test_an_interrupted_training_ends_with_the_same_weights(
    trained: tuple[Path, SegmentReport], flat: TrainSegmentConfig, tmp_path: Path
) -> None:
    def stop(_run: str, check: Check) -> None:
        if check.step == 30:  # told before its checkpoint is written: the last one is of step 15
            raise Interrupted

    with pytest.raises(Interrupted):
        train_segment(flat, tmp_path / "out", stop, device="cpu")
    again = train_segment(flat, tmp_path / "out", device="cpu")
    assert again.resumed_at == 15
    assert again.digest == trained[1].digest
    with pytest.raises(StoreError, match="belongs to a run with other data or settings"):
        train_segment(changed(flat, learning_rate=1e-2), tmp_path / "out", device="cpu")


def test_all_folds_predict_every_image_and_a_last_network_learns_from_all(
    flat: TrainSegmentConfig, tmp_path: Path
) -> None:
    config = changed(
        flat,
        steps=2,
        check_every=2,
        probabilities=False,
        split={**flat.split.model_dump(), "fold": "all"},
    )
    report = train_segment(config, tmp_path, device="cpu")
    assert len(list((tmp_path / "predictions").iterdir())) == 6
    assert sorted(path.parent.name for path in tmp_path.glob("*/model.safetensors")) == [
        "fold-0",
        "fold-1",
        "fold-2",
    ]
    assert "out of fold" in read_segment_model(report.weights).contract.figures["dice"].protocol
    assert "6 images of 3 cases" in report.figures["dice"].protocol
    runs = json.loads((tmp_path / "split.json").read_text())["runs"]
    assert runs["final"]["held_out"] == []
    held = [json.loads((tmp_path / f"fold-{k}" / "report.json").read_text())["dice"] for k in range(3)]
    assert report.figures["dice"].value == pytest.approx(
        np.nanmean([row[0] for fold in held for row in fold.values()]), abs=1e-3
    )


def test_volumes_with_thick_slices_are_predicted_on_their_own_grid(toy_volumes: Path, tmp_path: Path) -> None:
    config = read_segment_config(CONFIGS / "train-segment-volumes-smoke.yaml", toy_volumes, fold="1")
    report = train_segment(config, tmp_path, device="cpu")
    assert report.checks[-1].loss < report.checks[0].loss
    assert set(report.figures) == {"dice", "dice_inner", "dice_outer"}
    files = sorted((tmp_path / "predictions").iterdir())
    assert len(files) == 2
    for path in files:
        found, truth = read_label_map(path), read_label_map(toy_volumes / "labelsTr" / path.name)
        assert found.values.shape == truth.values.shape == (12, 22, 20)
        assert found.frame is not None and truth.frame is not None
        assert found.frame.to_world(np.zeros((1, 3))) == pytest.approx(truth.frame.to_world(np.zeros((1, 3))))


def test_a_file_for_each_object_and_a_network_without_padding(toy_objects: Path, tmp_path: Path) -> None:
    config = validated(
        {
            "name": "toy",
            "data": {"folder": toy_objects},
            "split": {"folds": 2, "validation": 0.4},
            "architecture": "unet-original",
            "contract": {"window": [68, 68], "options": {"width": 0.0625, "depth": 2}},
            "border": {"sigma_px": 3},
            "steps": 2,
            "batch_size": 2,
            "check_every": 2,
            "validation_images": 1,
        },
        TrainSegmentConfig,
    )
    report = train_segment(config, tmp_path, device="cpu")
    files = list(report.predictions.iterdir())
    assert len(files) == 2
    assert all(read_label_map(path).values.shape == (48, 48) for path in files)


@pytest.mark.parametrize(("name", "side"), [("unet", 32), ("unet-original", 68)])
def test_an_image_is_predicted_as_in_one_run_over_all_of_it(name: str, side: int, toy_pictures: Path) -> None:
    """Windows of a network without padding are exact; those that overlap are so up to what padding changes."""
    contract = usual_segment_contract(name, window=(side, side), options={"width": 0.0625, "depth": 2})
    images = load_images(validated({"folder": toy_pictures}, SegmentDataConfig), contract)
    torch.manual_seed(0)
    net = build_segment_net(contract).eval()
    engine = PatchEngine(EngineSettings(device="cpu", batch_size=3, backend="eager"))
    segment = Segmenter.of(net, contract, engine)
    found = segment(images.images[0])
    assert found.shape == (2, 48, 48)
    assert found.sum(axis=0) == pytest.approx(1, abs=1e-5)
    values = (images.images[0].scaled()[..., 0] - contract.mean[0]) / contract.std[0]
    margin = segment.margin[0]
    whole = np.pad(values, margin + 4, mode="reflect") if margin else values
    with torch.inference_mode():
        logits = net(torch.from_numpy(whole)[None, None].float())
    expected = torch.softmax(logits, dim=1)[0].numpy()
    if margin:
        expected = expected[:, 4:-4, 4:-4]
        assert found == pytest.approx(expected, abs=1e-5)
    else:
        assert np.abs(found - expected).mean() < 0.02
    assert 0 <= mean_dice(segment, images.images[:2]) <= 1


def test_figures_are_means_of_classes_over_the_images_that_have_them() -> None:
    nan = float("nan")
    found = figures_of(["a", "b"], ["x", "y", "z"], [[0.5, nan], [0.7, 0.2], [0.9, 0.4]], "kept out")
    assert found["dice"].value == pytest.approx((0.7 + 0.3) / 2)
    assert found["dice_a"].value == pytest.approx(0.7)
    assert found["dice_b"].value == pytest.approx(0.3)
    assert found["dice"].protocol == "mean over classes, kept out: 3 images of 3 cases"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"contract": {"window": [30, 30]}}, "takes no window with a side of 30"),
        ({"loss": {"class_weights": [1, 2, 3]}}, "3 class weights for 2 classes"),
        ({"border": {"objects": "moon"}}, "'moon' is none of background, blob"),
        ({"border": {}}, "do not tell objects apart"),
        ({"augmentation": {"flip": [True]}}, "flip: 1 axes, and windows have 2"),
        ({"split": {"folds": 4}}, "3 cases cannot be split into 4 folds"),
    ],
)
def test_what_is_not_possible_is_told_before_any_step(
    flat: TrainSegmentConfig, given: dict[str, dict[str, object]], said: str, tmp_path: Path
) -> None:
    fields = flat.model_dump()
    merged = {name: {**(fields[name] or {}), **value} if value else value for name, value in given.items()}
    with pytest.raises(UsageError, match=said):
        train_segment(changed(flat, **merged), tmp_path, device="cpu")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("train-segment-*.yaml")), ids=lambda path: path.stem)
def test_the_configurations_fit_their_networks(path: Path) -> None:
    config = read_segment_config(path, Path("elsewhere"), "0")
    assert config.data.folder == Path("elsewhere")
    if config.architecture in list_segment_nets():
        contract = contract_of(config)
        window = (2, contract.channels, *contract.window)
        with torch.inference_mode():
            out = build_segment_net(contract).eval()(torch.zeros(window))
        assert out.shape[:2] == (2, len(contract.classes))


def test_fields_that_mean_nothing_are_told() -> None:
    for given, said in (
        ({"split": {"folds": 3, "fold": 3}}, "folds count from 0 to 2"),
        ({"data": {"folder": "x", "case": "^abc"}}, "needs one group"),
        ({"loss": {"terms": {"dise": 1}}}, "dise"),
    ):
        with pytest.raises(UsageError, match=said):
            validated({"name": "x", "data": {"folder": "x"}, **given}, TrainSegmentConfig)
