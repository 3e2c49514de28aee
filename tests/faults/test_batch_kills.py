"""A batch killed at any moment: the bytes in the end are those of a run that nobody disturbed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.ledger_check import check_ledger
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.manifest import verify

HERE = Path(__file__).resolve().parent

Results = Callable[[Path], dict[str, bytes]]

pytestmark = pytest.mark.timeout(1800)


def write_slide(path: Path, seed: int, side: int = 3072) -> Path:
    """A tiled TIFF of pink tissue on white, 0.25 µm/px."""
    noise = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), 245, np.uint8)
    inner = noise.normal((205, 140, 190), 12, (side // 4 * 3, side // 4 * 3, 3)).clip(0, 255)
    pixels[side // 8 : side // 8 + len(inner), side // 8 : side // 8 + len(inner)] = inner
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=(4e4, 4e4), resolutionunit="CENTIMETER"
    )
    return path


class Forks:
    """Batches in processes that start at once: forks of one that has imported everything and computed nothing."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "one_batch.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, request: Path) -> int:
        """Begin a batch; returns its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """The exit status of the batch that runs; negative where a signal ended it."""
        return int(self._line())

    def close(self) -> None:
        """End the process that forks."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.close()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in (1, 2):
        write_slide(folder / f"s{number}.tif", number)
    return folder


def request_for(cohort: Path, out: Path) -> Path:
    """A request in a file: small windows far apart, progress saved ten times a second."""
    config = AnalyzeConfig(stride=28, batch_size=8, device="cpu", backend="fused", checkpoint_seconds=0.1)
    request = BatchRequest(slides=cohort, out=out, analyze=config, options=BatchOptions(trust=True))
    path = out.with_name(f"{out.name}.json")
    path.write_text(request.model_dump_json())
    return path


@pytest.fixture(scope="module")
def undisturbed(
    forks: Forks, cohort: Path, results: Results, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    forks.start(request_for(cohort, out))
    assert forks.wait() == 0
    found = results(out)
    assert sum(name.endswith("result.json") for name in found) == 2
    return found


def looking(out: Path) -> bool:
    """The first slide is being opened: its attempt is noted, and it has no plan yet."""
    return any(out.glob(".medvision/journal/*/00001-1.json"))


def computing(out: Path) -> bool:
    """Windows are being computed, and progress was saved."""
    return any(out.glob(".medvision/scratch/*/heatmap.npz"))


def writing(out: Path) -> bool:
    """The raster is being written, with pictures and reports to come, under a temporary name."""
    return any(out.glob(".medvision/partial/*/heatmap.ome.tiff"))


def publishing(out: Path) -> bool:
    """A first result has its final name."""
    return any(out.glob("s*/manifest.json"))


STAGES: tuple[Callable[[Path], bool], ...] = (looking, computing, writing, publishing)


def kill_in(
    stage: Callable[[Path], bool], forks: Forks, request: Path, out: Path, delay: float, how: int
) -> bool:
    """Start a batch and end it by a signal `delay` after `stage` began; whether it was still running."""
    pid = forks.start(request)
    until = time.monotonic() + 60
    while not stage(out) and time.monotonic() < until:
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.002)
    time.sleep(delay)
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        forks.wait()
        return False
    return forks.wait() != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "points"),
    [(computing, 1), *((stage, 20) for stage in STAGES)],
    ids=lambda one: str(getattr(one, "__name__", one)),
)
def test_killed_in_every_stage(
    stage: Callable[[Path], bool],
    points: int,
    forks: Forks,
    cohort: Path,
    results: Results,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    fault_row: Callable[[str, str], Any],
) -> None:
    row = fault_row(
        f"kill -9 while {stage.__name__}", "identical bytes after resume, no partial file under a final name"
    )
    rng = random.Random(f"{stage.__name__} {points}")
    killed = resumed = tries = 0
    while killed < points and tries < 3 * points:
        tries += 1
        out = tmp_path / f"out{tries}"
        request = request_for(cohort, out)
        reach = 0.5 if stage is not computing else 0.3
        if not kill_in(stage, forks, request, out, rng.uniform(0, reach), signal.SIGKILL):
            continue
        killed += 1
        for folder in out.glob("s*"):
            assert verify(folder) == (), "what has a final name is whole"
        forks.start(request)
        assert forks.wait() == 0
        assert results(out) == undisturbed
        assert not [p for p in out.rglob("*") if "partial" in p.name and p.name != "partial"]
        assert not list(out.glob(".medvision/partial/*")) and not list(out.glob(".medvision/scratch/*"))
        assert check_ledger(out) == []
        with Ledger(out / LEDGER, read_only=True) as ledger:
            states = {run.state: run.run_id for run in ledger.runs()}
            statuses = [slide.verdict for slide in ledger.run(states["finished"]).slides]
        assert set(states) == {"interrupted", "finished"}
        resumed += "resumed" in statuses
        shutil.rmtree(out)
    assert killed == points
    if stage is computing:
        assert resumed, "progress that was saved is used"
    row.count("identical", killed)
    row.note = f"{resumed} resumed within a slide"


