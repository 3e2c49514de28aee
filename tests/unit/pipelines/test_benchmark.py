"""The benchmark's arithmetic, its slide, its comparison and its tables; what is timed here is not judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from medvision.cli import run
from medvision.cli.benchmark import figure_table
from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.pipelines.benchmark import interleave, run_benchmark
from medvision.pipelines.benchmark_figures import (
    BenchmarkReport,
    Figure,
    RatioOf,
    compare,
    ratios,
    read_baseline,
)
from medvision.pipelines.benchmark_growth import fit
from medvision.sources import open_source
from medvision.sources.pyramid import mean_of_four
from medvision.sources.repeated import write_repeated_slide


def report(*found: Figure, slide: str = "s") -> BenchmarkReport:
    return BenchmarkReport("workloads", slide, 3, {"cores": 2}, {"medvision": "1"}, (), found)


def ratio(*values: float, name: str = "reading / limit", at_most: bool = False) -> Figure:
    return Figure("Reading", name, values, aim=0.75, at_most=at_most)


def test_a_line_and_a_power_are_recovered() -> None:
    line = fit([1, 2, 4], [5, 8, 14])
    assert (line.intercept, line.slope, line.r2) == pytest.approx((2, 3, 1))
    assert fit([10, 20, 40, 80], [3 * n**1.5 for n in (10, 20, 40, 80)]).exponent == pytest.approx(1.5)
    # hand-computed: y = 0, 1, 0 over x = 1, 2, 3 has the flat line 1/3, which explains nothing
    assert fit([1, 2, 3], [1, 2, 1]).r2 == pytest.approx(0)
    assert fit([1, 2, 3], [4, 4, 4]).r2 == 1


def test_every_workload_runs_once_a_round_and_the_first_round_does_not_count() -> None:
    ran: list[str] = []

    def work(name: str) -> float:
        ran.append(name)
        return float(len(ran))

    said: list[str] = []
    values = interleave({"a": lambda: work("a"), "b": lambda: work("b")}, 2, said.append)
    assert ran == ["a", "b"] * 3
    assert values == {"a": [3, 5], "b": [4, 6]}
    assert said == ["warming up", "round 1 of 2", "round 2 of 2"]


def test_ratios_are_taken_round_by_round_of_what_was_run() -> None:
    wanted = [RatioOf("G", "a / b", "a", "b", 1.0), RatioOf("G", "a / c", "a", "c", 1.0)]
    (only,) = ratios({"a": [2.0, 9.0, 8.0], "b": [1.0, 3.0, 8.0]}, wanted)
    assert only.values == (2.0, 3.0, 1.0)
    assert (only.median, only.spread, only.met) == (2.0, (1.0, 3.0), True)


@pytest.mark.parametrize(
    ("values", "at_most", "met"),
    [((0.7, 0.74, 0.9), False, False), ((0.7, 0.75), True, True), ((0.8,), True, False)],
)
def test_an_aim_is_judged_by_the_median(values: tuple[float, ...], at_most: bool, met: bool) -> None:
    assert ratio(*values, at_most=at_most).met is met
    assert replace(ratio(*values), aim=None).met is None


@pytest.mark.parametrize(
    ("now", "fell"),
    [
        ((0.80, 0.90, 1.00), False),
        ((0.70, 0.80, 0.86), False),  # its best round is within the tolerance of 1.0
        ((0.70, 0.80, 0.84), True),
        ((0.10, 0.20, 0.95), False),  # one round as before: a noisy machine
        ((1.50, 1.60, 1.70), False),
    ],
)
def test_a_ratio_fell_by_more_than_the_tolerance_beyond_the_spread(
    now: tuple[float, ...], fell: bool
) -> None:
    found = compare(report(ratio(*now)), report(ratio(0.9, 1.0, 1.1)), 0.15)
    assert bool(found.fallen) is fell
    assert found.compared == 1


def test_what_should_be_small_falls_when_it_rises() -> None:
    before = report(ratio(1.0, 1.02, at_most=True))
    assert compare(report(ratio(1.5, at_most=True)), before).fallen
    assert not compare(report(ratio(0.5, at_most=True)), before).fallen


def test_a_wide_spread_before_excuses_what_lies_inside_it() -> None:
    assert not compare(report(ratio(0.6)), report(ratio(0.5, 1.0, 1.1))).fallen


def test_only_what_both_measured_is_compared() -> None:
    found = compare(report(ratio(1.0), ratio(1.0, name="new")), report(ratio(1.0), ratio(1.0, name="old")))
    assert (found.compared, found.only_before, found.only_now) == (1, ("old",), ("new",))
    with pytest.raises(UsageError, match=r"'s'.*'another'"):
        compare(report(), report(slide="another"))
    with pytest.raises(UsageError, match=r"tolerance of 1\.5"):
        compare(report(), report(), 1.5)


def test_a_report_reads_back_and_another_file_is_refused(tmp_path: Path) -> None:
    made = report(ratio(0.5, 1.0))
    path = tmp_path / "r.json"
    path.write_text(json.dumps(made.as_dict()))
    assert json.loads(path.read_text())["ratios"][0]["median"] == 0.75
    assert read_baseline(path) == made
    for content in ("[]", "{", '{"ratios": 3}', '{"measures": [], "ratios": []}'):
        path.write_text(content)
        with pytest.raises(UsageError, match=r"r\.json is no report"):
            read_baseline(path)


def test_the_committed_baseline_is_one_of_quick_runs() -> None:
    baseline = read_baseline(Path(__file__).parents[2] / "benchmarks" / "baseline.json")
    assert baseline.slide == "synthetic, 6,000 px"
    assert len(baseline.ratios) > 20
    assert not compare(baseline, baseline).fallen


def test_a_table_groups_its_rows_and_marks_the_aims() -> None:
    screen = Console(width=100, record=True, file=None, quiet=False)
    with screen.capture() as captured:
        screen.print(
            figure_table(
                "Title",
                [
                    ratio(0.5, 0.7, 0.8),
                    ratio(0.9, name="other"),
                    Figure("Memory", "peak", (1234.5,), "MB", 1200, at_most=True),
                ],
            )
        )
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert lines[2] == "Reading"
    assert lines[3].split() == [
        "reading",
        "/",
        "limit",
        "0.70",
        "0.50",
        "to",
        "0.80",
        "≥",
        "0.75",
        "not",
        "met",
    ]
    assert lines[4].split() == ["other", "0.90", "≥", "0.75", "met"]
    assert lines[5] == "Memory"
    assert lines[6].split() == ["peak", "1,234", "MB", "≤", "1200", "not", "met"]


def test_the_benchmark_s_slide_is_the_piece_on_a_disc_at_every_level(tmp_path: Path) -> None:
    turn = 2 * np.pi * np.arange(512) / 512
    waves = [130 + 50 * np.sin(turn + k)[:, None] * np.cos(2 * turn - k) for k in range(3)]
    piece = np.stack(waves, axis=-1).astype(np.uint8)
    source = open_source(write_repeated_slide(tmp_path / "s.tif", 3000, piece, 0.6, 0.25, quality=95))
    try:
        assert [level.shape[0] for level in source.levels] == [3000, 1500, 750, 375, 188]
        assert source.spacing is not None
        assert source.spacing.mean == pytest.approx(0.25)
        for level in range(4):
            got = source.read(Box((0, 0), source.levels[level].shape), level).astype(int)
            n, extent = len(piece), got.shape[0]
            expected = np.tile(piece, (-(-extent // n), -(-extent // n), 1))[:extent, :extent].astype(int)
            at = (np.arange(extent) + 0.5) * 2**level - 1500
            far = np.hypot(at[:, None], at)
            radius = 3000 * np.sqrt(0.6 / np.pi)
            inside, outside = far < radius - 24 * 2**level, far > radius + 24 * 2**level
            assert np.abs(got - expected)[inside].mean() < 4  # JPEG with halved chroma
            assert np.abs(got[outside] - 243).max() <= 2
            assert (far < radius).mean() == pytest.approx(0.6, abs=0.02)
            piece = mean_of_four(piece)
    finally:
        source.close()


@pytest.mark.parametrize(
    ("piece", "share", "side"),
    [
        ((300, 300, 3), 0.5, 1000),
        ((128, 128, 3), 0.5, 1000),
        ((256, 256, 3), 0.9, 1000),
        ((256, 256, 3), 0.5, 0),
    ],
)
def test_a_piece_or_disc_that_does_not_fit_is_refused(
    tmp_path: Path, piece: tuple[int, int, int], share: float, side: int
) -> None:
    with pytest.raises(UsageError, match=r"power of two|does not fit"):
        write_repeated_slide(tmp_path / "s.tif", side, np.zeros(piece, np.uint8), share, 0.25)


def test_what_is_unknown_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(UsageError, match=r"called writing; known: reading, engine, network, dense, nodules"):
        run_benchmark(only=("writing",))
    assert run(["benchmark", "--growth", "--only", "dense"]) == 2
    assert run(["benchmark", "--quick", "--against", "absent.json"]) == 2
