"""Reading from storage with a latency: windows per second by number of reader threads.

    python tests/benchmarks/bench_slow_storage.py SLIDE [--latency MS...]

Each fetch of a tile waits as long as told before it reads, with the interpreter lock released, as a network file system
would make it wait; what was asked for ahead has been on its way since then, and any number of tiles may be. Windows of
224 px at twice the slide's spacing, unaligned, in batches of 32 that the threads share and that are asked for ahead as
in the engine. Median of interleaved rounds.

    python tests/benchmarks/bench_slow_storage.py SLIDE --cold

empties the system's file cache before each run instead (Linux, as root), and so measures the real disk.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np

from medvision.core.geometry import Box
from medvision.sources import open_source
from medvision.sources.resample import Reading
from medvision.sources.spacing import require_spacing

BATCH, WINDOW, IN_FLIGHT = 32, 224, 4
fetch = os.pread


def rate(path: Path, threads: int, latency: float, ahead: bool) -> float:
    """Windows per second, from a slide freshly opened."""
    source = open_source(path)
    source.levels = source.levels[:1]
    reading = Reading.of(source, 2 * require_spacing(source).mean)
    first = [side // 4 // WINDOW * WINDOW + 51 for side in source.levels[0].shape]
    boxes = [
        Box.at((first[0] + i * WINDOW, first[1] + j * WINDOW), (WINDOW, WINDOW))
        for i in range(16)
        for j in range(16)
    ]
    buffers = np.empty((IN_FLIGHT, BATCH, WINDOW, WINDOW, 3), np.uint8)
    asked: dict[int, float] = {}

    def fill(batch: int, start: int, stop: int) -> None:
        for slot in range(start, stop):
            reading.read(boxes[batch * BATCH + slot], buffers[batch % IN_FLIGHT, slot])

    def ask(_file: int, offset: int, _size: int, _advice: int) -> None:
        asked[offset] = time.perf_counter()

    def slow(file: int, size: int, offset: int) -> bytes:
        now = time.perf_counter()
        time.sleep(max(0.0, asked.get(offset, now) + latency - now))
        return fetch(file, size, offset)

    bounds = np.linspace(0, BATCH, min(threads, BATCH) + 1).astype(int).tolist()
    waiting: deque[list[Future[None]]] = deque()
    with ExitStack() as stack:
        if latency:
            stack.enter_context(mock.patch("os.pread", slow))
            stack.enter_context(mock.patch("os.posix_fadvise", ask))
        started = time.perf_counter()
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        for batch in range(len(boxes) // BATCH):
            if len(waiting) == IN_FLIGHT:
                _wait(waiting.popleft())
            if ahead:
                for box in boxes[batch * BATCH : (batch + 1) * BATCH]:
                    reading.fetch_ahead(box)
            waiting.append([pool.submit(fill, batch, a, b) for a, b in itertools.pairwise(bounds)])
        while waiting:
            _wait(waiting.popleft())
        seconds = time.perf_counter() - started
    source.close()
    return len(boxes) / seconds


def _wait(reads: list[Future[None]]) -> None:
    for read in reads:
        read.result()


def _empty_cache() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", type=Path)
    parser.add_argument("--latency", type=float, nargs="*", default=[0, 2, 5], help="milliseconds a fetch")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--cold", action="store_true", help="empty the file cache before each run; no latency"
    )
    given = parser.parse_args()
    latencies = [0.0] if given.cold else given.latency
    cases = [(ms, ahead, threads) for ms in latencies for ahead in (False, True) for threads in given.threads]
    found: dict[tuple[float, bool, int], list[float]] = {case: [] for case in cases}
    for _ in range(given.rounds):
        for ms, ahead, threads in cases:
            if given.cold:
                _empty_cache()
            found[ms, ahead, threads].append(rate(given.slide, threads, ms / 1000, ahead))
    print("| latency | asked ahead | " + " | ".join(f"{n} threads" for n in given.threads) + " |")
    print("|---|---|" + "---|" * len(given.threads))
    for ms, ahead in itertools.product(latencies, (False, True)):
        rates = (statistics.median(found[ms, ahead, n]) for n in given.threads)
        where = "disk, cold" if given.cold else f"{ms:g} ms"
        print(f"| {where} | {'yes' if ahead else 'no'} | " + " | ".join(f"{r:.0f}" for r in rates) + " |")


if __name__ == "__main__":
    main()
