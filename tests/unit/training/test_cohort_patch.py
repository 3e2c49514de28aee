"""Training on slides: what is drawn and from where, how slides are kept apart, what is mined, what is left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medvision.core.errors import StoreError, UsageError, WindowUnreadableError
from medvision.core.geometry import Box
from medvision.engine.contract import PatchModel
from medvision.models import load_model
from medvision.models.catalogue import as_patch_model
from medvision.models.contract import WeightsContract
from medvision.sources.annotations import Annotation, write_asap
from medvision.sources.write import write_slide
from medvision.store.cohort import CohortSlide, read_cohort, write_cohort
from medvision.training.cohort_config import (
    HardNegativesConfig,
    SamplingConfig,
    TrainCohortPatchConfig,
    read_cohort_patch_config,
)
from medvision.training.cohort_patch import _loss, _Stains, train_cohort_patch
from medvision.training.mining import mine_hard_negatives, read_hard, write_hard
from medvision.training.slide_sampling import (
    SlidePlaces,
    SlideSampler,
    find_places,
    prove_disjoint,
    split_validation,
)
from medvision.training.slide_windows import SlideWindows, cell_centres, cells_of

CONFIGS = Path(__file__).parents[3] / "configs"
SHAPE = (512, 640)
SPACING = 2.0
TUMOUR = (200, 180, 360, 380)
"""Rows and columns, first and after the last, of the square that is tumour; and of one that only looks like it."""
FALSE = (120, 440, 220, 560)


def picture(positive: bool, misleading: bool, seed: int) -> np.ndarray:
    """Pink tissue on white glass; tumour, and what is taken for it, is purple."""
    rng = np.random.default_rng(seed)
    image = np.full((*SHAPE, 3), 250, np.uint8)
    image[60:450, 60:600] = (225, 150, 190)
    for wanted, (r0, c0, r1, c1) in ((positive, TUMOUR), (misleading, FALSE)):
        if wanted:
            image[r0:r1, c0:c1] = (130, 70, 160)
    return np.clip(image + rng.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two normal slides, one of them misleading, and three with tumour, of five patients."""
    folder = tmp_path_factory.mktemp("cohort")
    slides = []
    for number in range(5):
        positive = number >= 2
        name = f"slide_{number}"
        image = picture(positive, number == 1, number)
        write_slide(folder / f"{name}.tif", SHAPE, lambda box, image=image: image[box.slices()], SPACING)
        r0, c0, r1, c1 = TUMOUR
        ring = np.array([(r0, c0), (r0, c1), (r1, c1), (r1, c0)], float)
        write_asap(folder / f"{name}.xml", [Annotation("a", "Tumor", "polygon", ring)] if positive else [])
        label = "tumor" if positive else "normal"
        slides.append(
            CohortSlide(
                name, folder / f"{name}.tif", label, f"p{number}", "train", folder / f"{name}.xml", SPACING
            )
        )
    return write_cohort(folder / "cohort.csv", slides)


@pytest.fixture(scope="module")
def slides(cohort: Path) -> tuple[CohortSlide, ...]:
    return read_cohort(cohort).slides


@pytest.fixture
def windows(slides: tuple[CohortSlide, ...]) -> Iterator[SlideWindows]:
    with SlideWindows(slides, 4.0) as opened:
        yield opened


def is_tumour(centre_um: np.ndarray) -> bool:
    r0, c0, r1, c1 = np.array(TUMOUR) * SPACING
    return bool(r0 <= centre_um[0] < r1 and c0 <= centre_um[1] < c1)


def test_windows_lie_where_the_place_says_whatever_the_spacing(slides: tuple[CohortSlide, ...]) -> None:
    centre = np.array([280.0, 280.0]) * SPACING
    for spacing in (2.0, 4.0):
        with SlideWindows(slides, spacing) as opened:
            window = opened.read(2, centre, 32)
            assert window.shape == (32, 32, 3)
            assert np.abs(window.mean(axis=(0, 1)) - (130, 70, 160)).max() < 12
            # A corner of the square: one quarter of the window is tumour.
            corner = opened.read(2, np.array(TUMOUR[:2]) * SPACING, 32)
            assert (corner[..., 0] < 180).mean() == pytest.approx(0.25, abs=0.04)
            edge = opened.read(2, (0.0, 0.0), 32)
            assert (edge[:16] == 255).all()
            assert opened.tumour(2, np.array([centre, (0, 0)])).tolist() == [True, False]
            assert not opened.tumour(0, centre)
            mask = opened.tumour_mask(2, Box((0, 0), (64, 80)), 16.0)
            assert mask.sum() * 16.0**2 == pytest.approx(160 * 200 * SPACING**2, rel=0.1)


