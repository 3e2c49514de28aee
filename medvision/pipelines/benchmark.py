"""How fast it is, as ratios: every workload is run in turn, round after round, so that a noisy machine slows all alike.

A rate alone says little about another machine. Each is therefore set against a limit measured in the same round: the
network alone, native tiles decoded once, or OpenSlide.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medvision.core.errors import UsageError
from medvision.pipelines.benchmark_slide import write_benchmark_slide
from medvision.pipelines.benchmark_work import Bench, process_figures, workloads
from medvision.store.provenance import software_versions

Workload = Callable[[], float]
"""Does a fixed piece of work and returns its rate, in units per second."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Something with a value in each round."""

    name: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest of the rounds."""
        return min(self.values), max(self.values)


@dataclass(frozen=True, slots=True)
class Measure(Figure):
    """A rate, a time or an amount of memory."""

    unit: str


@dataclass(frozen=True, slots=True)
class Ratio(Figure):
    """One rate over another, taken round by round, and what is aimed at."""

    target: float | None


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """All that a run of the benchmark measured, on what."""

    slide: str
    rounds: int
    machine: dict[str, str | int]
    software: dict[str, str]
    measures: tuple[Measure, ...]
    ratios: tuple[Ratio, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every value of every round, with the medians."""
        data = asdict(self)
        figures: tuple[Figure, ...] = (*self.measures, *self.ratios)
        for row, figure in zip([*data["measures"], *data["ratios"]], figures, strict=True):
            row["median"] = figure.median
        return data


RATIOS: tuple[tuple[str, str, str, float | None], ...] = (
    ("reading 256 px unaligned, 1 thread / decode-once limit", "read 256 x1", "limit 256 x1", 0.75),
    ("reading 256 px unaligned, 2 threads / decode-once limit", "read 256 x2", "limit 256 x2", 0.75),
    ("reading 256 px unaligned, 1 thread / OpenSlide", "read 256 x1", "openslide 256 x1", 4),
    ("reading 256 px unaligned, 2 threads / OpenSlide", "read 256 x2", "openslide 256 x2", 4),
    ("reading 448 to 224 px, 1 thread / decode-once limit", "read 448 x1", "limit 448 x1", 0.75),
    ("reading 448 to 224 px, 2 threads / decode-once limit", "read 448 x2", "limit 448 x2", 0.75),
    ("reading 448 to 224 px, 2 threads / OpenSlide", "read 448 x2", "openslide 448 x2", 4),
    ("camelyon-mini through the engine / alone", "camelyon-mini engine", "camelyon-mini alone", 0.97),
    ("resnet18 through the engine / alone", "resnet18 engine", "resnet18 alone", 0.97),
)
"""Name, numerator, denominator and target of each ratio."""


def run_benchmark(
    slide: Path | None = None,
    *,
    quick: bool = False,
    device: str = "auto",
    only: Sequence[str] = (),
    on_round: Callable[[int, int], None] | None = None,
) -> BenchmarkReport:
    """Measure on `slide`, or on a synthetic one made for it (30,000 px; 8,000 px when `quick`).

    `only` names workloads to run, where not all are wanted. `on_round(round, rounds)` is told of the progress.

    Raises:
        UsageError: for a workload that does not exist.
        MedvisionError: if the slide cannot be read.
    """
    rounds = 3 if quick else 7
    with TemporaryDirectory(prefix="medvision-benchmark-") as folder:
        path = slide or write_benchmark_slide(Path(folder) / "benchmark.tif", 8_000 if quick else 30_000)
        bench = Bench(path, device=device, windows=160 if quick else 480)
        try:
            chosen = _choose(workloads(bench), only)
            values = _interleave(chosen, rounds, on_round)
        finally:
            bench.close()
        measures = [Measure(name, tuple(rates), "windows/s") for name, rates in values.items()]
        if not only:
            measures += [
                Measure(name, (value,), unit)
                for name, unit, value in process_figures(path, Path(folder) / "out", device)
            ]
    return BenchmarkReport(
        slide=path.name if slide else f"synthetic, {8_000 if quick else 30_000} px",
        rounds=rounds,
        machine=machine(),
        software=software_versions(),
        measures=tuple(measures),
        ratios=tuple(_ratios(values)),
    )


def machine() -> dict[str, str | int]:
    """What the figures were measured on, without naming the machine."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        model = platform.processor()
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "system": platform.system()}


def _choose(known: Mapping[str, Workload], only: Sequence[str]) -> dict[str, Workload]:
    unknown = [name for name in only if name not in known]
    if unknown:
        raise UsageError(f"no workload is called {', '.join(unknown)}; known: {', '.join(known)}")
    return {name: work for name, work in known.items() if not only or name in only}


def _interleave(
    work: Mapping[str, Workload], rounds: int, on_round: Callable[[int, int], None] | None
) -> dict[str, list[float]]:
    """Rates of each workload in each round; a round runs every workload once, after one round that is not counted."""
    values: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        if on_round is not None:
            on_round(number, rounds)
        for name, run in work.items():
            rate = run()
            if number:
                values[name].append(rate)
    return values


def _ratios(values: Mapping[str, Sequence[float]]) -> Iterator[Ratio]:
    for name, above, below, target in RATIOS:
        if above in values and below in values:
            pairs = zip(values[above], values[below], strict=True)
            yield Ratio(name, tuple(a / b for a, b in pairs), target)
