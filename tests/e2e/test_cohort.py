"""From nothing to a scored cohort: draw slides, train on some, analyse the others, score by the official protocol."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medvision.cli import run
from medvision.core.geometry import Box
from medvision.metrics.ranking import roc_auc
from medvision.sources.areas import read_area
from medvision.sources.write import read_raster
from medvision.store.cohort import read_cohort

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def cohort(smoke_cohort: Path) -> Path:
    return smoke_cohort


@pytest.mark.slow
def test_a_cohort_is_drawn_learnt_from_analysed_and_scored(
    cohort: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained, results, scores = (tmp_path / name for name in ("trained", "results", "scores"))
    config = str(CONFIGS / "train-cohort-patch-smoke.yaml")
    manifest = str(cohort / "cohort.csv")
    assert run(["train", "patch", "--config", config, "--cohort", manifest, "--out", str(trained)]) == 0
    assert "patients on both sides: 0" in " ".join(capfd.readouterr().out.split())

    slides = sorted(str(path) for path in (cohort / "test" / "slides").glob("*.tif"))
    assert len(slides) == 3
    weights = ["--model", "camelyon-mini", "--weights", str(trained / "model.safetensors")]
    assert run(["analyze", *slides, "--out", str(results), *weights]) == 0

    arguments = ["--predictions", str(results), "--reference", str(cohort / "test" / "reference")]
    assert run(["evaluate", "camelyon16", *arguments, "--out", str(scores)]) == 0
    (said,) = [json.loads(path.read_text()) for path in scores.glob("*.json")]
    assert "froc" in json.dumps(said).lower()

    # Seconds of training tell tumour from normal tissue on slides that were not learnt from.
    probabilities, truth = [], []
    for slide in read_cohort(cohort / "cohort.csv").of("test"):
        raster = read_raster(results / slide.slide_id / "heatmap.ome.tiff")
        cell = raster.spacing.mean / 0.5
        area = read_area(slide.annotation, (1280, 1408))
        tumour = area.mask(Box((0, 0), raster.values.shape[:2]), cell)
        read = raster.coverage
        probabilities.append(raster.channel("tumor")[read])
        truth.append(tumour[read])
    assert roc_auc(np.concatenate(truth), np.concatenate(probabilities)) > 0.75


def test_folders_of_patches_take_no_cohort(
    cohort: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = str(CONFIGS / "train-patch-smoke.yaml")
    manifest = str(cohort / "cohort.csv")
    assert run(["train", "patch", "--config", config, "--cohort", manifest, "--out", str(tmp_path)]) == 2
    assert "--cohort has no meaning" in capfd.readouterr().err
