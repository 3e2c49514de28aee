"""Untrusted slides: `open_guarded` is `open_source` with all that touches the file in a process of its own.

That process has limits of memory and time, cannot write files, and may die. What it dies of is an error here, with the
file's name and the reason; the other windows stay readable.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medvision.core.errors import MedvisionError, UnreadableSourceError, UsageError, WindowUnreadableError
from medvision.core.geometry import Box, Spacing
from medvision.core.world import Vector, WorldFrame
from medvision.sources.base import DTYPES, Level, Pixels, Source, Values
from medvision.sources.facts import ALLOWED, facts
from medvision.sources.faults import MAX_SIDE, place_of
from medvision.sources.guarded_child import (
    AHEAD,
    DECODE,
    DIGEST,
    MOST_WINDOWS,
    OPEN,
    READ,
    SHRINK,
    SHRINKS,
    packed,
)
from medvision.sources.guarded_process import START_SECONDS, Limits, LostError, Process
from medvision.sources.spacing import supplied, volume_spacing_refused
from medvision.sources.volume import Placed

T = TypeVar("T")

_MOST_ROOM = 1 << 24
"""Bytes of pixels that one request for several windows may ask for."""
_NAMES = tuple(dtype.name for dtype in DTYPES)
MOST_LOSSES = 64
"""Processes that one source may lose before the rest of it counts as unreadable: two for each window that kills."""
MOST_LOST_LIMITS = 10
"""The same for time: what was lost with them, in time limits of a read."""

__all__ = ["GuardedSource", "Limits", "open_guarded"]


def open_guarded(
    path: str | Path, spacing_um: float | tuple[float, float] | None = None, limits: Limits | None = None
) -> Source:
    """`open_source` in a process of its own, with `limits`. The same pixels, the same errors, and these besides.

    Only readers that are modules of `medvision.sources` take part, and only on Linux.

    Raises:
        UnreadableSourceError: also where two processes in a row died, took too long or wanted too much memory over the
            file. Its reads raise `WindowUnreadableError` for the same reasons.
        SourceTooLargeError: as `open_source`.
        UsageError: if `spacing_um` is not positive, or the system is not Linux.
    """
    if not hasattr(os, "memfd_create"):
        raise UsageError("reading in a guarded process needs Linux; open the slide without it")
    path = Path(path)
    given = None if spacing_um is None else supplied(spacing_um)
    keeper = _Keeper(path, limits or Limits())
    if keeper.facts.volume is not None:
        if given is not None:
            keeper.close()
            raise volume_spacing_refused(path, spacing_um)
        return GuardedVolume(path, keeper)
    source = (GuardedTiledSource if keeper.facts.tiles else GuardedSource)(path, keeper)
    if given is not None:
        source.spacing = given
    return source


class GuardedSource:
    """A source that is read in another process. See `Source` and `DirectSource`."""

    def __init__(self, path: Path, keeper: _Keeper) -> None:
        found = keeper.facts
        self._keeper = keeper
        self._id: str | None = None
        self._asked: set[tuple[int, int, int]] = set()
        self.path = path
        self.axes, self.channels, self.fill = found.axes, found.channels, found.fill
        self.levels, self.spacing, self.metadata = found.levels, found.spacing, found.metadata
        self.reader, self.why, self.vendor = found.reader, found.why, found.vendor
        self.dtype = found.dtype

    @property
    def id(self) -> str:
        """SHA-256 of the content, made in the other process."""
        if self._id is None:
            self._id = self._keeper.digest()
        return self._id

    def read(self, box: Box, level: int = 0) -> Values:
        """See `Source.read`."""
        pixels = np.empty((*box.shape, self.channels), self.dtype)
        self.read_into(pixels, box, level)
        return pixels

    def read_into(self, out: Values, box: Box, level: int = 0) -> None:
        """See `DirectSource`."""
        self._fill(out, READ, box, level, 1)

    def read_many(
        self, out: Values, boxes: Sequence[Box], level: int, factor: int
    ) -> list[WindowUnreadableError | None]:
        """See `ManySource`. To ask the other process costs the same for one window as for several."""
        errors: list[WindowUnreadableError | None] = []
        size = max(1, min(MOST_WINDOWS, _MOST_ROOM * len(out) // max(1, out.nbytes)))
        what = READ if factor == 1 else SHRINK
        for first in range(0, len(boxes), size):
            errors += self._some(out[first : first + size], boxes[first : first + size], what, level, factor)
        return errors

    def _some(
        self, out: Values, boxes: Sequence[Box], what: int, level: int, factor: int
    ) -> list[WindowUnreadableError | None]:
        self._keeper.check_open()
        if len(boxes) > 1 and out.size:
            asked = b"".join(packed(what, level, factor, box) for box in boxes)
            wrong = self._keeper.ask_once(lambda process: process.windows(asked, out))
            if wrong is not None and all(isinstance(e, WindowUnreadableError) for e in wrong.values()):
                return [wrong.get(index) for index in range(len(boxes))]  # type: ignore[misc]
        errors: list[WindowUnreadableError | None] = []
        for box, pixels in zip(boxes, out, strict=True):  # one by one, to find the one that is to blame
            try:
                self._fill(pixels, what, box, level, factor)
                errors.append(None)
            except WindowUnreadableError as error:
                errors.append(error)
        return errors

    def fetch_ahead(self, box: Box, level: int = 0) -> None:
        """See `AheadSource`. Nothing comes of it where the reader cannot."""
        found = self._keeper.facts
        if not found.ahead:
            return
        rows, columns = found.tiles[level] if found.tiles else (MAX_SIDE, MAX_SIDE)
        inside = box.intersect(Box((0, 0), self.levels[level].shape))
        if 0 in inside.shape:
            return
        wanted = {
            (level, i, j)
            for i in range(inside.start[0] // rows, (inside.stop[0] - 1) // rows + 1)
            for j in range(inside.start[1] // columns, (inside.stop[1] - 1) // columns + 1)
        }
        if not wanted <= self._asked:  # a message costs as much as the reading of a small window
            self._asked |= wanted
            self._keeper.tell(packed(AHEAD, level, 1, box))

    def close(self) -> None:
        """End the process. Twice is allowed."""
        self._keeper.close()

    def _fill(self, out: Values, what: int, box: Box, level: int, factor: int) -> None:
        self._keeper.check_open()
        native = Box(tuple(n * factor for n in box.start), tuple(n * factor for n in box.stop))
        _ = self.levels[level]  # an index that is out of range is the caller's mistake, as with any reader
        if out.size:
            asked = packed(what, level, factor, box)
            self._keeper.ask(lambda process: process.pixels(asked, out), _Place(native, level))


class GuardedVolume(Placed, GuardedSource):
    """A volume that is read in another process. See `VolumeSource`."""

    def __init__(self, path: Path, keeper: _Keeper) -> None:
        found = keeper.facts.volume
        assert found is not None, "asked before"
        Placed.__init__(self, found.frame, keeper.facts.spacing)
        GuardedSource.__init__(self, path, keeper)
        self.quantity, self.notes = found.quantity, found.notes


class GuardedTiledSource(GuardedSource):
    """One whose reader decodes tiles. See `TiledSource`."""

    def tile_shape(self, level: int) -> tuple[int, int]:
        """See `TiledSource`."""
        return self._keeper.facts.tiles[level]

    def shrinks(self, level: int, factor: int) -> bool:
        """See `TiledSource`."""
        self._keeper.check_open()
        asked = packed(SHRINKS, level, factor)
        place = _Place(Box((0, 0), self.levels[level].shape), level)
        return bool(self._keeper.ask(lambda process: process.ask(asked), place)[0])

    def shrunk_into(self, out: Pixels, box: Box, level: int, factor: int) -> None:
        """See `TiledSource`."""
        self._fill(out, SHRINK, box, level, factor)

    def decode(self, level: int, row: int, column: int) -> Pixels:
        """See `TiledSource`."""
        self._keeper.check_open()
        rows, columns = self.tile_shape(level)
        place = _Place(Box.at((row * rows, column * columns), (rows, columns)), level)
        asked = packed(DECODE, level, 1, Box((row, column), (row, column)))
        most = (rows, columns, self.channels)
        return self._keeper.ask(lambda process: process.tile(asked, most), place)


@dataclass(frozen=True, slots=True)
class _Place:
    """What a request is about, for the words of its error."""

    box: Box
    level: int

    def error(self, path: Path, reason: str) -> WindowUnreadableError:
        return WindowUnreadableError(f"{path}: {place_of(self.box, self.level)} cannot be decoded: {reason}")


@dataclass(frozen=True, slots=True)
class _VolumeFacts:
    """What a volume says besides."""

    frame: WorldFrame
    quantity: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, told: Any) -> _VolumeFacts:
        origin, spacing, directions = told["frame"]
        plane, row, column = directions
        axes = (_vector(plane), _vector(row), _vector(column))
        frame = WorldFrame(_vector(origin), _vector(spacing), axes)
        return cls(frame, _one_of(told["quantity"], ("", "HU")), tuple(_text(note) for note in told["notes"]))


@dataclass(frozen=True, slots=True)
class _Facts:
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
    dtype: np.dtype[Any]
    volume: _VolumeFacts | None

    @classmethod
    def of(cls, data: bytes) -> _Facts:
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
                dtype=_one_of(np.dtype(_one_of(told["dtype"], _NAMES)), DTYPES),
                volume=None if told["volume"] is None else _VolumeFacts.of(told["volume"]),
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


class _Keeper:
    """Keeps a process with the file open, and starts another where one is lost.

    A request whose process was lost is tried once more, in a process of its own, so that its outcome depends on nothing
    else that was asked meanwhile.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
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
        self._facts: _Facts | None = None
        for last in (False, True):
            try:
                self._process = self._start()
                return
            except LostError as lost:
                if last:
                    raise UnreadableSourceError(f"{path}: cannot be opened: {lost}") from None

    @property
    def facts(self) -> _Facts:
        """What is known of the file."""
        assert self._facts is not None, "set by the first process"
        return self._facts

    def check_open(self) -> None:
        """Raise `UnreadableSourceError` once closed."""
        if self._closed:
            raise UnreadableSourceError(f"{self._path} is closed")

    def ask(self, request: Callable[[Process], T], place: _Place) -> T:
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
        process = Process(self._path, self._limits, self._folder)
        try:
            found = _Facts.of(process.ask(packed(OPEN), START_SECONDS)[2])
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
