"""A slide forest from the heatmaps of a cohort, and lesions from the heatmaps of two runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medvision.core.errors import UsageError
from medvision.core.geometry import Spacing
from medvision.core.results import Raster
from medvision.models.slide_forest import read_slide_forest
from medvision.ops.heatmap_features import FEATURES, heatmap_features
from medvision.pipelines.lesions import score_lesions
from medvision.sources.write import write_raster
from medvision.store.maps import list_results, read_map
from medvision.store.records import HeatmapInfo, ModelInfo, SlideInfo, SlideResult
from medvision.training.slide_forest import train_slide_forest
from medvision.training.slide_forest_config import TrainSlideForestConfig


def write_result(
    folder: Path, values: np.ndarray | None, cell_um: float = 64.0, digest: str = "m" * 64
) -> None:
    """A folder as `medvision analyze` writes it, of a slide with 0.5 um/px; None: without tissue."""
    folder.mkdir(parents=True)
    side = 40
    shape = (int(side * cell_um * 2), int(side * cell_um * 2))
    slide = SlideInfo(
        name=f"{folder.name}.tif", digest=folder.name, reader="r", reader_reason="", vendor="", shape=shape, levels=1,
        spacing_um=(0.5, 0.5), spacing_origin="file",
    )  # fmt: skip
    model = ModelInfo(
        name="mini", version="1", digest=digest, classes=("normal", "tumor"), positive="tumor", window_px=(128, 128),
        spacing_um=0.5, calibration="", card="",
    )  # fmt: skip
    heatmap = None
    if values is not None:
        both = np.stack([1 - values, values], axis=-1).astype(np.float32)
        write_raster(
            folder / "heatmap.ome.tiff", Raster(both, Spacing((cell_um, cell_um)), ("normal", "tumor"))
        )
        rows, columns = values.shape
        heatmap = HeatmapInfo(
            file="heatmap.ome.tiff", stride_um=cell_um, shape=(rows, columns), windows=values.size, unread=0
        )
    score = None if values is None else float(np.nanmax(values))
    result = SlideResult(
        verdict="no tissue" if values is None else "done", slide=slide, model=model, config={}, config_digest="c" * 64,
        software={}, threshold=0.9, probability=score, score_rule="max", label=None, heatmap=heatmap, tissue=None,
    )  # fmt: skip
    (folder / "result.json").write_text(result.model_dump_json())


def noise(seed: int) -> np.ndarray:
    """A map of a normal slide: specks that are hot, yet small."""
    random = np.random.default_rng(seed)
    values = np.clip(0.15 + 0.1 * gaussian_filter(random.normal(size=(40, 40)), 1), 0, 1)
    for _ in range(6):
        row, column = random.integers(0, 39, 2)
        values[row, column] = random.uniform(0.85, 1)
    values[:, :4] = np.nan
    return values


def with_lesion(seed: int) -> np.ndarray:
    """The same with an area that is hot throughout, though no cell is hotter than the specks."""
    values = noise(seed)
    row, column = np.random.default_rng(seed + 999).integers(6, 28, 2)
    values[row : row + 7, column : column + 8] = 0.92
    return values


@pytest.fixture
def cohort(tmp_path: Path) -> TrainSlideForestConfig:
    """24 slides, half of them with a lesion, two of each patient; one without tissue."""
    lines = ["slide_id,path,label,patient,split"]
    for number in range(24):
        name, tumour = f"slide_{number:02d}", number // 2 % 2 == 0
        write_result(tmp_path / "run" / name, with_lesion(number) if tumour else noise(number))
        lines.append(f"{name},{name}.tif,{'tumor' if tumour else 'normal'},p{number // 2},train")
        (tmp_path / f"{name}.tif").write_bytes(b"")
    write_result(tmp_path / "run" / "empty", None)
    (tmp_path / "empty.tif").write_bytes(b"")
    lines.append("empty,empty.tif,normal,p99,train")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    return TrainSlideForestConfig(
        name="test", results=tmp_path / "run", cohort=tmp_path / "cohort.csv", trees=60
    )


def test_a_forest_learns_what_the_highest_cell_does_not_tell(
    cohort: TrainSlideForestConfig, tmp_path: Path
) -> None:
    report = train_slide_forest(cohort, tmp_path / "out")
    assert report.slides == 24
    assert report.figures["auc"].value > 0.9
    forest = read_slide_forest(report.weights)
    assert (forest.contract.model, forest.contract.stride_um) == ("mini", 64)
    for values, low, high in ((noise(500), 0, 0.5), (with_lesion(501), 0.5, 1)):
        assert low <= forest.probability(heatmap_features(values, 64)) <= high
    said = json.loads((tmp_path / "out" / "report.json").read_text())
    assert said["without_tissue"] == ["empty"]
    assert sum(said["importance"].values()) == pytest.approx(1, abs=1e-4)
    with (tmp_path / "out" / "features.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[2:] == list(FEATURES)
    card = (tmp_path / "out" / "model-card.md").read_text()
    assert "Research use only" in card
    assert "Without tissue, and left out: empty" in card
    again = train_slide_forest(cohort, tmp_path / "again")
    assert again.weights.read_bytes() == report.weights.read_bytes()


def test_what_cannot_be_learnt_from_is_named(cohort: TrainSlideForestConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="no slide is in split 'test'"):
        train_slide_forest(cohort.model_copy(update={"split": "test"}), out)
    with pytest.raises(UsageError, match="has 0 slides of 'itc'"):
        train_slide_forest(cohort.model_copy(update={"positive": "itc"}), out)
    with pytest.raises(UsageError, match="holds no result of slide 'slide_00'"):
        train_slide_forest(cohort.model_copy(update={"results": tmp_path / "absent"}), out)
    other = tmp_path / "run" / "slide_05"
    for path in other.iterdir():
        path.unlink()
    other.rmdir()
    write_result(other, noise(5), digest="n" * 64)
    with pytest.raises(UsageError, match="a forest needs one model and stride"):
        train_slide_forest(cohort, out)
    text = cohort.cohort.read_text()
    cohort.cohort.write_text(text.replace("slide_03.tif,normal", "slide_03.tif,"))
    with pytest.raises(UsageError, match="no label for slide_03"):
        train_slide_forest(cohort, out)


def test_lesions_of_two_runs(tmp_path: Path) -> None:
    first = np.zeros((40, 40))
    first[10:14, 20:26] = 0.95
    second = np.full((80, 80), 0.5)
    write_result(tmp_path / "a" / "s1", first)
    write_result(tmp_path / "b" / "s1", second, cell_um=32)
    write_result(tmp_path / "a" / "s2", None)
    write_result(tmp_path / "b" / "s2", None)
    found = list(score_lesions(tmp_path / "a", tmp_path / "b", tmp_path / "out"))
    assert [(one.slide, one.lesions) for one in found] == [("s1", 1), ("s2", 0)]
    line = (tmp_path / "out" / "s1.csv").read_text().splitlines()[1]
    probability, x, y = (float(cell) for cell in line.split(","))
    assert probability == pytest.approx((0.95 + 0.5) / 2, abs=1e-5)
    assert 20 * 128 <= x <= 26 * 128  # a cell of 64 um is 128 px
    assert 10 * 128 <= y <= 14 * 128
    assert (tmp_path / "out" / "slide_scores.csv").read_text().splitlines() == [
        "slide,probability,spacing_um",
        "s1,0.950000,0.5",
        "s2,0.000000,0.5",
    ]


@pytest.mark.parametrize("change", [{"map": "attention"}, {"map": "none", "heatmap": None}])
def test_results_without_a_map_of_probabilities_are_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    for run in "ab":
        write_result(tmp_path / run / "s1", noise(0))
    path = tmp_path / "a" / "s1" / "result.json"
    path.write_text(
        SlideResult.model_validate_json(path.read_bytes()).model_copy(update=change).model_dump_json()
    )
    with pytest.raises(UsageError, match=r"s1.result\.json: mini gave the slide no map of probabilities"):
        list(score_lesions(tmp_path / "a", tmp_path / "b", tmp_path / "out"))
    with pytest.raises(UsageError, match="no map of probabilities"):
        list(score_lesions(tmp_path / "b", tmp_path / "a", tmp_path / "out"))


def test_runs_of_other_slides_are_refused(tmp_path: Path) -> None:
    write_result(tmp_path / "a" / "s1", noise(0))
    write_result(tmp_path / "b" / "s2", noise(0))
    with pytest.raises(UsageError, match="slides in one of them only: s1, s2"):
        list(score_lesions(tmp_path / "a", tmp_path / "b", tmp_path / "out"))
    with pytest.raises(UsageError, match=r"holds no SLIDE/result\.json"):
        list_results(tmp_path)
    write_result(tmp_path / "b" / "s1", None)
    (tmp_path / "b" / "s2" / "result.json").unlink()
    with pytest.raises(UsageError, match="s1: one of the runs has a heatmap"):
        list(score_lesions(tmp_path / "a", tmp_path / "b", tmp_path / "out"))
    with pytest.raises(UsageError, match="analyse the slide first"):
        read_map(tmp_path / "b" / "s2")
