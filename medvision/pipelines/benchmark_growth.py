"""How an analysis grows: with the area of tissue, the number of slides and of processes, and over many slides."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvision.pipelines.benchmark_figures import Figure
from medvision.pipelines.benchmark_process import Analysis, start_analysis
from medvision.pipelines.benchmark_slide import TISSUE, write_benchmark_slide

_SPACING_MM = 0.25e-3
_SMALL = 1_500
"""Side of the slides of which many are analysed in one process."""

_WARM = 20
"""Slides of these after which memory is watched: before, pools and caches fill."""


@dataclass(frozen=True, slots=True)
class Fit:
    """`y = intercept + slope * x` by least squares, the share of the variance it explains, and d log y / d log x."""

    intercept: float
    slope: float
    r2: float
    exponent: float


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """The straight line through points, and the power by which y grows with x; all values above 0, x not constant."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    slope, intercept = np.polyfit(a, b, 1)
    rest, whole = b - (intercept + slope * a), b - b.mean()
    explained = 1.0 if not whole.any() else 1 - float(rest @ rest) / float(whole @ whole)
    exponent = np.polyfit(np.log(a), np.log(b), 1)[0]
    return Fit(float(intercept), float(slope), explained, float(exponent))


def measure_growth(
    folder: Path, device: str, quick: bool, tell: Callable[[str], None]
) -> tuple[list[Figure], list[Figure]]:
    """All of it, as measures and ratios. `quick` leaves out the largest slide and most of the small ones."""
    measures: list[Figure] = []
    ratios: list[Figure] = []
    parts = (
        _tissue(
            folder, device, (10_000, 20_000, 40_000) if quick else (10_000, 20_000, 40_000, 80_000), tell
        ),
        _slides(folder, device, tell),
        _processes(folder, device, tell),
        _many(folder, device, 50 if quick else 200, tell),
    )
    for part in parts:
        for figure in part:
            (measures if figure.unit else ratios).append(figure)
    return measures, ratios


def _tissue(folder: Path, device: str, sides: Sequence[int], tell: Callable[[str], None]) -> Iterator[Figure]:
    """Whole analyses of slides of growing size. Start-up is in the line's intercept, and not in the exponent."""
    group, runs, areas = "Growth with tissue", list[Analysis](), list[float]()
    for side in sides:
        tell(f"a slide of {side:,} px")
        slide = write_benchmark_slide(folder / f"{side}.tif", side)
        run = start_analysis([slide], folder / f"out-{side}", device)()
        slide.unlink()
        shutil.rmtree(folder / f"out-{side}")
        runs.append(run)
        areas.append(TISSUE * (side * _SPACING_MM) ** 2)
        yield Figure(group, f"{side:,} px, {areas[-1]:.1f} mm² of tissue", (run.seconds,), "s")
        yield Figure(group, f"{side:,} px, peak memory", (run.peak_mb,), "MB", 1200.0, at_most=True)
    line = fit(areas, [run.seconds for run in runs])
    yield Figure(group, "seconds for each mm² of tissue", (line.slope,), "s/mm²")
    yield Figure(group, "seconds of a slide without tissue, by the line", (line.intercept,), "s")
    yield Figure(group, "R² of seconds as a line in tissue area", (line.r2,), aim=0.99)
    # Beside other work on the machine the clock says little; the processor's time is this process's own.
    own = fit(areas, [run.processor for run in runs])
    yield Figure(group, "R² of processor seconds as a line in tissue area", (own.r2,), aim=0.99)
    power = fit(areas, [run.seconds - run.first_window for run in runs]).exponent
    yield Figure(
        group, "exponent of seconds after the first window in tissue area", (power,), aim=1.05, at_most=True
    )
    widest = runs[-1].peak_mb / runs[0].peak_mb
    yield Figure(group, "peak memory, largest slide / smallest", (widest,), aim=1.2, at_most=True)


def _slides(folder: Path, device: str, tell: Callable[[str], None]) -> Iterator[Figure]:
    """One process analysing one, two and four slides."""
    group, counts, seconds = "Growth with slides", (1, 2, 4), list[float]()
    slides = _copies(folder, 10_000, max(counts))
    for count in counts:
        tell(f"{count} slides in one process")
        run = start_analysis(slides[:count], folder / f"out-slides-{count}", device)()
        seconds.append(run.seconds)
        yield Figure(group, f"{count} slide{'s' * (count > 1)} of 10,000 px", (run.seconds,), "s")
    line = fit(counts, seconds)
    yield Figure(group, "seconds for each further slide", (line.slope,), "s")
    yield Figure(group, "R² of seconds as a line in slides", (line.r2,), aim=0.99)


def _processes(folder: Path, device: str, tell: Callable[[str], None]) -> Iterator[Figure]:
    """One process on one core with a cohort of four slides, and two on a core each with half of it each.

    One process uses every core it may, so that two processes gain over one only where the one is held to a core. Time
    runs from the first windows done to the last slide written: start-up is measured elsewhere.
    """
    group, cores = "Two processes", sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return
    slides = _copies(folder, 10_000, 4)
    tell("one process on one core")
    alone = _wall([start_analysis(slides, folder / "out-one", device, cores=cores[:1])()])
    tell("two processes on a core each")
    waits = [
        start_analysis(slides[k::2], folder / f"out-two-{k}", device, cores=cores[k : k + 1]) for k in (0, 1)
    ]
    both = _wall([wait() for wait in waits])
    tell("one process on two cores")
    shared = _wall([start_analysis(slides, folder / "out-shared", device, cores=cores[:2])()])
    yield Figure(group, "four slides, one process on one core", (alone,), "s")
    yield Figure(group, "four slides, two processes on a core each", (both,), "s")
    yield Figure(group, "four slides, one process on two cores", (shared,), "s")
    yield Figure(group, "two processes on a core each / one on one core", (alone / both,), aim=1.8)
    yield Figure(group, "one process on two cores / on one core", (alone / shared,), aim=1.8)


def _many(folder: Path, device: str, count: int, tell: Callable[[str], None]) -> Iterator[Figure]:
    """Memory held by one process as it begins each of many small slides, once it is warm."""
    group = "Memory over many slides"
    tell(f"{count} small slides in one process")
    run = start_analysis(_copies(folder, _SMALL, count), folder / "out-many", device)()
    held = run.resident_mb[_WARM:]
    line = fit(range(1, len(held) + 1), held)
    yield Figure(
        group, f"{count} slides of {_SMALL:,} px, memory held at each", held, "MB", 1200.0, at_most=True
    )
    yield Figure(group, "growth of it per slide", (line.slope,), "MB/slide", 0.1, at_most=True)
    yield Figure(group, "seconds per slide", ((run.seconds - run.first_window) / count,), "s")
    yield Figure(
        group,
        f"memory held at the last slide / at the {_WARM}th",
        (held[-1] / held[0],),
        aim=1.05,
        at_most=True,
    )


def _wall(runs: Sequence[Analysis]) -> float:
    """Seconds from the first windows done in any of the runs to the end of the last."""
    first = min(run.started + run.first_window for run in runs)
    return max(run.started + run.seconds for run in runs) - first


def _copies(folder: Path, side: int, count: int) -> list[Path]:
    """Slides of one content and different names; one file on the disk."""
    slide = folder / f"slide-{side}.tif"
    if not slide.exists():
        write_benchmark_slide(slide, side)
    copies = [folder / f"slide-{side}-{number:03d}.tif" for number in range(count)]
    for copy in copies:
        if not copy.exists():
            copy.hardlink_to(slide)
    return copies
