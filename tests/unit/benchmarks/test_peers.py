"""The table of the comparison with other tools, on a recorded run, and the slide that it uses."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import openslide
import pytest

from medvision.sources.write import write_slide

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
TOOLS = ("lazyslide", "wsinfer", "tiatoolbox", "slideflow")


def load(name: str) -> ModuleType:
    """A module of the scripts, which are not a package: they also run in environments without this one."""
    spec = importlib.util.spec_from_file_location(f"peers_{name}", PEERS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


table = load("table")


@pytest.fixture
def recorded() -> dict[str, Any]:
    """What a run with two rounds wrote, shortened: two settings of one peer, one that failed, and ours."""

    def row(tool: str, setting: str, tiles: int, seconds: list[float], **more: Any) -> dict[str, Any]:
        known = {"versions": {}, "memory_mb": None, "note": "", "problem": ""}
        return (
            {"tool": tool, "network": "null", "setting": setting, "tiles": tiles, "seconds": seconds}
            | known
            | more
        )

    rows = [
        row(
            "LazySlide",
            "0 workers, batch 32",
            1000,
            [10.0, 12.5],
            versions={"lazyslide": "0.13.0"},
            memory_mb=912.4,
        ),
        row(
            "LazySlide",
            "2 workers, batch 32",
            1000,
            [5.0, 4.0],
            versions={"lazyslide": "0.13.0"},
            memory_mb=1512.6,
        ),
        row(
            "WSInfer", "2 workers, batch 32", 500, [5.0, 5.0], versions={"wsinfer": "0.6.1"}, memory_mb=1300.0
        ),
        row("Slideflow", "", 0, [], problem="ERROR: no wheel"),
        row(
            "medvision", "auto, batch 32", 1100, [1.0, 1.1], versions={"medvision": "0.1.0"}, memory_mb=600.0
        ),
    ]
    return {"slide": "synthetic", "rounds": 2, "machine": {"processor": "some", "cores": 2}, "rows": rows}


def test_the_fastest_setting_of_each_peer_is_kept_and_the_ratio_is_taken_round_by_round(recorded):
    comparison = table.Comparison.from_dict(recorded)
    kept = {row.tool: row for row in comparison.best()}
    assert kept["LazySlide"].setting == "2 workers, batch 32"
    assert kept["LazySlide"].rate == pytest.approx((200 + 250) / 2)
    (ratio,) = comparison.ratios()
    assert ratio.peer == "LazySlide"
    assert ratio.values == pytest.approx([1100 / 200, 1000 / 250])
    assert ratio.median == pytest.approx(4.75)


def test_json_holds_every_round_and_is_read_back_whole(recorded):
    comparison = table.Comparison.from_dict(recorded)
    text = json.dumps(comparison.as_dict())
    again = table.Comparison.from_dict(json.loads(text))
    assert again.as_dict() == comparison.as_dict()
    assert [row["tiles_per_second"] for row in comparison.as_dict()["rows"]][:2] == pytest.approx([90, 225])
    assert comparison.as_dict()["rows"][3]["tiles_per_second"] is None


def test_the_table_names_versions_tiles_memory_and_what_could_not_be_run(recorded):
    lines = table.Comparison.from_dict(recorded).markdown().splitlines()
    assert (
        "| null | LazySlide 0.13.0 | 2 workers, batch 32 | 1,000 | 4.5 | 225 (200 to 250) | 1,513 |" in lines
    )
    assert (
        "| null | WSInfer 0.6.1 | 2 workers, batch 32 | 500 (few) | 5.0 | 100 (100 to 100) | 1,300 |" in lines
    )
    assert "| null | Slideflow | could not be run: ERROR: no wheel | | | | |" in lines
    assert "| null, auto, batch 32 | LazySlide | 4.75 (4.00 to 5.50) |" in lines
    assert any(line.startswith("(few): under 80%") for line in lines)


def test_without_a_peer_there_is_no_ratio(recorded):
    recorded["rows"] = recorded["rows"][3:]
    comparison = table.Comparison.from_dict(recorded)
    assert comparison.ratios() == []
    assert "medvision 0.1.0" in comparison.markdown()


def test_settings_near_the_fastest_go_on_to_the_rounds_that_count(recorded):
    rows = table.Comparison.from_dict(recorded).rows
    assert [row.setting for row in table.near_best(rows[:2], 0.1)] == ["2 workers, batch 32"]
    assert len(table.near_best(rows[:2], 0.7)) == 2
    assert table.near_best(rows[3:], 0.1) == rows[3:]


def test_the_slide_keeps_every_second_level(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (2048, 2048, 3), dtype=np.uint8)
    path = write_slide(tmp_path / "slide.tif", (2048, 2048), lambda box: pixels[box.slices()], 0.25)
    with openslide.OpenSlide(path) as slide:
        before = slide.level_downsamples
        small = np.asarray(slide.read_region((0, 0), 2, (512, 512)))
    load("slides").skip_every_second_level(path)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_downsamples == before[::2]
        assert np.array_equal(np.asarray(slide.read_region((0, 0), 1, (512, 512))), small)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_package_of_a_tool_is_pinned_and_none_is_fetched_from_elsewhere(tool):
    lines = (PEERS / "requirements" / f"{tool}.txt").read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert any(line.startswith(f"{tool}==") for line in packages)
    assert all(line.count("==") == 1 and "/" not in line for line in packages)
    assert (PEERS / f"run_{tool}.py").is_file()
