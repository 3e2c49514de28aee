"""Progress within one run, saved so that an interrupted slide continues where it stood."""

from __future__ import annotations

import contextlib
import io
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from medvision.core.digest import digest_json
from medvision.engine.sinks import Sink


class Checkpoint:
    """A sink's state in one `.npz` file, written whole or not at all, at most every `interval` seconds.

    `key` names what the progress belongs to. A file of another key, or one that is damaged, is ignored: the run starts
    from the beginning rather than from something it cannot trust.
    """

    def __init__(self, path: Path, key: dict[str, Any], interval: float) -> None:
        self._path, self._interval = path, interval
        self._key = digest_json(key)
        self._saved = time.monotonic()

    def restore(self, sink: Sink[Any]) -> tuple[int, list[int]]:
        """Load the saved state into `sink`; returns the batches done and the windows found unreadable so far."""
        with contextlib.suppress(
            FileNotFoundError, ValueError, KeyError, OSError, zipfile.BadZipFile, EOFError
        ):
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                arrays = dict(saved)
            if str(arrays.pop("key")) == self._key:
                done = int(arrays.pop("batches"))
                unread = [int(index) for index in arrays.pop("unread")]
                sink.restore(arrays)
                return done, unread
        return 0, []

    def save(self, sink: Sink[Any], batches: int, unread: list[int], now: bool = False) -> None:
        """Write the state if the interval has passed, or `now`."""
        if not now and time.monotonic() - self._saved < self._interval:
            return
        stream = io.BytesIO()
        head = {
            "key": np.array(self._key),
            "batches": np.array(batches),
            "unread": np.array(unread, np.int64),
        }
        np.savez(stream, **head, **sink.state())  # type: ignore[arg-type]
        part = self._path.with_name(self._path.name + ".part")
        with part.open("wb") as file:
            file.write(stream.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        self._saved = time.monotonic()