def test_the_cells_of_a_region_match_their_centres(windows: SlideWindows) -> None:
    centre = np.array(TUMOUR[:2]) * SPACING
    region = windows.read(2, centre, 48)
    cells = cells_of(region)
    assert cells.shape == (9, 16, 16, 3)
    assert (cells[5] == region[16:32, 32:48]).all()
    centres = cell_centres(centre, 16 * 4.0)
    assert centres[1, 1].tolist() == centre.tolist()
    assert centres[0, 2].tolist() == [centre[0] - 64, centre[1] + 64]
    labels = windows.tumour(2, centres)
    assert labels.shape == (3, 3)
    assert labels.ravel().tolist() == [False] * 4 + [True, True, False, True, True]
    dark = (cells[..., 0].mean(axis=(1, 2)) < 140).reshape(3, 3)
    assert dark[2, 2]
    assert labels[dark].all()


def test_labels_must_agree_with_annotations(slides: tuple[CohortSlide, ...]) -> None:
    with pytest.raises(UsageError, match=r"'slide_2' is labelled 'normal', but .*shows tumour"):
        SlideWindows([replace(slides[2], label="normal")], 4.0)
    with pytest.raises(UsageError, match="'slide_0' is labelled 'tumor', but is empty"):
        SlideWindows([replace(slides[0], label="tumor")], 4.0)
    with pytest.raises(UsageError, match="has no annotation"):
        SlideWindows([replace(slides[2], annotation=None)], 4.0)


def test_places_are_of_their_kind_and_within_the_quota(windows: SlideWindows) -> None:
    how = SamplingConfig(per_slide=300, near_um=80)
    found = find_places(windows, 2, how, seed=0)
    assert {len(found.tumour), len(found.near), len(found.normal)} == {300}
    assert all(map(is_tumour, found.tumour))
    assert not any(map(is_tumour, np.concatenate([found.near, found.normal])))
    r0, c0, r1, c1 = np.array(TUMOUR) * SPACING

    def distance(places: np.ndarray) -> np.ndarray:
        low, high = np.array([r0, c0]), np.array([r1, c1])
        return np.hypot(*np.maximum(np.maximum(low - places, places - high), 0).T)

    assert distance(found.near).max() <= 80 + 12
    assert distance(found.normal).min() >= 80 - 12
    for places in (found.tumour, found.near, found.normal):  # in tissue only
        assert (places >= np.array([60, 60]) * SPACING - 40).all()
        assert (places <= np.array([450, 600]) * SPACING + 40).all()
    normal = find_places(windows, 0, how, seed=0)
    assert len(normal.tumour) == len(normal.near) == 0
    assert len(normal.normal) == 300


def sampler(windows: SlideWindows, **changes: object) -> SlideSampler:
    how = SamplingConfig.model_validate({"near_um": 80, "grid_um": 16} | changes)
    places = [find_places(windows, k, how, 0) for k in range(len(windows))]
    return SlideSampler(windows, places, how, window_px=16, size=24, seed=5)


def test_batches_are_balanced_and_a_function_of_the_step_alone(windows: SlideWindows) -> None:
    draw = sampler(windows)
    batches = [draw(step) for step in range(20)]
    labels = np.concatenate([b.labels for b in batches])
    slides = np.concatenate([b.slides for b in batches])
    images = np.concatenate([b.images for b in batches])
    assert labels.mean() == pytest.approx(0.5, abs=0.06)
    # Every slide with tumour gives about as many windows of it; so does every slide of normal tissue.
    counts = np.bincount(slides[labels == 1], minlength=5)
    assert counts[:2].tolist() == [0, 0]
    assert counts[2:].min() > 0.6 * counts[2:].max()
    assert (np.bincount(slides[labels == 0], minlength=5) > 20).all()
    # The label is that of the centre, which is purple on slides that do not mislead.
    centre = images[:, 7:9, 7:9, 0].mean(axis=(1, 2))
    clear = slides != 1
    assert ((centre < 180) == (labels == 1))[clear].mean() > 0.97
    other = sampler(windows)
    again = other(7)  # without the steps before
    assert (again.images == batches[7].images).all()
    assert (again.labels == batches[7].labels).all()
    assert (other(3).images == batches[3].images).all()
    assert (batches[3].images != batches[4].images).any()
    draw.close()
    other.close()


