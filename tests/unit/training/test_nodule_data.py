"""What nodule networks learn from: scans and their split, windows with their boxes, cubes and what is no nodule."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medvision.core.errors import UsageError
from medvision.core.geometry import Spacing
from medvision.metrics.nodules import inside
from medvision.models.nodules import DetectorContract, ReductionContract, usual_contract
from medvision.models.turns import CUBE_TURNS, turn_cube
from medvision.store.luna16_files import Points
from medvision.training.config_file import validated
from medvision.training.nodule_config import (
    NoduleScansConfig,
    TrainNoduleFprConfig,
    TrainNodulesConfig,
    read_nodules_config,
)
from medvision.training.nodule_cubes import CubeBatches, judged, negatives, nodules_of, still_cubes, thinned
from medvision.training.nodule_scans import NoduleScans, load_scans
from medvision.training.nodule_windows import DetectorBatches, clipped, turn_boxes

PLAIN = {"scale": 0.0, "shift_hu": 0.0, "noise_hu": 0.0}


def split(folder: Path, **changes: object) -> NoduleScansConfig:
    given = {"folder": folder, "validation": ["subset2"], "held_out": ["subset3"], **changes}
    return validated(given, NoduleScansConfig)


@pytest.fixture(scope="module")
def held(toy_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> NoduleScans:
    return load_scans(split(toy_cohort), tmp_path_factory.mktemp("progress"))


def detector(held: NoduleScans, **changes: object) -> DetectorBatches:
    given = {
        "name": "d",
        "scans": split(held.scans[0].path.parent.parent).model_dump(),
        "crop_px": 64,
        "batch_size": 12,
        "augmentation": PLAIN,
        **changes,
    }
    config = validated(given, TrainNodulesConfig)
    contract = usual_contract(config.architecture, spacing_mm=(2.5, 1.8, 1.8), window=(3, 64, 64))
    assert isinstance(contract, DetectorContract)
    return DetectorBatches(held, config, contract)


def test_parts_share_no_scan_and_say_so(held: NoduleScans) -> None:
    assert {part: [s.uid for s in held.of(part)] for part in ("train", "validation", "held_out")} == {
        "train": ["1.2.0", "1.2.1"],
        "validation": ["1.2.2"],
        "held_out": ["1.2.3"],
    }
    assert held.proof() == (
        "train 2 scans, 8 nodules (subset0, subset1); validation 1 scans, 4 nodules (subset2); held out 1 scans, 4 "
        "nodules (subset3); no uid and no content in two parts"
    )


def test_findings_lie_where_the_voxels_are(held: NoduleScans) -> None:
    """Also in scans that are stored from the head down, and from the patient's left to the right."""
    for scan in held.scans:
        for place in scan.nodules:
            voxel = np.floor(place / (2.5, 1.8, 1.8)).astype(int)
            ball = held.reader.window(
                scan.path, (voxel - 1).tolist(), (3, 3, 3), Spacing((2.5, 1.8, 1.8), "mm")
            )
            assert abs(float(np.median(ball)) - 40) < 30, "a corner may lie outside a small ball"
        assert len(scan.excluded) == (2 if scan.uid == "1.2.0" else 0)
        assert (scan.excluded_mm == 10).all()


def test_a_nodule_outside_its_scan_is_refused(toy_cohort: Path, tmp_path: Path) -> None:
    """Tables in other coordinates would have a network learn from air."""
    rows = (toy_cohort / "annotations.csv").read_text().splitlines()
    uid, x, y, z, size = rows[1].split(",")
    moved = tmp_path / "annotations.csv"
    moved.write_text("\n".join([rows[0], f"{uid},{x},{float(y) + 500:.3f},{z},{size}", *rows[2:]]))
    with pytest.raises(
        UsageError, match=rf"a nodule of {uid} at .* lies outside its scan, which spans x .* \(LPS\)"
    ):
        load_scans(split(toy_cohort, annotations=str(moved)), tmp_path / "progress")


