"""The main job through the command line, on a slide small enough for every test run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medvision.cli import run
from medvision.sources.write import read_raster
from medvision.store.records import SlideResult
from medvision.synthetic import SlideRecipe, write_synthetic_slide

OF_RUN = {"run.json", "report.html", "report.pdf", "manifest-run.json"}


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    return write_synthetic_slide(SlideRecipe(seed=5, shape_px=(2400, 2600), metastases="micro"), folder).slide


@pytest.fixture(scope="module")
def analysed(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert run(["analyze", str(slide), "--out", str(out)]) == 0
    return out


@pytest.fixture
def result_folder(analysed: Path) -> Path:
    (folder,) = [path.parent for path in analysed.glob("*/result.json")]
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in OF_RUN}


def test_every_promised_file_is_there(analysed: Path, result_folder: Path) -> None:
    names = {path.name for path in result_folder.iterdir()}
    promised = {"result.json", "run.json", "report.html", "report.pdf", "heatmap.ome.tiff", "regions.geojson"}
    assert promised | {"detections.csv", "thumbnail.jpg", "heatmap.png", "tissue.png"} <= names
    assert (analysed / "index.html").is_file()
    assert (analysed / "index.json").is_file()


def test_the_record_agrees_with_the_raster(result_folder: Path) -> None:
    result = SlideResult.model_validate_json((result_folder / "result.json").read_bytes())
    raster = read_raster(result_folder / "heatmap.ome.tiff")
    assert result.heatmap is not None
    assert result.heatmap.windows == int(raster.coverage.sum())
    assert raster.spacing.mean == pytest.approx(result.heatmap.stride_um, rel=1e-6)
    positive = raster.channel(result.model.positive)
    for region in result.regions:
        row, column = (int(p * 0.25 / result.heatmap.stride_um) for p in region.peak)
        assert positive[row, column] == pytest.approx(region.max_probability, abs=1e-5)
    assert np.nanmin(positive) >= 0
    assert np.nanmax(positive) <= 1


def test_outlines_enclose_the_area_that_the_record_states(result_folder: Path) -> None:
    from shapely.geometry import shape

    result = SlideResult.model_validate_json((result_folder / "result.json").read_bytes())
    features = json.loads((result_folder / "regions.geojson").read_text())["features"]
    drawn = sum(shape(feature["geometry"]).area for feature in features) * (0.25 / 1000) ** 2
    assert drawn == pytest.approx(sum(region.area_mm2 for region in result.regions), rel=1e-3)


def test_a_second_run_keeps_what_is_there(
    slide: Path, analysed: Path, result_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (result_folder / "result.json").stat().st_mtime_ns
    assert run(["analyze", str(slide), "--out", str(analysed)]) == 0
    assert "unchanged" in capsys.readouterr().out
    assert (result_folder / "result.json").stat().st_mtime_ns == before


def test_another_output_folder_gets_the_same_bytes(slide: Path, result_folder: Path, tmp_path: Path) -> None:
    assert run(["analyze", str(slide), "--out", str(tmp_path), "--readers", "3"]) == 0
    assert bytes_of(tmp_path / result_folder.name) == bytes_of(result_folder)


def test_a_damaged_result_is_made_again(slide: Path, tmp_path: Path) -> None:
    assert run(["analyze", str(slide), "--out", str(tmp_path)]) == 0
    (raster,) = tmp_path.glob("*/heatmap.ome.tiff")
    whole = raster.read_bytes()
    raster.write_bytes(whole[: len(whole) // 2])
    assert run(["analyze", str(slide), "--out", str(tmp_path)]) == 0
    assert raster.read_bytes() == whole


def test_reports_are_rendered_again_without_the_slide(result_folder: Path) -> None:
    page = result_folder / "report.html"
    before, findings = page.read_bytes(), bytes_of(result_folder)
    page.unlink()
    assert run(["report", str(result_folder.parent)]) == 0
    assert page.read_bytes() == before
    assert bytes_of(result_folder) == findings


def test_a_bad_slide_is_named_and_does_not_stop_the_others(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"not a slide at all")
    assert run(["analyze", str(bad), str(slide), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "failed" in printed
    assert "bad.svs" in printed
    outcomes = json.loads((tmp_path / "out" / "index.json").read_text())["outcomes"]
    assert {row["status"] for row in outcomes} == {"done", "failed"}
    assert "bad.svs" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["analyze", "absent.svs", "--out", "o"], "absent.svs"),
        (["analyze", "absent.svs"], "--out"),
        (["analyze", "--out", "o"], "slides"),
        (["analyze", "{slide}", "--out", "o", "--model", "nonesuch"], "camelyon-mini"),
        (["analyze", "{slide}", "--out", "o", "--device", "tpu"], "cpu"),
        (["analyze", "{slide}", "--out", "o", "--threshold", "2"], "threshold"),
        (["analyze", "{slide}", "--out", "o", "--stride", "4000"], "stride"),
        (["analyze", "{slide}", "--out", "o", "--model", "resnet18"], "--weights"),
        (["info", "absent.svs"], "absent.svs"),
        (["check", "absent.svs"], "absent.svs"),
        (["report", "absent"], "absent"),
        (["nonesuch"], "nonesuch"),
    ],
)
def test_wrong_usage_ends_with_status_2_and_says_what_is_wrong(
    arguments: list[str],
    said: str,
    slide: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([argument.format(slide=slide) for argument in arguments]) == 2
    printed = capfd.readouterr()
    assert said.lower() in (printed.err + printed.out).lower()
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_info_and_check_tell_what_an_analysis_would_meet(
    slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["info", str(slide), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["reader"]
    assert run(["check", str(slide), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["problem"] == ""
    assert row["windows"] > 0


def test_an_empty_slide_has_no_tissue_and_is_done(tmp_path: Path) -> None:
    from medvision.sources.write import write_slide

    blank = np.full((2048, 2048, 3), 244, np.uint8)
    path = tmp_path / "blank.tif"
    write_slide(path, (2048, 2048), lambda box: blank[box.slices()], spacing_um=0.5)
    assert run(["analyze", str(path), "--out", str(tmp_path / "out")]) == 0
    (record,) = (tmp_path / "out").glob("*/result.json")
    result = SlideResult.model_validate_json(record.read_bytes())
    assert result.verdict == "no tissue"
    assert result.label is None


@pytest.fixture
def killed(slide: Path, tmp_path: Path) -> Path:
    """An output folder whose run was killed in the middle of the slide."""
    program = (
        "import os, medvision.engine.engine as e, medvision.engine.checkpoint as c\n"
        "from medvision.cli import run\n"
        "real, seen = e.PatchEngine._collect, []\n"
        "def collect(self, batch, finished):\n"
        "    real(self, batch, finished)\n"
        "    seen.append(1)\n"
        "    if len(seen) == 6: os._exit(9)\n"
        "e.PatchEngine._collect = collect\n"
        "save = c.Checkpoint.save\n"
        "c.Checkpoint.save = lambda self, sink, done, unread, now=False: save(self, sink, done, unread, True)\n"
        f"run(['analyze', {str(slide)!r}, '--out', {str(tmp_path)!r}, '--batch-size', '8'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    return tmp_path


def test_a_killed_run_leaves_nothing_under_a_final_name_and_ends_the_same(
    killed: Path, slide: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert not list(killed.glob("*/result.json"))
    assert run(["analyze", str(slide), "--out", str(killed), "--batch-size", "8"]) == 0
    (outcome,) = json.loads((killed / "index.json").read_text())["outcomes"]
    clean = tmp_path_factory.mktemp("clean")
    assert run(["analyze", str(slide), "--out", str(clean), "--batch-size", "8"]) == 0
    (name,) = [path.parent.name for path in clean.glob("*/result.json")]
    assert bytes_of(killed / name) == bytes_of(clean / name)
    assert outcome["status"] == "resumed"


def test_a_slide_that_cannot_be_decoded_fails_rather_than_passing_as_empty(
    slide: Path, tmp_path: Path
) -> None:
    import tifffile

    damaged = tmp_path / "damaged.tif"
    data = bytearray(slide.read_bytes())
    with tifffile.TiffFile(slide) as tiff:
        pages = [tiff.pages[0], *(tiff.pages[0].pages or []), *tiff.pages[1:]]
        for page in pages:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                data[offset : offset + count] = bytes(count)
    damaged.write_bytes(data)
    assert run(["analyze", str(damaged), "--out", str(tmp_path / "out")]) in (1, 2)
    assert not list((tmp_path / "out").glob("*/result.json"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_with_its_status_and_a_word(
    number: signal.Signals, status: int, slide: Path, tmp_path: Path
) -> None:
    program = (
        "import os, signal, sys, medvision.engine.engine as e\n"
        "from medvision.cli import run\n"
        # A shell has what it starts in the background ignore this signal, and so the tests' own processes.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "real = e.PatchEngine._collect\n"
        "def collect(self, batch, finished):\n"
        "    real(self, batch, finished)\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "e.PatchEngine._collect = collect\n"
        f"sys.exit(run(['analyze', {str(slide)!r}, '--out', {str(tmp_path)!r}, '--batch-size', '8']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "a later run continues from here" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob(".medvision/scratch/*/heatmap.npz"))


def test_one_region_is_one_feature(result_folder: Path) -> None:
    result = SlideResult.model_validate_json((result_folder / "result.json").read_bytes())
    features = json.loads((result_folder / "regions.geojson").read_text())["features"]
    assert [feature["properties"]["name"] for feature in features] == [
        f"region {r.id}" for r in result.regions
    ]
    height, width = result.slide.shape
    text = json.dumps([feature["geometry"]["coordinates"] for feature in features])
    numbers = np.array([float(v) for v in text.replace("[", " ").replace("]", " ").replace(",", " ").split()])
    assert numbers[0::2].max() <= width
    assert numbers[1::2].max() <= height
