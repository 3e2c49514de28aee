"""The page and the tables of a run over images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medvision.evaluations.images import read_predictions
from medvision.report.index import render_index
from medvision.store.image_records import ImageInfo, ImageModelInfo, ImageResult
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.ledger_records import Attempt, AttemptEnd, RunStart
from medvision.store.records import QcMeasure, SlideOutcome

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


def write_image(folder: Path, probabilities: dict[str, float], **changes: object) -> ImageResult:
    """A result folder with a picture; the classes are those of `probabilities`."""
    folder.mkdir(parents=True)
    values = np.random.default_rng(len(folder.name)).integers(0, 255, (60, 90), np.uint8)
    Image.fromarray(values).save(folder / "thumbnail.png")
    predicted = max(probabilities, key=lambda name: probabilities[name])
    model = ImageModelInfo(
        name="oct",
        version="1",
        digest="b" * 64,
        architecture="slim-resnet",
        classes=tuple(probabilities),
        positive=None,
        input_px=64,
        resize="squash",
        temperature=1.0,
        calibration="uncalibrated",
    )
    image = ImageInfo(
        name=f"{folder.name}.jpeg",
        digest="a" * 64,
        reader="JPEG",
        shape=(60, 90),
        bits=8,
        grey=True,
        shown="as stored",
    )
    result = ImageResult(
        image=image,
        model=model,
        config={},
        config_digest="c",
        software={},
        probabilities=probabilities,
        predicted=predicted,
        in_scope=True,
        energy=-3.5,
        images={"thumbnail": "thumbnail.png"},
    ).model_copy(update=changes)
    (folder / "result.json").write_text(result.model_dump_json())
    (folder / "report.html").write_text("<p>a page</p>")
    return result


def outcome(name: str, result: ImageResult | None = None, **changes: object) -> SlideOutcome:
    made = SlideOutcome(slide=f"/data/{name}.jpeg", name=name, status="done")
    if result is not None:
        made = made.model_copy(update={"probability": result.probability, "label": result.label})
    return made.model_copy(update=changes)


def spread(first: float, *others: float) -> dict[str, float]:
    return dict(zip(CLASSES, (first, *others), strict=True))


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, list[SlideOutcome]]:
    folder = tmp_path / "run"
    energy = QcMeasure(name="energy", value=2.0, unit="", ok=False, limit="<= -1", meaning="")
    strange = {"in_scope": False, "reason": "it is in colour", "qc": (energy,)}
    results = {
        "a": write_image(folder / "a", spread(0.7, 0.1, 0.1, 0.1)),
        "b": write_image(folder / "b", spread(0.05, 0.05, 0.1, 0.8)),
        "c": write_image(folder / "c", spread(0.4, 0.3, 0.2, 0.1), **strange),
    }
    outcomes = [outcome(name, result) for name, result in results.items()]
    lost = outcome("gone", status="failed", reason="/data/gone.jpeg: damaged")
    return folder, [*outcomes, lost]


def test_the_page_is_of_images_and_of_nothing_else(run, page_of, assert_inert) -> None:
    folder, outcomes = run
    page = page_of(render_index(folder, outcomes, item="image").read_bytes())
    assert_inert(page)
    assert "Run of 4 images" in page.text
    assert "2 CNV, 1 NORMAL, 1 failed; 1 unlike training" in page.text
    heads = page.text[page.text.index("Picture Image Class") :].split("Files")[0].split()
    assert heads == ["Picture", "Image", "Class", "Probability", *CLASSES, "Flags"]
    assert "lide" not in page.text and "mm" not in page.text and "issue" not in page.text
    assert "it is in colour" in page.text and "Unlike training Energy" in page.text
    assert "gone : gone.jpeg: damaged" in page.text
    assert "./a/report.html" in page.attributes("href")
    rows = [attributes for tag, attributes in page.tags if tag == "tr" and "data-verdict" in attributes]
    assert [one["data-verdict"] for one in rows] == ["CNV", "NORMAL", "CNV", "Failed"]
    assert ["data-marked" in one for one in rows] == [False, False, True, False]
    assert [one["class"] for one in rows] == ["tone-neutral", "tone-neutral", "tone-warning", "tone-failed"]
    assert len(page.attributes("src")) == 3, "one picture of each image that has a result"


def test_the_page_can_be_made_again_with_and_without_its_index(run) -> None:
    folder, outcomes = run
    first = render_index(folder, outcomes, item="image").read_bytes()
    assert render_index(folder).read_bytes() == first
    (folder / "index.json").unlink()
    assert b"Run of 3 images" in render_index(folder).read_bytes()


def test_a_column_for_each_class_in_the_tables(run) -> None:
    folder, outcomes = run
    render_index(folder, outcomes, item="image")
    rows = pq.read_table(folder / "cohort.parquet").to_pylist()
    assert [row["predicted"] for row in rows] == ["CNV", "NORMAL", "CNV", None]
    assert [row["p_DME"] for row in rows] == [0.1, 0.05, 0.3, None]
    assert [row["in_scope"] for row in rows] == [True, True, False, None]
    assert (rows[2]["qc_energy"], rows[2]["qc_energy_ok"], rows[2]["energy"]) == (2.0, False, -3.5)
    assert (rows[0]["rows"], rows[0]["columns"], rows[0]["image_digest"]) == (60, 90, "a" * 64)
    assert not {"regions", "tissue_mm2", "spacing_row_um", "slide_id"} & set(rows[0])
    with (folder / "cohort.csv").open(newline="") as stream:
        assert [row["p_CNV"] for row in csv.DictReader(stream)] == ["0.7", "0.05", "0.4", ""]


def test_many_classes_have_columns_in_the_tables_alone(tmp_path: Path, page_of) -> None:
    classes = {f"class-{number}": 0.1 for number in range(10)}
    result = write_image(tmp_path / "run" / "a", classes)
    page = page_of(render_index(tmp_path / "run", [outcome("a", result)], item="image").read_bytes())
    assert "class-0" in page.text and "class-7" not in page.text
    assert "p_class-7" in (tmp_path / "run" / "cohort.csv").read_text()


def record(folder: Path, outcomes: list[SlideOutcome]) -> None:
    """Enter a run of these outcomes in the ledger; ids are paths, as labels of images call them."""
    planned = [(f"scans/{one.name}.jpeg", one.name) for one in outcomes]
    start = RunStart(
        run_id="R1",
        started_utc="2026-01-01T00:00:00Z",
        operator="ada",
        command="c",
        slides=len(planned),
        config={},
        config_digest="c",
        code="d",
        software={},
    )
    with Ledger(folder / LEDGER) as ledger:
        ledger.begin_run(start, planned)
        for number, one in enumerate(outcomes, start=1):
            identity = {"run_id": "R1", "slide_id": planned[number - 1][0], "name": one.name}
            ledger.begin(Attempt(attempt_id=f"{number}", number=number, began_utc="t", **identity))
            ledger.end(AttemptEnd(attempt_id=f"{number}", ended_utc="t", verdict=one.status, outcome=one))


def test_predictions_are_what_an_evaluation_takes(run, page_of) -> None:
    folder, outcomes = run
    record(folder, outcomes)
    page = page_of(render_index(folder, outcomes, run_id="R1", item="image").read_bytes())
    assert "./predictions.csv" in page.attributes("href")
    predictions = read_predictions(folder / "predictions.csv")
    assert predictions.classes == CLASSES
    assert predictions.images == ("scans/a.jpeg", "scans/b.jpeg", "scans/c.jpeg"), "a failed one has none"
    assert predictions.scores[1].tolist() == [0.05, 0.05, 0.1, 0.8]


def test_a_table_of_another_make_is_not_overwritten(run, page_of) -> None:
    folder, outcomes = run
    record(folder, outcomes)
    (folder / "predictions.csv").write_text("slide,label,normal,tumor\n")
    page = page_of(render_index(folder, outcomes, run_id="R1", item="image").read_bytes())
    assert (folder / "predictions.csv").read_text() == "slide,label,normal,tumor\n"
    assert "./predictions.csv" not in page.attributes("href")


def test_a_result_of_another_kind_is_named_as_broken(run, make_result, page_of) -> None:
    folder, outcomes = run
    make_result("node-1", folder=folder / "node-1")
    page = page_of(render_index(folder, [*outcomes, outcome("node-1")], item="image").read_bytes())
    assert "node-1/result.json: is not of one image, as the other results here are" in page.text
