"""PI-CAI's figures from files: those that picai_eval expects of its own maps, and faulty folders."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medvision.cli import run
from medvision.core.errors import SourceTooLargeError, UnreadableSourceError, UsageError
from medvision.evaluations.page import write_page
from medvision.evaluations.picai import evaluate, picai_metrics
from medvision.evaluations.picai_page import describe
from medvision.metrics.ranking import average_precision
from medvision.sources.voxel_map import read_voxel_map


def save(path, array):
    """An array (planes, rows, columns) as NIfTI, whose axes are the other way round."""
    nibabel.save(nibabel.Nifti1Image(np.asarray(array, dtype=np.float32).T, np.eye(4)), path)


@pytest.fixture
def folder(tmp_path):
    """Four cases: a hit at 0.8, a miss beside a false positive at 0.6, a false positive at 0.3, and nothing."""
    maps = np.zeros((4, 6, 10, 12), dtype=np.float32)
    labels = np.zeros((4, 6, 10, 12))
    maps[0, 1:4, 2:6, 2:6], labels[0, 1:4, 2:6, 3:7] = 0.8, 1
    maps[1, 0:2, 0:2, 0:2], labels[1, 4:6, 7:9, 8:11] = 0.6, 2
    maps[2, 3, 4, 5] = 0.3
    for i in range(4):
        save(tmp_path / f"case-{i}_detection_map.nii.gz", maps[i])
        save(tmp_path / f"case-{i}_label.nii.gz", labels[i])
    return tmp_path


def test_figures_by_hand(folder):
    got = evaluate(folder, resamples=50)
    assert [[(line.is_lesion, round(line.confidence, 3)) for line in case.lines] for case in got.cases] == [
        [(True, 0.8)], [(True, 0.0), (False, 0.6)], [(False, 0.3)], [],
    ]  # fmt: skip
    assert got.cases[0].lines[0].overlap == pytest.approx(3 * 4 * 3 / (3 * 4 * 5), abs=1e-8)
    assert (got.auroc, got.ap, got.score) == (
        1,
        0.5,
        0.75,
    )  # two of two cases above the others; one of two lesions
    assert got.froc.sensitivities == (0.5,) * 6
    assert all(low <= value <= high for value, (low, high) in zip((1, 0.5), got.intervals[:2], strict=True))
    assert evaluate(folder, min_overlap=0.7, resamples=0).ap == 0
    assert evaluate(folder, overlap="dice", min_overlap=0.7, resamples=0).ap == 0.5


def test_labels_in_a_folder_of_their_own_and_smaller_maps(folder, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    for path in folder.glob("*_label.nii.gz"):
        path.rename(labels / path.name.replace("_label", ""))
    whole = evaluate(folder, labels, resamples=0)
    assert whole.ap == 0.5
    small = read_voxel_map(folder / "case-0_detection_map.nii.gz")[:, 1:-1, 1:-1]
    (folder / "case-0_detection_map.nii.gz").unlink()
    np.save(folder / "case-0_detection_map.npy", small)
    got = evaluate(folder, labels, resamples=0)
    assert [case.lines for case in got.cases] == [case.lines for case in whole.cases]
    assert any("padded" in note for note in got.notes)


def test_one_class_has_no_auroc(folder):
    for i in (2, 3):
        (folder / f"case-{i}_label.nii.gz").unlink()
        (folder / f"case-{i}_detection_map.nii.gz").unlink()
    got = evaluate(folder)
    assert (got.auroc, got.ap, got.intervals) == (None, 0.5, (None, None, None))
    assert any("no AUROC" in note for note in got.notes)
    describe(got)


def test_faulty_folders_are_named(folder, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        evaluate(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no CASE_detection_map"):
        evaluate(tmp_path / "empty")
    map0, label3 = folder / "case-0_detection_map.nii.gz", folder / "case-3_label.nii.gz"
    np.save(folder / "case-0_detection_map.npy", np.zeros((6, 10, 12)))
    with pytest.raises(UsageError, match="are of one case"):
        evaluate(folder)
    (folder / "case-0_detection_map.npy").unlink()
    label3.rename(folder / "gone")
    with pytest.raises(UsageError, match="has no labels of case-3"):
        evaluate(folder)
    (folder / "gone").rename(label3)
    (folder / "case-3_detection_map.nii.gz").rename(folder / "gone")
    with pytest.raises(UsageError, match=r"has no detection map of case-3; .* one of zeros"):
        evaluate(folder)
    (folder / "gone").rename(folder / "case-3_detection_map.nii.gz")
    save(label3, np.full((6, 10, 12), 0.5))
    with pytest.raises(UsageError, match="whole numbers"):
        evaluate(folder)
    label3.write_bytes(map0.read_bytes()[:60])
    with pytest.raises(UnreadableSourceError, match=r"case-3_label\.nii\.gz"):
        evaluate(folder)


def test_maps_that_cannot_be_are_refused(tmp_path):
    flat, huge, pickled = (tmp_path / name for name in ("flat.npy", "huge.nii", "pickled.npy"))
    np.save(flat, np.zeros((4, 4)))
    with pytest.raises(UnreadableSourceError, match="three axes"):
        read_voxel_map(flat)
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableSourceError, match="cannot be read"):
        read_voxel_map(pickled)
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    huge.write_bytes(header.binaryblock + bytes(64))
    with pytest.raises((SourceTooLargeError, UnreadableSourceError)):
        read_voxel_map(huge)


def test_files_and_command(folder, tmp_path):
    result = evaluate(folder, resamples=20)
    first = {n: p.read_bytes() for n, p in write_page(describe(result), tmp_path / "a").items()}
    assert json.loads(first["picai-metrics.json"]) == json.loads(first["picai.json"])["picai_eval"]
    assert json.loads(first["picai-metrics.json"]) == picai_metrics(result)
    assert "published" not in first["picai.md"].decode()
    assert run(["evaluate", "picai", "--predictions", str(folder), "--out", str(tmp_path / "b")]) == 0
    page = (tmp_path / "b" / "picai.html").read_text()
    assert "RESEARCH USE ONLY" in page and "Figures of others" not in page


@pytest.mark.shared
def test_the_figures_that_picai_eval_expects(shared: Path):
    """Its ten crafted cases, exactly: results, weights, AUROC and AP, and what can be told of its curves."""
    tests = shared / "volumes" / "picai_eval" / "tests"
    expected = {
        name: json.loads((tests / "output-expected" / f"metrics-{name}expected.json").read_text())
        for name in ("", "full-", "minimal-", "main-")
    }
    got = evaluate(tests / "test-maps", resamples=0)
    metrics = picai_metrics(got)
    assert metrics == expected[""]
    assert {name: metrics[name] for name in expected["minimal-"]} == expected["minimal-"]
    full = expected["full-"]
    assert {name: metrics[name] for name in metrics} == {name: full[name] for name in metrics}
    # picai_eval keeps rates in single precision, and puts infinity in the place of its last point
    assert got.froc.sensitivity[1:].tolist() == full["lesion_TPR"][:-1]
    assert np.float32(got.froc.false_positives[1:]).tolist() == full["lesion_FPR"][:-1]
    assert got.froc.thresholds[1:].tolist() == full["thresholds"][:-1]
    assert math.isinf(full["lesion_FPR"][-1])
    # The older file takes a missed lesion for one found at confidence 0; its other figures are the same.
    lines = [line for case in got.cases for line in case.lines]
    older = average_precision([line.is_lesion for line in lines], [line.confidence for line in lines])
    assert older == expected["main-"]["AP"]
    assert metrics["lesion_results"] == expected["main-"]["lesion_results"]