def test_terminated_it_saves_and_says_so(
    forks: Forks,
    cohort: Path,
    results: Results,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    fault_row: Callable[[str, str], Any],
) -> None:
    """SIGTERM through the command itself: progress is saved, the status is 143, and the next run resumes."""
    row = fault_row("SIGTERM while computing", "progress saved, exit 143, resumed to identical bytes")
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "medvision.cli", "analyze", str(cohort / "s1.tif"), "--out", str(out)),
        *("--stride", "28", "--batch-size", "8", "--device", "cpu", "--backend", "fused"),
    ]
    process = subprocess.Popen([*command, "--checkpoint-seconds", "0.1"], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not computing(out) and time.monotonic() < until:
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "a later run continues from here" in said
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and "resumed" in again.stdout
    wanted = {name: data for name, data in undisturbed.items() if name.startswith("s1/")}
    assert results(out) == wanted
    row.count("identical")


@pytest.mark.slow
def test_of_runs_that_race_one_makes_each_slide(
    cohort: Path,
    results: Results,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    fault_row: Callable[[str, str], Any],
) -> None:
    row = fault_row("3 runs on one output", "one winner per slide, no duplicates")
    out = tmp_path / "out"
    request = request_for(cohort, out)
    runs = [subprocess.Popen([sys.executable, str(HERE / "one_batch.py"), str(request)]) for _ in range(3)]
    assert [run.wait(timeout=300) for run in runs] == [0, 0, 0]
    assert results(out) == undisturbed
    with Ledger(out / LEDGER, read_only=True) as ledger:
        verdicts = [slide.verdict for run in ledger.runs() for slide in ledger.run(run.run_id).slides]
    assert sorted(verdicts) == ["done"] * 2 + ["unchanged"] * 4
    assert check_ledger(out) == []
    row.count("made once", 2)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 5])
def test_what_a_power_cut_leaves(
    times: int,
    forks: Forks,
    cohort: Path,
    results: Results,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    fault_row: Callable[[str, str], Any],
) -> None:
    """A kill while computing; then what was not yet told to reach the disk is cut, emptied or filled with zeros."""
    row = fault_row(
        "power cut: partial journal, progress and temporary files, stale locks",
        "identical bytes, nothing trusted blindly",
    )
    rng = random.Random(times)
    for number in range(times):
        out = tmp_path / f"out{number}"
        request = request_for(cohort, out)
        assert kill_in(computing, forks, request, out, rng.uniform(0, 0.3), signal.SIGKILL)
        loose = [path for part in ("journal", "scratch") for path in (out / ".medvision" / part).rglob("*")]
        damaged = [path for path in loose if path.is_file() and path.suffix != ".lock"]
        assert any(path.name == "heatmap.npz" for path in damaged)
        for path in damaged:
            whole = path.read_bytes()
            cut = rng.randrange(len(whole) + 1)
            path.write_bytes(rng.choice([whole[:cut], b"", whole[:cut] + bytes(len(whole) - cut)]))
        partial = out / ".medvision" / "partial" / "s1~0badcafe"
        partial.mkdir(parents=True)
        (partial / "manifest.json").write_bytes(b"\0" * 100)
        for name in ("s1", "s2", "index.json"):
            (out / ".medvision" / "locks" / f"{name}.lock").touch()
        forks.start(request)
        assert forks.wait() == 0
        assert results(out) == undisturbed
        assert not list((out / ".medvision" / "partial").iterdir())
        with Ledger(out / LEDGER, read_only=True) as ledger:
            assert {run.state for run in ledger.runs()} == {"interrupted", "finished"}
        row.count("identical")
        shutil.rmtree(out)