def test_shares_of_the_normal_windows(windows: SlideWindows) -> None:
    drawn = {}
    for share in (0.0, 1.0):
        draw = sampler(windows, near_share=share, hard_share=0)
        batches = [draw(step) for step in range(4)]
        slides = np.concatenate([b.slides[b.labels == 0] for b in batches])
        drawn[share] = set(slides.tolist())
        draw.close()
    assert drawn[1.0] <= {2, 3, 4}  # only slides with tumour have tissue beside it
    assert {0, 1} <= drawn[0.0]
    places = [SlidePlaces(np.zeros((0, 2)), np.zeros((0, 2)), np.ones((1, 2)))] * 2
    with pytest.raises(UsageError, match="none of the 2 slides has annotated tumour"):
        SlideSampler(windows, places, SamplingConfig(), 16, 4, 0)


def test_patients_are_kept_apart(slides: tuple[CohortSlide, ...]) -> None:
    for seed in range(6):
        learn, validate = split_validation(slides, 0.4, seed)
        assert len(learn) + len(validate) == 5
        assert len(validate) == 2
        assert {s.label for s in validate} == {"normal", "tumor"}
        assert "patients on both sides: 0" in prove_disjoint(learn, validate)
    twins = [replace(s, patient="one" if k < 4 else "two") for k, s in enumerate(slides)]
    learn, validate = split_validation(twins, 0.2, 0)
    assert {len(learn), len(validate)} == {1, 4}
    with pytest.raises(UsageError, match="patient 'one' would be learnt from and validated on"):
        prove_disjoint(twins[:2], twins[2:])
    with pytest.raises(
        UsageError, match="1 of 3 patients have annotated tumour; to learn and to validate takes two"
    ):
        split_validation(slides[:3], 0.4, 0)


