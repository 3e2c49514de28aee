"""The device never waits for a slide to be opened or written, and an interruption loses nothing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from medvision.core.errors import MedvisionError
from medvision.pipelines import analyze
from medvision.pipelines.config import AnalyzeConfig
from medvision.synthetic import SlideRecipe, write_synthetic_slide

CONFIG = AnalyzeConfig(device="cpu", backend="fused", stride=32)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    made = []
    for seed in (1, 2):
        recipe = SlideRecipe(seed=seed, shape_px=(1024, 1024), metastases="none")
        made.append(write_synthetic_slide(recipe, folder / f"slide-{seed}").slide)
    return made


def test_the_next_slide_is_computed_while_the_last_is_written(
    slides: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_runs = threading.Event()
    write = analyze.write_report

    def wait_and_write(folder: Path) -> None:
        if "slide-1" in folder.name:
            assert second_runs.wait(60), "the second slide did not begin before the first was written"
        write(folder)

    def on_plan(name: str, _windows: int) -> None:
        if name.startswith("slide-2"):
            second_runs.set()

    monkeypatch.setattr(analyze, "write_report", wait_and_write)
    outcomes = list(analyze.analyze_slides(slides, tmp_path, CONFIG, on_plan))
    assert [outcome.status for outcome in outcomes] == ["done"] * 2
    assert [Path(outcome.slide) for outcome in outcomes] == slides


def test_an_interrupted_run_continues_and_gives_the_same(slides: list[Path], tmp_path: Path) -> None:
    stop_after = {"windows": 0}

    def interrupt(count: int) -> None:
        stop_after["windows"] += count
        if stop_after["windows"] >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(analyze.analyze_slides(slides, tmp_path / "cut", CONFIG, on_windows=interrupt))
    again = list(analyze.analyze_slides(slides, tmp_path / "cut", CONFIG))
    whole = list(analyze.analyze_slides(slides, tmp_path / "whole", CONFIG))
    assert "resumed" in [outcome.status for outcome in again]
    for one, other in zip(again, whole, strict=True):
        parts = [
            (tmp_path / run / o.name / "heatmap.ome.tiff") for run, o in (("cut", one), ("whole", other))
        ]
        assert parts[0].read_bytes() == parts[1].read_bytes()


def test_stop_ends_a_slide_that_waits_for_the_device(slides: list[Path], tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        analyze.analyze_slide(slides[0], tmp_path, CONFIG, stop=stop)


def test_a_wrong_configuration_raises_though_the_slide_is_looked_at_meanwhile(
    slides: list[Path], tmp_path: Path
) -> None:
    wrong = CONFIG.model_copy(update={"backend": "none such"})
    with pytest.raises(MedvisionError, match="none such"):
        list(analyze.analyze_slides(slides, tmp_path, wrong))


def test_an_interruption_stops_what_the_device_does_and_waits_for_it() -> None:
    # In a process of its own: a signal that comes late would hit whoever runs the tests.
    script = textwrap.dedent("""
        import os, signal, threading
        from medvision.pipelines.device import compute

        stop, ended = threading.Event(), threading.Event()

        def work():
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            assert stop.wait(60), "nobody told the device's thread to stop"
            ended.set()

        # A shell has what it starts in the background ignore this signal.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            compute("a device of this test", stop, work)
        except KeyboardInterrupt:
            print("interrupted after the end" if ended.is_set() else "interrupted before the end")
    """)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "interrupted after the end\n"
