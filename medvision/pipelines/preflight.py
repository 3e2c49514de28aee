"""Before a night's work: does every slide open, has it a spacing, and is there room for the results?

Slides are opened in a process of their own, so that a file which crashes or hangs a decoder is named and costs no more
than that. Only headers are read; `medvision check` looks further, at tissue, windows and time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from medvision.core.errors import MedvisionError
from medvision.pipelines.batch_config import BatchOptions
from medvision.pipelines.batch_plan import BatchSlide
from medvision.sources import open_source
from medvision.sources.guarded_child import limit_memory
from medvision.sources.spacing import require_spacing
from medvision.store.pseudonyms import without_name

BYTES_PER_RESULT = 5_000_000
"""Pictures, reports and a heatmap of a usual slide, from above."""

_START_S = 120.0


@dataclass(frozen=True)
class Preflight:
    """What was found. `problems` are (slide, reason) of the slides that cannot be analysed as they are."""

    slides: int
    bytes: int
    free_bytes: int
    problems: list[tuple[BatchSlide, str]] = field(default_factory=list)

    @property
    def is_hopeless(self) -> bool:
        """Whether no slide can be analysed."""
        return len(self.problems) == self.slides

    @property
    def is_short_of_room(self) -> bool:
        """Whether the results may not fit on the disk."""
        return self.free_bytes < self.slides * BYTES_PER_RESULT


def preflight(
    slides: Sequence[BatchSlide], out: Path, spacing_um: float | None, options: BatchOptions
) -> Preflight:
    """Open each slide's header. `spacing_um` is that of every slide whose manifest names none."""
    problems: list[tuple[BatchSlide, str]] = []
    total = 0
    with _Opener(options) as opener:
        for slide in slides:
            with contextlib.suppress(OSError, ValueError):
                total += slide.path.stat().st_size
            reason = opener.problem(slide.path, slide.spacing_um or spacing_um)
            if reason:
                alias = slide.alias
                said = reason if alias is None else without_name(reason, slide.path, alias)
                problems.append((slide, said))
    return Preflight(len(slides), total, shutil.disk_usage(out).free, problems)


class _Opener:
    """Opens headers, one after the other, in a process with limits that is replaced when a file was too much for it."""

    def __init__(self, options: BatchOptions) -> None:
        self._options = options
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Opener:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def problem(self, path: Path, spacing_um: float | None) -> str:
        """Why the slide cannot be analysed; empty if it can."""
        if self._options.trust:
            return _problem(path, spacing_um)
        if self._pool is None:
            limit = int(self._options.memory_limit * 1e9)
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=limit_memory, initargs=(limit,))
            # Its start is not the slide's fault, and may take longer than a slide is allowed.
            with contextlib.suppress(TookTooLong, BrokenProcessPool):
                self._pool.submit(_problem, Path(os.devnull), None).result(timeout=_START_S)
        try:
            return self._pool.submit(_problem, path, spacing_um).result(timeout=self._options.time_limit)
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


def _problem(path: Path, spacing_um: float | None) -> str:
    try:
        source = open_source(path, spacing_um)
        try:
            require_spacing(source)
        finally:
            source.close()
    except MemoryError:
        return f"{path}: opening it wants more memory than there may be (--memory-limit)"
    except (MedvisionError, OSError) as error:
        return str(error) or type(error).__name__
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes a decoder say must not end the batch
        return f"{path}: unexpected {type(error).__name__}: {error}"
    return ""
