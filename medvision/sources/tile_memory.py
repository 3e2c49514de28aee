"""Memory for decoded tiles and what is made of them, used again from tile to tile and from slide to slide.

A page of memory touched for the first time must be cleared by the system, which can take a quarter of the time of
decoding into it. So what a dropped tile leaves is kept for the next one.
"""

from __future__ import annotations

import threading
import weakref
from math import prod

import numpy as np
import numpy.typing as npt

from medvision.sources.base import Pixels

IDLE_BYTES = 64 << 20
"""How much is kept while no tile is in it."""


class _Lease(weakref.ref[npt.NDArray[np.uint8]]):
    """Notices the end of an array, and holds its memory until then. `weakref.finalize` would cost twice as much."""

    __slots__ = ("block",)
    block: memoryview


class TileMemory:
    """Arrays whose memory returns when the last view of them is gone. Safe on any number of threads.

    Invariant: the bytes that wait for use never exceed `limit`.
    """

    def __init__(self, limit: int = IDLE_BYTES) -> None:
        self.limit = limit
        self.idle = 0
        # The end of an array may be noticed anywhere, even while this thread is in here: hence the reentrant lock.
        self._lock = threading.RLock()
        self._free: dict[int, list[memoryview]] = {}
        self._leases: dict[int, _Lease] = {}  # by identity: a lease hashes as its array, which has no hash

    def empty(self, shape: tuple[int, ...]) -> Pixels:
        """A uint8 array of `shape`, its values unset."""
        size = prod(shape)
        with self._lock:
            blocks = self._free.get(size)
            if blocks:
                block = blocks.pop()
                self.idle -= size
            else:
                block = np.empty(size, np.uint8).data
        # A view of a view names the array that owns the memory as its base, which would hide that it is in use; an
        # array over a memoryview owns nothing, so that every view keeps it alive.
        array = np.frombuffer(block, np.uint8)
        lease = _Lease(array, self._end)
        lease.block = block
        self._leases[id(lease)] = lease
        return array.reshape(shape)

    def _end(self, lease: weakref.ref[npt.NDArray[np.uint8]]) -> None:
        assert isinstance(lease, _Lease)
        block = lease.block
        with self._lock:
            del self._leases[id(lease)]
            if self.idle + block.nbytes > self.limit:
                self._let_go(block.nbytes)
            if self.idle + block.nbytes <= self.limit:
                self._free.setdefault(block.nbytes, []).append(block)
                self.idle += block.nbytes

    def _let_go(self, size: int) -> None:
        """Make room for a block of `size` bytes by giving up idle ones of other sizes."""
        for other, blocks in self._free.items():
            while other != size and blocks and self.idle + size > self.limit:
                blocks.pop()
                self.idle -= other


MEMORY = TileMemory()
"""That of all readers of this process."""
