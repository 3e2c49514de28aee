"""Evaluated segmentations from files: figures by hand, how files are paired, conventions, faults, and the page."""

from __future__ import annotations

import csv
import json

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medvision.cli import run
from medvision.core.errors import UnreadableSourceError, UsageError
from medvision.evaluations.page import write_page
from medvision.evaluations.segment import evaluate
from medvision.evaluations.segment_cases import CaseFiles
from medvision.evaluations.segment_page import describe, to_json
from medvision.evaluations.segment_setup import SegmentOptions
from medvision.store.segment_records import CaseInfo, SegmentModelInfo, SegmentResult

CLASSES = SegmentOptions(classes=("1=inner", "2=outer"), regions=("all=1,2",))


def png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values).astype(np.uint8)).save(path)


def nifti(path, values, affine=None):
    """An array (planes, rows, columns) as NIfTI, whose axes are the other way round."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(np.asarray(values, dtype=np.uint8).T, np.eye(4) if affine is None else affine)
    nibabel.save(image, path)


@pytest.fixture
def folders(tmp_path):
    """Two images of two classes. In b class 2 is in the prediction alone, and of class 1 half is found."""
    truth, given = np.zeros((2, 2, 10, 12), dtype=np.uint8)
    truth[0, 2:6, 2:6], given[0, 2:6, 2:6] = 1, 1
    truth[0, 7:9, 2:10], given[0, 7:9, 2:6] = 2, 2
    truth[1, 0:4, 0:4], given[1, 0:4, 0:2] = 1, 1
    given[1, 8, 8] = 2
    for name, t, p in zip("ab", truth, given, strict=True):
        png(tmp_path / "truth" / f"{name}.png", t)
        png(tmp_path / "given" / f"{name}.png", p)
    return tmp_path / "given", tmp_path / "truth"


def figure(result, key, how="mean"):
    return next(f for f in result.figures if f.measure.key == key and f.how == how)


def test_labels_by_hand(folders):
    result = evaluate(*folders, CLASSES, resamples=50)
    assert result.classes == ("inner", "outer", "all") and result.cases == ("a", "b")
    dice = [[1, 16 / 24, 2 * 24 / 56], [2 * 8 / 24, 0, 2 * 8 / 25]]
    np.testing.assert_allclose(result.values[:, :, 0], dice)
    np.testing.assert_allclose(result.values[0, 1, 1:2], [8 / 16])
    assert result.sizes[1].tolist() == [[16, 8], [0, 1], [16, 9]]
    # Class 2 of b is in the prediction alone: the farthest that two pixels can lie apart.
    assert result.values[1, 1, 2:].tolist() == [np.hypot(9, 11), np.hypot(9, 11), 0]
    assert any("in the truth or the prediction alone" in note for note in result.notes)
    # Regions are no classes of the mean.
    assert figure(result, "dice").value == pytest.approx(np.mean([[1, 16 / 24], [2 / 3, 0]]))
    low, high = figure(result, "dice").interval
    assert low <= figure(result, "dice").value <= high
    names, table = result.confusion
    assert names == ("background", "inner", "outer")
    assert table.tolist() == [[240 - 32 - 16 - 1, 0, 1], [8, 24, 0], [8, 0, 8]]
    iu = [191 / 208, 24 / 32, 8 / 17]
    assert figure(result, "pixel_accuracy", "pooled").value == pytest.approx((191 + 24 + 8) / 240)
    assert figure(result, "mean_accuracy", "pooled").value == pytest.approx(np.mean([191 / 192, 0.75, 0.5]))
    assert figure(result, "mean_iu", "pooled").value == pytest.approx(np.mean(iu))
    weighted = np.dot(iu, [192, 32, 16]) / 240
    assert figure(result, "frequency_weighted_iu", "pooled").value == pytest.approx(weighted)
    assert [(picture.case, picture.plane) for picture in result.pictures] == [("b", None), ("a", None)]


def test_the_same_seed_gives_the_same_intervals_and_none_are_asked_for_with_0(folders):
    one, two = (evaluate(*folders, CLASSES, resamples=40, seed=3) for _ in range(2))
    assert one.intervals == two.intervals
    assert {f.interval for f in evaluate(*folders, CLASSES, resamples=0).figures} == {None}


def test_a_class_that_is_nowhere_is_left_out_or_counts_as_agreement(folders):
    given, _ = folders
    png(given / "b.png", np.where(np.arange(12) < 2, 1, 0) * np.ones((10, 1)))
    skipped = evaluate(*folders, CLASSES, resamples=0)
    assert np.isnan(skipped.values[1, 1]).all() and skipped.known[1].tolist() == [1] * 5
    assert skipped.means[1, 0] == pytest.approx(16 / 24)
    assert any("outer: 1 of 2 cases" in note and "left out" in note for note in skipped.notes)
    counted = evaluate(*folders, SegmentOptions(classes=CLASSES.classes, empty="one"), resamples=0)
    assert counted.values[1, 1].tolist() == [1, 1, 0, 0, 1]
    assert counted.means[1, 0] == pytest.approx((16 / 24 + 1) / 2)


def test_masks_of_255_and_of_1_are_one_class(folders):
    given, truth = folders
    for name in "ab":
        known, found = (np.array(Image.open(folder / f"{name}.png")) for folder in (truth, given))
        png(truth / f"{name}.png", (known > 0) * 255)
        png(given / f"{name}.png", found > 0)
    result = evaluate(given, truth, resamples=0)
    assert result.classes == ("mask",)
    np.testing.assert_allclose(result.values[:, 0, 0], [2 * 24 / 56, 2 * 8 / 25])
    assert "255 is read as 1 in the truth" in result.notes
    assert not any("in no truth" in note for note in result.notes)
    png(given / "b.png", found * 3)
    result = evaluate(given, truth, resamples=0)
    assert "labels that are predicted and in no truth: 3, 6" in result.notes
    png(given / "b.png", found > 0)
    # Unless 255 is what does not count.
    result = evaluate(given, truth, SegmentOptions(ignore=255), resamples=0)
    assert result.confusion[1].sum() == 240 - 32 - 16


def test_ignored_pixels_count_on_neither_side(folders):
    given, truth = folders
    known = np.array(Image.open(truth / "b.png"))
    known[:, 8] = 255
    png(truth / "b.png", known)
    result = evaluate(given, truth, SegmentOptions(ignore=255), resamples=0)
    assert result.classes == ("1", "2")
    assert np.isnan(result.values[1, 1]).all()  # the one false pixel lay there
    assert result.confusion[1].sum() == 240 - 10


def test_unnamed_labels_are_background_and_0_may_be_a_class(folders):
    result = evaluate(*folders, SegmentOptions(classes=("1",)), resamples=0)
    assert result.classes == ("1",) and result.confusion[0] == ("background", "1")
    assert "labels that are not named count as background: 2" in result.notes
    zero = evaluate(*folders, SegmentOptions(classes=("0=air", "1", "2")), resamples=0)
    assert zero.classes == ("air", "1", "2") and zero.values[0, 0, 1] == pytest.approx(88 / 96)
    with pytest.raises(UsageError, match="label 2 is not named, and 0 is a class"):
        evaluate(*folders, SegmentOptions(classes=("0=air", "1")))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (SegmentOptions(classes=("one=1",)), "--classes 'one=1': write it as 1=liver"),
        (SegmentOptions(classes=("1=a", "1=b")), "named once"),
        (SegmentOptions(classes=("1,2=a",)), "each is one label"),
        (SegmentOptions(regions=("1,2",)), "--regions '1,2': write it as whole=1,2,4"),
        (SegmentOptions(regions=("all=1,7",)), "region 'all': label 7 is none of 0, 1, 2"),
        (SegmentOptions(tolerance=-1), "tolerance of -1"),
        (SegmentOptions("membranes", thresholds=(0.0,)), "thresholds of membranes"),
    ],
)
def test_options_that_mean_nothing(folders, options, reason):
    with pytest.raises(UsageError, match=reason):
        evaluate(*folders, options)


def test_grey_images_are_no_labels(folders):
    given, truth = folders
    png(given / "a.png", np.arange(120).reshape(10, 12))
    with pytest.raises(UsageError, match="120 different labels"):
        evaluate(given, truth)


def test_how_files_are_paired(folders, tmp_path):
    given, truth = folders
    (given / "a.png").rename(given / "a_pred.png")
    (given / "b.png").rename(given / "b_pred.png")
    (given / "notes.txt").write_text("no label image")
    with pytest.raises(UsageError, match=r"a_pred, b_pred beside a, b; --prediction-suffix"):
        evaluate(given, truth)
    suffix = CaseFiles(prediction_suffix="_pred")
    assert evaluate(given, truth, files=suffix, resamples=0).cases == ("a", "b")
    # As BraTS has them: a folder per case, in which other images lie too.
    for name in "ab":
        (truth / name).mkdir()
        (truth / f"{name}.png").rename(truth / name / f"{name}_seg.png")
        png(truth / name / f"{name}_t1.png", np.arange(120).reshape(10, 12))
    both = CaseFiles(prediction_suffix="_pred", truth_suffix="_seg")
    assert evaluate(given, truth, files=both, resamples=0).cases == ("a", "b")
    (given / "b_pred.png").rename(given / "c_pred.png")
    with pytest.raises(UsageError, match="has no prediction of b; --missing empty"):
        evaluate(given, truth, files=both)
    with pytest.raises(UsageError, match="has no truth of c, which"):
        evaluate(given, truth, files=CaseFiles("_pred", "_seg", missing="empty"))
    result = evaluate(
        given, truth, files=CaseFiles("_pred", "_seg", missing="empty", extra="ignore"), resamples=0
    )
    assert result.values[1, 0, 0] == 0 and result.sizes[1, 0].tolist() == [16, 0]
    assert "1 of 2 cases have no prediction and count as empty: b" in result.notes
    assert "1 predictions without truth are left out: c" in result.notes
    listed = tmp_path / "fold.txt"
    listed.write_text("a\n\na\n")
    result = evaluate(given, truth, files=CaseFiles("_pred", "_seg", cases=listed), resamples=0)
    assert result.cases == ("a",)
    listed.write_text("A0\n")
    with pytest.raises(UsageError, match=r"fold\.txt: A0 without a file"):
        evaluate(given, truth, files=CaseFiles("_pred", "_seg", cases=listed))
    listed.write_text("\n")
    with pytest.raises(UsageError, match="names no case"):
        evaluate(given, truth, files=CaseFiles("_pred", "_seg", cases=listed))
    png(given / "a_pred.tif", np.zeros((10, 12)))
    with pytest.raises(UsageError, match=r"a_pred\.png and a_pred\.tif are of one case"):
        evaluate(given, truth, files=both)
    with pytest.raises(UsageError, match="no such folder"):
        evaluate(given / "none", truth)
    with pytest.raises(UsageError, match="holds no label image whose name ends in '_x'"):
        evaluate(given, truth, files=CaseFiles("_x"))


def test_shapes_that_differ(folders):
    given, truth = folders
    png(given / "b.png", np.zeros((12, 10)))
    with pytest.raises(UsageError, match=r"b\.png: is 12 x 10, and its truth .*b\.png 10 x 12"):
        evaluate(given, truth)
    np.save(given / "b.npy", np.full((10, 12), 0.5))
    (given / "b.png").unlink()
    with pytest.raises(UnreadableSourceError, match=r"b\.npy: holds fractions"):
        evaluate(given, truth)


def test_volumes_in_millimetres(tmp_path):
    truth = np.zeros((6, 8, 8))
    truth[1:4, 2:5, 2:5] = 1
    anisotropic = np.diag([0.5, 0.5, 2.0, 1.0])
    nifti(tmp_path / "truth" / "a.nii.gz", truth, anisotropic)
    nifti(tmp_path / "given" / "a.nii.gz", np.roll(truth, 1, axis=0), anisotropic)
    result = evaluate(tmp_path / "given", tmp_path / "truth", resamples=0)
    assert result.unit == "mm" and result.values[0, 0, 2] == 2.0  # a plane of 2 mm
    assert result.values[0, 0, 0] == pytest.approx(2 / 3)
    assert result.pictures[0].plane is not None
    supplied = evaluate(
        tmp_path / "given",
        tmp_path / "truth",
        files=CaseFiles(spacing=(10.0, 1.0, 1.0), unit="um"),
        resamples=0,
    )
    assert supplied.unit == "µm" and supplied.values[0, 0, 2] == 10.0
    with pytest.raises(UsageError, match="a spacing of 1 2 for"):
        evaluate(tmp_path / "given", tmp_path / "truth", files=CaseFiles(spacing=(1.0, 2.0)))
    # Moved by its header alone: told of. Turned as well: nobody knows what fits what.
    moved = anisotropic.copy()
    moved[0, 3] = 5
    nifti(tmp_path / "given" / "a.nii.gz", truth, moved)
    result = evaluate(tmp_path / "given", tmp_path / "truth", resamples=0)
    assert result.values[0, 0, 0] == 1 and "a: prediction and truth lie 5 mm apart" in result.notes[0]
    moved[0, 0] = -0.5
    nifti(tmp_path / "given" / "a.nii.gz", truth, moved)
    with pytest.raises(UsageError, match="in another order"):
        evaluate(tmp_path / "given", tmp_path / "truth")
    # One case without a spacing, one with.
    np.save(tmp_path / "truth" / "b.npy", truth.astype(np.uint8))
    np.save(tmp_path / "given" / "b.npy", truth.astype(np.uint8))
    nifti(tmp_path / "given" / "a.nii.gz", truth, anisotropic)
    with pytest.raises(UsageError, match="a are in mm and b are in px"):
        evaluate(tmp_path / "given", tmp_path / "truth")


@pytest.fixture
def nuclei(tmp_path):
    """Truth as a mask per nucleus; of three nuclei one is met but for a pixel, one split, one missed."""
    row = np.array([1, 1, 1, 1, 0, 2, 2, 2, 2, 0, 3, 3, 0, 0])
    for i in (1, 2, 3):
        png(tmp_path / "truth" / "a" / "masks" / f"{i}.png", (row == i)[None] * 255)
    png(tmp_path / "given" / "a.png", [[5, 5, 5, 0, 0, 6, 6, 8, 8, 0, 0, 0, 0, 9]])
    # A second image whose objects are met.
    png(tmp_path / "truth" / "b" / "masks" / "1.png", np.eye(14, dtype=int)[:1] * 255)
    png(tmp_path / "given" / "b.png", np.eye(14, dtype=int)[:1])
    return tmp_path / "given", tmp_path / "truth"


def test_objects_by_hand(nuclei):
    result = evaluate(*nuclei, SegmentOptions("instances"), resamples=20)
    values = dict(zip((m.key for m in result.kind.measures), result.values[0, 0], strict=True))
    assert values["ap50"] == 1 / 6 and values["ap_0.75"] == 0
    assert values["ap"] == pytest.approx(5 / 6 / 10)  # 0.5 to 0.7 of ten
    assert values["f1"] == 2 / 7 and values["pq"] == pytest.approx(0.75 / 3.5)
    assert values["aji"] == pytest.approx(5 / 13) and values["seg"] == pytest.approx(0.25)
    assert values["dice"] == pytest.approx(2 * 7 / (10 + 8))
    assert result.sizes[:, 0].tolist() == [[3, 4], [1, 1]]
    assert figure(result, "ap50").value == pytest.approx((1 / 6 + 1) / 2)
    # All objects together: 2 pairs, 3 false, 2 missed.
    assert figure(result, "ap_0.50", "pooled").value == 2 / 7
    assert figure(result, "pq", "pooled").value == pytest.approx(1.75 / (2 + 1.5 + 1))
    assert figure(result, "sq", "pooled").value == pytest.approx(0.875)
    assert figure(result, "seg", "pooled").value == pytest.approx(1.75 / 4)
    assert figure(result, "aji", "pooled").value == pytest.approx(6 / 14)


def test_masks_give_their_connected_parts_as_objects(nuclei):
    given, truth = nuclei
    png(given / "a.png", [[255, 255, 255, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 255]])
    png(given / "b.png", np.eye(14, dtype=int)[:1] * 255)
    result = evaluate(given, truth, SegmentOptions("instances"), resamples=0)
    assert result.sizes[0, 0].tolist() == [3, 3] and result.values[0, 0, 0] == 2 / 4
    assert result.notes[0] == "the predictions hold masks: their connected parts are the objects"


def test_an_image_without_objects(nuclei):
    given, truth = nuclei
    png(truth / "b" / "masks" / "1.png", np.zeros((1, 14)))
    png(given / "b.png", np.zeros((1, 14)))
    assert np.isnan(evaluate(given, truth, SegmentOptions("instances"), resamples=0).values[1]).all()
    assert (
        evaluate(given, truth, SegmentOptions("instances", empty="one"), resamples=0).values[1] == 1
    ).all()


@pytest.fixture
def membranes(tmp_path):
    """Four cells parted by a cross; the prediction, as a probability, has it moved, and weak at one place."""
    cells = np.ones((21, 21))
    cells[10], cells[:, 10] = 0, 0
    given = ndimage.shift(cells, 1, order=0, mode="nearest") * 255
    given[11, 3] = 100
    png(tmp_path / "truth" / "a.png", cells * 255)
    png(tmp_path / "given" / "a.png", given)
    return tmp_path / "given", tmp_path / "truth"


def test_membranes_by_hand(membranes):
    result = evaluate(*membranes, SegmentOptions("membranes", thresholds=(0.5, 0.2)), resamples=0)
    assert result.classes == ("threshold 0.2", "threshold 0.5") and result.chosen == (1,)
    values = dict(zip((m.key for m in result.kind.measures), result.values[0].T.tolist(), strict=True))
    assert values["warping_error"] == [1 / 441, 0]  # one pixel open, and none
    assert values["v_rand"][0] < 0.8 < values["v_rand"][1] < 1
    assert values["v_rand_split"][0] > values["v_rand_merge"][0]
    assert result.sizes[0].tolist() == [[4, 3], [4, 4]]
    assert values["pixel_error"][1] == 2 * (41 - 2) / 441  # the crosses share two pixels
    assert any("threshold was chosen" in note for note in result.notes)


def test_cells_grow_over_thick_membranes(membranes):
    given, truth = membranes
    cells = np.ones((21, 21))
    cells[9:12], cells[:, 9:12] = 0, 0
    png(given / "a.png", cells)
    thin, thick = (
        evaluate(given, truth, SegmentOptions("membranes", thin=thin), resamples=0).values[0, 0]
        for thin in (True, False)
    )
    assert thin[0] == 1 and thick[0] < 0.9
    assert thin[6:].tolist() == thick[6:].tolist()  # the errors are of membranes as thick as predicted


def test_bright_membranes_stacks_and_a_missing_plane(membranes, tmp_path):
    given, truth = membranes
    dark = evaluate(given, truth, SegmentOptions("membranes"), resamples=0)
    known, found = (np.array(Image.open(folder / "a.png")) for folder in (truth, given))
    for name, values in (("truth", known), ("given", found)):
        (tmp_path / "stacks" / name).mkdir(parents=True)
        np.save(tmp_path / "stacks" / name / "s.npy", 255 - np.stack([values, values]))
    bright = SegmentOptions("membranes", membranes="bright")
    result = evaluate(tmp_path / "stacks" / "given", tmp_path / "stacks" / "truth", bright, resamples=10)
    assert result.cases == ("s 0", "s 1")
    np.testing.assert_allclose(result.values, np.repeat(dark.values, 2, axis=0))
    for options in (SegmentOptions("membranes"), bright):
        np.save(tmp_path / "stacks" / "truth" / "t.npy", known)
        files = CaseFiles(missing="empty")
        empty = evaluate(tmp_path / "stacks" / "given", tmp_path / "stacks" / "truth", options, files, 0)
        assert empty.cases[-1] == "t" and empty.sizes[-1, 0, 1] == 0
    png(truth / "a.png", known // 2 + found // 5)
    with pytest.raises(UsageError, match=r"a\.png: more than two values"):
        evaluate(given, truth, SegmentOptions("membranes"))


@pytest.mark.parametrize("task", ["semantic", "instances", "membranes"])
def test_pages_of_every_task(task, tmp_path):
    labels = {
        "semantic": np.arange(40).reshape(5, 8) // 14,
        "instances": np.arange(40).reshape(5, 8) // 8,
        "membranes": np.tile([255, 255, 0, 255], (4, 2)),
    }[task]
    for folder, values in (("truth", labels), ("given", np.roll(labels, 1, axis=1))):
        for name in ("x<b>.png", "y.png"):
            png(tmp_path / folder / name, values)
    result = evaluate(tmp_path / "given", tmp_path / "truth", SegmentOptions(task), resamples=10)
    made = write_page(describe(result), tmp_path / "scores")
    assert {"segment.json", "segment.md", "segment.html", "segment-cases.csv"} <= made.keys()
    page = made["segment.html"].read_text()
    assert "RESEARCH USE ONLY" in page and "http" not in page.replace("http-equiv", "").replace(
        "http://www.w3.org", ""
    )
    content = json.loads(made["segment.json"].read_text())
    assert content["task"] == task and content["notes"] == list(result.notes)
    assert {key: content[key] for key in to_json(result)} == json.loads(json.dumps(to_json(result)))
    rows = list(csv.DictReader(made["segment-cases.csv"].read_text().splitlines()))
    assert len(rows) == len(result.cases) * len(result.classes)
    assert ("U-Net, Ronneberger" in page) == (task == "membranes")
    assert "x<b>" not in page


def test_from_the_command_line(folders, tmp_path, capsys):
    given, truth = folders
    command = [
        "evaluate",
        "segment",
        "--predictions",
        str(given),
        "--truth",
        str(truth),
        "--out",
        str(tmp_path / "o"),
    ]
    assert run([*command, "--classes", "1=inner", "--classes", "2=outer", "--regions", "all=1,2"]) == 0
    assert "mean over classes" in capsys.readouterr().out
    (given / "b.png").unlink()
    assert run(command) != 0
    assert "has no prediction of b" in " ".join(capsys.readouterr().err.split())


def test_damaged_files_are_named(folders):
    given, truth = folders
    (given / "b.png").write_bytes((given / "b.png").read_bytes()[:45])
    with pytest.raises(UnreadableSourceError, match=r"b\.png"):
        evaluate(given, truth)


def test_intervals_draw_patients(folders, tmp_path):
    """Every case four times under its patient's name says no more than once: the intervals stay."""
    given, truth = folders
    for side in (given, truth):
        for name in "ab":
            for number in range(4):
                png(tmp_path / "often" / side.name / f"{name}_{number}.png", Image.open(side / f"{name}.png"))
    once = evaluate(given, truth, CLASSES, resamples=200)
    often = [tmp_path / "often" / side.name for side in (given, truth)]
    by_patient = evaluate(*often, CLASSES, CaseFiles(patient=r"^(\w)_"), 200)
    np.testing.assert_allclose(by_patient.intervals, once.intervals)
    np.testing.assert_allclose(*([f.interval for f in one.figures] for one in (by_patient, once)))
    by_case = evaluate(*often, CLASSES, resamples=200)
    assert by_case.intervals[0][0][0] > once.intervals[0][0][0]
    page = describe(by_patient)
    assert "200 bootstrap draws of 2 patients" in page.summary
    assert "2 patients are too few for an interval to say much" in page.notes
    assert to_json(by_patient)["intervals"]["bootstrap over"] == "patients"
    one = evaluate(*often, CLASSES, CaseFiles(patient=r"(_)"), 200)
    assert all(f.interval is None for f in one.figures)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "not a regular expression"),
        (r"\w", "has 0 groups"),
        (r"^(\d+)_", "finds no patient in the name 'a'"),
    ],
)
def test_patients_that_cannot_be_told(folders, pattern, reason):
    with pytest.raises(UsageError, match=reason):
        evaluate(*folders, CLASSES, CaseFiles(patient=pattern))


