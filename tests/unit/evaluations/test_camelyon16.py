"""The CAMELYON16 evaluation from files to figures, by hand-made slides with known answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from medvision.cli import run
from medvision.core.errors import AnnotationError, SpacingError, UsageError
from medvision.evaluations.base import load_evaluations
from medvision.evaluations.camelyon16 import evaluate
from medvision.evaluations.camelyon16_page import describe, evaluation_record
from medvision.evaluations.page import terminal_table, write_page
from medvision.evaluations.predictions import read_predictions
from medvision.sources.annotations import Annotation, write_asap
from medvision.store.records import ModelInfo, Region, SlideInfo, SlideResult


def square(row, column, side, group="Tumor"):
    ring = np.array(
        [(row, column), (row, column + side), (row + side, column + side), (row + side, column)], float
    )
    return Annotation(f"at {row}, {column}", group, "polygon", ring)


def region(number, row, column, score):
    return Region(
        id=number, centroid=(0, 0), peak=(row, column), bbox=(0, 0, 1, 1), area_mm2=1, length_mm=1,
        max_probability=score, mean_probability=score, score=score,
    )  # fmt: skip


def result(name, probability, regions=(), verdict="done", spacing=0.25):
    slide = SlideInfo(
        name=name, digest="0" * 64, reader="r", reader_reason="", vendor="", shape=(20000, 20000), levels=1,
        spacing_um=(spacing, spacing), spacing_origin="file",
    )  # fmt: skip
    model = ModelInfo(
        name="m", version="1", digest="0" * 64, classes=("normal", "tumour"), positive="tumour", window_px=(224, 224),
        spacing_um=0.5, calibration="", card="",
    )  # fmt: skip
    return SlideResult(
        verdict=verdict, reason="why", slide=slide, model=model, config={}, config_digest="0" * 64, software={},
        threshold=0.5, probability=probability, score_rule="max", label=None, heatmap=None, tissue=None,
        regions=tuple(regions),
    )  # fmt: skip


def as_results(given, out):
    """The CSV predictions as a folder of `medvision analyze`, each slide 20,000 pixels square."""
    for prediction in read_predictions(given):
        folder = out / prediction.slide
        folder.mkdir(parents=True)
        pairs = zip(prediction.points, prediction.probabilities, strict=True)
        regions = [region(i, r, c, p) for i, ((r, c), p) in enumerate(pairs, 1)]
        (folder / "result.json").write_text(result(folder.name, prediction.score, regions).model_dump_json())
    return out


@pytest.fixture
def cohort(tmp_path):
    """Two tumour slides (a: two lesions and isolated cells, b: one lesion) and two normal ones, and CSV predictions."""
    truth, given = tmp_path / "truth", tmp_path / "given"
    truth.mkdir()
    given.mkdir()
    hole = square(11000, 11000, 400, "Exclusion")
    write_asap(
        truth / "a.xml", [square(2000, 2000, 3000), square(10000, 10000, 3000), hole, square(15000, 200, 300)]
    )
    write_asap(truth / "b.xml", [square(5000, 5000, 4000)])
    (truth / "c.xml").write_text("")
    (given / "a.csv").write_text(
        "probability,x,y\n0.9,3000,3000\n0.4,11000,12500\n0.8,300,15100\n0.3,19000,500\n"
    )
    (given / "b.csv").write_text("0.7,6000,7000\n0.95,6100,7000\n0.6,200,300\n")
    (given / "c.csv").write_text("0.5,1,1\n")
    (given / "normal_d.csv").write_text("")
    (given / "slide_scores.csv").write_text("slide,probability\na,0.9\nb,0.95\nc,0.5\nnormal_d,0.01\n")
    return given, truth


def test_hand_made_cohort(cohort):
    got = evaluate(*cohort, spacing_um=0.25, resamples=200)
    by_name = {slide.slide: slide for slide in got.slides}
    a, b, c, d = (by_name[name] for name in ("a", "b", "c", "normal_d"))
    assert (a.lesions, a.found, a.isolated, a.false_positives, a.detections) == (2, 2, 1, 1, 4)
    assert (b.lesions, b.found, b.isolated, b.false_positives, b.detections) == (1, 1, 0, 1, 3)
    assert (c.tumour, c.lesions, c.false_positives) == (False, 0, 1)
    assert (d.tumour, d.detections) == (False, 0)
    # Falling: .95 b, .9 a, .6 false, .5 false, .4 a, .3 false: three false positives on four slides.
    assert got.froc.false_positives.tolist() == [0, 0, 0, 0.25, 0.5, 0.5, 0.75]
    assert got.froc.sensitivity.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 1, 1])
    assert got.froc.sensitivities == pytest.approx((2 / 3, 1, 1, 1, 1, 1))
    assert got.auc.value == 1
    assert got.tumour_slides == 2
    assert any("too few" in note for note in got.notes)


def test_corrected_protocol_measures_with_the_spacing_of_the_slide(cohort):
    # The official protocol takes the nearest pyramid level for 7.776 um/px; at 0.5 um/px that level's pixel is 8 um.
    given, truth = cohort
    assert evaluate(given, truth, "official", 0.5, resamples=0).froc.ignored == 1
    # A square of 980 px at 0.243 um: 238 um, whose major axis as regions are measured (1.155 sides) is beyond 275 um.
    write_asap(truth / "b.xml", [square(5000, 5000, 600)])
    for spacing, isolated in ((0.2, 2), (0.5, 1)):
        assert evaluate(given, truth, "corrected", spacing, resamples=0).froc.ignored == isolated


def test_lesions_lost_to_the_lowest_threshold_are_told(cohort):
    given, truth = cohort
    for name in ("a", "b"):
        (given / f"{name}.csv").write_text(
            "0.9,6000,7000\n" if name == "b" else "0.8,3000,3000\n0.7,11000,12500\n"
        )
    write_asap(truth / "a.xml", [square(2000, 2000, 3000), square(10000, 10000, 3000)])
    (given / "c.csv").write_text("")
    official, corrected = (
        evaluate(given, truth, p, spacing_um=0.25, resamples=0) for p in ("official", "corrected")
    )
    assert official.froc.score == pytest.approx(2 / 3)
    assert (
        "the official protocol drops the lowest threshold; lesions found but not counted: 1" in official.notes
    )
    assert corrected.froc.score == 1
    assert not any("threshold" in note for note in corrected.notes)


def test_results_of_analyze_give_the_same_figures(cohort, tmp_path):
    given, truth = cohort
    out = as_results(given, tmp_path / "run")
    first, second = evaluate(given, truth, spacing_um=0.25), evaluate(out, truth)
    assert first.slides == second.slides
    assert first.froc.interval == second.froc.interval
    (out / "a" / "detections.csv").write_text("probability,x,y\n")
    assert {s.slide: s.detections for s in evaluate(out, truth).slides}["a"] == 0


def test_masks_give_the_lesions_of_the_outlines(cohort, tmp_path):
    given, truth = cohort
    masks = tmp_path / "masks"
    masks.mkdir()
    areas = {
        "a": ([(2000, 2000, 3000), (10000, 10000, 3000), (15000, 200, 300)], 255),
        "B": ([(5000, 5000, 4000)], 1),
        "c": ([], 1),
    }
    for name, (squares, value) in areas.items():
        mask = np.zeros((2500, 2500), np.uint8)  # at an eighth of the slide's resolution
        for row, column, side in squares:
            mask[row // 8 : (row + side) // 8, column // 8 : (column + side) // 8] = value
        tifffile.imwrite(masks / f"{name}_mask.tif", mask, tile=(256, 256), compression="deflate")
    run = as_results(given, tmp_path / "run")
    for protocol in ("official", "corrected"):
        by_mask = evaluate(run, masks, protocol, resamples=0)
        by_outline = evaluate(given, truth, protocol, spacing_um=0.25, resamples=0)
        assert by_mask.froc.sensitivity.tolist() == by_outline.froc.sensitivity.tolist()
        assert [(s.lesions, s.isolated) for s in by_mask.slides] == [
            (s.lesions, s.isolated) for s in by_outline.slides
        ]


def test_a_mask_of_another_shape_than_the_slide_is_refused(cohort, tmp_path):
    given, truth = cohort
    (truth / "b.xml").unlink()
    tifffile.imwrite(truth / "b_mask.tif", np.full((100, 120), 255, np.uint8))
    with pytest.raises(AnnotationError, match=r"b_mask\.tif: mask of \(100, 120\) pixels"):
        evaluate(as_results(given, tmp_path / "run"), truth)


def test_a_slide_without_predictions_is_named(cohort):
    given, truth = cohort
    (given / "b.csv").unlink()
    (given / "slide_scores.csv").unlink()
    with pytest.raises(
        UsageError, match="no predictions for b; a slide without detections needs an empty file"
    ):
        evaluate(given, truth, spacing_um=0.25)
    (given / "b.csv").write_text("")
    got = evaluate(given, truth, spacing_um=0.25, resamples=0)
    assert got.froc.lesions == 3
    assert got.auc is None
    assert any("4 of 4 slides have no slide score" in note for note in got.notes)


def test_a_slide_without_truth_is_named(cohort):
    given, truth = cohort
    (truth / "c.xml").unlink()
    with pytest.raises(UsageError, match="holds no truth for c"):
        evaluate(given, truth, spacing_um=0.25)
    (truth / "reference.csv").write_text("slide,label\nc,Normal\na,tumor,IDC,macro\n")
    assert evaluate(given, truth, spacing_um=0.25, resamples=0).tumour_slides == 2
    (truth / "reference.csv").write_text("c,normal\nb,normal\n")
    with pytest.raises(UsageError, match="calls 'b' normal"):
        evaluate(given, truth, spacing_um=0.25)
    (truth / "reference.csv").write_text("c,nomal\n")
    with pytest.raises(UsageError, match=r"reference\.csv, line 1: label 'nomal' of 'c'; known: tumor"):
        evaluate(given, truth, spacing_um=0.25)
    (truth / "reference.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"reference\.csv: cannot be read as CSV"):
        evaluate(given, truth, spacing_um=0.25)


def test_excluded_slides_are_left_out_and_noted(cohort):
    got = evaluate(*cohort, spacing_um=0.25, exclude=["A"], resamples=0)
    assert [slide.slide for slide in got.slides] == ["b", "c", "normal_d"]
    assert any("A: left out" in note for note in got.notes)
    with pytest.raises(UsageError, match="neither there nor predicted: z"):
        evaluate(*cohort, spacing_um=0.25, exclude=["z"])


def test_what_is_missing_or_unreadable_of_an_excluded_slide_does_not_matter(cohort):
    given, truth = cohort
    expected = evaluate(*cohort, spacing_um=0.25, exclude=["a"], resamples=0)
    (given / "a.csv").write_text("spoilt")
    (truth / "a.xml").write_text("spoilt")
    assert evaluate(*cohort, spacing_um=0.25, exclude=["a"], resamples=0).slides == expected.slides
    (given / "a.csv").unlink()
    assert evaluate(*cohort, spacing_um=0.25, exclude=["a"], resamples=0).slides == expected.slides
    (truth / "a.xml").unlink()
    (given / "a.csv").write_text("")
    assert evaluate(*cohort, spacing_um=0.25, exclude=["a"], resamples=0).slides == expected.slides


def test_a_failed_slide_can_be_excluded(cohort, tmp_path):
    out = as_results(cohort[0], tmp_path / "run")
    (out / "a" / "result.json").write_text(result("a", None, verdict="failed").model_dump_json())
    with pytest.raises(UsageError, match=r"failed: why.*exclude 'a' by name"):
        evaluate(out, cohort[1])
    assert len(evaluate(out, cohort[1], exclude=["a"], resamples=0).slides) == 3


def test_spacing_is_never_guessed(cohort):
    with pytest.raises(SpacingError, match=r"a: .*CAMELYON16: 0\.243"):
        evaluate(*cohort)


def test_a_spacing_given_is_for_slides_that_state_none(cohort, tmp_path):
    out = as_results(cohort[0], tmp_path / "run")
    expected = evaluate(out, cohort[1], "corrected", resamples=0)
    assert evaluate(out, cohort[1], "corrected", spacing_um=2.0, resamples=0).slides == expected.slides
    for wrong in (0.0, -0.25, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"um/px; it must be above 0"):
            evaluate(*cohort, spacing_um=wrong)


def test_a_mask_of_unknown_labels_is_refused_and_an_empty_one_is_normal(cohort):
    given, truth = cohort
    (truth / "c.xml").unlink()
    mask = np.zeros((500, 500), np.uint8)
    mask[100:200, 100:200] = 4
    tifffile.imwrite(truth / "c_mask.tif", mask)
    with pytest.raises(AnnotationError, match=r"c_mask\.tif: a mask of the values 0, 4; tumour must be 255"):
        evaluate(given, truth, spacing_um=0.25)
    (truth / "c_mask.tif").write_bytes(b"")
    assert evaluate(given, truth, spacing_um=0.25, resamples=0).tumour_slides == 2


def test_a_small_tumour_between_the_pixels_looked_at_does_not_make_tissue_tumour(cohort):
    given, truth = cohort
    (truth / "b.xml").unlink()
    mask = np.ones((2000, 2000), np.uint8)
    mask[3, 3] = 2  # every 32nd pixel is read, from the 16th
    tifffile.imwrite(truth / "b_mask.tif", mask, tile=(256, 256))
    by_name = {s.slide: s for s in evaluate(given, truth, spacing_um=0.25, resamples=0).slides}
    assert (by_name["b"].tumour, by_name["b"].lesions, by_name["b"].false_positives) == (True, 0, 3)


def test_a_failed_slide_is_an_error_and_an_empty_one_scores_zero(tmp_path):
    (tmp_path / "s").mkdir()
    path = tmp_path / "s" / "result.json"
    path.write_text(result("s", None, verdict="failed").model_dump_json())
    with pytest.raises(UsageError, match="failed: why"):
        read_predictions(tmp_path)
    path.write_text(result("s", None, verdict="no tissue").model_dump_json())
    (prediction,) = read_predictions(tmp_path)
    assert prediction.score == 0
    assert "counts as 0" in prediction.note


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.csv", "0.5,1\n", "line 1"),
        ("a.csv", "probability,x,y\n0.5,one,2\n", "line 2"),
        ("a.csv", "probability,y,x\n0.5,1,2\n", "the columns are probability, y, x; the first three must be"),
        ("a.csv", "probability\n", "the columns are probability; the first three must be"),
        ("a.csv", "1.5,1,2\n", r"must be in \[0, 1\]"),
        ("slide_scores.csv", "a,0.5\n", "has no score for b, c, normal_d"),
        ("slide_scores.csv", "a,0.5\na,0.6\n", "'a' twice"),
        ("slide_scores.csv", "z,0.5\n", "without a detection file: z"),
        ("slide_scores.csv", "a,high\nb,low\n", "is not slide, probability, spacing"),
    ],
)
def test_malformed_predictions_name_file_and_line(cohort, file, text, message):
    given, truth = cohort
    (given / file).write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        evaluate(given, truth, spacing_um=0.25)
    assert file in str(caught.value)


def test_other_unusable_input_is_named(cohort, tmp_path):
    given, truth = cohort
    with pytest.raises(UsageError, match="no such folder of predictions"):
        evaluate(tmp_path / "absent", truth)
    with pytest.raises(UsageError, match="no such folder of reference"):
        evaluate(given, tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="holds neither"):
        evaluate(empty, truth)
    write_asap(truth / "c.xml", [square(0, 0, 10, "Lymphocytes")])
    with pytest.raises(AnnotationError, match=r"c\.xml.*'Lymphocytes'; known"):
        evaluate(given, truth, spacing_um=0.25)


def test_files_are_whole_repeatable_and_self_contained(cohort, tmp_path):
    got = evaluate(*cohort, spacing_um=0.25, resamples=100)
    first = {kind: path.read_bytes() for kind, path in write_page(describe(got), tmp_path / "one").items()}
    second = {kind: path.read_bytes() for kind, path in write_page(describe(got), tmp_path / "two").items()}
    assert first == second
    data = json.loads(first["camelyon16.json"])
    assert data["froc"]["score"] == got.froc.score
    assert data["slide_auc"]["interval"] == list(got.auc.interval)
    assert data["froc"]["curve"][0] == {
        "threshold": None,
        "false_positives_per_slide": 0.0,
        "sensitivity": 0.0,
    }
    assert all(entry["note"].startswith("published") for entry in data["published"])
    page = first["camelyon16.html"].decode()
    assert "RESEARCH USE ONLY" in page
    assert "http:" not in page.replace("http://www.w3.org", "")
    assert "https:" not in page
    assert first["froc.png"].startswith(b"\x89PNG")
    table = first["camelyon16.md"].decode()
    assert f"| **lesion FROC** | **{got.froc.score:.3f}** |" in table
    assert f"| **these predictions** | 1.000 | {got.froc.score:.3f} |" in table
    assert "| Wang et al. 2016, challenge winner | 0.925 | 0.7051 | – | arXiv:1606.05718 |" in table


def test_names_are_escaped_in_the_page(cohort, tmp_path):
    given, truth = cohort
    (truth / "c.xml").rename(truth / "<script>x.xml")
    (given / "c.csv").rename(given / "<script>x.csv")
    (given / "slide_scores.csv").unlink()
    files = write_page(describe(evaluate(given, truth, spacing_um=0.25, resamples=0)), tmp_path / "out")
    page = files["camelyon16.html"].read_text()
    assert "<script>x" not in page
    assert "&lt;script&gt;x" in page


def test_table_and_record_carry_the_figures(cohort):
    got = evaluate(*cohort, spacing_um=0.25, resamples=50)
    table = terminal_table(describe(got))
    assert list(table.columns[0].cells)[:2] == ["slide AUC", "lesion FROC"]
    assert next(iter(table.columns[1].cells)) == "1.000"
    record = evaluation_record(got, "ASAP outlines")
    assert [score.name for score in record.scores] == ["slide AUC", "lesion FROC"]
    assert record.froc[-1] == (0.75, 1.0)


def test_the_registry_lists_the_protocol():
    entry = load_evaluations()["camelyon16"]
    assert entry.evaluate is evaluate
    assert {"auc": 0.925, "froc": 0.7051} in [published.figures for published in entry.published]


def test_results_that_were_set_aside_are_passed_over(cohort, tmp_path):
    out = as_results(cohort[0], tmp_path / "out")
    slides = [prediction.slide for prediction in read_predictions(out)]
    (out / "a.set-aside-1").mkdir()
    (out / "a.set-aside-1" / "result.json").write_bytes((out / "a" / "result.json").read_bytes())
    assert [prediction.slide for prediction in read_predictions(out)] == slides


@pytest.mark.parametrize("out", ["file", "file/x"])
def test_an_output_that_is_a_file_is_wrong_usage(cohort, tmp_path, out, capfd):
    (tmp_path / "file").write_text("mine")
    got = evaluate(*cohort, spacing_um=0.25, resamples=0)
    with pytest.raises(UsageError, match="file is there and is not a folder"):
        write_page(describe(got), tmp_path / out)
    places = [
        "--predictions",
        str(cohort[0]),
        "--reference",
        str(tmp_path / "absent"),
        "--out",
        str(tmp_path / out),
    ]
    assert run(["evaluate", "camelyon16", *places]) == 2
    assert "is not a folder" in capfd.readouterr().err


def test_two_files_of_one_slide_are_refused(cohort):
    given, truth = cohort
    (given / "A.csv").write_text("")
    with pytest.raises(UsageError, match="'A' and 'a' are predictions for one slide"):
        evaluate(given, truth, spacing_um=0.25)
    (given / "A.csv").unlink()
    (truth / "B.geojson").write_text("{}")
    with pytest.raises(UsageError, match=r"B\.geojson and b\.xml are of one slide"):
        evaluate(given, truth, spacing_um=0.25)
    (truth / "B.geojson").unlink()
    (truth / "reference.csv").write_text("c,normal\nC.tif,normal\n")
    with pytest.raises(UsageError, match=r"reference\.csv, line 2: slide 'C' for the second time"):
        evaluate(given, truth, spacing_um=0.25)


def test_a_score_table_may_state_each_slide_s_spacing(cohort):
    given, truth = cohort
    expected = evaluate(given, truth, spacing_um=0.25, resamples=0)
    rows = "slide,probability,spacing_um\na,0.9,0.25\nb,0.95,0.25\nc,0.5,0.5\nnormal_d,0.01,\n"
    (given / "slide_scores.csv").write_text(rows)
    assert evaluate(given, truth, resamples=0).slides == expected.slides
    (given / "slide_scores.csv").write_text(rows.replace("a,0.9,0.25", "a,0.9,0"))
    with pytest.raises(UsageError, match=r"slide_scores\.csv, line 2: a spacing of 0\.0 um/px"):
        evaluate(given, truth)


def test_nan_is_refused_wherever_it_stands(cohort):
    given, truth = cohort
    (given / "a.csv").write_text("probability,x,y\nnan,1,2\n")
    with pytest.raises(UsageError, match=r"a\.csv, line 2: probability nan"):
        evaluate(given, truth, spacing_um=0.25)
    (given / "a.csv").write_text("0.5,nan,2\n")
    with pytest.raises(UsageError, match=r"a\.csv, line 1"):
        evaluate(given, truth, spacing_um=0.25)
    (given / "a.csv").write_text("")
    (given / "slide_scores.csv").write_text("a,nan\nb,0.95\nc,0.5\nnormal_d,0.01\n")
    with pytest.raises(UsageError, match="its score nan is not finite"):
        evaluate(given, truth, spacing_um=0.25)
