"""Who may use a device: one slide of one process at a time, and two worker processes for each GPU.

The lock files need no GPU. The processes here are forked by one that has imported the module, as that takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from medvision.core.errors import UsageError
from medvision.pipelines import device
from medvision.pipelines.device import LOCKS, Crew, Seats, compute, devices_of, turn

FORKS = """
import os, signal, sys, threading
from pathlib import Path
from medvision.core.errors import UsageError
from medvision.pipelines.device import Seats, turn

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    what, first, *more = line.rstrip("\\n").split("\\t")
    if os.fork() == 0:
        if what == "turn":
            with turn(first, threading.Event()):
                print(os.getpid(), "has", first, sep="\\t", flush=True)
                signal.pause()
        seats = Seats(Path(first))
        try:
            said = [seats.take(tuple(more)), seats.take(tuple(more))]
        except UsageError as error:
            said = ["refused", str(error)]
        print(os.getpid(), *said, sep="\\t", flush=True)
        signal.pause()
"""


@dataclass
class Processes:
    """Starts processes that hold a turn or a seat until they are killed."""

    forks: subprocess.Popen[str]
    alive: list[int]

    def start(self, *words: object) -> None:
        assert self.forks.stdin is not None
        self.forks.stdin.write("\t".join(map(str, words)) + "\n")
        self.forks.stdin.flush()

    def says(self, timeout: float = 60.0) -> list[str]:
        """What the next of them says; nothing if it says nothing for so long."""
        assert self.forks.stdout is not None
        if not select.select([self.forks.stdout], [], [], timeout)[0]:
            return []
        pid, *said = self.forks.stdout.readline().rstrip("\n").split("\t")
        self.alive.append(int(pid))
        return said

    def kill(self, number: int) -> None:
        """Kill the one that spoke as the `number`th of those alive, and wait until it is gone."""
        pid = self.alive.pop(number)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(pid, 0)
                time.sleep(0.01)
            raise TimeoutError(f"process {pid} outlives its death")


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    locks = tmp_path_factory.mktemp("locks")
    without = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=1,
        text=True,
        env={**without, LOCKS: str(locks)},
        cwd=Path(__file__).resolve().parents[3],
        start_new_session=True,
    )
    with process:
        yield process, locks
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def processes(
    forks: tuple[subprocess.Popen[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Processes]:
    process, locks = forks
    monkeypatch.setenv(LOCKS, str(locks))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    started = Processes(process, [])
    yield started
    while started.alive:
        started.kill(-1)


@contextlib.contextmanager
def waiting_for(name: str, stop: threading.Event) -> Iterator[tuple[threading.Event, list[str]]]:
    """A thread that waits for its turn; yields what is set once it has had it, and how it ended otherwise."""
    had, ended = threading.Event(), []

    def wait() -> None:
        try:
            with turn(name, stop):
                had.set()
        except KeyboardInterrupt:
            ended.append("stopped")

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield had, ended
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def test_one_process_at_a_time_has_a_device_and_a_killed_one_frees_it(processes: Processes) -> None:
    processes.start("turn", "cuda:0")
    assert processes.says() == ["has", "cuda:0"]
    with waiting_for("cuda:0", threading.Event()) as (had, _):
        assert not had.wait(1.2), "two processes had the device at once"
        with turn("cuda:1", threading.Event()), turn("cpu", threading.Event()):
            pass  # another device, and the processor, are free
        processes.kill(0)
        assert had.wait(10), "a killed process kept the device"
    processes.start("turn", "cuda:0")
    assert processes.says() == ["has", "cuda:0"], "the turn was not given back"


def test_stop_ends_the_wait(processes: Processes) -> None:
    processes.start("turn", "cuda:0")
    assert processes.says() == ["has", "cuda:0"]
    stop = threading.Event()
    with waiting_for("cuda:0", stop) as (had, ended):
        assert not had.wait(0.1)
    assert ended == ["stopped"]

    stop = threading.Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        compute("cuda:0", stop, lambda: pytest.fail("computed without its turn"))


def test_the_lock_is_that_of_the_machines_device(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, forks: tuple[object, Path]
) -> None:
    """What is cuda:0 here and cuda:1 there may be one GPU."""
    processes.start("turn", "cuda:3")
    assert processes.says() == ["has", "cuda:3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 3")
    with turn("cuda:0", threading.Event()):
        assert (forks[1] / "cuda-1.lock").is_file()
    with waiting_for("cuda:1", threading.Event()) as (had, _):
        assert not had.wait(0.7), "cuda:1 is the machine's third GPU, which another process has"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f/1")
    with turn("cuda", threading.Event()):
        assert (forks[1] / "cuda-GPU-8f_1.lock").is_file()


@pytest.mark.parametrize("where", ["file", "file/below", "locked"])
def test_a_folder_for_locks_that_cannot_be_had_is_named(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_nobody: Callable[[], None]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir(mode=0o555)
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    monkeypatch.setenv(LOCKS, str(tmp_path / where))
    as_nobody()
    with (
        pytest.raises(UsageError, match=rf"{where}.*: no lock file for cuda:0 .*name a folder .* in {LOCKS}"),
        turn("cuda:0", threading.Event()),
    ):
        pass


def test_users_who_share_a_folder_for_locks_can_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOCKS, str(tmp_path))
    before = os.umask(0o077)
    try:
        with turn("cuda:0", threading.Event()):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "cuda-0.lock").stat().st_mode & 0o777 == 0o666


@pytest.fixture
def as_nobody() -> Iterator[Callable[[], None]]:
    """Gives up the administrator's rights, who may write anywhere, for the rest of the test."""
    user = os.geteuid()
    yield lambda: os.seteuid(65534) if user == 0 else None
    os.seteuid(user)


