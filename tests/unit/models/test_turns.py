"""Orientations of windows: their mean does not mind how a window lies, and their spread says how much each one did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.models import load_model
from medvision.models.turns import SPREAD, turn, with_turns
from medvision.pipelines.analyze import analyze_slide
from medvision.pipelines.config import AnalyzeConfig
from medvision.sources.write import read_raster
from medvision.store.records import SlideResult
from medvision.synthetic import SlideRecipe, write_synthetic_slide


def windows(count: int = 3) -> torch.Tensor:
    coarse = torch.rand((count, 3, 9, 9), generator=torch.Generator().manual_seed(3))
    smooth = torch.nn.functional.interpolate(coarse, size=(128, 128), mode="bilinear")
    return (60 + 190 * smooth).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def turned(batch: torch.Tensor, which: int) -> torch.Tensor:
    return turn(batch.permute(0, 3, 1, 2), which).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("turns", [4, 8])
def test_mean_and_spread_are_those_of_the_single_orientations(turns: int) -> None:
    plain = load_model()
    model = with_turns(plain, turns)
    assert model.columns == ("normal", "tumor", SPREAD)
    with torch.inference_mode():
        views = np.stack([np.asarray(plain(turned(windows(), k))) for k in range(turns)])
        found = np.asarray(model(windows()))
        again = np.asarray(model(turned(windows(), 3)))
    np.testing.assert_allclose(found[:, :2], views.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found[:, 2], views[:, :, 1].std(axis=0), atol=1e-6)
    np.testing.assert_allclose(again, found, atol=1e-5)  # however the window lies
    assert found[:, 2].max() > 1e-3


@pytest.mark.parametrize("which", range(8))
def test_turns_are_those_of_torch(which: int) -> None:
    image = torch.arange(30).reshape(1, 5, 6)
    expected = torch.rot90(image, which % 4, (-2, -1))
    assert torch.equal(turn(image, which), expected.flip(-1) if which >= 4 else expected)


@pytest.mark.parametrize("backend", ["fused", "eager", "openvino"])
def test_backends_give_the_same_columns(backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    model = with_turns(load_model(), 4)
    runner = PatchEngine(EngineSettings(device="cpu", backend=backend, precision="float32")).prepare(model)
    with torch.inference_mode():
        np.testing.assert_allclose(np.asarray(runner(windows())), np.asarray(model(windows())), atol=1e-4)


def test_other_numbers_are_refused_and_digests_differ() -> None:
    with pytest.raises(UsageError, match="3 orientations"):
        with_turns(load_model(), 3)
    assert (
        len({load_model().digest, with_turns(load_model(), 4).digest, with_turns(load_model(), 8).digest})
        == 3
    )


def test_the_command_line_takes_the_numbers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    absent = str(tmp_path / "absent.tif")
    assert run(["analyze", absent, "--out", str(tmp_path / "o"), "--tta", "8"]) == 2
    assert "no such file" in capfd.readouterr().err  # and not a word about --tta
    assert run(["analyze", absent, "--out", str(tmp_path / "o"), "--tta", "3"]) == 2
    assert "--tta 3: input should be 1, 4 or 8" in capfd.readouterr().err


def test_the_spread_stands_in_the_raster_the_regions_and_the_report(tmp_path: Path) -> None:
    recipe = SlideRecipe(seed=5, shape_px=(1100, 1200), metastases="none")
    slide = write_synthetic_slide(recipe, tmp_path).slide
    config = AnalyzeConfig(device="cpu", backend="fused", precision="float32", tta=4, threshold=0.0)
    analyze_slide(slide, tmp_path / "out", config, "s")
    folder = tmp_path / "out" / "s"
    raster = read_raster(folder / "heatmap.ome.tiff")
    assert raster.channels == ("normal", "tumor", SPREAD)
    spread, tumor = raster.channel(SPREAD), raster.channel("tumor")
    result = SlideResult.model_validate_json((folder / "result.json").read_bytes())
    assert result.model.classes == ("normal", "tumor")
    (region, *_) = result.regions
    place = np.unravel_index(np.nanargmax(tumor), tumor.shape)
    assert region.spread == pytest.approx(float(spread[place]), abs=1e-6)
    mean = f"standard deviation is {np.nanmean(spread):.3f} on average and {np.nanmax(spread):.3f} at most"
    assert any(
        note.startswith("Scores are means over 4 orientations") and mean in note for note in result.limits
    )
    page = (folder / "report.html").read_text()
    assert "Spread at peak" in page
    assert mean in page
