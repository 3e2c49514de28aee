"""Drawing in processes of their own, because drawing holds Python's lock."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

Planned = TypeVar("Planned")


def in_processes(
    draw: Callable[[Planned, Path], Planned], planned: Sequence[Planned], folder: Path, workers: int
) -> Iterator[Planned]:
    """`draw(one, folder)` of each, in order, each once it is drawn, on `workers` cores; one of them draws here."""
    if workers == 1 or len(planned) <= 1:
        for one in planned:
            yield draw(one, folder)
        return
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(planned)), mp_context=spawned, initializer=_quiet) as pool:
        try:
            futures = [pool.submit(draw, one, folder) for one in planned]
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _quiet() -> None:
    """One thread for each process: there are as many processes as cores."""
    import cv2

    cv2.setNumThreads(1)
