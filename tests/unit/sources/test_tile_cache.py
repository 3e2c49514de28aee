from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from medvision.sources.tile_cache import TileCache


def tile(value: int) -> np.ndarray:
    return np.full((10, 10, 1), value, np.uint8)


def test_keeps_the_recent_within_its_bytes():
    cache = TileCache(250)
    made: list[int] = []

    def make(key: int) -> np.ndarray:
        made.append(key)
        return tile(key)

    for key in (1, 2, 1, 3, 1, 2):
        assert cache.get(key, lambda key=key: make(key))[0, 0, 0] == key
    assert made == [1, 2, 3, 2]
    assert cache.held == 200
    cache.clear()
    assert cache.held == 0


def test_one_tile_larger_than_the_limit_is_still_served():
    cache = TileCache(10)
    assert cache.get("a", lambda: tile(1)).sum() == 100
    assert cache.get("b", lambda: tile(2)).sum() == 200
    assert cache.held == 100


def test_tiles_are_shared_so_they_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        TileCache().get(1, lambda: tile(1))[0] = 5


def test_many_askers_one_decoder():
    cache, calls, lock = TileCache(), [], threading.Lock()

    def slow() -> np.ndarray:
        with lock:
            calls.append(1)
        time.sleep(0.05)
        return tile(7)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.get("k", slow)[0, 0, 0], range(8)))
    assert found == [7] * 8
    assert len(calls) == 1


def test_an_error_reaches_every_asker_and_is_not_kept():
    cache = TileCache()

    def fail() -> np.ndarray:
        time.sleep(0.02)
        raise OSError("bad")

    def ask(_: int) -> str:
        try:
            cache.get("k", fail)
        except OSError as error:
            return str(error)
        return "no error"

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(4))) == {"bad"}
    assert cache.get("k", lambda: tile(3))[0, 0, 0] == 3
