"""Nodule networks from training to score: tiny scans, few steps, everything that a real run does."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medvision.core.errors import StoreError, UsageError
from medvision.core.geometry import Spacing
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.evaluations.luna16 import evaluate
from medvision.models.nodules import read_nodule_model
from medvision.models.nodules.run import detect_candidates, find_lungs, plan_detection, rescore
from medvision.sources.volume import open_volume
from medvision.store.luna16_files import Points, read_annotations, write_candidates
from medvision.training.config_file import validated
from medvision.training.loop import Check
from medvision.training.nodule_config import TrainNoduleFprConfig, TrainNodulesConfig
from medvision.training.nodule_fpr import train_nodule_fpr
from medvision.training.nodules import NoduleReport, train_nodules

FOLDS = {"validation": ["subset2"], "held_out": ["subset3"]}


class Interrupted(Exception):
    """Stands for whatever ends a training half-way."""


def detector_config(cohort: Path, **changes: object) -> TrainNodulesConfig:
    given = {
        "name": "toy",
        "scans": {"folder": cohort, **FOLDS},
        "contract": {
            "spacing_mm": [2.5, 1.8, 1.8],
            "window": [3, 64, 64],
            "options": {"width": 0.125, "hidden": 32, "proposals": 30, "score_threshold": 0.0, "most": 3},
        },
        "crop_px": 64,
        "batch_size": 3,
        "steps": 9,
        "check_every": 3,
        "learning_rate": 2e-3,
        "average": 0.5,
        **changes,
    }
    return validated(given, TrainNodulesConfig)


@pytest.fixture(scope="module")
def trained(toy_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NoduleReport]:
    out = tmp_path_factory.mktemp("nodules") / "out"
    return out, train_nodules(detector_config(toy_cohort), out, device="cpu")


def test_a_detector_learns_and_writes_what_luna16_reads(
    trained: tuple[Path, NoduleReport], toy_cohort: Path
) -> None:
    out, report = trained
    assert report.checks[-1].loss < report.checks[0].loss
    assert all(check.score is not None for check in report.checks)
    model = read_nodule_model(report.weights, "nodule-detector")
    assert set(model.contract.figures) == {"cpm", "sensitivity_of_all_candidates"}
    card = report.card.read_text()
    assert "Research use only" in card
    assert report.proof in card
    assert str(toy_cohort) not in card
    assert {p.name for p in out.iterdir()} == {
        *("model.safetensors", "model-card.md", "report.json", "split.json", "candidates.csv"),
        *("candidates-all.csv", "seriesuids.csv", "progress", "tensorboard"),
    }
    assert list((out / "tensorboard").glob("events*"))
    found = evaluate(
        report.candidates,
        toy_cohort / "annotations.csv",
        toy_cohort / "annotations_excluded.csv",
        report.series,
    )
    assert found.froc.cases == 1
    assert found.froc.lesions == 4
    assert found.froc.score == pytest.approx(model.contract.figures["cpm"].value, abs=1e-4)
    assert sum(scan.candidates for scan in found.scans) > 0
    with (out / "candidates-all.csv").open() as stream:
        assert {row["seriesuid"] for row in csv.DictReader(stream)} == {f"1.2.{k}" for k in range(4)}
    assert json.loads((out / "split.json").read_text())["proof"] == report.proof


def test_a_training_that_was_broken_off_ends_with_the_same_weights(
    trained: tuple[Path, NoduleReport], toy_cohort: Path, tmp_path: Path
) -> None:
    def stop(_run: str, check: Check) -> None:
        if check.step == 6:
            raise Interrupted

    config = detector_config(toy_cohort)
    with pytest.raises(Interrupted):
        train_nodules(config, tmp_path, stop, device="cpu")
    report = train_nodules(config, tmp_path, device="cpu")
    assert report.resumed_at == 3
    assert report.digest == trained[1].digest
    with pytest.raises(StoreError, match="other data or settings"):
        train_nodules(detector_config(toy_cohort, learning_rate=1e-4), tmp_path, device="cpu")


def made_candidates(cohort: Path, path: Path) -> Path:
    """Nodules and bars with equal scores: what a detector finds that cannot tell them apart."""
    uids = [f"1.2.{k}" for k in range(4)]
    table = read_annotations(cohort / "annotations.csv", uids, False)
    rng = np.random.default_rng(3)
    points = {}
    for number, uid in enumerate(uids):
        source = open_volume(cohort / f"subset{number}" / f"{uid}.mhd")
        assert source.frame is not None
        middle = source.frame.to_world(np.array([18.0, 36.0, 36.0]))
        nodules = table.scans[uid].centres
        others = middle + rng.uniform(-1, 1, (12, 3)) * (45, 30, 30)
        away = np.linalg.norm(others[:, None] - nodules[None], axis=2).min(axis=1) > 12
        centres = np.concatenate([others[away], nodules])
        points[uid] = Points(centres, np.full(len(centres), 0.5))
        source.close()
    write_candidates(path, points)
    return path


def fpr_config(cohort: Path, candidates: Path, **changes: object) -> TrainNoduleFprConfig:
    given = {
        "name": "toy",
        "scans": {"folder": cohort, **FOLDS},
        "candidates": candidates,
        "contract": {
            "spacing_mm": [2.0, 2.0, 2.0],
            "window": [12, 16, 16],
            "crop": [8, 12, 12],
            "options": {"width": 0.125, "hidden": [16, 8], "dropout": 0.0},
        },
        "batch_size": 12,
        "steps": 24,
        "check_every": 8,
        "learning_rate": 5e-3,
        "average": 0.5,
        "turns": 4,
        **changes,
    }
    return validated(given, TrainNoduleFprConfig)


def test_a_reduction_learns_in_rounds_and_raises_the_score(toy_cohort: Path, tmp_path: Path) -> None:
    candidates = made_candidates(toy_cohort, tmp_path / "candidates.csv")
    out, notes = tmp_path / "out", list[str]()
    report = train_nodule_fpr(fpr_config(toy_cohort, candidates), out, None, notes.append, device="cpu")
    for number in (1, 2):
        with (out / "progress" / f"round-{number}.csv").open() as stream:
            course = [float(row["loss"]) for row in csv.DictReader(stream)]
        assert len(course) == 3
        if number == 1:
            assert course[-1] < course[0]
    assert any("hard negatives" in note for note in notes)
    model = read_nodule_model(report.weights, "nodule-fpr")
    assert model.contract.calibration.startswith("temperature scaling on")
    figures = model.contract.figures
    assert figures["cpm"].value > figures["cpm_of_the_detector"].value
    tables = toy_cohort / "annotations.csv", toy_cohort / "annotations_excluded.csv"
    after = evaluate(report.candidates, *tables, report.series)
    assert after.froc.score == pytest.approx(figures["cpm"].value, abs=1e-4)

    def stop(run: str, check: Check) -> None:
        if (run, check.step) == ("round-2", 16):
            raise Interrupted

    again = tmp_path / "again"
    with pytest.raises(Interrupted):
        train_nodule_fpr(fpr_config(toy_cohort, candidates), again, stop, device="cpu")
    resumed = train_nodule_fpr(fpr_config(toy_cohort, candidates), again, device="cpu")
    assert resumed.resumed_at == 8
    assert resumed.digest == report.digest
    assert resumed.candidates.read_bytes() == report.candidates.read_bytes()


def test_candidates_must_be_of_every_part(toy_cohort: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    write_candidates(path, {"1.2.0": Points(np.zeros((1, 3)), np.ones(1))})
    with pytest.raises(UsageError, match="no candidate in the scans for validation"):
        train_nodule_fpr(fpr_config(toy_cohort, path), tmp_path / "out")


def test_a_network_of_the_other_kind_is_refused(toy_cohort: Path, tmp_path: Path) -> None:
    judges = detector_config(toy_cohort, architecture="nodule-resnet10", contract={})
    with pytest.raises(UsageError, match="judges candidates"):
        train_nodules(judges, tmp_path / "out")
    finds = fpr_config(toy_cohort, tmp_path, architecture="faster-rcnn-vgg-slim", contract={})
    with pytest.raises(UsageError, match="finds candidates"):
        train_nodule_fpr(finds, tmp_path / "out")


class BrightBoxes(nn.Module):
    """Finds what is soft tissue inside lungs: components that do not touch the window's rim."""

    def forward(self, windows: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        from scipy import ndimage

        found = []
        for window in windows:
            middle = window[0, 1].numpy() > 0.4
            labels, _ = ndimage.label(middle)
            boxes = [
                [[1, a.start, b.start], [2, a.stop, b.stop]]
                for a, b in ndimage.find_objects(labels)
                if a.stop - a.start < 12 and b.stop - b.start < 12
            ]
            found.append(
                {
                    "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 2, 3),
                    "scores": torch.full((len(boxes),), 0.5),
                    "labels": torch.zeros(len(boxes), dtype=torch.int64),
                }
            )
        return found


class MiddleValue(nn.Module):
    """The value in the middle of a cube as its probability."""

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        middle = cubes[:, 0, 3:5, 3:5, 3:5].mean(dim=(1, 2, 3))
        return torch.stack([1 - middle, middle], dim=1)


def stub(net: nn.Module, window: tuple[int, ...], spacing: tuple[float, ...], finds: bool) -> PatchModel:
    return PatchModel(
        name="stub",
        net=net,
        window=window,
        spacing=Spacing(spacing, "mm"),
        normalisation=Normalisation((0.0,), (1.0,), -1000, 400),
        output="objects" if finds else "scores",
        classes=("nodule",) if finds else ("other", "nodule"),
        digest="0",
        activation=lambda raw: raw,
        positive="nodule",
    )


@pytest.mark.parametrize("side", [64, 32])
def test_candidates_lie_on_the_nodules_whatever_the_grid(toy_cohort: Path, side: int) -> None:
    """A scan stored the other way round, a network of another spacing, and windows smaller than the lungs, too."""
    source = open_volume(toy_cohort / "subset1" / "1.2.1.mhd")
    assert source.frame is not None
    engine = PatchEngine(EngineSettings(device="cpu", backend="eager"))
    found = detect_candidates(stub(BrightBoxes(), (3, side, side), (2.0, 2.0, 2.0), True), source, engine)
    assert found.lungs.found
    assert found.unread == 0
    assert found.stats.windows < 45 * (1 if side == 64 else 9), "planes without lungs are not looked at"
    nodules = read_annotations(toy_cohort / "annotations.csv", ["1.2.1"], False).scans["1.2.1"]
    world = source.frame.to_world(found.candidates.centres)
    apart = np.linalg.norm(nodules.centres[:, None] - world[None], axis=2)
    assert apart.min(axis=1).max() < 2.0
    nearest = apart.argmin(axis=1)
    assert np.abs(found.candidates.diameters_mm[nearest] - nodules.values).max() < 3.0
    judge = stub(MiddleValue(), (8, 8, 8), (1.5, 1.5, 1.5), False)
    at = source.frame.to_voxels(np.concatenate([nodules.centres, nodules.centres + np.array([0, 0, 11])]))
    probabilities = rescore(judge, source, at, engine)
    assert (probabilities[:4] > 0.65).all()
    assert (probabilities[4:] < 0.3).all()
    np.testing.assert_allclose(rescore(judge, source, at, engine, turns=16), probabilities, atol=1e-4)
    assert rescore(judge, source, np.empty((0, 3)), engine).shape == (0,)
    source.close()


def test_a_scan_without_lungs_is_searched_whole(toy_cohort: Path) -> None:
    source = open_volume(toy_cohort / "subset0" / "1.2.0.mhd")
    model = stub(BrightBoxes(), (3, 64, 64), (2.0, 2.0, 2.0), True)
    whole = find_lungs(source, margin_mm=None)
    assert not whole.found
    assert whole.mask.all()
    planes = 45
    assert len(plan_detection(source, model, whole)) == planes * 4, "two by two, which overlap"
    source.close()


def test_models_of_the_wrong_kind_are_refused(toy_cohort: Path) -> None:
    source = open_volume(toy_cohort / "subset0" / "1.2.0.mhd")
    engine = PatchEngine(EngineSettings(device="cpu", backend="eager"))
    finds = stub(BrightBoxes(), (3, 64, 64), (2.0, 2.0, 2.0), True)
    judges = stub(MiddleValue(), (8, 8, 8), (2.0, 2.0, 2.0), False)
    with pytest.raises(UsageError, match="finds no objects in volumes"):
        detect_candidates(judges, source, engine)
    with pytest.raises(UsageError, match="no probabilities of cubes"):
        rescore(finds, source, np.zeros((1, 3)), engine)
    with pytest.raises(UsageError, match="choose its turns before"):
        rescore(engine.prepare(judges), source, np.zeros((1, 3)), engine, turns=4)
    with pytest.raises(UsageError, match="3 orientations"):
        rescore(replace(judges), source, np.zeros((1, 3)), engine, turns=3)
    source.close()
