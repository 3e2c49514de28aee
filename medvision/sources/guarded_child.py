"""The process in which `open_guarded` reads a file: it opens the file, and answers requests until its parent is gone.

Requests and answers are fixed structures and JSON, one message each, so that the parent never runs what a taken-over
child might send. Pixels go through shared memory. Each channel is a socket with a piece of memory, and has a thread
here, so that several threads of the parent are served at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import mmap
import os
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from medvision.core.errors import MedvisionError
from medvision.core.geometry import Box
from medvision.sources.array_source import ArraySource
from medvision.sources.base import Source, Values
from medvision.sources.opening import open_source
from medvision.sources.parts import files_of
from medvision.sources.still import read_still
from medvision.sources.volume import Volume

MESSAGE_BYTES = 1 << 17
"""Longest message; a socket of this kind takes a little more."""
REQUEST = struct.Struct("<BIIqqqqqq")
"""What is asked, level, factor, and the box: its start and its stop, of three axes each. Slides have an axis of one
plane before theirs.

Several windows of one shape are several of these in one message, answered in one.
"""
REPLY = struct.Struct("<BQQ")
"""What is answered, and two numbers of that answer. JSON follows where the answer has any."""


def packed(what: int, level: int = 0, factor: int = 0, box: Box | None = None) -> bytes:
    """A request, about a box of two or three axes or none."""
    start, stop = ((), ()) if box is None else (box.start, box.stop)
    corners = [*(0,) * (3 - len(start)), *start, *(0,) * (3 - len(stop)), *stop]
    return REQUEST.pack(what, level, factor, *corners)


MOST_WINDOWS = 16
"""How many windows one request may ask for."""

OPEN, DIGEST, READ, SHRINKS, SHRINK, DECODE, AHEAD = range(1, 8)
DONE, FAILED, SIZE = range(3)
"""`SIZE` comes before the answer to `OPEN` and `DIGEST`: how many bytes there are to look at."""

_LONGEST_ERROR = 16_000
_NO_NEW_PRIVILEGES = 38


def main() -> None:
    """Serve the parent. Arguments: the control socket and the lifeline; what to read is the socket's first message."""
    control, lifeline = (int(value) for value in sys.argv[2:4])
    _end_with_parent(lifeline)
    link = socket.socket(fileno=control)
    first = link.recv(MESSAGE_BYTES)
    if not first:
        os._exit(0)
    told = json.loads(first)
    source = _Guarded(Path(told["path"]), told["still"])
    _confine(told["memory_bytes"])
    while True:
        # Each message brings a channel: its socket and its memory, with the size of that.
        data, handles, _, _ = socket.recv_fds(link, 64, 2)
        if not data:
            os._exit(0)
        channel = _Channel(source, socket.socket(fileno=handles[0]), handles[1], int(data))
        threading.Thread(target=channel.serve, daemon=True).start()


def _end_with_parent(lifeline: int) -> None:
    """Have the system kill this process when the pipe's other end closes, even while a decoder holds everything up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # where this is refused, the control socket's end is noticed
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            if not os.read(lifeline, 1):
                os._exit(0)  # it closed before it was watched


def limit_memory(memory_bytes: int) -> None:
    """Allow this process so much beyond what it has now, never more than it may have, and no core file."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory_bytes
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _confine(memory_bytes: int) -> None:
    """Limit what damaged or hostile bytes can make this process do."""
    import ctypes
    import resource

    limit_memory(memory_bytes)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


class _Guarded:
    """The file, opened at the first request; as a still image where `still` says how that is to be read."""

    def __init__(self, path: Path, still: dict[str, Any] | None) -> None:
        self.path = path
        self.still = still
        self.direct = False
        self._source: Source | None = None

    @property
    def source(self) -> Source:
        """The open source: the parent asks for it to be opened first."""
        assert self._source is not None, "opened by the first request"
        return self._source

    def open(self) -> dict[str, Any]:
        """Open the file and say all that can be known of it without asking again."""
        told: dict[str, Any] | None = None
        if self.still is None:
            source = self._source = open_source(self.path)
        else:
            source, told = _opened_still(self.path, self.still)
            self._source = source
        self.direct = hasattr(source, "read_into")
        tiled = hasattr(source, "shrunk_into")
        return {
            "axes": source.axes,
            "channels": source.channels,
            "levels": [[level.shape, level.downsample] for level in source.levels],
            "spacing": None if source.spacing is None else [source.spacing.values, source.spacing.unit],
            "fill": source.fill,
            "reader": source.reader,
            "why": source.why,
            "vendor": source.vendor,
            "metadata": dict(source.metadata),
            "tiles": [source.tile_shape(i) for i in range(len(source.levels))] if tiled else None,  # type: ignore[attr-defined]
            "ahead": hasattr(source, "fetch_ahead"),
            "dtype": source.dtype.name,
            "volume": _volume_facts(source) if isinstance(source, Volume) else None,
            "still": told,
        }


def _volume_facts(volume: Volume) -> dict[str, Any]:
    frame = volume.unsized
    return {
        "frame": [frame.origin, frame.spacing, frame.directions],
        "quantity": volume.quantity,
        "notes": volume.notes,
    }