def test_a_crew_spreads_slides_over_its_devices() -> None:
    crew, both = Crew(), ("cuda:0", "cuda:1")
    with crew.least_busy(both) as first, crew.least_busy(both) as second:
        assert (first, second) == both
        with crew.least_busy(both) as third:
            assert third == "cuda:0"
            with crew.least_busy(both) as fourth:
                assert fourth == "cuda:1"
    with crew.least_busy(("cuda:1",)), crew.least_busy(both) as free:
        assert free == "cuda:0", "slides that are over were counted, or one that is not was forgotten"
    with pytest.raises(ValueError, match="the slide's own"), crew.least_busy(both):
        raise ValueError("the slide's own")
    with crew.least_busy(both) as after:
        assert after == "cuda:0", "a slide that failed still counts"


def test_each_worker_has_a_seat_two_for_each_device(processes: Processes, tmp_path: Path) -> None:
    folder, both = tmp_path / "seats", ("cuda:0", "cuda:1")
    said = []
    for _ in range(4):
        processes.start("seat", folder, *both)
        said.append(processes.says())
    assert [first for first, _ in said] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert all(first == again for first, again in said), "a worker was given a second seat"
    processes.start("seat", folder, *both)
    refused, why = processes.says()
    assert refused == "refused"
    assert "cuda:0, cuda:1" in why and "at most 2 for each" in why

    processes.kill(1)  # one of those at cuda:1
    mine = Seats(folder)
    assert mine.take(both) == "cuda:1", "the seat of a killed worker was not free"
    assert mine.take(("cuda:1",)) == "cuda:1"
    with pytest.raises(UsageError, match="every device has its workers"):
        Seats(folder).take(both)


def test_a_folder_for_seats_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="file/seats: no seat at cuda:0 can be had"):
        Seats(tmp_path / "file" / "seats").take(("cuda:0",))


def test_the_processor_has_seats_for_all(tmp_path: Path) -> None:
    folder = tmp_path / "seats"
    assert {Seats(folder).take(("cpu",)) for _ in range(5)} == {"cpu"}
    assert Seats(folder).take(("auto",)) == "auto"
    assert not folder.exists()


def test_what_a_setting_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 2)
    assert devices_of("auto") == devices_of("cuda") == ("cuda:0", "cuda:1")
    assert devices_of("cuda:1, cuda:0,") == ("cuda:1", "cuda:0")
    assert devices_of("cpu") == ("cpu",)
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    assert devices_of("auto") == ("auto",)
    assert devices_of("cuda") == ("cuda",), "what was asked for by name is refused by name, not replaced"
