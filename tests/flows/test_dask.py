"""Batches on a Dask cluster of this machine: a scheduler and two workers, each a process that is killed in turn."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.config import AnalyzeConfig
from medvision.store.journal import Entry
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.records import SlideOutcome

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("prefect_dask")
Results = Callable[[Path], dict[str, bytes]]

pytestmark = [
    pytest.mark.flow,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings(
        "default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"
    ),
]


def write_slide(path: Path, seed: int) -> Path:
    """A tiled TIFF of noisy pink tissue on white, 0.25 µm/px."""
    pixels = np.full((1536, 1536, 3), 245, np.uint8)
    pixels[256:1280, 256:1280] = (
        np.random.default_rng(seed).normal((205, 140, 190), 12, (1024, 1024, 3)).clip(0, 255)
    )
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=(4e4, 4e4), resolutionunit="CENTIMETER"
    )
    return path


class Cluster:
    """`dask scheduler` at a free port and `dask worker` processes, which can be killed and started anew."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start_scheduler()

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", self.port, "--no-dashboard"
        )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self.scheduler
            time.sleep(0.1)
        raise AssertionError("the scheduler does not answer")

    def start_worker(self, code: Path = ROOT) -> subprocess.Popen[bytes]:
        """One process with one thread, which starts a new one of itself when it dies."""
        return self._start("worker", self.address, "--nthreads", 1, "--no-dashboard", code=code)

    def _start(self, *words: object, code: Path = ROOT) -> subprocess.Popen[bytes]:
        with (self._folder / "dask.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *map(str, words), "--local-directory", str(self._folder)]
                if words[0] == "worker"
                else [sys.executable, "-m", "dask", *map(str, words)],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "dask"
    folder.mkdir()
    made = Cluster(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(1, 5):
        write_slide(folder / f"s{number}.tif", number)
    return folder


CONFIG = AnalyzeConfig(stride=14, batch_size=8, device="cpu", readers=1, checkpoint_seconds=0.2)
"""Some seconds a slide, so that there is a middle to kill it in."""


def request_to(address: str | None, slides: Path, out: Path, config: AnalyzeConfig = CONFIG) -> BatchRequest:
    runner = "thread" if address is None else "dask"
    return BatchRequest(
        slides=slides,
        out=out,
        analyze=config,
        options=BatchOptions(runner=runner, address=address, trust=True),
    )


@pytest.fixture(scope="module")
def undisturbed(
    prefect_home: Path, slides: Path, results: Results, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What the thread runner writes."""
    from flows.local import run_batch

    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert {outcome.status for outcome in run_batch(request_to(None, slides, out))} == {"done"}
    return results(out)


def verdicts(out: Path) -> dict[str, list[str]]:
    """How the attempts at each slide ended, by slide_id."""
    with Ledger(out / LEDGER, read_only=True) as ledger:
        (run,) = ledger.runs()
        found = ledger.run(run.run_id).slides
    return {slide.slide_id: [one.end.verdict for one in slide.attempts if one.end] for slide in found}


def run_while(request: BatchRequest, disturb: Callable[[Path], None]) -> list[SlideOutcome]:
    """Run a batch; `disturb` is called beside it, once slides are being computed."""
    from flows.local import run_batch

    def beside() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if any(request.out.glob(".medvision/scratch/*/heatmap.npz")):
                disturb(request.out)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=beside)
    thread.start()
    try:
        return run_batch(request)
    finally:
        thread.join()


def test_killed_workers_and_schedulers_cost_no_slide(
    prefect_home: Path,
    slides: Path,
    results: Results,
    undisturbed: dict[str, bytes],
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    cluster.start_worker()
    cluster.start_worker()
    killed: list[str] = []

    def kill_a_worker(out: Path) -> None:
        for path in sorted((out / ".medvision" / "journal").glob("*/*-1.json")):
            entry = Entry.model_validate_json(path.read_bytes())
            if entry.ended_utc is None:
                os.kill(int(entry.worker.rpartition(":")[2]), signal.SIGKILL)
                killed.append(entry.slide_id)
                return

    out = tmp_path / "worker"
    outcomes = run_while(request_to(cluster.address, slides, out), kill_a_worker)
    assert {outcome.status for outcome in outcomes} <= {"done", "resumed"}
    assert results(out) == undisturbed
    (victim,) = killed
    assert [name for name, ends in verdicts(out).items() if ends[0] == "interrupted"] == [victim]
    assert verdicts(out)[victim][-1] in ("done", "resumed")

    def restart_the_scheduler(_: Path) -> None:
        cluster.scheduler.kill()
        cluster.scheduler.wait()
        cluster.start_scheduler()
        cluster.start_worker()

    out = tmp_path / "scheduler"
    outcomes = run_while(request_to(cluster.address, slides, out), restart_the_scheduler)
    assert {outcome.status for outcome in outcomes} <= {"done", "resumed", "unchanged"}
    assert results(out) == undisturbed


def test_a_scheduler_that_stays_away_ends_the_run(
    prefect_home: Path, slides: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask

    import flows.batch

    monkeypatch.setattr(flows.batch, "_IN_VAIN", 2)
    cluster.start_worker()
    with dask.config.set({"distributed.comm.timeouts.connect": "3s"}):
        outcomes = run_while(request_to(cluster.address, slides, tmp_path / "out"), lambda _: cluster.close())
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert len(failed) >= 3
    assert all("no worker could begin it" in outcome.reason for outcome in failed)


def test_a_worker_with_other_code_is_refused(
    prefect_home: Path, slides: Path, cluster: Cluster, tmp_path: Path
) -> None:
    from flows.local import run_batch

    other = tmp_path / "other"
    for package in ("medvision", "flows"):
        shutil.copytree(ROOT / package, other / package)
    with (other / "medvision" / "core" / "errors.py").open("a", encoding="utf-8") as stream:
        stream.write("\n# another version\n")
    cluster.start_worker(other)
    outcomes = run_batch(request_to(cluster.address, slides, tmp_path / "out"))
    assert {outcome.status for outcome in outcomes} == {"failed"}
    assert all("has another version of medvision" in outcome.reason for outcome in outcomes)


@pytest.mark.parametrize("there", ["nobody", "a scheduler alone"])
def test_a_cluster_that_cannot_work_is_wrong_usage(
    there: str, slides: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows.cluster
    from medvision.core.errors import UsageError

    monkeypatch.setattr(flows.cluster, "ANSWER_S", 2.0)
    if there == "nobody":
        cluster.close()
    wanted = "no Dask scheduler answers there" if there == "nobody" else "the scheduler has no workers"
    with pytest.raises(UsageError, match=wanted):
        flows.cluster.check_reach(BatchOptions(runner="dask", address=cluster.address))
