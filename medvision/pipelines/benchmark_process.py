"""Whole commands, each in a process of its own: when the first window is done, seconds, and peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvision.core.errors import MedvisionError
from medvision.pipelines.benchmark_figures import Figure

_COMMAND = """
import json, sys, time
from contextlib import contextmanager
cores = json.loads(sys.argv[1])
if cores:
    import os
    os.sched_setaffinity(0, cores)
from medvision.cli import console, run
first, resident = [], []
def kilobytes(name):
    # not getrusage, whose peak begins with the memory of the process that started this one
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))
class Noted:
    def on_plan(self, name, windows):
        resident.append(kilobytes("VmRSS") * 1024 / 1e6)
    def on_windows(self, count):
        if count and not first:
            first.append(time.time())
@contextmanager
def progress():
    yield Noted()
console.slide_progress = progress
status = run(sys.argv[2:])
ended, peak = time.time(), kilobytes("VmHWM") * 1024 / 1e6
print("\\n" + json.dumps([status, first, ended, time.process_time(), peak, resident]))
"""
"""A command, such as `analyze`, with a progress bar that notes when windows are done and what memory is held at each
slide or scan."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """A run of a command over slides or scans: seconds since its start, megabytes (10^6 bytes).

    `first_window` is when the first windows were done, imports included; `processor` the time of all its threads;
    `resident_mb` the memory held as each slide began.
    """

    started: float
    first_window: float
    seconds: float
    processor: float
    peak_mb: float
    resident_mb: tuple[float, ...]


def start_analysis(
    slides: Sequence[Path], out: Path, device: str, options: Sequence[str] = (), cores: Sequence[int] = ()
) -> Callable[[], Analysis]:
    """Start `medvision analyze`, on `cores` alone where any are named; see `start_command`."""
    return start_command(
        ["analyze", *map(str, slides), "--out", str(out), "--device", device, *options], cores
    )


def start_command(arguments: Sequence[str], cores: Sequence[int] = ()) -> Callable[[], Analysis]:
    """Start a command over slides or scans; call what is returned to wait for the end.

    Waiting raises `MedvisionError` if the command failed.
    """
    started = time.time()
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, json.dumps(list(cores)), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def wait() -> Analysis:
        said, problem = process.communicate()
        lines = said.splitlines()
        if process.returncode or not lines or not lines[-1].startswith("[0, ["):
            raise MedvisionError(
                f"medvision {arguments[0]} failed in the benchmark: {(problem or said).strip()[-500:]}"
            )
        _, first, ended, processor, peak, resident = json.loads(lines[-1])
        if not first:
            raise MedvisionError(f"medvision {arguments[0]} found no window in what it was given")
        return Analysis(started, first[0] - started, ended - started, processor, peak, tuple(resident))

    return wait


def process_figures(
    slide: Path, folder: Path, device: str, quick: bool, tell: Callable[[str], None]
) -> Iterator[Figure]:
    """Start-up, a whole analysis, and the tissue and plan of a large slide. Times are the best of a few."""
    tell("start-up")
    python = sys.executable
    commands: dict[str, tuple[list[str], float | None]] = {
        "empty interpreter": ([python, "-c", "pass"], None),
        "import medvision": ([python, "-c", "import medvision"], 0.5),
        "medvision --help": ([python, "-m", "medvision.cli", "--help"], 1.0),
        "medvision analyze --help": ([python, "-m", "medvision.cli", "analyze", "--help"], 1.0),
    }
    for name, (command, aim) in commands.items():
        seconds = min(_seconds(command) for _ in range(1 if quick else 5))
        yield Figure("Start-up", name, (seconds,), "s", aim, at_most=True)
    tell("whole analyses")
    runs = [start_analysis([slide], folder / f"out{k}", device)() for k in range(1 if quick else 3)]
    first = tuple(run.first_window for run in runs)
    yield Figure("Start-up", "medvision analyze, first windows done", first, "s", 2.0, at_most=True)
    yield Figure("Analysis", "medvision analyze", tuple(run.seconds for run in runs), "s")
    peaks = tuple(run.peak_mb for run in runs)
    yield Figure("Analysis", "medvision analyze, peak memory", peaks, "MB", 1200.0, at_most=True)
    if not quick:
        run = start_analysis([slide], folder / "dense", device, ("--dense", "fast", "--stride", "32"))()
        yield Figure("Analysis", "medvision analyze --dense fast --stride 32", (run.seconds,), "s")
        yield Figure("Analysis", "the same, peak memory", (run.peak_mb,), "MB", 1200.0, at_most=True)
    tell("tissue and plan")
    plan = [python, "-m", "medvision.pipelines.benchmark_plan", str(slide)]
    took, growth = subprocess.run(plan, check=True, capture_output=True, text=True).stdout.split()
    yield Figure("Planning", "tissue and plan of 100,000 px", (float(took),), "s", 1.0, at_most=True)
    yield Figure("Planning", "the same, memory", (float(growth),), "MB", 300.0, at_most=True)


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started
