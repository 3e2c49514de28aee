"""A slide analysed densely, beside the same slide analysed window by window."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvision.core.errors import UsageError
from medvision.pipelines.analyze import analyze_slide
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.configured import check_config
from medvision.sources.write import read_raster
from medvision.store.records import SlideOutcome, SlideResult
from medvision.synthetic import SlideRecipe, write_synthetic_slide


def test_a_dense_analysis_scores_the_same_cells_and_says_how_well(tmp_path: Path) -> None:
    slide = write_synthetic_slide(
        SlideRecipe(seed=5, shape_px=(1100, 1200), metastases="none"), tmp_path
    ).slide
    outcomes: dict[str, SlideOutcome] = {}
    told: list[int] = []
    done: list[int] = []
    for mode in ("off", "fast"):
        told.clear()
        done.clear()
        outcomes[mode] = analyze_slide(
            slide,
            tmp_path / mode,
            AnalyzeConfig(dense=mode, stride=32, device="cpu"),
            "s",
            lambda _name, count: told.append(count),
            done.append,
        )
        assert sum(done) == sum(told)  # a progress bar ends at its end
    assert outcomes["off"].windows == outcomes["fast"].windows > 64
    off, fast = (read_raster(tmp_path / mode / "s" / "heatmap.ome.tiff") for mode in outcomes)
    assert (off.coverage == fast.coverage).all()
    record = SlideResult.model_validate_json((tmp_path / "fast" / "s" / "result.json").read_bytes())
    assert any("computed densely; on 64 windows of this slide" in note for note in record.limits)
    assert record.config["dense"] == "fast"
    plain = SlideResult.model_validate_json((tmp_path / "off" / "s" / "result.json").read_bytes())
    assert not any("densely" in note for note in plain.limits)
    assert plain.config_digest != record.config_digest


def test_what_cannot_be_done_exactly_is_refused_before_any_slide() -> None:
    with pytest.raises(UsageError, match=r"camelyon-mini.*no exact dense evaluation.*--dense fast"):
        check_config(AnalyzeConfig(dense="exact", device="cpu"))
