"""One slide at a time on a device: a thread for each device in this process, and a lock file between processes.

Slides may be opened and written side by side, but a device computes one at a time. A thread of its own, rather than a
lock, because a runtime keeps worker threads and scratch memory for every thread that calls it. Between processes, a
GPU has a lock file that the system releases however a process ends; the processor needs none.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from filelock import FileLock, Timeout

from medvision.core.errors import UsageError

T = TypeVar("T")

LOCKS = "MEDVISION_LOCKS"
"""Environment variable that names the folder of lock files; by default one in the system's temporary folder."""

_WAIT_S = 0.5


@cache
def _thread(device: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix=f"medvision-{device}")


def submit(device: str, call: Callable[[], T]) -> Future[T]:
    """Have `call` made on the device's thread when its turn comes. Never from that thread itself."""
    return _thread(device).submit(call)


def compute(device: str, stop: threading.Event, call: Callable[[], T]) -> T:
    """What `call` returns, made on the device's thread. An interruption here sets `stop` and waits for it to end."""

    def in_turn() -> T:
        with turn(device, stop):
            return call()

    future: Future[T] | None = None
    try:
        future = submit(device, in_turn)
        return future.result()
    except BaseException:
        if future is None:
            stop.set()  # interrupted while handing it over: it may run all the same
        elif not future.cancel() and not future.done():
            stop.set()
            future.exception()
        raise


@contextlib.contextmanager
def turn(device: str, stop: threading.Event) -> Iterator[None]:
    """Hold the device's lock file among the processes of this machine; `stop` ends the wait with `KeyboardInterrupt`.

    Raises:
        UsageError: if the lock file cannot be made or opened.
    """
    if device.partition(":")[0] in ("cpu", "mps"):
        yield
        return
    lock = _lock(device)
    while True:
        if stop.is_set():
            raise KeyboardInterrupt
        try:
            lock.acquire(timeout=_WAIT_S)
            break
        except Timeout:
            continue
        except OSError as error:
            raise _no_lock(device, Path(lock.lock_file), error) from error
    try:
        yield
    finally:
        lock.release()


def devices_of(wanted: str) -> tuple[str, ...]:
    """The devices that a setting stands for: every GPU for "auto" and "cuda", each of a list "cuda:0,cuda:1"."""
    if wanted in ("auto", "cuda") and torch.cuda.is_available():
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return tuple(part.strip() for part in wanted.split(",") if part.strip()) or (wanted,)


class Crew:
    """The devices of this process, each with the slides that are at it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slides: Counter[str] = Counter()

    @contextlib.contextmanager
    def least_busy(self, devices: tuple[str, ...]) -> Iterator[str]:
        """The device with the fewest slides, the first of equals, for the length of the context."""
        with self._lock:
            device = min(devices, key=lambda one: self._slides[one])
            self._slides[device] += 1
        try:
            yield device
        finally:
            with self._lock:
                self._slides[device] -= 1


class Seats:
    """Which worker process has which device: each takes a seat for its life and gives it back by ending.

    There are two for each GPU: while one worker computes, the other reads its next slide or writes its last.
    """

    PER_DEVICE = 2

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._taken: tuple[str, FileLock] | None = None

    def take(self, devices: tuple[str, ...]) -> str:
        """A device with a free seat; the same one each time. The processor alone is shared by all.

        Raises:
            UsageError: if every seat is taken, or the folder for them cannot be written to.
        """
        if all(device.partition(":")[0] in ("cpu", "auto") for device in devices):
            return devices[0]
        with self._guard:
            if self._taken is not None and self._taken[0] in devices:
                return self._taken[0]
            try:
                self._taken = self._free_seat(devices)
            except OSError as error:
                raise UsageError(
                    f"{self._folder}: no seat at {', '.join(devices)} can be had ({error.strerror})"
                ) from error
            if self._taken is not None:
                return self._taken[0]
        raise UsageError(
            f"every device has its workers already ({', '.join(devices)}): start at most {self.PER_DEVICE} for each"
        )

    def _free_seat(self, devices: tuple[str, ...]) -> tuple[str, FileLock] | None:
        self._folder.mkdir(parents=True, exist_ok=True)
        host = os.uname().nodename
        for seat in range(self.PER_DEVICE):
            for device in devices:
                name = f"{host}-{device.replace(':', '-')}-{seat}.lock"
                lock = FileLock(self._folder / name, thread_local=False)
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=0)
                    return device, lock
        return None


def _lock(device: str) -> FileLock:
    # The device's number within this process may differ from its place in the machine.
    index = device.partition(":")[2] or "0"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if device.startswith("cuda") and index.isdecimal() and int(index) < len(visible) and visible[int(index)]:
        index = visible[int(index)].strip()
    given = os.environ.get(LOCKS)
    folder = Path(given) if given else Path(tempfile.gettempdir()) / f"medvision-locks-{os.getuid()}"
    path = folder / f"{device.partition(':')[0]}-{index.replace('/', '_')}.lock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _no_lock(device, folder, error) from error
    # A folder that is named may be shared, and whoever comes second must be able to open the first one's file.
    return FileLock(path, mode=0o666) if given else FileLock(path)


def _no_lock(device: str, path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{path}: no lock file for {device} can be had ({error.strerror}); "
        f"name a folder that can be written to in {LOCKS}"
    )
