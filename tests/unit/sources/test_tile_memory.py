from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from medvision.sources.tile_memory import TileMemory


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_once_no_view_of_it_is_left():
    memory = TileMemory()
    first = memory.empty((8, 8, 3))
    at, corner = address(first), first[2:4, 1:3, 0]
    corner[:] = 9
    del first
    gc.collect()
    assert memory.idle == 0
    assert address(memory.empty((8, 8, 3))) != at
    assert (corner == 9).all()
    del corner
    gc.collect()
    assert at in {address(memory.empty((4, 16, 3))) for _ in range(3)}  # the size counts, not the shape


def test_what_waits_is_bounded_and_gives_way_to_other_sizes():
    memory = TileMemory(limit=1000)
    held = [memory.empty((300,)) for _ in range(5)]
    held.clear()
    gc.collect()
    assert memory.idle == 900
    memory.empty((500,))
    gc.collect()
    assert memory.idle == 800
    memory.empty((2000,))
    gc.collect()
    assert memory.idle <= 1000


def test_threads_never_share_a_block_in_use():
    memory = TileMemory(limit=10_000)

    def work(value: int) -> bool:
        for _ in range(300):
            mine = memory.empty((1000,))
            mine[:] = value
            part = mine[10:]
            del mine
            if not (part == value).all():
                return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    gc.collect()
    assert memory.idle <= 10_000