def _opened_still(path: Path, still: dict[str, Any]) -> tuple[Source, dict[str, Any]]:
    """A still image as a source of one level, and what a source does not say of it."""
    window = still["window"]
    image = read_still(path, tuple(window) if isinstance(window, list) else window, still["frame"])
    pixels = image.pixels if image.pixels.ndim == 3 else image.pixels[..., None]
    source = ArraySource(
        pixels, fill=0, path=path, metadata=image.metadata, reader=image.kind, vendor=image.kind
    )
    shown = image.windowing
    return source, {
        "bits": image.bits,
        "digest": image.digest,
        "grey": image.pixels.ndim == 2,
        "windowing": [shown.how, shown.low, shown.high, shown.inverted],
    }


class _Channel:
    """One socket and its memory. Requests come one after another."""

    def __init__(self, guarded: _Guarded, link: socket.socket, memory: int, size: int) -> None:
        self._guarded = guarded
        self._link = link
        self._memory = memory
        self._size = size
        self._map: mmap.mmap | None = None

    def serve(self) -> None:
        """Answer until the parent closes the channel."""
        try:
            with self._link, contextlib.suppress(OSError):
                while request := self._link.recv(MOST_WINDOWS * REQUEST.size):
                    reply = self._answer(request) if len(request) == REQUEST.size else self._windows(request)
                    if reply is not None:
                        self._link.send(reply)
            os.close(self._memory)
        except BaseException:  # noqa: BLE001 - the parent must not wait for a thread that is gone
            os._exit(1)

    def _answer(self, request: bytes) -> bytes | None:
        what, level, factor, *corners = REQUEST.unpack(request)
        try:
            return self._do(what, level, factor, corners)
        except Exception as error:  # noqa: BLE001 - every failure is told to the parent, which decides
            return None if what == AHEAD else REPLY.pack(FAILED, 0, 0) + self._told(error)

    def _windows(self, request: bytes) -> bytes:
        """Several windows, one behind another in the memory; what went wrong with which is told with the answer."""
        wrong: dict[int, Any] = {}
        asked = list(REQUEST.iter_unpack(request))
        for index, (what, level, factor, *corners) in enumerate(asked):
            try:
                self._read(what, level, factor, self._box(corners), index)
            except Exception as error:  # noqa: BLE001 - as for a single window
                wrong[index] = self._words(error)
        return REPLY.pack(DONE, len(asked), 0) + (json.dumps(wrong).encode() if wrong else b"")

    def _read(self, what: int, level: int, factor: int, box: Box, index: int = 0) -> None:
        source: Any = self._guarded.source
        out = self._pixels((*box.shape, source.channels), source.dtype, index)
        if what == SHRINK:
            source.shrunk_into(out, box, level, factor)
        elif self._guarded.direct:
            source.read_into(out, box, level)
        else:
            out[:] = source.read(box, level)

    def _box(self, corners: list[int]) -> Box:
        axes = len(self._guarded.source.axes)
        return Box(tuple(corners[3 - axes : 3]), tuple(corners[6 - axes :]))

    def _do(self, what: int, level: int, factor: int, corners: list[int]) -> bytes | None:
        if what == OPEN:
            self._tell_size([self._guarded.path])
            return REPLY.pack(DONE, 0, 0) + json.dumps(self._guarded.open()).encode()
        source: Any = self._guarded.source
        if what in (READ, SHRINK):
            box = self._box(corners)
            self._read(what, level, factor, box)
            return REPLY.pack(DONE, *box.shape[:2])
        if what == DIGEST:
            self._tell_size(files_of(self._guarded.path, source.vendor))
            return REPLY.pack(DONE, 0, 0) + json.dumps(source.id).encode()
        if what == SHRINKS:
            return REPLY.pack(DONE, int(source.shrinks(level, factor)), 0)
        if what == DECODE:
            tile = source.decode(level, *self._box(corners).start)
            self._pixels(tile.shape, tile.dtype)[:] = tile
            return REPLY.pack(DONE, *tile.shape[:2])
        source.fetch_ahead(self._box(corners), level)
        return None

    def _pixels(self, shape: tuple[int, ...], dtype: np.dtype[Any], index: int = 0) -> Values:
        if self._map is None:
            try:
                self._map = mmap.mmap(self._memory, self._size)
            except OSError as error:  # the address space is limited
                raise MemoryError from error
        size = math.prod(shape)
        return np.frombuffer(self._map, dtype, size, index * size * dtype.itemsize).reshape(shape)

    def _tell_size(self, files: list[Path]) -> None:
        size = 0
        for path in files:
            with contextlib.suppress(OSError, ValueError):
                size += sum(one.stat().st_size for one in (path.iterdir() if path.is_dir() else [path]))
        self._link.send(REPLY.pack(SIZE, size, 0))

    def _told(self, error: Exception) -> bytes:
        return json.dumps(self._words(error)).encode()

    def _words(self, error: Exception) -> dict[str, Any]:
        """An error for JSON: its class, its words, and the system's reason where it had one."""
        number, starved = None, False
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and number is None:
                number = cause.errno
            starved = starved or isinstance(cause, MemoryError)
            cause = cause.__cause__
        known = isinstance(error, MedvisionError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        return {
            "class": type(error).__name__ if known else "",
            "words": text[:_LONGEST_ERROR],
            "errno": number,
            "starved": starved,
        }
