"""What workers note of the slides they are at, for the one process that keeps the ledger.

Workers may be threads, processes, or on other hosts, and SQLite's WAL does not work over a network file system. So each
attempt at a slide is a small file below the output folder: written when it begins, replaced when it ends, each time
whole. The ledger's keeper reads them as they come, and whoever comes after a crash finds what was known.

    OUT/.medvision/journal/RUN/00012-1.json       an attempt, begun or ended
    OUT/.medvision/journal/RUN/00012-1.progress   windows done and planned, for the eye; may be torn or absent
    OUT/.medvision/journal/RUN/stop               asks the workers to save their progress and stop
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from medvision.store.files import atomic_write, remove_tree
from medvision.store.records import Record, SlideOutcome
from medvision.store.store import CONTROL

_STOP = "stop"
_LOCK = "alive.lock"


class Entry(Record):
    """One attempt at one slide. Without `ended_utc` it is not over, or its worker was lost."""

    number: int
    attempt: int
    slide_id: str
    name: str
    began_utc: str
    worker: str
    ended_utc: str | None = None
    outcome: SlideOutcome | None = None

    @property
    def id(self) -> str:
        """Name of the attempt within its run."""
        return f"{self.number:05d}-{self.attempt}"


class Journal:
    """The notes of one run. Workers and the keeper each open their own."""

    def __init__(self, out: Path, run_id: str) -> None:
        self.run_id = run_id
        self.folder = out / CONTROL / "journal" / run_id

    def write(self, entry: Entry) -> None:
        """Note an attempt that begins, or that has ended.

        Raises:
            StoreError: if it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self.folder / f"{entry.id}.json", entry.model_dump_json().encode())

    def entries(self, known: Container[str] = ()) -> list[Entry]:
        """The attempts so far, by number and attempt, but for those whose `id` is known."""
        found = []
        for path in self.folder.glob("*-*.json"):
            if path.stem in known:
                continue
            with contextlib.suppress(OSError, ValidationError):
                found.append(Entry.model_validate_json(path.read_bytes()))
        return sorted(found, key=lambda entry: (entry.number, entry.attempt))

    def next_attempt(self, number: int) -> int:
        """The number of the next attempt at a slide, from 1."""
        # Attempts are numbered without a gap; looking for each is cheap where listing a long batch's notes is not.
        attempts = itertools.count(1)
        return next(n for n in attempts if not (self.folder / f"{number:05d}-{n}.json").exists())

    def tell(self, attempt: str, done: int, planned: int) -> None:
        """Say how far an attempt is; nothing depends on it."""
        with contextlib.suppress(OSError):
            (self.folder / f"{attempt}.progress").write_text(f"{done} {planned}")

    def told(self, attempts: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Windows done and planned of those among `attempts` that said so."""
        found = {}
        for attempt in attempts:
            with contextlib.suppress(OSError, ValueError):
                done, planned = (self.folder / f"{attempt}.progress").read_text().split()
                found[attempt] = (int(done), int(planned))
        return found

    def ask_to_stop(self) -> None:
        """Have the workers save their progress and stop."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _STOP).touch()

    @property
    def stopping(self) -> bool:
        """Whether the workers are to stop: they were asked to, or nobody keeps this run any more."""
        return (self.folder / _STOP).exists() or not self.alive

    @property
    def alive(self) -> bool:
        """Whether a process keeps this run."""
        if not (self.folder / _LOCK).exists():
            return False
        try:
            with FileLock(self.folder / _LOCK, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return True  # a file system that does not lock tells nothing

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the run: while this process lives, others see that it does."""
        # Nobody may find the folder before it is locked: it would be taken for a dead run's, and removed.
        making = self.folder.with_name(f".{self.run_id}")
        making.mkdir(parents=True, exist_ok=True)
        with FileLock(making / _LOCK, timeout=-1):
            making.rename(self.folder)
            yield

    def remove(self) -> None:
        """Remove the notes, once the ledger has them."""
        remove_tree(self.folder)


class Teller:
    """Counts windows and tells them to the journal, at most once in `interval` seconds."""

    def __init__(self, journal: Journal, attempt: str, interval: float = 1.0) -> None:
        self._journal, self._attempt, self._interval = journal, attempt, interval
        self._done = self._planned = 0
        self._told = 0.0

    def on_plan(self, _name: str, windows: int) -> None:
        """The slide has so many windows."""
        self._planned = windows
        self._tell()

    def on_windows(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        if time.monotonic() - self._told >= self._interval:
            self._tell()

    def on_end(self) -> None:
        """There will be no more."""
        if self._planned:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        self._journal.tell(self._attempt, self._done, self._planned)


def unfinished(out: Path) -> list[Journal]:
    """The notes that dead runs left below an output folder."""
    folder = out / CONTROL / "journal"
    if not folder.is_dir():
        return []
    journals = [Journal(out, path.name) for path in sorted(folder.glob("[!.]*")) if path.is_dir()]
    return [journal for journal in journals if not journal.alive]