def test_results_of_segment_are_cases(folders, tmp_path):
    """Each folder's mask is taken, not its pictures; where objects are scored, their numbers."""
    given, truth = folders
    results = tmp_path / "results"
    for name in "ab":
        png(results / name / "thumbnail.png", np.arange(120).reshape(10, 12))
        labels = np.array(Image.open(given / f"{name}.png"))
        png(results / name / "mask.png", labels)
        png(results / name / "objects.png", labels)
        record = SegmentResult(
            case=CaseInfo(
                name=f"{name}.png", kind="image", digest="", reader="png", shape=(10, 12), spacing=None
            ),
            model=SegmentModelInfo(name="m", architecture="unet", classes=("0", "1")),
            config={},
            config_digest="",
            software={},
            files={"mask": "mask.png", "objects": "objects.png"},
        )
        (results / name / "result.json").write_text(record.model_dump_json())
    (results / "index.html").write_text("the list of results")
    found = evaluate(results, truth, CLASSES, resamples=0)
    assert found.cases == ("a", "b")
    np.testing.assert_array_equal(found.values, evaluate(given, truth, CLASSES, resamples=0).values)
    objects = SegmentOptions(task="instances")
    assert evaluate(results, truth, objects, resamples=0).figures[0].value == pytest.approx(
        evaluate(given, truth, objects, resamples=0).figures[0].value
    )
    (results / "b" / "mask.png").unlink()
    with pytest.raises(UsageError, match="has no prediction of b"):
        evaluate(results, truth, CLASSES)
