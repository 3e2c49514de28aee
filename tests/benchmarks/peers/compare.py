"""medvision beside LazySlide, WSInfer, TIAToolbox and Slideflow: the same slide, the same network, whole processes.

`make bench-peers` runs it. Each tool runs once for its files to be in memory; a first round then tries every setting
and measures memory. The rounds that count run each tool once, in turn, with its fastest settings, so that a noisy
machine slows all alike. docs/peers.md says what is kept equal.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from environments import HERE, InstallError, environment, last_line
from networks import NETWORKS
from one_run import MARK
from slides import write_peers_slide
from table import OURS, Comparison, Row, near_best

from medvision.engine.device import computes_bfloat16
from medvision.pipelines.benchmark import machine

PEERS = {"lazyslide": "LazySlide", "wsinfer": "WSInfer", "tiatoolbox": "TIAToolbox", "slideflow": "Slideflow"}
READERS = {"wsinfer": ["openslide", "tiffslide"], "tiatoolbox": ["openslide", "memory"]}
"""Where a tool can read a slide in two ways, both are tried."""

FASTER = {"wsinfer": ["tiffslide speedup"], "lazyslide": ["compile"]}
"""What a tool offers to make a network faster; of no use where there is none. Precision stays float32."""

KEPT_WITHIN = 0.1
"""A setting this close to the tool's fastest in the first round is measured too: one round may mislead."""

LIMIT_S = 3600


@dataclass
class Case:
    """One command to time, and the row that it fills."""

    row: Row
    script: str
    python: Path | None
    workers: int
    batch: int
    variant: str = ""

    def command(self, slide: Path, out: Path) -> list[str]:
        """The process to run."""
        options = {"--network": self.row.network, "--workers": self.workers, "--batch": self.batch}
        said = [str(part) for option in options.items() for part in option]
        script = str(HERE / f"run_{self.script}.py")
        return [str(self.python), script, str(slide), str(out), *said, f"--variant={self.variant}"]


