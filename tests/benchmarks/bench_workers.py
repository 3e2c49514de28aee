"""What more workers, and reading slides in processes of their own, make of a batch's speed.

    python tests/benchmarks/bench_workers.py FOLDER [--slides 12] [--rounds 3] [--only NAME ...]

Makes that many synthetic slides below FOLDER (kept, and used again) and runs `medvision batch` over them in each of
the ways below, one after the other in every round. Time is that from the end of the second slide to that of the last,
as the ledger has it, to the second: what the start of a worker costs is so left out, as in a long batch. Prints the
medians for a slide, and each way's speed over that of one worker on one core. Processor time of the whole command says
what the clock of a machine that is shared cannot: what two workers need more than one. Also tells whether all ways
wrote the same bytes. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from medvision.store.ledger import LEDGER, Ledger
from medvision.synthetic import SlideRecipe, write_synthetic_slide

ONE_CORE = ("--runner", "process", "--workers", "1")
"""The way that the others are set against; pinned to one core."""
WAYS: dict[str, tuple[str, ...]] = {
    "one core: process, 1 worker": ONE_CORE,
    "process, 2 workers": ("--runner", "process", "--workers", "2"),
    "dask, 2 workers": ("--runner", "dask", "--workers", "2"),
    "thread": ("--runner", "thread"),
    "process, 2 workers, --trust": ("--runner", "process", "--workers", "2", "--trust"),
    "thread, --trust": ("--runner", "thread", "--trust"),
}
REPEATED = ("result.json", "heatmap.ome.tiff", "regions.geojson")
"""Files of a result that are the same whoever made it."""


def make_slides(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(1, count + 1):
        if not (folder / f"s{seed:02d}.tif").is_file():
            made = write_synthetic_slide(
                SlideRecipe(seed=seed, shape_px=(6000, 6000)), folder / "made" / f"s{seed:02d}"
            )
            made.slide.rename(folder / f"s{seed:02d}.tif")
    shutil.rmtree(folder / "made", ignore_errors=True)


def seconds(slides: Path, out: Path, options: tuple[str, ...]) -> tuple[float, float]:
    """Time of a slide in one batch, of those after the first two, and processor time of the whole command."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "medvision.cli", "batch", str(slides), "--out", str(out), *options]
    cores, before = os.sched_getaffinity(0), resource.getrusage(resource.RUSAGE_CHILDREN)
    if options == ONE_CORE:
        os.sched_setaffinity(0, {min(cores)})
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finally:
        os.sched_setaffinity(0, cores)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with Ledger(out / LEDGER, read_only=True) as ledger:
        detail = ledger.run(ledger.runs()[0].run_id)
    attempts = [one for slide in detail.slides for one in slide.attempts]
    ends = sorted(datetime.fromisoformat(end.ended_utc) for one in attempts for end in one.ends)
    return (ends[-1] - ends[1]).total_seconds() / (len(ends) - 2), spent


def digest(out: Path) -> str:
    """One digest of the results' files that repeat."""
    files = sorted(path for path in out.glob("*/*") if path.name in REPEATED)
    found = hashlib.sha256()
    for path in files:
        found.update(path.relative_to(out).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="NAME")
    given = parser.parse_args()
    slides, out = given.folder / f"slides-{given.slides}", given.folder / "out"
    make_slides(slides, given.slides)
    times: dict[str, list[float]] = {name: [] for name in given.only}
    digests = set()
    for number in range(given.rounds):
        for name in given.only:
            taken, spent = seconds(slides, out, WAYS[name])
            times[name].append(taken)
            digests.add(digest(out))
            print(
                f"round {number + 1}: {name}: {taken:.2f} s a slide; processor {spent:.0f} s in all",
                flush=True,
            )
    base = times.get(next(iter(WAYS)))
    for name, found in times.items():
        ratios = [one / other for one, other in zip(base or (), found, strict=False)]
        speed = (
            f", {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times one core"
            if ratios
            else ""
        )
        print(
            f"{name}: {statistics.median(taken):.1f} s, {statistics.median(taken) / given.slides:.2f} s a slide{speed}"
        )
    print("the same bytes from all" if len(digests) == 1 else f"DIFFERENT BYTES: {len(digests)} kinds")
    return len(digests) != 1


if __name__ == "__main__":
    sys.exit(main())
