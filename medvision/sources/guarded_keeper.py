"""What `open_guarded` keeps of a file that another process reads: its facts, checked, and a process that answers.

A process that is lost is replaced; what was asked is tried once more. See `medvision.sources.guarded_process`.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medvision.core.errors import MedvisionError, UnreadableSourceError, WindowUnreadableError
from medvision.core.geometry import Box, Spacing
from medvision.core.world import Vector, WorldFrame
from medvision.sources.base import DTYPES, Level
from medvision.sources.facts import ALLOWED, facts
from medvision.sources.faults import MAX_SIDE, place_of
from medvision.sources.guarded_child import DIGEST, OPEN, packed
from medvision.sources.guarded_process import START_SECONDS, Limits, LostError, Process

T = TypeVar("T")

_NAMES = tuple(dtype.name for dtype in DTYPES)

MOST_LOSSES = 64
"""Processes that one source may lose before the rest of it counts as unreadable: two for each window that kills."""
MOST_LOST_LIMITS = 10
"""The same for time: what was lost with them, in time limits of a read."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a request is about, for the words of its error."""

    box: Box
    level: int

    def error(self, path: Path, reason: str) -> WindowUnreadableError:
        """That this cannot be decoded, for a reason."""
        return WindowUnreadableError(f"{path}: {place_of(self.box, self.level)} cannot be decoded: {reason}")


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """What a volume says besides."""

    frame: WorldFrame
    quantity: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, told: Any) -> VolumeFacts:
        """From the child's JSON. Raises what a wrong form leads to."""
        origin, spacing, directions = told["frame"]
        plane, row, column = directions
        axes = (_vector(plane), _vector(row), _vector(column))
        frame = WorldFrame(_vector(origin), _vector(spacing), axes)
        return cls(frame, _one_of(told["quantity"], ("", "HU")), tuple(_text(note) for note in told["notes"]))


@dataclass(frozen=True, slots=True)
class Facts:
    """What the child said of the file when it opened it, checked."""

    axes: str
    channels: int
    levels: tuple[Level, ...]
    spacing: Spacing | None
    fill: int
    reader: str
    why: str
    vendor: str
    metadata: Mapping[str, str]
    tiles: tuple[tuple[int, int], ...]
    """Rows and columns of the tiles of each level; none where the reader shows no tiles."""
    ahead: bool
    still: Mapping[str, Any] | None
    """Of a still image, what a source does not say; its form is checked by whoever asked for one."""
    dtype: np.dtype[Any]
    volume: VolumeFacts | None

    @classmethod
    def of(cls, data: bytes) -> Facts:
        """From the child's JSON. Raises `LostError` where that is not what an honest child says."""
        try:
            told: dict[str, Any] = json.loads(data)
            axes = _one_of(told["axes"], ("yx", "zyx"))
            count = len(axes)
            levels = tuple(
                Level(_sides(shape, count), _lengths(side, count)) for shape, side in told["levels"]
            )
            spacing = told["spacing"]
            tiles = tuple(_tile(tile) for tile in told["tiles"] or ())
            found = cls(
                axes=axes,
                channels=_one_of(told["channels"], (1, 2, 3, 4)),
                levels=levels,
                spacing=None
                if spacing is None
                else Spacing(_lengths(spacing[0], count), _one_of(spacing[1], ("um", "mm"))),
                fill=_one_of(told["fill"], range(-(2**15), 2**15)),
                reader=_text(told["reader"]),
                why=_text(told["why"]),
                vendor=_text(told["vendor"]),
                metadata={_one_of(key, ALLOWED): _text(value) for key, value in told["metadata"].items()},
                tiles=tiles,
                ahead=told["ahead"] is True,
                still=told["still"],
                dtype=_one_of(np.dtype(_one_of(told["dtype"], _NAMES)), DTYPES),
                volume=None if told["volume"] is None else VolumeFacts.of(told["volume"]),
            )
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise LostError("the reading process answered out of form") from None
        plain = all(
            facts({key: value}).get(key, "") == value.strip() for key, value in found.metadata.items()
        )
        is_volume = found.volume is not None
        if not levels or len(tiles) not in (0, len(levels)) or not plain or is_volume != (axes == "zyx"):
            raise LostError("the reading process answered out of form")
        return found


