"""How fast it is, as ratios: every workload is run in turn, round after round, so that a noisy machine slows all alike.

A rate alone says little about another machine. Each is therefore set against a limit measured in the same round: the
network alone, native tiles decoded once, OpenSlide, or the plain way of doing the same.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from medvision.core.errors import UsageError
from medvision.pipelines.benchmark_figures import BenchmarkReport, Figure, RatioOf, ratios
from medvision.pipelines.benchmark_growth import measure_growth
from medvision.pipelines.benchmark_process import process_figures
from medvision.pipelines.benchmark_slide import write_benchmark_slide
from medvision.pipelines.benchmark_work import GROUPS, Bench, Workload
from medvision.store.provenance import software_versions

Tell = Callable[[str], None]
"""Is told what is being done."""


def run_benchmark(
    slide: Path | None = None,
    *,
    quick: bool = False,
    device: str = "auto",
    only: Sequence[str] = (),
    tell: Tell = lambda _what: None,
) -> BenchmarkReport:
    """Measure on `slide`, or on a synthetic one made for it (30,000 px; 6,000 px when `quick`).

    `only` names groups of workloads, where not all are wanted; whole commands are then left out.

    Raises:
        UsageError: for a group that does not exist.
        MedvisionError: if the slide cannot be read.
    """
    unknown = [name for name in only if name not in GROUPS]
    if unknown:
        raise UsageError(f"nothing to measure is called {', '.join(unknown)}; known: {', '.join(GROUPS)}")
    side, rounds = (6_000, 2) if quick else (30_000, 7)
    tell("preparing")
    with TemporaryDirectory(prefix="medvision-benchmark-") as folder:
        path = slide or write_benchmark_slide(Path(folder) / "benchmark.tif", side)
        bench = Bench(
            path,
            device,
            windows=32 if quick else 480,
            scored=192 if quick else 1920,
            batches=1 if quick else 3,
            # Compiling takes a minute, so that one is left out.
            backends=("fused", "openvino") if quick else ("fused", "openvino", "onnxruntime"),
            dense=[("camelyon-mini", 16)] if quick else [("resnet18", 64), ("camelyon-mini", 16)],
        )
        work: dict[str, Workload] = {}
        wanted: list[RatioOf] = []
        groups: dict[str, str] = {}
        for name in only or GROUPS:
            made, of_these = GROUPS[name](bench)
            work |= made
            wanted += of_these
            groups = dict.fromkeys(made, name.capitalize()) | groups
        values = interleave(work, rounds, tell)
        measures = [Figure(groups[name], name, tuple(rates), "windows/s") for name, rates in values.items()]
        if not only:
            measures += process_figures(path, Path(folder), device, quick, tell)
    return BenchmarkReport(
        kind="workloads",
        slide=path.name if slide else f"synthetic, {side:,} px",
        rounds=rounds,
        machine=machine(),
        software=software_versions(),
        measures=tuple(measures),
        ratios=tuple(ratios(values, wanted)),
    )


def run_growth(
    *, quick: bool = False, device: str = "auto", tell: Tell = lambda _what: None
) -> BenchmarkReport:
    """How time and memory grow with tissue, slides and processes, in whole analyses, each in a process of its own."""
    with TemporaryDirectory(prefix="medvision-benchmark-") as folder:
        measures, found = measure_growth(Path(folder), device, quick, tell)
    return BenchmarkReport(
        kind="growth",
        slide=f"synthetic, up to {40_000 if quick else 80_000:,} px",
        rounds=1,
        machine=machine(),
        software=software_versions(),
        measures=tuple(measures),
        ratios=tuple(found),
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


def interleave(work: Mapping[str, Workload], rounds: int, tell: Tell) -> dict[str, list[float]]:
    """Rates of each workload in each round; a round runs every workload once, after one round that is not counted."""
    values: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        tell(f"round {number} of {rounds}" if number else "warming up")
        for name, run in work.items():
            rate = run()
            if number:
                values[name].append(rate)
    return values
