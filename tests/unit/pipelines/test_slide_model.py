"""A slide judged by a slide model: its probability, threshold and words are the forest's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from medvision.core.errors import UsageError, WeightsError
from medvision.models import load_model
from medvision.models.slide_forest import ForestContract, trees_of, write_slide_forest
from medvision.ops.heatmap_features import FEATURES, heatmap_features
from medvision.pipelines.analyze import analyze_slide
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.configured import check_config
from medvision.sources.write import read_raster
from medvision.store.records import SlideResult
from medvision.synthetic import SlideRecipe, write_synthetic_slide


def forest_file(
    path: Path, stride_um: float = 32.0, threshold: float = 0.3
) -> tuple[Path, RandomForestClassifier]:
    """A forest that was fitted to nothing in particular, for heatmaps of the default model."""
    random = np.random.default_rng(0)
    x, y = random.random((40, len(FEATURES))), np.arange(40) % 2 == 0
    forest = RandomForestClassifier(30, random_state=0).fit(x.astype(np.float32), y)
    contract = ForestContract(
        name="woods", features=FEATURES, positive="tumor", model="camelyon-mini", model_digest=load_model().digest,
        stride_um=stride_um, trees=30, threshold=threshold, trained_on="40 slides",
    )  # fmt: skip
    write_slide_forest(path, trees_of(forest), contract)
    return path, forest


def test_the_forest_judges_the_slide(tmp_path: Path) -> None:
    slide = write_synthetic_slide(
        SlideRecipe(seed=5, shape_px=(1100, 1200), metastases="none"), tmp_path
    ).slide
    file, forest = forest_file(tmp_path / "forest.safetensors")
    config = AnalyzeConfig(device="cpu", backend="eager", precision="float32", slide_model=file)
    outcome = analyze_slide(slide, tmp_path / "out", config, "s")
    result = SlideResult.model_validate_json((tmp_path / "out" / "s" / "result.json").read_bytes())
    raster = read_raster(tmp_path / "out" / "s" / "heatmap.ome.tiff")
    features = heatmap_features(raster.channel("tumor"), raster.spacing.mean)
    expected = forest.predict_proba(features[None].astype(np.float32))[0, 1]
    assert result.probability == pytest.approx(expected, abs=1e-6)
    assert outcome.label == result.label == ("positive" if expected >= 0.3 else "negative")
    assert (result.threshold, result.slide_threshold, result.judged_at) == (0.9, 0.3, 0.3)
    assert result.score_rule.startswith("Random forest 'woods' of 30 trees over 28 features")
    page = (tmp_path / "out" / "s" / "report.html").read_text()
    assert "Random forest &#39;woods&#39;" in page
    assert "threshold of 0.30" in page
    assert str(tmp_path) not in (tmp_path / "out" / "s" / "run.json").read_text()
    assert analyze_slide(slide, tmp_path / "out", config, "s").status == "unchanged"
    # Other trees, the same path: the result is made anew.
    forest_file(tmp_path / "other.safetensors", threshold=0.99)
    other = config.model_copy(update={"slide_model": tmp_path / "other.safetensors"})
    again = analyze_slide(slide, tmp_path / "out", other, "s")
    assert again.status == "done"
    assert again.label == "negative"


def test_a_slide_model_that_does_not_fit_is_refused_before_any_slide(tmp_path: Path) -> None:
    file, _ = forest_file(tmp_path / "forest.safetensors", stride_um=16)
    with pytest.raises(UsageError, match="cells of 16 um; these have 32 um"):
        check_config(AnalyzeConfig(device="cpu", slide_model=file))
    with pytest.raises(WeightsError, match="no such weights file"):
        check_config(AnalyzeConfig(device="cpu", slide_model=tmp_path / "absent.safetensors"))
