"""How fast it is, as ratios: every workload is run in turn, round after round, so that a noisy machine slows all alike.

A rate alone says little about another machine. Each is therefore set against a limit measured in the same round: the
network alone, native tiles decoded once, OpenSlide, or the plain way of doing the same.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

from medvision.core.errors import UsageError
from medvision.pipelines.benchmark_figures import BenchmarkReport, Figure, RatioOf, ratios
from medvision.pipelines.benchmark_growth import measure_growth
from medvision.pipelines.benchmark_nodule_memory import memory_figures
from medvision.pipelines.benchmark_nodules import SLIM, WIDE, NoduleBench, nodules, write_benchmark_scan
from medvision.pipelines.benchmark_process import process_figures
from medvision.pipelines.benchmark_slide import write_benchmark_slide
from medvision.pipelines.benchmark_work import GROUPS, Bench, Workload
from medvision.store.provenance import software_versions

Tell = Callable[[str], None]
"""Is told what is being done."""

NODULES = "nodules"
"""The group that is measured on a scan; the others are measured on a slide."""
MEASURED = (*GROUPS, NODULES)
"""What can be measured by itself."""


def run_benchmark(
    slide: Path | None = None,
    *,
    quick: bool = False,
    device: str = "auto",
    only: Sequence[str] = (),
    tell: Tell = lambda _what: None,
) -> BenchmarkReport:
    """Measure on `slide`, or on a synthetic one made for it (30,000 px; 6,000 px when `quick`), and on a made scan.

    `only` names groups of workloads, where not all are wanted; whole commands over slides are then left out.

    Raises:
        UsageError: for a group that does not exist.
        MedvisionError: if the slide cannot be read.
    """
    unknown = [name for name in only if name not in MEASURED]
    if unknown:
        raise UsageError(f"nothing to measure is called {', '.join(unknown)}; known: {', '.join(MEASURED)}")
    side, rounds = (6_000, 2) if quick else (30_000, 7)
    tell("preparing")
    with TemporaryDirectory(prefix="medvision-benchmark-") as temporary, ExitStack() as opened:
        folder, chosen = Path(temporary), only or MEASURED
        parts: dict[str, tuple[Mapping[str, Workload], Sequence[RatioOf]]] = {}
        if any(name in GROUPS for name in chosen):
            path = slide or write_benchmark_slide(folder / "benchmark.tif", side)
            bench = _slide_bench(path, device, quick)
            parts = {name: GROUPS[name](bench) for name in chosen if name in GROUPS}
        if NODULES in chosen:
            scan = write_benchmark_scan(folder / "benchmark.mhd")
            on_scan = opened.enter_context(closing(NoduleBench(scan, device, SLIM if quick else SLIM | WIDE)))
            parts[NODULES] = nodules(on_scan)
        work: dict[str, Workload] = {}
        wanted: list[RatioOf] = []
        groups: dict[str, str] = {}
        for name, (made, of_these) in parts.items():
            work |= made
            wanted += of_these
            groups = dict.fromkeys(made, name.capitalize()) | groups
        values = interleave(work, rounds, tell)
        measures = [Figure(groups[name], name, tuple(rates), "windows/s") for name, rates in values.items()]
        found = list(ratios(values, wanted))
        if not only:
            measures += process_figures(path, folder, device, quick, tell)
        if NODULES in chosen:
            for figure in memory_figures(folder, device, quick, tell):
                (measures if figure.unit else found).append(figure)
    return BenchmarkReport(
        kind="workloads",
        slide=path.name if slide else f"synthetic, {side:,} px",
        rounds=rounds,
        machine=machine(),
        software=software_versions(),
        measures=tuple(measures),
        ratios=tuple(found),
    )


def _slide_bench(path: Path, device: str, quick: bool) -> Bench:
    return Bench(
        path,
        device,
        windows=32 if quick else 480,
        scored=192 if quick else 1920,
        batches=1 if quick else 3,
        # Compiling takes a minute, so that one is left out.
        backends=("fused", "openvino") if quick else ("fused", "openvino", "onnxruntime"),
        dense=[("camelyon-mini", 16)] if quick else [("resnet18", 64), ("camelyon-mini", 16)],
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
