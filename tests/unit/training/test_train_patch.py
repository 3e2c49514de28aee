"""Training a patch classifier end to end on generated patches, and the ways in which its data can be wrong."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from medvision.core.errors import StoreError, UsageError
from medvision.metrics.calibration import fit_temperature
from medvision.metrics.ranking import roc_auc
from medvision.models import load_model
from medvision.models.contract import WeightsContract
from medvision.models.weights import read_weights
from medvision.training import patch as training
from medvision.training.loop import Check
from medvision.training.patch_config import TrainPatchConfig, read_config
from medvision.training.patches import PatchSet, batches, cut_region, read_folder, read_region

FUSED = (("fused", "float32"), ("fused", "bfloat16"))
train_patch = partial(training.train_patch, ways=FUSED[:1])  # the other runtimes take seconds to begin
SMOKE = Path(__file__).parents[3] / "configs" / "train-patch-smoke.yaml"
FULL = Path(__file__).parents[3] / "configs" / "train-patch.yaml"


def drawn(label: int, seed: int, side: int = 64) -> npt.NDArray[np.uint8]:
    """Many small dark discs (0) or few large pale ones (1) on pink: the two classes in a nutshell."""
    random = np.random.default_rng(seed)
    image = np.full((side, side, 3), (235, 190, 215), np.uint8)
    radius, count, colour = ((3, 60, (80, 40, 120)), (8, 12, (160, 120, 190)))[label]
    for row, column in random.integers(0, side, (count, 2)):
        cv2.circle(image, (int(column), int(row)), radius, colour, -1)
    return image


def save(path: Path, image: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for slide in range(3):
        for label, name in enumerate(("normal", "tumor")):
            for index in range(5):
                seed = slide * 100 + label * 10 + index
                save(folder / "patches" / name / f"slide_{slide}_{index}_0.png", drawn(label, seed))
    save(folder / "region.png", drawn(0, 999, 160))
    return folder


def configured(folder: Path, **changes: object) -> TrainPatchConfig:
    return TrainPatchConfig.model_validate(read_config(SMOKE).model_dump() | {"data": folder} | changes)


def render(
    n: int, seed: int, *, size_px: int, spacing_um: float
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    labels = np.arange(n) % 2
    return np.stack([drawn(int(k), seed + i, size_px) for i, k in enumerate(labels)]), labels


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    region = {"path": "region.png", "label": "normal", "slide": "elsewhere", "side_px": 64}
    config = configured(
        data,
        regions=[region],
        synthetic={"count": 8, "held_out": 12, "share": 0.3},
        colour_targets=["region.png"],
        fold_seeds=[0, 1],
        common_steps=10,
        steps=25,
        learning_rate=0.005,
        average=0.9,
    )
    seen: list[tuple[str, Check]] = []
    report = train_patch(config, out, render, lambda name, check: seen.append((name, check)), ways=FUSED)
    assert report.weights == out / "model.safetensors"
    assert {name for name, _ in seen} == {
        "common",
        "final",
        *(f"fold slide_{k} seed {seed}" for k in range(3) for seed in (0, 1)),
    }
    return out


def test_the_trained_file_loads_by_itself_and_separates(trained: Path, data: Path) -> None:
    model = load_model("camelyon-mini", weights=trained / "model.safetensors")
    assert model.window == (32, 32)
    assert model.classes == ("normal", "tumor")
    assert model.calibration.startswith("temperature scaling")
    found = read_folder(data / "patches", ("normal", "tumor"), r"slide_\d+", 32)
    with torch.inference_mode():
        scores = model(torch.from_numpy(found.images))[:, 1].numpy()
    assert roc_auc(found.labels, scores) > 0.95


def test_report_card_and_predictions_agree(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    figures = report["figures"]
    assert report["temperature"] > 0
    assert set(figures) == {"auc", "auc_seed_0", "auc_seed_1", "auc_recoloured_region", "synthetic_auc"}
    low, high = figures["auc"]["interval"]
    assert 0 <= low <= figures["auc"]["value"] <= high <= 1
    card = (trained / "model-card.md").read_text()
    assert "Research use only" in card
    assert f"{figures['auc']['value']:.3f}" in card
    assert "| slide_1 | 5 | 5 |" in card
    rows = [line.split(",") for line in (trained / "out-of-fold.csv").read_text().splitlines()[1:]]
    assert len(rows) == 60
    of_first = [(int(r[2]), float(r[3])) for r in rows if r[0] == "0"]
    labels, margins = zip(*of_first, strict=True)
    assert roc_auc(labels, margins) == pytest.approx(figures["auc_seed_0"]["value"], abs=1e-4)
    probabilities = [float(r[4]) for r in rows]
    assert all(
        (p >= 0.5) == (float(r[3]) >= 0)
        for p, r in zip(probabilities, rows, strict=True)
        if abs(p - 0.5) > 1e-4
    )


def test_what_rounding_changes_is_measured_on_the_labelled_patches(trained: Path) -> None:
    contract = WeightsContract.model_validate(read_weights(trained / "model.safetensors")[1])
    assert [(d.backend, d.precision, d.windows) for d in contract.differences] == [
        (*way, 240) for way in FUSED
    ]
    exact, rough = contract.differences
    assert exact.is_close
    assert exact.probability < 1e-4 < rough.probability
    card = (trained / "model-card.md").read_text()
    assert f"| fused | bfloat16 | {rough.probability:.2g} | {rough.auc:.2g} |  |  |" in card
    assert "on 240 labelled windows" in card
    model = load_model("camelyon-mini", weights=trained / "model.safetensors")
    assert (("fused", "bfloat16") in model.close) == rough.is_close


def test_no_slide_is_on_both_sides_of_a_fold(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on: list[set[str]] = []
    scored: list[int] = []
    train, predict = training._train, training.predict_margins

    def watched(config, data, patches, *rest):  # type: ignore[no-untyped-def]
        trained_on.append(set(patches.slides))
        return train(config, data, patches, *rest)

    def counted(net, images, positive, batch_size=64):  # type: ignore[no-untyped-def]
        scored.append(len(images))
        return predict(net, images, positive, batch_size)

    monkeypatch.setattr(training, "_train", watched)
    monkeypatch.setattr(training, "predict_margins", counted)
    train_patch(configured(data, steps=1, folds=[["slide_0", "slide_2"], ["slide_1"]]), tmp_path)
    assert trained_on == [{"slide_1"}, {"slide_0", "slide_2"}, {"slide_0", "slide_1", "slide_2"}]
    assert scored == [20, 10]
    slides = {line.split(",")[1] for line in (tmp_path / "out-of-fold.csv").read_text().splitlines()[1:]}
    assert slides == {"slide_0", "slide_1", "slide_2"}


def test_the_same_seed_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_patch(configured(data, steps=4, folds=[]), tmp_path / name)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second
    train_patch(configured(data, steps=4, folds=[], seed=1), tmp_path / "c")
    assert (tmp_path / "c" / "model.safetensors").read_bytes() != first


def test_the_common_weights_are_averaged_in(data: Path, tmp_path: Path) -> None:
    settings = {
        "steps": 2,
        "common_steps": 2,
        "folds": [],
        "synthetic": {"count": 4, "held_out": 0, "share": 0.3},
    }
    found = {}
    for share in (0.0, 0.25, 1.0):
        out = tmp_path / str(share)
        train_patch(configured(data, **settings, common_weight=share), out, render)
        found[share] = read_weights(out / "model.safetensors")[0]["head.weight"]
    assert not torch.equal(found[0.0], found[1.0])
    assert torch.allclose(found[0.25], 0.25 * found[1.0] + 0.75 * found[0.0], atol=1e-6)


def test_a_holdout_slide_stops_training(data: Path, tmp_path: Path) -> None:
    report = train_patch(
        configured(data, folds=[], holdout=["slide_2"], steps=18, check_every=3, patience=1), tmp_path
    )
    course = (tmp_path / "progress" / "final.csv").read_text().splitlines()[1:]
    assert all(line.split(",")[3] for line in course)
    assert report.steps == int(course[-1].split(",")[0])
    assert "uncalibrated" in (tmp_path / "model-card.md").read_text().lower()


def test_progress_of_another_configuration_is_refused(data: Path, tmp_path: Path) -> None:
    train_patch(configured(data, steps=2, folds=[]), tmp_path)
    with pytest.raises(StoreError, match=r"final\.pt"):
        train_patch(configured(data, steps=2, folds=[], batch_size=4), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "/nowhere"}, "/nowhere: no such data folder"),
        ({"patches": "absent"}, "absent: no such folder of patches"),
        ({"classes": ["normal", "cancer"]}, "no sub-folder for the class 'cancer'; there: normal, tumor"),
        ({"slide_pattern": r"case_\d+"}, "does not begin with a slide's name"),
        ({"folds": [["slide_9"]]}, "no patch is of slide slide_9; slides: slide_0, slide_1, slide_2"),
        ({"folds": [["slide_0"], ["slide_0", "slide_1"]]}, "more than one fold"),
        (
            {"regions": [{"path": "region.png", "label": "normal", "slide": "slide_1", "side_px": 64}]},
            "slide_1 is kept out in a fold or by `holdout`, but a region of it",
        ),
        ({"folds": [["slide_0", "slide_1", "slide_2"]]}, "a class is absent from training"),
        ({"synthetic": {"count": 4}}, "no renderer"),
        ({"common_steps": 4}, "learn from synthetic windows"),
    ],
)
def test_wrong_data_is_said_clearly(
    data: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train_patch(configured(data, **changes), tmp_path)


def test_configurations_are_strict(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: x\ndata: .\npatches: p\nstepz: 3\nbatch_size: 0\n")
    with pytest.raises(UsageError, match="stepz") as caught:
        read_config(path)
    assert "batch_size" in str(caught.value)
    path.write_text("name: [")
    with pytest.raises(UsageError, match="not YAML"):
        read_config(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "absent.yaml")
    path.write_text("{name: x, data: ., patches: p, regions: [{path: a, label: benign, slide: s}]}")
    with pytest.raises(UsageError, match="label 'benign' is none of"):
        read_config(path)


def test_the_documented_configuration_is_valid() -> None:
    config = read_config(FULL)
    assert config.name == "camelyon-mini"
    assert config.folds is None


def test_the_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(0)
    true = random.normal(0, 2, 4000)
    positive = random.random(4000) < 1 / (1 + np.exp(-true))
    assert fit_temperature(true, positive) == pytest.approx(1, rel=0.1)
    assert fit_temperature(3 * true, positive) == pytest.approx(3, rel=0.1)


def test_batches_balance_classes_and_slides_and_depend_on_the_step_alone() -> None:
    images = np.zeros((120, 32, 32, 3), np.uint8)
    labels = np.array([0] * 100 + [1] * 20)
    slides = ("a",) * 81 + ("b",) * 19 + ("c",) * 20
    images[:, 0, 0, 0] = np.arange(120)
    draw = batches([(PatchSet(images, labels, slides), 1.0)], 2000, seed=5)
    windows, drawn_labels, _ = draw(3)
    assert float(drawn_labels.float().mean()) == pytest.approx(0.5, abs=0.05)
    index = (windows[:, 0, 0, 0] * 255).round().long()
    of_a, of_b = int((index < 81).sum()), int(((index >= 81) & (index < 100)).sum())
    assert of_a / of_b == pytest.approx((81 / 19) ** 0.5, rel=0.25)
    assert torch.equal(draw(3)[0], windows)
    assert not torch.equal(draw(4)[0], windows)


def test_regions_are_cut_into_half_overlapping_squares(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (128, 64, 3)).astype(np.uint8)
    folder_image = tmp_path / "region.png"
    save(folder_image, image)
    assert (read_region(folder_image, None) == image).all()
    cut = cut_region(image, 1, "s", 64, 32, 32)
    assert cut.images.shape == (3, 32, 32, 3)
    assert cut.labels.tolist() == [1, 1, 1]
    mean = image[:2, :2].reshape(-1, 3).mean(axis=0)
    assert np.abs(cut.images[0, 0, 0] - mean).max() <= 1
    assert (read_region(folder_image, (10, 20, 42, 60)) == image[10:42, 20:60]).all()
    with pytest.raises(UsageError, match="leaves the image of 128 x 64 pixels"):
        read_region(folder_image, (0, 0, 129, 64))
    with pytest.raises(UsageError, match="holds no square of 256"):
        cut_region(image, 1, "s", 256, 128, 32)


def test_an_output_that_is_a_file_is_refused_before_data_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    absent = read_config(SMOKE).model_copy(update={"data": tmp_path / "absent"})
    with pytest.raises(UsageError, match="file is there and is not a folder"):
        train_patch(absent, tmp_path / "file" / "out")
