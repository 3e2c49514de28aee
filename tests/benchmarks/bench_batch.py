"""What a long batch costs beyond its analyses: memory of the coordinator, time per slide, files, Prefect's database.

    python tests/benchmarks/bench_batch.py FOLDER [--slides 1000] [-- OPTION ...]

Makes that many small slides below FOLDER (which is kept, and used again), runs `medvision batch` over them with the
options, and samples the resident memory of its process each second. Linux only. Prints a line for each mark (100, 500,
1,000 slides), then what the run left on the disk and how the time was spent: the analyses' own seconds are those that
the ledger has, divided by the two slides that are at work at once.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tifffile

from medvision.store.ledger import LEDGER, Ledger

MARKS = (1, 100, 250, 500, 750, 1000)
SIDE = 512


def make_slides(folder: Path, count: int) -> None:
    """Slides of 512 px at 0.5 µm/px with a square of noisy pink tissue, each with pixels of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:04d}.tif"
        if path.is_file():
            continue
        pixels = np.full((SIDE, SIDE, 3), 245, np.uint8)
        tissue = np.random.default_rng(number).normal((205, 140, 190), 12, (320, 320, 3))
        pixels[96:416, 96:416] = tissue.clip(0, 255)
        tifffile.imwrite(
            path,
            pixels,
            tile=(256, 256),
            photometric="rgb",
            resolution=(2e4, 2e4),
            resolutionunit="CENTIMETER",
        )


def memory(pid: int) -> dict[str, float]:
    """Resident memory of a process and its highest so far, in MB; nothing once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines)
    wanted = {"VmRSS": "now", "VmHWM": "peak"}
    return {wanted[name]: int(fields[name].split()[0]) / 1e3 for name in wanted if name in fields}


def server_of(out: Path) -> int:
    """Process of Prefect's server, 0 if it is not known."""
    try:
        return int((out / ".medvision" / "prefect" / "medvision-server.pid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def ended(out: Path) -> int:
    """How many slides have a result."""
    return sum(1 for _ in out.glob("*/manifest.json"))


def report(out: Path, wall: float) -> None:
    """What the run left, and how its time was spent."""
    with Ledger(out / LEDGER, read_only=True) as ledger:
        detail = ledger.run(ledger.runs()[0].run_id)
        ends = [end for slide in detail.slides for one in slide.attempts for end in one.ends]
    seconds = sum(end.outcome.seconds for end in ends if end.outcome is not None)
    count = len(detail.slides)
    database = sum(path.stat().st_size for path in (out / ".medvision" / "prefect").glob("prefect.db*"))
    files = [path for path in out.rglob("*") if path.is_file()]
    print(f"{count} slides in {wall:.0f} s, {wall / count:.3f} s each; counts {detail.summary.counts}")
    print(f"analyses: {seconds / count:.3f} s each on their own clock, of which two run at once")
    print(f"beyond the analyses: {wall / count - seconds / count / 2:.3f} s a slide, with start and end")
    print(f"Prefect's database {database / 1e6:.1f} MB, ledger {(out / LEDGER).stat().st_size / 1e6:.1f} MB")
    size = sum(path.stat().st_size for path in files)
    print(f"{len(files)} files, {len(files) / count:.1f} a slide; {size / 1e6:.0f} MB in all")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=1000)
    words = sys.argv[1:]
    place = words.index("--") if "--" in words else len(words)
    given, options = parser.parse_args(words[:place]), words[place + 1 :]
    slides, out = given.folder / f"slides-{given.slides}", given.folder / "out"
    make_slides(slides, given.slides)
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "medvision.cli", "batch", str(slides), "--out", str(out), *options]
    started = time.perf_counter()
    with (given.folder / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        marks = [mark for mark in MARKS if mark <= given.slides]
        last = {}
        while process.poll() is None:
            last = memory(process.pid) or last
            while marks and (done := ended(out)) >= marks[0]:
                server = memory(server_of(out)).get("now", 0.0)
                print(
                    f"{time.perf_counter() - started:6.0f} s  {done:5d} slides  coordinator {last['now']:.0f} MB "
                    f"(peak {last['peak']:.0f})  Prefect's server {server:.0f} MB",
                    flush=True,
                )
                marks.pop(0)
            time.sleep(1.0)
    wall = time.perf_counter() - started
    print(f"at the end: peak {last.get('peak', 0):.0f} MB, exit status {process.returncode}")
    report(out, wall)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
