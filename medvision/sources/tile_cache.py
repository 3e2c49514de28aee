"""Decoded tiles, kept for the windows that will want them again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from medvision.sources.base import Pixels

DEFAULT_BYTES = 128 << 20
SMALLEST_BYTES = 32 << 20


def cache_bytes(tile_bytes: int) -> int:
    """How much to keep of tiles of this size: 64 of them, but 32 to 128 MiB.

    Windows are read in strips (see `TilePlan.storage_order`) whose tiles fit in that. More would only touch more
    memory, and memory touched for the first time costs up to half as much as decoding into it.
    """
    return min(DEFAULT_BYTES, max(SMALLEST_BYTES, 64 * tile_bytes))


class _Pending:
    """A tile on its way: the lock is held by the thread that decodes it. A Future would cost ten times as much."""

    __slots__ = ("error", "lock", "tile")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.tile: Pixels | None = None
        self.error: BaseException | None = None

    def result(self) -> Pixels:
        """The tile, once it is there."""
        with self.lock:
            if self.tile is None:
                assert self.error is not None, "the lock is released with either"
                raise self.error
            return self.tile


class TileCache:
    """Least recently used tiles up to a number of bytes, shared by threads; a tile is decoded once however many ask.

    Invariant: the bytes held never exceed `limit`, except by a single tile that is larger than it.
    """

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self.limit = limit
        self.held = 0
        self._lock = threading.Lock()
        self._tiles: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._under_way: dict[Hashable, _Pending] = {}

    def find(self, key: Hashable) -> Pixels | None:
        """The tile `key` if it is held; it then counts as just used."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def get(self, key: Hashable, decode: Callable[[], Pixels]) -> Pixels:
        """The tile `key`, decoded by this thread or by another that came first. An error reaches them all."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
                return tile
            pending = self._under_way.get(key)
            if pending is None:
                mine = self._under_way[key] = _Pending()
        if pending is not None:
            return pending.result()
        try:
            tile = decode()
        except BaseException as error:
            with self._lock:
                del self._under_way[key]
            mine.error = error
            mine.lock.release()
            raise
        tile.flags.writeable = False
        with self._lock:
            del self._under_way[key]
            self._tiles[key] = tile
            self.held += tile.nbytes
            while self.held > self.limit and len(self._tiles) > 1:
                self.held -= self._tiles.popitem(last=False)[1].nbytes
        mine.tile = tile
        mine.lock.release()
        return tile

    def clear(self) -> None:
        """Forget every tile."""
        with self._lock:
            self._tiles.clear()
            self.held = 0
