"""Training on feature tables: patients apart, batches a function of the step, resumed runs equal, honest figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvision.core.errors import StoreError, UsageError
from medvision.core.features import FeatureSource
from medvision.models.mil import load_slide_model, write_slide_model
from medvision.store.cohort import CohortSlide
from medvision.store.features import FeatureInfo, FeatureTable, WindowTable, read_features, write_features
from medvision.training.slides import train_slides
from medvision.training.slides_config import TrainSlidesConfig
from medvision.training.slides_data import SlideSet, bags, gather, moments, split_patients

DIMENSION = 6


def write_table(folder: Path, seed: int, positive: bool) -> FeatureTable:
    """40 to 59 windows; three of a positive slide stand out in one feature, one window is unread."""
    random = np.random.default_rng(seed)
    count = 40 + seed % 20
    vectors = random.normal(size=(count, DIMENSION)).astype(np.float32)
    if positive:
        vectors[random.choice(count - 1, 3, replace=False) + 1, 2] += 6
    vectors[0] = np.nan
    cells = np.arange(count)
    info = FeatureInfo(
        slide=folder.name,
        slide_digest=f"{seed}",
        slide_shape=(1000, 1000),
        slide_spacing_um=(0.5, 0.5),
        source=FeatureSource(
            trunk="toy",
            digest="d",
            dimension=DIMENSION,
            window_px=64,
            spacing_um=0.5,
            stride_px=64,
            minimum_tissue=0.1,
        ),
        lattice=(8, 8),
        dtype="float32",
        windows=count,
        unread=1,
    )
    windows = WindowTable(
        row=cells // 8 * 64.0,
        column=cells % 8 * 64.0,
        cell_row=cells // 8,
        cell_column=cells % 8,
        tissue=np.ones(count, np.float32),
        read=cells > 0,
    )
    folder.mkdir()
    write_features(folder, info, vectors, windows)
    return read_features(folder)


def slide(number: int) -> CohortSlide:
    label = "tumor" if number % 2 else "normal"
    return CohortSlide(f"s{number:02d}", Path("s.tif"), label, f"p{number // 2}", "train")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SlideSet:
    root = tmp_path_factory.mktemp("features")
    slides = [slide(k) for k in range(16)]
    tables = {s.slide_id: write_table(root / s.slide_id, k, k % 2 == 1) for k, s in enumerate(slides)}
    return gather(slides, ("normal", "tumor"), lambda s: tables[s.slide_id])


def config(**changed: Any) -> TrainSlidesConfig:
    fields: dict[str, Any] = {
        "name": "toy",
        "cohort": "cohort.csv",
        "options": {"hidden": 16, "attention": 8, "heads": 4, "layers": 1, "dropout": 0.1},
        "folds": 2,
        "steps": 60,
        "check_every": 10,
        "learning_rate": 0.01,
        "average": 0.8,
    }
    return TrainSlidesConfig.model_validate(fields | changed)


def test_no_patient_is_in_two_groups_and_classes_are_spread(data: SlideSet) -> None:
    groups = split_patients(data, 4, seed=0)
    assert sorted(np.concatenate(groups).tolist()) == list(range(16))
    patients = [{data.patients[k] for k in group} for group in groups]
    assert sum(len(p) for p in patients) == len(set.union(*patients)) == 8
    assert all(set(data.labels[group]) == {0, 1} for group in groups)
    again = split_patients(data, 4, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(groups, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(groups, split_patients(data, 4, 1), strict=True))


def test_too_few_patients_or_of_a_class_are_refused(data: SlideSet) -> None:
    with pytest.raises(UsageError, match="8 patients cannot be split into 9"):
        split_patients(data, 9, 0)
    with pytest.raises(UsageError, match="fewer folds"):
        split_patients(data.of([0, 2, 1]), 2, 0)


def test_batches_are_a_function_of_the_step(data: SlideSet) -> None:
    first, second = bags(data, 3, 32, seed=1), bags(data, 3, 32, seed=1)
    second(4)
    inputs, targets = first(5)
    again, same = second(5)
    assert torch.equal(inputs, again)
    assert torch.equal(targets, same)
    assert inputs.shape == (3, 32, DIMENSION)
    assert not inputs.isnan().any()
    seen = torch.cat([first(step)[1] for step in range(16)])  # three passes over sixteen slides
    assert seen.sum() == 24


def test_drawn_windows_keep_their_order(data: SlideSet) -> None:
    inputs, _ = bags(data, 1, 20, seed=0)(0)
    rows = {tuple(row): k for j in range(16) for k, row in enumerate(data.vectors(j).tolist())}
    places = [rows[tuple(row)] for row in inputs[0].tolist()]
    assert places == sorted(places)
    assert len(set(places)) == 20


def test_shorter_bags_are_filled_up_with_nan(data: SlideSet) -> None:
    inputs, _ = bags(data, 4, None, seed=0)(0)
    lengths = (~inputs.isnan().any(dim=2)).sum(dim=1)
    assert int(lengths.max()) == inputs.shape[1]
    assert len(set(lengths.tolist())) > 1


def test_unread_windows_are_left_out(data: SlideSet) -> None:
    assert len(data.vectors(0)) == len(data.slides[0].table) - 1 == data.length(0)
    mean, std = moments(data)
    every = [data.vectors(k).astype(np.float64) for k in range(16)]
    expected = np.mean([v.mean(axis=0) for v in every], axis=0)
    np.testing.assert_allclose(mean.numpy(), expected, atol=1e-6)
    square = np.mean([(v**2).mean(axis=0) for v in every], axis=0)
    np.testing.assert_allclose(std.numpy(), np.sqrt(square - expected**2), rtol=1e-5)


@pytest.mark.parametrize("architecture", ["abmil", "clam-sb", "cnn-lstm"])
def test_it_learns_and_says_how_well(data: SlideSet, tmp_path: Path, architecture: str) -> None:
    options = config().options.model_dump() | {"readout": "max"}
    report = train_slides(config(architecture=architecture, options=options), data, tmp_path)
    assert report.figures["auc"].value > 0.9
    assert report.figures["auc"].interval is not None
    assert "patients kept apart, 2 folds, 16 slides, which also chose" in report.figures["auc"].protocol
    model = load_slide_model(tmp_path)
    assert model.contract.features == data.source
    assert model.contract.figures == report.figures
    assert "Research use only" in model.card
    assert "16 slides of 8 patients: 8 normal; 8 tumor" in model.card
    right = [
        (model.predict(data.vectors(k)).probabilities["tumor"] > 0.5) == (label == 1)
        for k, label in enumerate(data.labels)
    ]
    assert np.mean(right) > 0.9
    said = json.loads((tmp_path / "report.json").read_text())
    assert said["digest"] == report.digest
    with (tmp_path / "out-of-fold.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["slide"] for row in rows) == [f"s{k:02d}" for k in range(16)]
    assert {row["label"] for row in rows} == {"normal", "tumor"}


def test_attention_falls_on_the_windows_that_stand_out(data: SlideSet, tmp_path: Path) -> None:
    train_slides(config(), data, tmp_path)
    vectors = data.slides[1].table.vectors()
    attention = load_slide_model(tmp_path).predict(vectors).attention
    assert attention is not None
    assert np.isnan(attention[0])
    outstanding = np.flatnonzero(vectors[:, 2] > 4)
    assert np.nansum(attention[outstanding]) > 3 * len(outstanding) / len(vectors)


def test_the_same_again_has_the_same_weights_and_goes_on_after_an_interruption(
    data: SlideSet, tmp_path: Path
) -> None:
    first = train_slides(config(), data, tmp_path / "a")

    class Interrupted(Exception):
        pass

    def interrupt(run: str, check: Any) -> None:
        if run == "fold 2" and check.step == 30:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_slides(config(), data, tmp_path / "b", interrupt)
    told: list[str] = []
    second = train_slides(
        config(), data, tmp_path / "b", lambda run, check: told.append(f"{run} {check.step}")
    )
    assert second.digest == first.digest
    assert second.figures == first.figures
    assert "fold 1 10" not in told


def test_one_held_out_part_does_without_folds(data: SlideSet, tmp_path: Path) -> None:
    report = train_slides(config(folds=0, validation_share=0.25, patience=2), data, tmp_path)
    said = report.figures["accuracy"].protocol
    assert "one held-out part" in said and "slides, which also chose the step" in said
    assert report.steps <= 60
    assert [path.name for path in (tmp_path / "progress").glob("*.csv")] == ["final.csv"]
    assert list((tmp_path / "tensorboard" / "final").glob("events.*"))


def test_progress_of_another_configuration_is_refused(data: SlideSet, tmp_path: Path) -> None:
    train_slides(config(steps=10), data, tmp_path)
    with pytest.raises(StoreError, match="other data or settings"):
        train_slides(config(steps=10, learning_rate=0.1), data, tmp_path)


def test_weights_to_start_from_are_taken_where_they_fit(data: SlideSet, tmp_path: Path) -> None:
    train_slides(config(steps=10), data, tmp_path / "a")
    start = tmp_path / "a" / "model.safetensors"
    from_start = train_slides(config(steps=1, start=start), data, tmp_path / "b")
    assert from_start.digest != train_slides(config(steps=1), data, tmp_path / "c").digest
    with pytest.raises(UsageError, match="none of its"):
        train_slides(
            config(architecture="transmil", steps=1, start=write_other(tmp_path)), data, tmp_path / "d"
        )


def test_a_start_from_other_features_is_refused(data: SlideSet, tmp_path: Path) -> None:
    train_slides(config(steps=1), data, tmp_path / "a")
    model = load_slide_model(tmp_path / "a")
    assert model.contract.features is not None
    other = model.contract.features.model_copy(update={"trunk": "another", "digest": "e"})
    start = tmp_path / "start.safetensors"
    write_slide_model(start, model.net, model.contract.model_copy(update={"features": other}))
    with pytest.raises(
        UsageError, match=r"start\.safetensors: .* trunk toy instead of another; digest d instead"
    ):
        train_slides(config(steps=1, start=start), data, tmp_path / "b")


def write_other(folder: Path) -> Path:
    path = folder / "other.pth"
    torch.save({"something": torch.zeros(3)}, path)
    return path


def test_slides_that_cannot_be_learnt_from_are_named(data: SlideSet) -> None:
    table = data.slides[0].table
    with pytest.raises(UsageError, match="'s03': label 'tumor' is none of"):
        gather([slide(3)], ("normal", "other"), lambda _s: table)
    with pytest.raises(UsageError, match="no slide to learn from is of class tumor"):
        gather([slide(0)], ("normal", "tumor"), lambda _s: table)
    with pytest.raises(UsageError, match="'s00' and 's03' are one image of two patients, p0 and p1"):
        gather([slide(0), slide(3)], ("normal", "tumor"), lambda _s: table)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"architecture": "rnn"}, "'rnn' is none of"),
        ({"folds": 1}, "folds: 1"),
        ({"classes": ["a", "a"]}, "repeat"),
        ({"option": 3}, "option"),
    ],
)
def test_wrong_parameters_are_named(field: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**field)


@pytest.mark.parametrize("name", ["train-mil", "train-cnn-lstm", "train-cnn-lstm-images"])
def test_the_shipped_configurations_are_read(name: str) -> None:
    from medvision.training.config_file import read_yaml_config

    path = Path(__file__).parents[3] / "configs" / f"{name}.yaml"
    assert read_yaml_config(path, TrainSlidesConfig).classes[0] == "normal"