def main() -> None:
    """Measure, and write `peers.md` and `peers.json`."""
    given = _arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="medvision-peers-", dir=given.scratch) as folder:
        work = Path(folder)
        slide = given.slide or write_peers_slide(work / "slide.tif", given.side)
        cases = _cases(given, work)
        rows = _measure(cases, slide, work, given.rounds)
    said = (
        given.slide.name if given.slide else f"synthetic, {given.side:,} px at 0.25 µm/px, levels at 1, 4, 16"
    )
    comparison = Comparison(said, given.rounds, machine(), rows)
    (given.out / "peers.json").write_text(json.dumps(comparison.as_dict(), indent=1) + "\n", encoding="utf-8")
    (given.out / "peers.md").write_text(comparison.markdown(), encoding="utf-8")
    print(comparison.markdown())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--environments", type=Path, default=Path(".venv-peers"), help="one environment a tool"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/peers"), help="where peers.md and peers.json go"
    )
    parser.add_argument("--scratch", type=Path, help="where the slide and the tools' results lie meanwhile")
    parser.add_argument("--slide", type=Path, help="any slide with a spacing, in place of the synthetic one")
    parser.add_argument("--side", type=int, default=30_000, help="side of the synthetic slide in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count")
    parser.add_argument("--tools", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--workers", nargs="*", type=int, default=[0, 2])
    parser.add_argument("--batches", nargs="*", type=int, default=[32])
    return parser.parse_args()


def _cases(given: argparse.Namespace, work: Path) -> list[Case]:
    """Every setting of every tool. One that cannot be installed stays, with the reason, and is not run."""
    cases = []
    pythons: dict[str, Path | None] = {}
    problems = {}
    for tool in given.tools:
        try:
            pythons[tool] = environment(tool, given.environments).absolute()
            if tool == "wsinfer":
                _quiet([str(pythons[tool]), str(HERE / "run_wsinfer.py"), "--prepare", str(work)])
        except InstallError as error:
            pythons[tool], problems[tool] = None, str(error)
    for network in given.networks:
        for tool in given.tools:
            if tool in problems:
                row = Row(PEERS[tool], network, "", problem=problems[tool])
                cases.append(Case(row, tool, None, 0, 0))
                continue
            variants = READERS.get(tool, [""]) + (FASTER.get(tool, []) if network != "null" else [])
            for workers, batch, variant in product(given.workers, given.batches, variants):
                row = Row(PEERS[tool], network, f"{workers} workers, batch {batch} {variant}".strip())
                cases.append(Case(row, tool, pythons[tool], workers, batch, variant))
        for variant in _variants(network):
            row = Row(OURS, network, f"{_said(variant)}, batch {given.batches[0]}")
            cases.append(Case(row, OURS, Path(sys.executable), 0, given.batches[0], variant))
    return cases


def _variants(network: str) -> list[str]:
    """Backends and precisions of ours, as `backend:precision`; bfloat16 where the processor computes in it."""
    import torch

    if network == "null":
        return ["auto:auto"]
    named = ["auto:bfloat16"] if computes_bfloat16(torch.device("cpu")) else []
    return ["fused:float32", "auto:auto", *named]


def _said(variant: str) -> str:
    backend, precision = variant.split(":")
    return "auto" if variant == "auto:auto" else f"{backend} {precision}"


def _measure(cases: list[Case], slide: Path, work: Path, rounds: int) -> list[Row]:
    """Fill the rows: the first round with every setting, the others with those worth it."""
    warm = {case.script: case for case in reversed(cases) if not case.row.problem}
    for case in warm.values():  # so that no setting of a tool pays for being its first
        _run(case, slide, work)
    for case in cases:
        if not case.row.problem:
            case.row.seconds.clear()
            _run(case, slide, work, watch_memory=True)
    groups: dict[tuple[str, str], list[Row]] = {}
    for case in cases:
        groups.setdefault((case.row.tool, case.row.network), []).append(case.row)
    kept = [row for rows in groups.values() for row in near_best(rows, KEPT_WITHIN)]
    chosen = [case for case in cases if case.row in kept]
    for row in kept:
        row.seconds.clear()  # the first round does not count
    for number in range(rounds):
        turn = number * len(chosen) // max(rounds, 1)
        for case in [*chosen[turn:], *chosen[:turn]]:
            if not case.row.problem:
                _run(case, slide, work)
    return kept


def _run(case: Case, slide: Path, work: Path, watch_memory: bool = False) -> None:
    """Run the case once, add its time to its row, or note why it failed."""
    out, log = work / "run", work / "log.txt"
    shutil.rmtree(out, ignore_errors=True)
    row = case.row
    _touch(slide)
    with log.open("w") as file:
        started = time.perf_counter()
        process = subprocess.Popen(
            case.command(slide, out), cwd=work, env=_environment(), stdout=file, stderr=subprocess.STDOUT
        )
        peak = _Peak(process.pid) if watch_memory else None
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        seconds = time.perf_counter() - started
    if peak is not None:
        row.memory_mb = peak.stop() / 2**20
    text = log.read_text(encoding="utf-8", errors="replace")
    result = next((line[len(MARK) :] for line in text.splitlines() if line.startswith(MARK)), None)
    if code or result is None:
        row.problem = f"took over {LIMIT_S} s" if seconds >= LIMIT_S else last_line(text)
    else:
        told = json.loads(result)
        row.tiles, row.versions, row.note = told["tiles"], told["versions"], told["note"]
        row.seconds.append(seconds)
    done = row.problem or f"{row.tiles} tiles in {seconds:.1f} s"
    print(f"{row.tool}, {row.network}, {row.setting}: {done}", file=sys.stderr, flush=True)
    shutil.rmtree(out, ignore_errors=True)


class _Peak:
    """Watches the memory of a process and of all that it starts: the largest sum of proportional shares seen."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._bytes = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Bytes at the peak."""
        self._done.set()
        self._thread.join()
        return self._bytes

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            total = 0
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.Error:
                return
            for member in family:
                try:
                    total += member.memory_full_info().pss
                except psutil.Error:  # it has ended in between
                    continue
            self._bytes = max(self._bytes, total)


def _touch(path: Path) -> None:
    """Read the slide once, so that no tool waits for the disk in the place of another."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def _environment() -> dict[str, str]:
    """Of the processes that are timed: nothing is fetched, no GPU is used, threads are as each tool sets them."""
    offline = {"HF_HUB_OFFLINE": "1", "WSINFER_FORCE_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    dropped = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in dropped} | offline


def _quiet(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=_environment())
    if done.returncode:
        raise InstallError(last_line(done.stderr))


if __name__ == "__main__":
    main()