def test_what_of_the_tables_is_passed_over_is_noted(toy_cohort: Path, tmp_path: Path) -> None:
    table = tmp_path / "annotations.csv"
    table.write_text((toy_cohort / "annotations.csv").read_text() + "9.9.9,0,0,0,5\n")
    held = load_scans(split(toy_cohort, annotations=str(table)), tmp_path / "progress")
    assert len(held.notes) == 1 and "1 of 17 rows are of scans that are not listed" in held.notes[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation": ["subset9"]}, "no fold 'subset9'; its folders: subset0, subset1"),
        ({"train": ["subset3"]}, "'subset3' is named twice"),
        ({"annotations": "none.csv"}, "none.csv"),
    ],
)
def test_a_split_that_cannot_be_is_refused(
    toy_cohort: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        load_scans(split(toy_cohort, **changes), tmp_path)


@pytest.mark.parametrize(
    ("name", "words"), [("1.2.0", "of this uid is in fold"), ("1.2.9", "the content of")]
)
def test_a_scan_in_two_parts_is_refused(toy_cohort: Path, tmp_path: Path, name: str, words: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(toy_cohort, copy)
    header = (copy / "subset0" / "1.2.0.mhd").read_text().replace("1.2.0.raw", f"{name}.raw")
    (copy / "subset3" / f"{name}.mhd").write_text(header)
    shutil.copy(copy / "subset0" / "1.2.0.raw", copy / "subset3" / f"{name}.raw")
    with pytest.raises(UsageError, match=words):
        load_scans(split(copy), tmp_path / "progress")


def test_boxes_turn_with_their_windows() -> None:
    shape = (3, 20, 20)
    box = np.array([[[0.0, 2.0, 5.0], [2.0, 9.0, 18.0]]])
    window = torch.zeros(shape)
    window[0:2, 2:9, 5:18] = 1
    for which in range(CUBE_TURNS):
        turned = turn_cube(window, which)
        held = torch.nonzero(turned)
        found = turn_boxes(box, shape, which)
        assert found[0, 0].tolist() == held.amin(dim=0).tolist()
        assert found[0, 1].tolist() == (held.amax(dim=0) + 1).tolist()


def test_boxes_hardly_in_a_window_are_not_asked_for() -> None:
    boxes = np.array(
        [
            [[1, 10, 10], [2, 20, 20]],  # whole
            [[1, -5, 10], [2, 5, 20]],  # half of it
            [[1, -9, 10], [2, 1, 20]],  # a tenth
            [[1, 30, 30], [2, 31, 31]],  # the tip of a nodule of 10 pixels
        ],
        float,
    )
    found = clipped(boxes, np.array([3, 64, 64]), 2.0, np.full(4, 10.0))
    assert found.tolist() == [[[1, 10, 10], [2, 20, 20]], [[1, 0, 10], [2, 5, 20]]]


def test_windows_show_nodules_in_their_boxes(held: NoduleScans) -> None:
    draw = detector(held, nodule_share=1.0)
    (windows, boxes), counts = draw(3)
    assert windows.shape == (12, 1, 3, 64, 64)
    assert (counts >= 1).all()
    for window, row, count in zip(windows, boxes, counts, strict=True):
        assert torch.isnan(row[count:]).all()
        for start, stop in row[:count].tolist():
            middle = [int((a + b) / 2) for a, b in zip(start, stop, strict=True)]
            assert (start[0], stop[0]) == (1, 2)
            assert float(window[0][tuple(middle)]) > 0.65, "soft tissue, not air"
    again = draw(3)
    assert torch.equal(again[0][0], windows)
    assert not torch.equal(draw(4)[0][0], windows)


def test_windows_without_nodules_avoid_excluded_findings(held: NoduleScans) -> None:
    draw = detector(held, nodule_share=1e-9, crop_px=64)
    _, counts = draw(0)
    assert len(counts) == 12


def fpr(held: NoduleScans, **changes: object) -> tuple[TrainNoduleFprConfig, ReductionContract]:
    given = {
        "name": "f",
        "scans": split(held.scans[0].path.parent.parent).model_dump(),
        "candidates": "c.csv",
        "batch_size": 10,
        "augmentation": PLAIN,
        **changes,
    }
    contract = usual_contract(
        "nodule-cnn3d-slim", spacing_mm=(1.8, 1.8, 1.8), window=(12, 16, 16), crop=(8, 12, 12)
    )
    assert isinstance(contract, ReductionContract)
    return validated(given, TrainNoduleFprConfig), contract


def candidates(held: NoduleScans) -> dict[str, Points]:
    """Each scan's nodules, its excluded findings, and one place that is neither."""
    found = {}
    for scan in held.scans:
        source = held.reader.source(scan.path)
        assert source.frame is not None
        other = source.frame.to_world(np.array([[2.5, 3.5, 4.5]]))
        centres = np.concatenate([scan.found.centres, scan.ignored.centres, other])
        found[scan.uid] = Points(centres, np.linspace(0.9, 0.1, len(centres)))
    return found


def test_negatives_are_neither_nodules_nor_excluded(held: NoduleScans) -> None:
    pool = negatives(held, candidates(held), "train", 30, seed=1)
    for number, scan in enumerate(pool.scans):
        places = pool.places[pool.which == number]
        assert len(places) > 20
        for centres, sizes in ((scan.nodules, scan.diameters_mm), (scan.excluded, scan.excluded_mm)):
            apart = np.linalg.norm(places[:, None] - centres[None], axis=2)
            assert (apart >= sizes / 2).all()
    alone = negatives(held, candidates(held), "train", 0, seed=1)
    assert alone.which.tolist() == [0, 1]
    np.testing.assert_allclose(alone.places, np.array([[2.5, 3.5, 4.5]] * 2) * (2.5, 1.8, 1.8), atol=1e-6)


def test_judged_candidates_are_those_that_a_score_counts(held: NoduleScans) -> None:
    pool, hits = judged(held, candidates(held), "train")
    assert hits.tolist() == [*[True] * 4, False, *[True] * 4, False], (
        "the excluded ones of scan 0 are left out"
    )
    assert len(pool) == 10


def test_cubes_of_nodules_have_them_in_the_middle(held: NoduleScans) -> None:
    config, contract = fpr(held)
    nodules, diameters = nodules_of(held, "train")
    others = negatives(held, candidates(held), "train", 30, seed=1)
    inputs, labels = CubeBatches(held, config, contract, nodules, diameters, others, seed=4)(0)
    assert inputs.shape == (10, 1, 8, 12, 12)
    assert int(labels.sum()) == 5
    tight, still_config = contract.model_copy(update={"window": contract.crop}), fpr(held, jitter=0.0)[0]
    inputs, labels = CubeBatches(held, still_config, tight, nodules, diameters, others, seed=4)(0)
    middles = inputs[labels == 1][:, 0, 3:5, 5:7, 5:7].mean(dim=(1, 2, 3))
    assert (middles > 0.6).all(), "soft tissue, however the cube is turned"
    still = still_cubes(held, contract, nodules)
    assert (still[:, 0, 3:5, 5:7, 5:7].mean(dim=(1, 2, 3)) > 0.6).all()


def test_half_of_the_negatives_are_the_hard_ones(held: NoduleScans) -> None:
    config, contract = fpr(held, batch_size=40)
    nodules, diameters = nodules_of(held, "train")
    others = negatives(held, candidates(held), "train", 30, seed=1)
    draw = CubeBatches(held, config, contract, nodules, diameters, others, np.array([7]), seed=4)
    rng = np.random.default_rng(0)
    drawn = [draw._other(rng) for _ in range(400)]
    assert 160 < drawn.count(7) < 250


def test_thinning_keeps_what_it_is_told() -> None:
    keep = np.zeros(3000, bool)
    keep[[5, 2000]] = True
    chosen = thinned(keep, 0)
    assert len(chosen) == 1002
    assert {5, 2000} <= set(chosen.tolist())


def test_another_folder_stands_in_place_of_the_configurations(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: d\nscans: {folder: a, validation: [x], held_out: [y]}\n")
    assert read_nodules_config(path).scans.folder == Path("a")
    read = read_nodules_config(path, tmp_path)
    assert (read.scans.folder, read.scans.validation) == (tmp_path, ("x",))
    path.write_text("name: d\nscans: {folder: a, validation: [x], held_out: [y], fold: 1}\n")
    with pytest.raises(UsageError, match=r"scans\.fold: no such field"):
        read_nodules_config(path, tmp_path)


def test_inside_is_the_rule_of_the_hit(held: NoduleScans) -> None:
    scan = held.scans[0]
    assert inside(scan.found.centres, scan.found).any(axis=1).all()
