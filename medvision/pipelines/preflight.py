"""Before a night's work: does every slide or image open, and is there room for the results?

Files are opened in a process of their own, so that one which crashes or hangs a decoder is named and costs no more than
that. Only headers are read; `medvision check` looks further at slides: at tissue, windows and time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvision.core.errors import MedvisionError
from medvision.pipelines.batch_config import BatchRequest
from medvision.pipelines.batch_plan import BatchItem, config_for
from medvision.pipelines.work import Config
from medvision.sources.guarded_child import limit_memory
from medvision.store.pseudonyms import without_name

_START_S = 120.0


@dataclass(frozen=True)
class Preflight:
    """What was found. `problems` are (item, reason) of those that cannot be worked on as they are."""

    items: int
    bytes: int
    free_bytes: int
    wanted_bytes: int
    """What the results may take, from above."""
    problems: list[tuple[BatchItem, str]] = field(default_factory=list)

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing can be worked on."""
        return len(self.problems) == self.items

    @property
    def is_short_of_room(self) -> bool:
        """Whether the results may not fit on the disk."""
        return self.free_bytes < self.wanted_bytes


def preflight(items: Sequence[BatchItem], request: BatchRequest) -> Preflight:
    """Open the header of each item of a request, whose output folder is there."""
    problems: list[tuple[BatchItem, str]] = []
    total = 0
    with _Opener(request) as opener:
        for item in items:
            with contextlib.suppress(OSError, ValueError):
                total += item.path.stat().st_size
            reason = opener.problem(item.path, config_for(item, request))
            if reason:
                alias = item.alias
                said = reason if alias is None else without_name(reason, item.path, alias)
                problems.append((item, said))
    free, wanted = shutil.disk_usage(request.out).free, len(items) * request.work.bytes_per_result
    return Preflight(len(items), total, free, wanted, problems)


class _Opener:
    """Opens headers, one after the other, in a process with limits that is replaced when a file was too much for it."""

    def __init__(self, request: BatchRequest) -> None:
        self._look, self._options = request.work.look, request.options
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Opener:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def problem(self, path: Path, config: Config) -> str:
        """Why a file cannot be worked on; empty if it can."""
        if self._options.trust:
            return _problem(self._look, path, config)
        if self._pool is None:
            limit = int(self._options.memory_limit * 1e9)
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=limit_memory, initargs=(limit,))
            # Its start is not the file's fault, and may take longer than a file is allowed.
            with contextlib.suppress(TookTooLong, BrokenProcessPool):
                self._pool.submit(_problem, self._look, Path(os.devnull), config).result(timeout=_START_S)
        try:
            asked = self._pool.submit(_problem, self._look, path, config)
            return asked.result(timeout=self._options.time_limit)
        except TookTooLong:
            self._end()
            return f"{path}: took longer than {self._options.time_limit:g} s to open"
        except BrokenProcessPool:
            self._end()
            return f"{path}: the process that opened it died"

    def _end(self) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _problem(look: Callable[[Path, Any], None], path: Path, config: Config) -> str:
    try:
        look(path, config)
    except MemoryError:
        return f"{path}: opening it wants more memory than there may be (--memory-limit)"
    except (MedvisionError, OSError) as error:
        return str(error) or type(error).__name__
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes a decoder say must not end the batch
        return f"{path}: unexpected {type(error).__name__}: {error}"
    return ""