class Keeper:
    """Keeps a process with the file open, and starts another where one is lost.

    A request whose process was lost is tried once more, in a process of its own, so that its outcome depends on nothing
    else that was asked meanwhile.
    """

    def __init__(self, path: Path, limits: Limits, still: dict[str, Any] | None = None) -> None:
        """`still` says how a still image is to be read; without it the file is opened as a slide."""
        self._path = path
        self._limits = limits
        self._still = still
        self._folder: Path | None = None
        with contextlib.suppress(OSError):
            self._folder = Path.cwd()  # a relative path stays one in errors
        self._lock = threading.Lock()
        self._second = threading.Lock()
        self._process: Process | None = None
        self._private: Process | None = None
        self._closed = False
        self._losses = 0
        self._lost_seconds = 0.0
        self._facts: Facts | None = None
        for last in (False, True):
            try:
                self._process = self._start()
                return
            except LostError as lost:
                if last:
                    raise UnreadableSourceError(f"{path}: cannot be opened: {lost}") from None

    @property
    def facts(self) -> Facts:
        """What is known of the file."""
        assert self._facts is not None, "set by the first process"
        return self._facts

    def check_open(self) -> None:
        """Raise `UnreadableSourceError` once closed."""
        if self._closed:
            raise UnreadableSourceError(f"{self._path} is closed")

    def ask(self, request: Callable[[Process], T], place: Place) -> T:
        """Put a request to the process, and once more to another if that one is lost.

        Raises:
            WindowUnreadableError: where the second is lost too, or the file cannot be opened any more.
        """
        try:
            return self._ask(request)
        except LostError as lost:
            raise place.error(self._path, str(lost)) from None

    def ask_once(self, request: Callable[[Process], T]) -> T | None:
        """Put a request to the process; None where that is lost over it, so that the caller may ask for less."""
        try:
            process = self._current()
        except LostError:
            return None
        started = time.monotonic()
        try:
            return request(process)
        except LostError:
            self._lose(process, started)
            return None

    def digest(self) -> str:
        """SHA-256 of the content; in a process for this alone where the source is closed."""

        def made(process: Process) -> str:
            answer = process.ask(packed(DIGEST))[2]
            if len(answer) != 66 or not set(answer[1:-1]) <= set(b"0123456789abcdef"):
                raise LostError("the reading process answered out of form")
            return answer[1:-1].decode()

        try:
            if not self._closed:
                return self._ask(made)
            process = self._start()
            try:
                return made(process)
            finally:
                process.kill()
        except LostError as lost:
            raise UnreadableSourceError(f"{self._path}: cannot be digested: {lost}") from None

    def tell(self, request: bytes) -> None:
        """Pass on a request that has no answer, where a process is there to hear it."""
        process = self._process
        if process is not None:
            process.tell(request)

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        for process in (self._process, self._private):
            if process is not None:
                process.kill()
        self._process = None

    def _ask(self, request: Callable[[Process], T]) -> T:
        process = self._current()
        started = time.monotonic()
        try:
            return request(process)
        except LostError:
            self._lose(process, started)
        with self._second:
            self._check_losses()
            fresh = self._private = self._start()
            started = time.monotonic()
            try:
                answer = request(fresh)
            except LostError:
                self._lose(fresh, started)
                raise
            finally:
                self._private = None
                self._adopt(fresh)
            return answer

    def _current(self) -> Process:
        process = self._process
        if process is not None and not self._closed:
            return process
        with self._lock:
            self.check_open()
            if self._process is None:
                self._check_losses()
                self._process = self._start()
            return self._process

    def _start(self) -> Process:
        """A new process with the file open. Raises `LostError`; the first time also what opening raises."""
        started = time.monotonic()
        process = Process(self._path, self._limits, self._folder, self._still)
        try:
            found = Facts.of(process.ask(packed(OPEN), START_SECONDS)[2])
            if self._facts not in (None, found):
                raise LostError("the file is not what it was when it was opened")
        except LostError:
            self._lose(process, started)
            raise
        except MedvisionError as error:
            process.kill()
            if self._facts is not None:
                raise LostError(f"the file cannot be opened again: {error}") from error
            raise
        except BaseException:
            process.kill()
            raise
        self._facts = found
        return process

    def _lose(self, process: Process, started: float) -> None:
        process.kill()
        self.check_open()  # it was closed meanwhile: no fault of the file
        self._losses += 1
        self._lost_seconds += time.monotonic() - started
        if self._process is process:
            self._process = None

    def _check_losses(self) -> None:
        if self._losses > MOST_LOSSES or self._lost_seconds > MOST_LOST_LIMITS * self._limits.seconds:
            raise LostError(
                f"{self._losses} reading processes were lost over this file in {self._lost_seconds:.0f} s, "
                "and no more are tried"
            )

    def _adopt(self, process: Process) -> None:
        """Keep a process that has proved itself where there is none, or end it."""
        with self._lock:
            if self._process is None and process.alive and not self._closed:
                self._process = process
                return
        process.kill()


def _tile(value: Any) -> tuple[int, int]:
    rows, columns = _sides(value, 2)
    return rows, columns


def _vector(value: Any) -> Vector:
    x, y, z = (float(n) for n in value)
    return x, y, z


def _sides(value: Any, axes: int) -> tuple[int, ...]:
    sides = tuple(value)
    if len(sides) != axes or not all(type(n) is int and 1 <= n <= MAX_SIDE for n in sides):
        raise ValueError(value)
    return sides


def _lengths(value: Any, axes: int) -> tuple[float, ...]:
    lengths = tuple(float(n) for n in value)
    if len(lengths) != axes or not all(math.isfinite(n) and n > 0 for n in lengths):
        raise ValueError(value)
    return lengths


def _one_of(value: Any, known: Any) -> Any:
    if value not in known:
        raise ValueError(value)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value
