"""The course of a run for TensorBoard: its event files, written as it reads them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar


class Board:
    """An event file in `folder`, or nothing where that is None. A context manager that closes the file.

    tensorboardX's `SummaryWriter` puts the name of the machine into that of the file, and no option of it leaves it
    out. A folder that is handed on should not tell where it was made, so the records are written here, one by one.
    """

    def __init__(self, folder: Path | None, resumed_at: int = 0) -> None:
        """Begin a file. Steps after `resumed_at` of an earlier run in `folder` are hidden."""
        self._writer: RecordWriter | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a folder's files in the order of their names.
        self._writer = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        self._write(Event(file_version="brain.Event:2"))
        if resumed_at:
            self._write(Event(step=resumed_at + 1, session_log=SessionLog(status=SessionLog.START)))
        self._writer.flush()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Write the values at a step by name; those that are None are left out."""
        if self._writer is None:
            return
        for name, value in values.items():
            if value is not None:
                self._write(Event(step=step, summary=scalar(name, value)))
        self._writer.flush()

    def _write(self, event: Event) -> None:
        assert self._writer is not None, "asked only where there is a file"
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
