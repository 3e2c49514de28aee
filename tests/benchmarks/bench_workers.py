"""What more workers, and reading slides in processes of their own, make of a batch's speed.

    python tests/benchmarks/bench_workers.py FOLDER [--slides 12] [--rounds 3] [--only NAME ...]

Makes that many synthetic slides below FOLDER (kept, and used again) and runs `medvision batch` over them in each of
the ways below, one after the other in every round. Time is that from the end of the second slide to that of the last,
as the ledger has it, to the second: what the start of a worker costs is so left out, as in a long batch. Prints the
medians for a slide, and each way's speed over that of one worker on one core. Processor time of the whole command says
what the clock of a machine that is shared cannot: what two workers need more than one. The limit that the machine sets
is a way too: two batches that know nothing of each other, each over half of the slides on a core of its own. Also
tells whether all ways wrote the same bytes. Linux only.
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
APART = ("apart",)
"""Two of those side by side, on a core each: what two workers could reach at most."""
WAYS: dict[str, tuple[str, ...]] = {
    "one core: process, 1 worker": ONE_CORE,
    "the limit: two batches side by side, a core each": APART,
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
    """Time of a slide, of those after the first two, and processor time of the whole command or commands."""
    shutil.rmtree(out, ignore_errors=True)
    cores, before = sorted(os.sched_getaffinity(0)), resource.getrusage(resource.RUSAGE_CHILDREN)
    if options == APART:
        halves = [halved(slides, part) for part in (0, 1)]
        running = [
            start(half, out / half.stem, ONE_CORE, {core})
            for half, core in zip(halves, cores[:2], strict=True)
        ]
    else:
        running = [start(slides, out, options, {cores[0]} if options == ONE_CORE else set(cores))]
    statuses = [one.wait() for one in running]
    if any(statuses):
        sys.exit(f"a batch failed: see {out}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ends = sorted(end for ledger in out.rglob(LEDGER) for end in ends_of(ledger))
    return (ends[-1] - ends[1]).total_seconds() / (len(ends) - 2), spent


def start(slides: Path, out: Path, options: tuple[str, ...], cores: set[int]) -> subprocess.Popen[bytes]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        command = [sys.executable, "-m", "medvision.cli", "batch", str(slides), "--out", str(out), *options]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finally:
        os.sched_setaffinity(0, before)


def halved(slides: Path, part: int) -> Path:
    """A manifest of every other slide."""
    manifest = slides.parent / f"half-{part + 1}.csv"
    names = sorted(slides.glob("*.tif"))[part::2]
    manifest.write_text("slide_id,path\n" + "".join(f"{path.stem},{path}\n" for path in names))
    return manifest


def ends_of(path: Path) -> list[datetime]:
    with Ledger(path, read_only=True) as ledger:
        detail = ledger.run(ledger.runs()[0].run_id)
    attempts = [one for slide in detail.slides for one in slide.attempts]
    return [datetime.fromisoformat(end.ended_utc) for one in attempts for end in one.ends]


def digest(out: Path) -> str:
    """One digest of the results' files that repeat."""
    files = [path for path in out.rglob("*") if path.name in REPEATED]
    found = hashlib.sha256()
    for path in sorted(files, key=lambda path: (path.parent.name, path.name)):
        found.update(f"{path.parent.name}/{path.name}".encode() + path.read_bytes())
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
        print(f"{name}: {statistics.median(found):.2f} s a slide{speed}")
    print("the same bytes from all" if len(digests) == 1 else f"DIFFERENT BYTES: {len(digests)} kinds")
    return len(digests) != 1


if __name__ == "__main__":
    sys.exit(main())
