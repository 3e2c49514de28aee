"""One thread for each device: whatever computes on it waits its turn there.

Slides may be opened and written side by side, but a device computes one at a time. A thread of its own, rather than a
lock, because a runtime keeps worker threads and scratch memory for every thread that calls it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")


@cache
def _thread(device: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix=f"medvision-{device}")


def submit(device: str, call: Callable[[], T]) -> Future[T]:
    """Have `call` made on the device's thread when its turn comes. Never from that thread itself."""
    return _thread(device).submit(call)


def compute(device: str, stop: threading.Event, call: Callable[[], T]) -> T:
    """What `call` returns, made on the device's thread. An interruption here sets `stop` and waits for it to end."""
    future: Future[T] | None = None
    try:
        future = submit(device, call)
        return future.result()
    except BaseException:
        if future is None:
            stop.set()  # interrupted while handing it over: it may run all the same
        elif not future.cancel() and not future.done():
            stop.set()
            future.exception()
        raise
