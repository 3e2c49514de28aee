"""Reading from storage with a latency: windows per second by number of reader threads.

    python tests/benchmarks/bench_slow_storage.py SLIDE [--latency MS...]

Each fetch of a tile waits as long as told before it reads, with the interpreter lock released, as a network file system
would make it wait. Windows of 224 px at twice the slide's spacing, unaligned, in batches of 32 that the threads share
as the engine shares them. Median of interleaved rounds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np

from medvision.core.geometry import Box
from medvision.sources import open_source
from medvision.sources.resample import Reading
from medvision.sources.spacing import require_spacing

BATCH, WINDOW, IN_FLIGHT = 32, 224, 4
fetch = os.pread


def rate(path: Path, threads: int, latency: float) -> float:
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

    def fill(batch: int, start: int, stop: int) -> None:
        for slot in range(start, stop):
            reading.read(boxes[batch * BATCH + slot], buffers[batch % IN_FLIGHT, slot])

    def slow(file: int, size: int, offset: int) -> bytes:
        time.sleep(latency)
        return fetch(file, size, offset)

    bounds = np.linspace(0, BATCH, min(threads, BATCH) + 1).astype(int).tolist()
    with mock.patch("os.pread", slow) if latency else mock.patch("os.pread", fetch):
        started = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            reads = [
                pool.submit(fill, batch, a, b)
                for batch in range(len(boxes) // BATCH)
                for a, b in itertools.pairwise(bounds)
            ]
            for read in reads:
                read.result()
        seconds = time.perf_counter() - started
    source.close()
    return len(boxes) / seconds


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--latency", type=float, nargs="*", default=[0, 2, 5], help="milliseconds a fetch")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cases = [(ms, threads) for ms in given.latency for threads in given.threads]
    found: dict[tuple[float, int], list[float]] = {case: [] for case in cases}
    for _ in range(given.rounds):
        for ms, threads in cases:
            found[ms, threads].append(rate(given.slide, threads, ms / 1000))
    print("| latency | " + " | ".join(f"{n} threads" for n in given.threads) + " |")
    print("|---|" + "---|" * len(given.threads))
    for ms in given.latency:
        rates = (statistics.median(found[ms, n]) for n in given.threads)
        print(f"| {ms:g} ms | " + " | ".join(f"{r:.0f}" for r in rates) + " |")


if __name__ == "__main__":
    main()
