"""Features, training and judging of slides and large images through the command line, on slides of seconds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from medvision.cli import run
from medvision.sources.write import read_raster, write_slide
from medvision.store.features import read_features
from medvision.store.records import SlideResult

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cohort(smoke_cohort: Path) -> Path:
    return smoke_cohort / "cohort.csv"


@pytest.fixture(scope="module")
def features(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("features")
    assert run(["features", "--cohort", str(cohort), "--out", str(out)]) == 0
    return out


def trained(command: str, cohort: Path, features: Path, out: Path, *more: str) -> Path:
    config = ROOT / "configs" / f"train-{command}-smoke.yaml"
    files = ["--config", str(config), "--cohort", str(cohort), "--features", str(features), "--out", str(out)]
    assert run(["train", command, *files, *more]) == 0
    return out


@pytest.fixture(scope="module")
def mil(cohort: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("mil", cohort, features, tmp_path_factory.mktemp("mil") / "abmil")


@pytest.fixture(scope="module")
def judged(cohort: Path, features: Path, mil: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("judged")
    files = ["--cohort", str(cohort), "--split", "test", "--features", str(features), "--out", str(out)]
    assert run(["aggregate", *files, "--model", str(mil)]) == 0
    return out


def test_a_table_lists_the_windows_of_tissue_in_reading_order(features: Path) -> None:
    tables = [read_features(path.parent) for path in sorted(features.glob("*/features.json"))]
    assert len(tables) == 7
    for table in tables:
        windows, info = table.windows, table.info
        assert table.vectors().shape == (len(table), 192)
        assert np.isfinite(table.vectors()).all()
        assert np.all(np.diff(windows.cell_row * info.lattice[1] + windows.cell_column) > 0)
        assert windows.tissue.min() >= 0.1
        step = info.source.stride_px * info.source.spacing_um / info.slide_spacing_um[0]
        np.testing.assert_allclose(windows.row, windows.cell_row * step)
        np.testing.assert_allclose(windows.column, windows.cell_column * step)


def test_features_are_those_of_the_windows_themselves(features: Path, cohort: Path) -> None:
    from medvision.core.geometry import Box
    from medvision.models.trunks import TrunkSpec, load_trunk
    from medvision.sources import open_source
    from medvision.sources.resample import read_at
    from medvision.store.cohort import read_cohort

    slide = read_cohort(cohort).slides[0]
    table, trunk, source = (
        read_features(features / slide.slide_id),
        load_trunk(TrunkSpec()),
        open_source(slide.path),
    )
    k = len(table) // 2
    start = (int(table.windows.cell_row[k]) * 128, int(table.windows.cell_column[k]) * 128)
    pixels = read_at(source, Box.at(start, (128, 128)), 0.5)
    source.close()
    with torch.inference_mode():
        expected = trunk(torch.from_numpy(pixels)[None])
    np.testing.assert_allclose(table.vectors([k])[0], np.asarray(expected)[0], atol=1e-3)


def test_tables_are_kept_and_made_anew_only_for_other_settings(
    features: Path, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["features", "--cohort", str(cohort), "--out", str(features)]) == 0
    assert capsys.readouterr().out.count("unchanged") == 7


def test_every_slide_has_a_probability_attention_and_a_report(judged: Path) -> None:
    folders = sorted(path.parent for path in judged.glob("*/result.json"))
    assert len(folders) == 3
    for folder in folders:
        result = SlideResult.model_validate_json((folder / "result.json").read_bytes())
        assert result.map == "attention"
        assert result.class_probabilities["tumor"] == result.probability
        assert result.model.positive == "tumor"
        raster = read_raster(folder / "attention.ome.tiff")
        assert float(np.nansum(raster.values)) == pytest.approx(1, abs=1e-4)
        assert result.heatmap is not None
        assert int(raster.coverage.sum()) == result.heatmap.windows
        assert raster.spacing.mean == pytest.approx(64.0)
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "Attention by window" in page
        assert "Probability by window" not in page
        assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")
    with (judged / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["slide"] for row in rows] == [folder.name for folder in folders]


def test_the_protocol_scores_them(judged: Path, cohort: Path, tmp_path: Path) -> None:
    truth = cohort.parent / "test" / "reference"
    files = ["--predictions", str(judged), "--reference", str(truth), "--out", str(tmp_path / "scores")]
    assert run(["evaluate", "camelyon16", *files]) == 0
    assert "auc" in (tmp_path / "scores" / "camelyon16.json").read_text().lower()


def test_a_judged_slide_is_kept(judged: Path, cohort: Path, features: Path, mil: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in judged.glob("*/result.json")}
    files = ["--cohort", str(cohort), "--split", "test", "--features", str(features), "--out", str(judged)]
    assert run(["aggregate", *files, "--model", str(mil)]) == 0
    assert {path: path.stat().st_mtime_ns for path in judged.glob("*/result.json")} == before


def test_a_cnn_lstm_judges_slides_without_a_map(
    cohort: Path, features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained("cnn-lstm", cohort, features, tmp_path / "model")
    assert "patients in more than one split: 0" in capsys.readouterr().out
    files = [
        "--cohort",
        str(cohort),
        "--split",
        "test",
        "--features",
        str(features),
        "--out",
        str(tmp_path / "out"),
    ]
    assert run(["aggregate", *files, "--model", str(model)]) == 0
    results = [
        SlideResult.model_validate_json(p.read_bytes()) for p in (tmp_path / "out").glob("*/result.json")
    ]
    assert len(results) == 3
    assert all(result.map == "none" and result.heatmap is None for result in results)
    page = next((tmp_path / "out").glob("*/report.html")).read_text(encoding="utf-8")
    assert "judged as a whole" in page


def test_the_wrong_command_for_an_architecture_says_the_right_one(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ROOT / "configs/train-cnn-lstm-smoke.yaml"
    assert (
        run(["train", "mil", "--config", str(config), "--cohort", str(cohort), "--out", str(tmp_path)]) == 2
    )
    assert "medvision train cnn-lstm" in capsys.readouterr().err


def test_wrong_choices_of_a_training_are_one_line(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ROOT / "configs/train-mil-smoke.yaml"
    files = ["--config", str(config), "--out", str(tmp_path / "out")]
    absent = ["--cohort", str(tmp_path / "absent.csv")]
    for more, said in (
        (["--cohort", str(cohort), "--architecture", "gpt"], "'gpt' is none of abmil, clam-sb"),
        (absent, "absent.csv: cannot be read"),
    ):
        assert run(["train", "mil", *files, *more]) == 2
        told = capsys.readouterr().err
        assert said in told and told.startswith("medvision: error: ") and told.count("\n") == 1


def test_a_trunk_by_absolute_path_is_not_named_to_others(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), tmp_path / "own.pth")
    trunk = tmp_path / "own.yaml"
    trunk.write_text(
        "architecture: mobilenet_v3_small\nwindow_px: 128\nspacing_um: 2.0\nblocks: [features.2]\n"
    )
    text = (ROOT / "configs/train-mil-smoke.yaml").read_text()
    config = tmp_path / "train.yaml"
    config.write_text(text + f"features: {{model: {trunk}}}\n")
    model = tmp_path / "model"
    assert run(["train", "mil", "--config", str(config), "--cohort", str(cohort), "--out", str(model)]) == 0
    for name in ("model.safetensors", "model-card.md", "report.json"):
        assert str(tmp_path).encode() not in (model / name).read_bytes()
    files = ["--cohort", str(cohort), "--split", "test", "--out", str(tmp_path / "o"), "--model", str(model)]
    capsys.readouterr()
    assert run(["aggregate", *files]) == 2
    assert "where the trunk of its features is (own); pass --trunk" in capsys.readouterr().err
    assert run(["aggregate", *files, "--trunk", str(trunk), "--features", str(model / "features")]) == 0


def test_other_features_than_it_was_trained_on_are_refused(
    mil: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--cohort", str(cohort), "--out", str(tmp_path), "--model", str(mil)]
    assert run(["aggregate", *files, "--spacing", "1.0"]) == 2
    assert "was trained on other features" in capsys.readouterr().err


def test_a_slide_without_tissue_is_judged_by_nobody(mil: Path, tmp_path: Path) -> None:
    blank = np.full((600, 700, 3), 245, np.uint8)
    slide = write_slide(tmp_path / "blank.tif", (600, 700), lambda box: blank[box.slices()], 0.5)
    out = tmp_path / "out"
    assert run(["aggregate", str(slide), "--model", str(mil), "--out", str(out)]) == 0
    result = SlideResult.model_validate_json((out / "blank" / "result.json").read_bytes())
    assert (result.verdict, result.probability, result.label) == ("no tissue", None, None)
    assert len(read_features(out / "features" / "blank")) == 0
    assert (out / "predictions.csv").read_text() == "slide,label,normal,tumor\n"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of 2048 x 1536 px in four classes of colour, and a manifest that lists them."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    lines = ["slide_id,path,label,patient,split,spacing"]
    colours = {
        "normal": (230, 180, 210),
        "benign": (200, 120, 180),
        "in situ": (150, 90, 170),
        "invasive": (90, 60, 140),
    }
    for k in range(8):
        label = list(colours)[k % 4]
        coarse = random.integers(-25, 25, (96, 128, 3)).repeat(16, axis=0).repeat(16, axis=1)
        pixels = np.clip(np.array(colours[label]) + coarse, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"i{k}.png", compress_level=1)
        lines.append(f"i{k},i{k}.png,{label},p{k},train,0.42")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_images_of_2048_by_1536_px_are_12_patches_in_reading_order(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), tmp_path / "trunk.pth")
    (tmp_path / "train.yaml").write_text(
        f"name: images\narchitecture: cnn-lstm\ncohort: {images / 'cohort.csv'}\n"
        "classes: [normal, benign, in situ, invasive]\n"
        f"features: {{model: mobilenet_v3_small, weights: {tmp_path / 'trunk.pth'}, blocks: [features.3, features.8], "
        "window: 512, spacing: 0.42, minimum_tissue: 0}\n"
        "options: {hidden: 16, layers: 3}\nfolds: 2\nsteps: 30\nbatch_size: 4\nmax_windows: null\n"
        "learning_rate: 0.01\naverage: 0.8\ncheck_every: 10\n"
    )
    model = tmp_path / "model"
    assert run(["train", "cnn-lstm", "--config", str(tmp_path / "train.yaml"), "--out", str(model)]) == 0
    table = read_features(model / "features" / "i3")
    assert (len(table), table.info.lattice) == (12, (3, 4))
    assert table.windows.row.tolist() == [0.0] * 4 + [512.0] * 4 + [1024.0] * 4
    assert table.windows.column.tolist() == [0.0, 512.0, 1024.0, 1536.0] * 3
    out = tmp_path / "classified"
    files = [
        str(images / "i2.png"),
        str(images / "i3.png"),
        "--out",
        str(out),
        "--weights",
        str(tmp_path / "trunk.pth"),
    ]
    assert run(["classify", *files, "--model", str(model)]) == 0
    found = json.loads((out / "results.json").read_text())
    assert found["classes"] == ["normal", "benign", "in situ", "invasive"]
    first, second = found["results"]
    assert first["windows"] == 12
    assert first["fit"].startswith("12 patches of 512 px in 3 rows of 4")
    assert first["spacing"].startswith("assumed: 0.42")
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert (first["predicted"], second["predicted"]) == ("in situ", "invasive")


def test_commands_without_anything_to_do_say_so(
    mil: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["features", "--out", str(tmp_path)]) == 2
    assert "no slide was given" in capsys.readouterr().err
    assert run(["aggregate", "--model", str(mil), "--out", str(tmp_path)]) == 2
    assert "no slide was given" in capsys.readouterr().err
    assert run(["features", str(tmp_path / "absent.svs"), "--out", str(tmp_path)]) == 1
