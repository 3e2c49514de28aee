"""A process that reads one file for us: started, asked, limited in time, and ended, as `open_guarded` needs it.

The parent believes nothing: the form of every answer is checked, and one out of form counts as the process's end.
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
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvision.core import errors
from medvision.core.errors import MedvisionError, UnreadableSourceError, UsageError
from medvision.sources.base import UINT8, Pixels, Values
from medvision.sources.faults import reason_of
from medvision.sources.guarded_child import DONE, FAILED, MESSAGE_BYTES, REPLY, SIZE

BYTES_PER_SECOND = 20e6
"""Slowest storage that opening and digesting a whole file should still get through."""
LONGEST_EXTRA_SECONDS = 7200.0
"""Most time that a file's size can add, whatever size the child claims."""
_SMALLEST_ROOM = 1 << 20
_KEPT_ROOM = 1 << 26
"""A channel with more memory than this is closed after use."""
_WAIT_FOR_END_SECONDS = 5.0
START_SECONDS = 30.0
"""What the start of a Python process may take, on a machine that does much else."""
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from medvision.sources.guarded_child import main; main()"
)
_STARVED = ("failed to allocate", "bad_alloc", "MemoryError", "out of memory", "Cannot allocate")
_KEPT_VARIABLES = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the reading of an untrusted file may take.

    `memory_bytes` is the address space beyond what the bare process has. `seconds` is for one read; opening and
    digesting get as much again for each 20 MB/s times `seconds` of the file's size.
    """

    memory_bytes: int = 8_000_000_000
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if not (self.memory_bytes > 0 and self.seconds > 0):
            raise UsageError(
                f"limits of {self.memory_bytes} bytes and {self.seconds} seconds are not both positive"
            )


class LostError(Exception):
    """The process is of no more use: it died, took too long, or answered out of form. The text is the reason."""


class Process:
    """A child that reads `path`, started with its limits; any number of threads may ask it at once.

    Invariant: a channel is used by one thread at a time, and is dropped unless its last request was answered in full.
    """

    def __init__(
        self, path: Path, limits: Limits, folder: Path | None, still: dict[str, Any] | None = None
    ) -> None:
        """`still` says how a still image is to be read; without it the file is opened as a slide."""
        self.limits = limits
        self._lock = (
            threading.RLock()
        )  # what it guards is closed under it: a number closed elsewhere may be reused
        self._free: list[_Channel] = []
        self._ahead: list[_Channel] = []
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        watched, self._lifeline = os.pipe2(os.O_CLOEXEC)
        self._stderr, last_words = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._popen = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-B",
                    "-c",
                    _START,
                    _search_path(),
                    str(theirs.fileno()),
                    str(watched),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=last_words,
                cwd=folder,
                env=_environment(),
                pass_fds=(theirs.fileno(), watched),
                start_new_session=True,  # Ctrl-C in the terminal is for the parent
            )
        except OSError as error:
            self._control.close()
            os.close(self._lifeline)
            os.close(self._stderr)
            raise LostError(f"the reading process cannot be started: {reason_of(error)}") from error
        finally:
            theirs.close()
            os.close(watched)
            os.close(last_words)
        handles = (self._lifeline, self._stderr)
        held = (self._free, self._ahead)
        self._end = weakref.finalize(self, _end, self._lock, self._popen, self._control, handles, held)
        told = {"path": str(path), "memory_bytes": limits.memory_bytes, "still": still}
        hello = json.dumps(told).encode()
        try:
            self._control.send(hello)
        except OSError as error:
            self.kill()
            raise LostError(f"the reading process cannot be told what to read: {reason_of(error)}") from error

    @property
    def alive(self) -> bool:
        """Whether it has not been ended by us."""
        return self._end.alive

    def kill(self) -> None:
        """End it now, whatever it does. Twice is allowed."""
        self._end()

    def ask(self, request: bytes, starting: float = 0.0) -> tuple[int, int, bytes]:
        """The two numbers and the JSON of the answer to a request without pixels; `starting` seconds are added.

        Raises:
            LostError: where no answer in form came in time.
            MedvisionError: what the child says went wrong, of the class that it was there.
        """
        channel = self._take(0)
        try:
            answer = channel.ask(request, self.limits, starting)
        except BaseException as error:
            self._drop(channel, error)
            raise
        self._keep(channel)
        return answer

    def pixels(self, request: bytes, out: Values) -> None:
        """Have `out` filled. Raises as `ask` does; `out` may then hold anything."""
        channel = self._take(out.nbytes)
        try:
            rows, columns, _ = channel.ask(request, self.limits)
            if (rows, columns) != out.shape[:2]:
                raise LostError(f"the reading process answered {rows} x {columns} pixels for {out.shape}")
            out[:] = channel.pixels(out.shape, out.dtype)
        except BaseException as error:
            self._drop(channel, error)
            raise
        self._keep(channel)

    def windows(self, request: bytes, out: Values) -> dict[int, Exception]:
        """Have windows `out[0]`, `out[1]`, ... filled; those that could not be, with the child's errors."""
        channel = self._take(out.nbytes)
        try:
            count, _, told = channel.ask(request, self.limits)
            if count != len(out):
                raise LostError(f"the reading process answered {count} windows for {len(out)}")
            wrong = _errors_from(told, self.limits)
            pixels = channel.pixels(out.shape, out.dtype)
            for index in range(count):
                if index not in wrong:
                    out[index] = pixels[index]
        except BaseException as error:
            self._drop(channel, error)
            raise
        self._keep(channel)
        return wrong

    def tile(self, request: bytes, most: tuple[int, int, int]) -> Pixels:
        """An array that the child determines the shape of, up to `most`. Raises as `ask` does."""
        channel = self._take(math.prod(most))
        try:
            rows, columns, _ = channel.ask(request, self.limits)
            if rows > most[0] or columns > most[1]:
                raise LostError(f"the reading process answered {rows} x {columns} pixels for {most}")
            tile = channel.pixels((rows, columns, most[2]), UINT8).copy()
        except BaseException as error:
            self._drop(channel, error)
            raise
        self._keep(channel)
        return tile

    def tell(self, request: bytes) -> None:
        """Send a request that has no answer; it is dropped where the child does not keep up."""
        with contextlib.suppress(LostError, OSError), self._lock:
            if not self._ahead:
                self._ahead.append(self._new(0))
            self._ahead[0].tell(request)

    def obituary(self) -> str:
        """Why it no longer answers, once it is known to have gone or is made to go."""
        try:
            status: int | None = self._popen.wait(_WAIT_FOR_END_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        words = self._last_words()
        self.kill()
        if status is not None and any(sign in words for sign in _STARVED):
            return starved(self.limits)
        if status is not None and status < 0:
            return f"the reading process died ({_signal_name(-status)})"
        if status is None:
            return "the reading process stopped answering"
        last = words.strip().splitlines()[-1:]
        return f"the reading process ended (status {status}{''.join(f': {line[:200]}' for line in last)})"

    def _last_words(self) -> str:
        with self._lock:
            if not self._end.alive:
                return ""
            try:
                return os.read(self._stderr, 1 << 16).decode(errors="replace")
            except OSError:
                return ""

    def _take(self, room: int) -> _Channel:
        with self._lock:
            for index in range(len(self._free) - 1, -1, -1):
                if self._free[index].room >= room:
                    return self._free.pop(index)
            if self._free:
                self._free.pop().close()  # too small, as windows are now
            return self._new(room)

    def _new(self, room: int) -> _Channel:
        if not self._end.alive:
            raise LostError("the reading process was ended")
        channel = _Channel(max(_SMALLEST_ROOM, 1 << (room - 1).bit_length() if room else 0))
        try:
            channel.hand_over(self._control)
        except OSError:
            channel.close()
            raise LostError(self.obituary()) from None
        return channel

    def _keep(self, channel: _Channel) -> None:
        with self._lock:
            if self._end.alive and channel.room <= _KEPT_ROOM:
                self._free.append(channel)
                return
        channel.close()

    def _drop(self, channel: _Channel, error: BaseException) -> None:
        """After a failure: one that the child told of leaves the channel as it was, any other leaves it in doubt."""
        if isinstance(error, MedvisionError):
            self._keep(channel)
            return
        channel.close()
        if isinstance(error, _SilentError):
            raise LostError(self.obituary()) from None
        if isinstance(error, LostError):
            self.kill()


class _SilentError(Exception):
    """The other end of a channel is gone."""


class _Channel:
    """A socket to a thread of the child, and memory that both see."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._memory = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._memory, room)
        # Sealed, or the child could cut the memory off under the parent's hands, which would kill the parent.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, seals)
        self._map = mmap.mmap(self._memory, room)
        self._limit = 0.0
        self._answer = memoryview(bytearray(MESSAGE_BYTES))  # made once: it costs more than an answer takes
        self._link, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def hand_over(self, control: socket.socket) -> None:
        """Give the child its end."""
        socket.send_fds(control, [str(self.room).encode()], [self._theirs.fileno(), self._memory])
        self._let_go_of_theirs()

    def tell(self, request: bytes) -> None:
        """Send without waiting."""
        self._link.send(request, socket.MSG_DONTWAIT)

    def ask(self, request: bytes, limits: Limits, starting: float = 0.0) -> tuple[int, int, bytes]:
        """Send, and wait for the answer as long as the limits allow, and `starting` seconds for a new process."""
        allowed, size_told = limits.seconds, False
        try:
            self._wait_at_most(allowed + starting)
            self._link.send(request)
            while True:
                size = self._link.recv_into(self._answer)
                if not size:
                    raise _SilentError
                if size < REPLY.size:
                    raise LostError("the reading process answered out of form")
                status, first, second = REPLY.unpack_from(self._answer)
                if status == DONE:
                    return first, second, bytes(self._answer[REPLY.size : size])
                if status == FAILED:
                    raise error_from(bytes(self._answer[REPLY.size : size]), limits)
                if status != SIZE or size_told:
                    raise LostError("the reading process answered out of form")
                size_told = True
                allowed += min(LONGEST_EXTRA_SECONDS, first / BYTES_PER_SECOND)
                self._wait_at_most(allowed)
        except BlockingIOError:
            raise LostError(f"it took longer than {allowed:.3g} s") from None
        except OSError as error:
            if isinstance(error, MedvisionError):
                raise
            raise _SilentError from None

    def _wait_at_most(self, seconds: float) -> None:
        if seconds != self._limit:
            # The system's own limit: Python's would cost two more calls of the system for each request.
            whole = int(seconds)
            limit = struct.pack("@ll", whole, int((seconds - whole) * 1e6) + 1)
            for side in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._link.setsockopt(socket.SOL_SOCKET, side, limit)
            self._limit = seconds

    def pixels(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Values:
        """What the child wrote, where it lies."""
        return np.frombuffer(self._map, dtype, math.prod(shape)).reshape(shape)

    def close(self) -> None:
        """Let go of the socket and the memory; the child's thread then ends."""
        self._link.close()
        self._let_go_of_theirs()
        with contextlib.suppress(BufferError):  # a view of it is still looked at, and holds it until then
            self._map.close()

    def _let_go_of_theirs(self) -> None:
        self._theirs.close()
        if self._memory >= 0:
            os.close(self._memory)  # the map holds it
            self._memory = -1


def starved(limits: Limits) -> str:
    """The reason, where the memory limit was met."""
    return f"it wanted more memory than {limits.memory_bytes / 1e9:.3g} GB"


def error_from(data: Any, limits: Limits) -> Exception:
    """The child's error as it was there; `LostError` where the answer is out of form.

    Only this package's own errors are made, by name, and only with words: nothing that the child sends can run here.
    """
    try:
        told: Any = json.loads(data) if isinstance(data, bytes) else data
        name, words, number = str(told["class"]), str(told["words"]), told["errno"]
        is_starved = told["starved"] is True
    except (ValueError, TypeError, KeyError, RecursionError):
        return LostError("the reading process answered out of form")
    kind = getattr(errors, name, None) if name else UnreadableSourceError
    if not (isinstance(kind, type) and issubclass(kind, MedvisionError)):
        return LostError("the reading process answered out of form")
    if is_starved:
        words = f"{words} ({starved(limits)})"
    error: Exception = kind(words)
    if isinstance(number, int):
        error.__cause__ = OSError(number, os.strerror(number))
    return error


def _errors_from(data: bytes, limits: Limits) -> dict[int, Exception]:
    """The child's errors by the number of their window. Raises `LostError` where they are out of form."""
    try:
        found = {int(index): error_from(told, limits) for index, told in json.loads(data or b"{}").items()}
    except (ValueError, AttributeError, RecursionError):
        raise LostError("the reading process answered out of form") from None
    for error in found.values():
        if isinstance(error, LostError):
            raise error
    return found


def _end(
    lock: threading.RLock,
    popen: subprocess.Popen[bytes],
    control: socket.socket,
    handles: tuple[int, ...],
    channels: tuple[list[_Channel], ...],
) -> None:
    popen.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for a dead disk cannot be killed
        popen.wait(_WAIT_FOR_END_SECONDS)
    with lock:
        control.close()
        for handle in handles:
            os.close(handle)
        for held in channels:
            while held:
                held.pop().close()


def _search_path() -> str:
    """Where this process finds modules, so that the child finds the same: a list of folders as JSON."""
    own = str(Path(__file__).resolve().parents[2])
    return json.dumps(
        [own, *(entry for entry in sys.path if isinstance(entry, str) and entry not in ("", own))]
    )


def _environment() -> dict[str, str]:
    """As little as the child needs: what else is there may be secret. One thread for each request is enough."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "4"}


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return f"signal {number}, {signal.Signals(number).name}"
    return f"signal {number}"
