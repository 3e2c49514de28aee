"""Training an NCRF: regions with a label per cell, and a run from a manifest to weights that analyse a slide."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.models import load_model
from medvision.models.classifiers.slim_resnet import SlimResNet
from medvision.models.ncrf import NcrfClassifier
from medvision.models.turns import turn
from medvision.models.weights import digest_state, read_weights, write_weights
from medvision.pipelines.analyze import analyze_slide
from medvision.pipelines.config import AnalyzeConfig
from medvision.sources.annotations import write_asap
from medvision.store.cohort import Cohort, CohortSlide, read_cohort, write_cohort
from medvision.training.config_file import read_yaml_config
from medvision.training.loop import Check
from medvision.training.ncrf import load_regions, train_ncrf
from medvision.training.ncrf_config import RegionsConfig, TrainNcrfConfig
from medvision.training.ncrf_data import augment_regions, draw_regions, region_batches
from medvision.training.slide_windows import SlideWindows

ROOT = Path(__file__).parents[3]
CELL = 32


def paint(folder: Path, name: str, seed: int, tumour: bool) -> CohortSlide:
    """A picture of 640 px at 2 µm/px: pale tissue with dark dots, and in a block of it many more of them."""
    random = np.random.default_rng(seed)
    image = np.full((640, 640, 3), 245, np.uint8)
    image[80:560, 80:560] = (226, 180, 208)
    mask = np.zeros((640, 640), np.uint8)
    if tumour:
        mask[200:420, 240:440] = 255
    for _ in range(2500):
        row, column = random.integers(84, 556, 2)
        if not mask[row, column]:
            cv2.circle(image, (int(column), int(row)), 2, (120, 60, 140), -1)
    for row, column in random.integers(0, (220, 200), (2500 if tumour else 0, 2)).tolist():
        cv2.circle(image, (column + 240, row + 200), 3, (80, 30, 120), -1)
    path = folder / f"{name}.png"
    cv2.imwrite(str(path), image[..., ::-1])
    annotation = None
    if tumour:
        annotation = folder / f"{name}-mask.png"
        cv2.imwrite(str(annotation), mask)
    label = "tumor" if tumour else "normal"
    return CohortSlide(name, path, label, f"p{seed // 2}", "train", annotation, 2.0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("cohort")
    slides = [paint(folder, f"s{k}", k, k % 2 == 1) for k in range(8)]
    return read_cohort(write_cohort(folder / "cohort.csv", slides))


def config_of(cohort: Cohort, **changes: object) -> TrainNcrfConfig:
    said = read_yaml_config(ROOT / "configs" / "train-ncrf-smoke.yaml", TrainNcrfConfig)
    return TrainNcrfConfig.model_validate(
        said.model_dump() | {"cohort": cohort.source, "device": "cpu"} | changes
    )


def test_both_sides_have_tumour_though_every_slide_has_an_annotation_file(
    cohort: Cohort, tmp_path: Path
) -> None:
    """An annotation may be empty: then it says that the slide is normal."""
    empty = tmp_path / "empty.xml"
    write_asap(empty, [])
    slides = [replace(s, patient=s.slide_id, annotation=s.annotation or empty) for s in cohort.slides]
    whole = read_cohort(write_cohort(tmp_path / "cohort.csv", slides))
    few = {"count": 12, "validation": 8}
    for seed in range(6):
        data = load_regions(config_of(whole, seed=seed, validation_share=0.25, regions=few))
        assert sorted(str(slide.label) for slide in data.held_slides) == ["normal", "tumor"]
        assert set(data.learnt.slides).isdisjoint({slide.slide_id for slide in data.held_slides})
        assert "patients on both sides: 0" in data.proof


def test_what_would_be_known_from_the_other_side_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    def refused(slides: Sequence[CohortSlide], said: str) -> None:
        whole = read_cohort(write_cohort(tmp_path / "cohort.csv", slides))
        with pytest.raises(UsageError, match=said):
            load_regions(config_of(whole))

    in_two_splits = [*cohort.slides[:-1], replace(cohort.slides[-1], split="test")]
    refused(in_two_splits, "patient 'p3' lies in more than one split")
    copy = tmp_path / "copy.png"
    copy.write_bytes(cohort.slides[1].path.read_bytes())
    twin = replace(cohort.slides[1], slide_id="twin", path=copy, patient="q")
    refused(
        [cohort.slides[1], twin], "'(s1|twin)', to learn from, and '(s1|twin)', to validate on, are one image"
    )
    refused(cohort.slides[::2], "0 of 4 patients have annotated tumour")


def test_each_cell_has_the_label_of_its_centre(cohort: Cohort) -> None:
    how = RegionsConfig(count=60, validation=0, tumour_share=0.5, edge_share=0.5)
    with SlideWindows(cohort.slides, 2.0) as windows:
        found = draw_regions(windows, how, 60, CELL, 7)
        again = draw_regions(windows, how, 60, CELL, 7)
    assert found.digest == again.digest
    assert found.images.shape == (60, 96, 96, 3)
    assert 28 <= found.centre.sum() <= 32
    assert set(found.slides) == {f"s{k}" for k in range(8)}
    assert 0.1 < found.labels.mean() < 0.6
    mixed = (found.labels.min(axis=1) == 0) & (found.labels.max(axis=1) == 1)
    assert mixed.sum() > 10  # places beside tumour, and at its rim
    darkness = 255 - found.images.reshape(60, 3, CELL, 3, CELL, 3).mean(axis=(2, 4, 5)).reshape(60, 9)
    assert darkness[found.labels == 1].mean() > darkness[found.labels == 0].mean() + 40


def test_batches_are_a_function_of_the_step(cohort: Cohort) -> None:
    how = RegionsConfig(count=30, validation=0, tumour_share=0.5, edge_share=0.3)
    with SlideWindows(cohort.slides, 2.0) as windows:
        regions = draw_regions(windows, how, 30, CELL, 7)
    augmentation = config_of(cohort).augmentation
    batch = region_batches(regions, 10, 0.4, augmentation, lambda images: images, 3)
    first, labels = batch(5)
    again, same = batch(5)
    assert torch.equal(first, again) and torch.equal(labels, same)
    assert not torch.equal(first, batch(6)[0])
    assert labels[:, 4].sum() == 4  # of ten, as the share says
    assert first.min() >= 0 and first.max() <= 1


def test_labels_turn_with_their_regions(cohort: Cohort) -> None:
    still = config_of(cohort).augmentation.model_copy(
        update={"stain_scale": 0, "stain_shift": 0, "colour_scale": 0, "noise": 0}
    )
    cells = torch.rand(20, 9)
    images = cells.reshape(20, 1, 3, 3).repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)
    images = 0.2 + 0.7 * images
    found, labels = augment_regions(images, cells, still, torch.Generator().manual_seed(0))
    middles = found[:, 0, 4::8, 4::8].flatten(1)
    np.testing.assert_allclose(middles, 0.2 + 0.7 * labels, atol=1e-3)
    assert not torch.equal(labels, cells)
    assert torch.equal(turn(cells[0].reshape(3, 3), 5)[1, 1], cells[0, 4])


def test_a_run_writes_both_networks_that_analyse_a_slide(cohort: Cohort, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    config = config_of(cohort)
    report = train_ncrf(config, tmp_path / "out", lambda run, check: seen.append((run, check.step)))
    assert seen == [("ncrf", 6), ("ncrf", 12), ("base", 6), ("base", 12)]
    assert "Research use only" in report.card.read_text()
    assert str(tmp_path) not in report.card.read_text()
    said = json.loads((tmp_path / "out" / "report.json").read_text())
    assert said["digests"] == report.digests
    assert len(said["held_out"]) == 4
    assert (tmp_path / "out" / "progress" / "base.csv").read_text().startswith("step,loss")
    assert list((tmp_path / "out" / "tensorboard" / "ncrf").iterdir())
    model = load_model("ncrf-slim", weights=report.weights)
    base = load_model("ncrf-slim", weights=report.base)
    assert (model.window, base.window) == ((96, 96), (32, 32))
    assert isinstance(model.net, NcrfClassifier) and isinstance(base.net, NcrfClassifier)
    assert model.net.ncrf.crf is not None and model.net.ncrf.crf.W.abs().max() > 0
    assert base.net.ncrf.crf is None
    assert "held out" in model.calibration
    for weights in (report.weights, report.base):
        chosen = AnalyzeConfig(model="ncrf-slim", weights=weights, slide_spacing=2.0, stride=32, device="cpu")
        outcome = analyze_slide(cohort.slides[1].path, tmp_path / weights.stem, chosen, "s")
        assert outcome.status == "done", outcome.reason
        assert outcome.windows > 100
    # Again: the checkpoints are complete, nothing is learnt anew, and the weights are the same.
    repeated = train_ncrf(config, tmp_path / "out", lambda run, check: seen.append((run, check.step)))
    assert len(seen) == 4
    assert repeated.digests == report.digests


def test_an_interrupted_run_ends_like_an_uninterrupted_one(cohort: Cohort, tmp_path: Path) -> None:
    config = config_of(cohort, validation_share=0.0)
    whole = train_ncrf(config, tmp_path / "whole")

    def stop(run: str, check: Check) -> None:
        if run == "base" and check.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ncrf(config, tmp_path / "torn", stop)
    assert train_ncrf(config, tmp_path / "torn").digests == whole.digests
    assert whole.figures == {"ncrf": {}, "base": {}}
    assert load_model("ncrf-slim", weights=whole.weights).calibration == "uncalibrated"


def test_a_run_starts_from_a_patch_classifier(cohort: Cohort, tmp_path: Path) -> None:
    torch.manual_seed(3)
    start = SlimResNet(2).state_dict()
    write_weights(tmp_path / "start.safetensors", start, {})
    config = config_of(
        cohort, start=tmp_path / "start.safetensors", steps=1, check_every=1, learning_rate=1e-9, average=0.0
    )
    report = train_ncrf(config, tmp_path / "out")
    for weights in (report.weights, report.base):
        found = read_weights(weights)[0]
        learnt = found["cell.trunk.stages.0.first.weight"]
        torch.testing.assert_close(learnt, start["stages.0.first.weight"], atol=1e-5, rtol=1e-4)
        head = start["head.weight"][1] - start["head.weight"][0]
        torch.testing.assert_close(found["cell.head.weight"][0], head, atol=1e-5, rtol=1e-4)
    other = config_of(cohort, steps=1, check_every=1)
    assert train_ncrf(other, tmp_path / "other").digests != report.digests


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop_px": 33}, "no place in the middle"),
        ({"cell_px": 40, "crop_px": 24}, "multiple of 16"),
        ({"stride_px": 12}, "must divide cell_px 32"),
        ({"mean": (0.5, 0.5, 0.5)}, "together"),
        ({"patience": 2, "validation_share": 0}, "held out"),
    ],
)
def test_wrong_parameters_are_named(cohort: Cohort, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config_of(cohort, **changes)


def test_the_published_values_are_the_defaults() -> None:
    config = TrainNcrfConfig.model_validate({"name": "x", "cohort": "c.csv"})
    assert (config.trunk, config.cell_px, config.crop_px, config.stride_px) == ("resnet18", 256, 224, 64)
    assert (config.optimiser, config.learning_rate, config.batch_size) == ("sgd", 1e-3, 20)
    assert read_yaml_config(ROOT / "configs" / "train-ncrf.yaml", TrainNcrfConfig).trunk == "slim"


def test_the_command_trains(cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "configs" / "train-ncrf-smoke.yaml").read_text().replace("steps: 12", "steps: 2")
    file = tmp_path / "c.yaml"
    file.write_text(text + "device: cpu\n")
    command = [
        "train",
        "ncrf",
        "--config",
        str(file),
        "--out",
        str(tmp_path / "o"),
        "--cohort",
        str(cohort.source),
    ]
    assert run(command) == 0
    told = capsys.readouterr().out
    assert "patients on both sides: 0" in told
    assert "validation loss" in told
    assert "base auc" in told
    assert digest_state(read_weights(tmp_path / "o" / "model.safetensors")[0])


@pytest.mark.slow
def test_learning_tells_tumour_from_tissue(cohort: Cohort, tmp_path: Path) -> None:
    report = train_ncrf(config_of(cohort, steps=60, check_every=60, average=0.9), tmp_path / "out")
    found: npt.NDArray[np.float64] = np.array([figures["auc"].value for figures in report.figures.values()])
    assert (found > 0.9).all()
