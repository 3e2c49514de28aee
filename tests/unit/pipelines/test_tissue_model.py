"""Segmentation networks in the analysis of slides: the tissue mask by one, and the heatmap by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.core.geometry import Spacing
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.configured import configured_model
from medvision.pipelines.heatmap import (
    compute_heatmap,
    locate_tissue,
    plan_heatmap,
    read_overview,
)
from medvision.pipelines.tissue_model import tissue_by_model, tissue_model
from medvision.sources.array_source import ArraySource
from medvision.sources.write import write_slide
from medvision.store.records import SlideResult

Model = Callable[..., Path]


def slide(side: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    """White glass with a pink disc, in which a darker square lies; and where the disc is."""
    rows, columns = np.mgrid[:side, :side]
    disc = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (0.38 * side) ** 2
    pixels = np.full((side, side, 3), 245, np.uint8)
    pixels[disc] = (225, 150, 200)
    pixels[side // 3 : side // 2, side // 3 : side // 2] = (200, 40, 120)
    return pixels, disc


def test_tissue(tmp_path: Path, threshold_model: Model) -> None:
    """The network's mask is the disc, as the thresholds' is, and says what made it."""
    pixels, disc = slide()
    source = ArraySource(pixels, spacing=Spacing((2.0, 2.0), "um"))
    model = threshold_model(tmp_path / "tissue.safetensors", channels=3, at=0.15, spacing=(8.0, 8.0))
    overview = read_overview(source)
    engine = PatchEngine(EngineSettings(device="cpu", batch_size=2, readers=1))
    found = tissue_by_model(source, overview, tissue_model(model, "cpu"), engine)
    step = disc.shape[0] / found.mask.shape[0]
    at = ((np.arange(found.mask.shape[0]) + 0.5) * step).astype(int)
    truth = disc[np.ix_(at, at)]
    usual = locate_tissue(overview).mask
    assert (found.mask & truth).sum() / (found.mask | truth).sum() > 0.97
    assert (found.mask & usual).sum() / (found.mask | usual).sum() > 0.9
    assert found.method.startswith("segmentation network tissue")


def test_heatmap(tmp_path: Path, threshold_model: Model) -> None:
    """Cells hold the mean probability of the class: 1 inside the square, 0 outside."""
    pixels, _ = slide()
    source = ArraySource(pixels, spacing=Spacing((2.0, 2.0), "um"))
    weights = threshold_model(tmp_path / "tumour.safetensors", channels=3, at=0.5, spacing=(2.0, 2.0))
    config = AnalyzeConfig(model="segmentation", weights=weights, stride=16, device="cpu")
    model = configured_model(config)
    overview = read_overview(source)
    plan = plan_heatmap(source, model, locate_tissue(overview), overview, config.stride)
    engine = PatchEngine(EngineSettings(device="cpu", batch_size=16, readers=1))
    raster, _ = compute_heatmap(engine, source, plan, engine.prepare(model))
    values = raster.channel("bright")
    square = np.zeros((1200, 1200))
    square[400:600, 400:600] = 1
    expected = square.reshape(75, 16, 75, 16).mean(axis=(1, 3))
    read = ~np.isnan(values)
    assert read[26:36, 26:36].all()
    assert np.abs(values[read] - expected[read]).max() < 0.02


def test_an_analysis_with_both(tmp_path: Path, threshold_model: Model) -> None:
    """One region where the square is, tissue by the network, and a result of its own for each choice."""
    pixels, disc = slide()
    write_slide(
        tmp_path / "s.tif", disc.shape, lambda box: pixels[box.slices()], 2.0, quality=95, subsampling="444"
    )
    tumour = threshold_model(tmp_path / "tumour.safetensors", channels=3, at=0.5, spacing=(2.0, 2.0))
    tissue = threshold_model(tmp_path / "tissue.safetensors", channels=3, at=0.15, spacing=(8.0, 8.0))
    out = tmp_path / "out"
    command = ["analyze", str(tmp_path / "s.tif"), "--out", str(out), "--model", "segmentation"]
    command += ["--stride", "16"]
    assert run([*command, "--weights", str(tumour), "--tissue-model", str(tissue), "--device", "cpu"]) == 0
    result = SlideResult.model_validate_json((out / "s" / "result.json").read_bytes())
    assert result.label == "positive"
    assert len(result.regions) == 1
    assert result.regions[0].area_mm2 == pytest.approx(0.16, rel=0.15)
    assert result.tissue is not None
    assert result.tissue.area_mm2 == pytest.approx(disc.sum() * 4e-6, rel=0.03)
    assert "network tissue" in result.tissue.method


def test_networks_that_do_not_fit(tmp_path: Path, threshold_model: Model) -> None:
    """They are refused with the reason."""
    grey = threshold_model(tmp_path / "grey.safetensors")
    with pytest.raises(UsageError, match="colour images"):
        tissue_model(grey, "cpu")
    with pytest.raises(UsageError, match="needs images, a spacing"):
        configured_model(AnalyzeConfig(model="segmentation", weights=grey))
    with pytest.raises(UsageError, match="needs --weights"):
        configured_model(AnalyzeConfig(model="segmentation"))
    close = threshold_model(tmp_path / "close.safetensors", channels=3, spacing=(0.01, 0.01))
    source = ArraySource(slide(400)[0], spacing=Spacing((2.0, 2.0), "um"))
    engine = PatchEngine(EngineSettings(device="cpu"))
    with pytest.raises(UsageError, match="train one at a coarser spacing"):
        tissue_by_model(source, read_overview(source), tissue_model(close, "cpu"), engine)