class Purple(torch.nn.Module):
    """Calls dark windows tumour."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        red = windows[:, 0].mean(dim=(1, 2))
        return torch.stack([red, -red], dim=1) * 4


def purple_model() -> PatchModel:
    contract = WeightsContract.model_validate(
        {
            "architecture": "purple",
            "classes": ("normal", "tumor"),
            "window_px": 16,
            "spacing_um": 4.0,
            "mean": (0.7,) * 3,
            "std": (0.2,) * 3,
        }
    )
    return as_patch_model("purple", Purple(), contract)


def test_false_alarms_are_mined_and_true_ones_are_not(windows: SlideWindows, tmp_path: Path) -> None:
    how = HardNegativesConfig(beyond_um=40, per_slide=20)
    found = mine_hard_negatives(windows, purple_model(), how, "cpu")
    assert [len(places) for places in found] == [0, len(found[1]), 0, 0, 0]
    assert 1 <= len(found[1]) <= 20
    r0, c0, r1, c1 = np.array(FALSE) * SPACING
    inside = (found[1] >= (r0 - 32, c0 - 32)) & (found[1] <= (r1 + 32, c1 + 32))
    assert inside.all()
    path = tmp_path / "hard.csv"
    write_hard(windows, found, path)
    again = read_hard(windows, path)
    assert all((a == b).all() and a.shape == b.shape for a, b in zip(found, again, strict=True))
    path.write_text("slide_id,row_um,column_um\nanother,1,2\n")
    with pytest.raises(StoreError, match=r"hard\.csv: not the places of this run"):
        read_hard(windows, path)


def configured(cohort: Path, **changes: object) -> TrainCohortPatchConfig:
    base = {
        "name": "tiny",
        "cohort": cohort,
        "window_px": 32,
        "spacing_um": 4.0,
        "steps": 8,
        "batch_size": 8,
        "check_every": 4,
        "validation_windows": 16,
        "validation_share": 0.3,
        "stain_transfer": {"method": "macenko", "share": 0.3},
        "hard_negatives": {"rounds": 1, "steps": 4, "stride_px": 32, "least": 0.05},
        "device": "cpu",
    }
    return TrainCohortPatchConfig.model_validate(base | changes)


def test_training_leaves_a_model_that_loads_and_says_how_it_was_made(cohort: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    report = train_cohort_patch(configured(cohort), tmp_path, on_note=notes.append)
    assert "patients on both sides: 0" in notes[0]
    assert "false alarms" in notes[1]
    model = load_model("camelyon-mini", weights=report.weights)
    assert model.window == (32, 32)
    assert model.classes == ("normal", "tumor")
    assert model.calibration.startswith("temperature scaling on balanced windows")
    card = (tmp_path / "model-card.md").read_text()
    assert "Research use only" in card
    assert "| normal | " in card
    said = json.loads((tmp_path / "report.json").read_text())
    assert said["split"] == notes[0]
    assert said["steps"] == 12
    assert 0 <= said["figures"]["auc"]["value"] <= 1
    for number in (0, 1):
        assert (tmp_path / "progress" / f"round-{number}.csv").exists()
        assert list((tmp_path / "tensorboard" / f"round-{number}").glob("events.*"))


def test_a_broken_off_run_ends_like_an_uninterrupted_one(cohort: Path, tmp_path: Path) -> None:
    whole = train_cohort_patch(configured(cohort), tmp_path / "whole")

    def stop(run: str, check: object) -> None:
        if run == "round 1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cohort_patch(configured(cohort), tmp_path / "broken", stop)
    mined = list((tmp_path / "broken" / "progress").glob("hard-1-*.csv"))
    assert len(mined) == 1
    again = train_cohort_patch(configured(cohort), tmp_path / "broken")
    assert again.digest == whole.digest
    assert again.weights.read_bytes() == whole.weights.read_bytes()
    with pytest.raises(StoreError, match="other data or settings"):
        train_cohort_patch(configured(cohort, batch_size=4), tmp_path / "broken")


def test_a_slide_without_tissue_or_with_damage_lends_its_stain_to_none(windows: SlideWindows) -> None:
    here, nowhere = np.full((4, 2), 500.0), np.zeros((0, 2))
    there = np.tile([340.0, 1000.0], (4, 1))  # where slide 1 is purple
    known = [SlidePlaces(nowhere, nowhere, at) for at in (nowhere, there, here, here, here)]
    config = configured(Path("c.csv"), stain_transfer={"method": "reinhard", "share": 1.0})
    stains = _Stains(config, windows, known)
    assert [stains._of(k) is None for k in range(5)] == [True, False, False, False, False]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlideWindows, "read", damaged)
        assert _Stains(config, windows, known)._of(1) is None


def damaged(*_: object) -> None:
    raise WindowUnreadableError("gone")


def test_a_copy_of_a_slide_is_not_validated_on(cohort: Path, tmp_path: Path) -> None:
    slides = list(read_cohort(cohort).slides)
    copy = tmp_path / "copy.tif"
    copy.write_bytes(slides[4].path.read_bytes())
    slides.append(replace(slides[4], slide_id="copy", path=copy, patient="another", split="held"))
    slides.append(replace(slides[0], slide_id="other", patient="third", path=slides[0].path, split="held"))
    twin = write_cohort(tmp_path / "cohort.csv", slides)
    with pytest.raises(UsageError, match=r"file .* lies in more than one split"):
        train_cohort_patch(configured(twin, validation_split="held"), tmp_path / "out")
    twin = write_cohort(tmp_path / "cohort.csv", slides[:-1])
    with pytest.raises(
        UsageError, match="'slide_4', to learn from, and 'copy', to validate on, are one image"
    ):
        train_cohort_patch(configured(twin, validation_split="held"), tmp_path / "out")


def test_any_classifier_of_the_libraries_can_be_trained(cohort: Path, tmp_path: Path) -> None:
    config = configured(cohort, architecture="resnet18", steps=1, hard_negatives={"rounds": 0})
    report = train_cohort_patch(config, tmp_path)
    assert load_model("resnet18", weights=report.weights).window == (32, 32)
    logits, labels = torch.tensor([[0.2, 1.0], [2.0, -1.0]]), torch.tensor([1, 0])
    auxiliary = torch.zeros(2, 2)  # beside which Inception gives its logits while it trains
    assert _loss((logits, auxiliary), labels, 0.1) == _loss(logits, labels, 0.1)


def test_the_documented_configurations_are_valid_and_wrong_ones_are_named(tmp_path: Path) -> None:
    for name in ("train-cohort-patch.yaml", "train-cohort-patch-smoke.yaml"):
        assert read_cohort_patch_config(CONFIGS / name).augmentation.mix == 0
    path = tmp_path / "c.yaml"
    path.write_text("name: x\ncohort: c.csv\nsampling: {near_share: 0.8, hard_share: 0.4}\n")
    with pytest.raises(UsageError, match=r"near_share 0\.8 and hard_share 0\.4 exceed 1"):
        read_cohort_patch_config(path)
    path.write_text("name: x\ncohort: c.csv\nstepz: 1\nsteps: 0\nhard_negatives: {least: many}\n")
    with pytest.raises(UsageError) as refused:
        read_cohort_patch_config(path)
    assert f"{path}: " in str(refused.value)
    assert "stepz: no such field" in str(refused.value)
    assert "steps: Input should be greater than or equal to 1, not 0" in str(refused.value)
    assert "hard_negatives.least: " in str(refused.value) and "not 'many'" in str(refused.value)
    path.write_text("name: x\n")
    with pytest.raises(UsageError, match=r"cohort: is missing$"):
        read_cohort_patch_config(path)
    assert read_cohort_patch_config(path, Path("given.csv")).cohort == Path("given.csv")
