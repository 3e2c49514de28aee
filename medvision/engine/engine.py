"""The patch engine: the only inference loop.

Reader threads fill preallocated batches, of the source's type, ahead of the device; the device converts, normalises and
runs the model; outputs go to the job's sink. Memory is bounded by the number of buffers, whatever the source's
size. Results do not depend on the number of readers, nor on the order in which windows arrive.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from medvision.core.errors import DeviceError, UsageError, WindowUnreadableError
from medvision.core.geometry import Box
from medvision.engine.backends import Runner, prepare
from medvision.engine.checkpoint import Checkpoint
from medvision.engine.contract import ModelOutputs, PatchModel
from medvision.engine.device import Precision, is_out_of_memory, resolve_device
from medvision.engine.plan import Int64Array, TilePlan
from medvision.engine.sinks import Outputs, Sink, Windows
from medvision.sources.base import UINT8, Source, Values
from medvision.sources.mirrored import read_mirrored
from medvision.sources.resample import Reading

R = TypeVar("R")

_TYPES = {
    UINT8: torch.uint8,
    np.dtype(np.int16): torch.int16,
    np.dtype(np.float32): torch.float32,
}


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to run: nothing here changes a result beyond floating-point noise."""

    device: str = "auto"
    batch_size: int = 32
    readers: int = field(default_factory=lambda: min(16, len(os.sched_getaffinity(0))))
    """Threads that read and decode: as many as there are cores, up to 16."""
    precision: str = "auto"
    buffers: int = 4
    """Batches in memory at once: one on the device, the others being read."""
    checkpoint_seconds: float = 20.0
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.readers < 1 or self.buffers < 2:
            given = f"batch size {self.batch_size}, readers {self.readers}, buffers {self.buffers}"
            raise UsageError(f"{given}: the first two must be at least 1, and buffers at least 2")


@dataclass(frozen=True, eq=False)
class Job(Generic[R]):
    """One source to run over: its plan, and the sink that collects. `checkpoint` names a file for progress."""

    source: Source
    plan: TilePlan
    sink: Sink[R]
    checkpoint: Path | None = None
    label: Any = None


@dataclass(frozen=True, slots=True)
class RunStats:
    """What happened in a run. `unread` lists the plan indices of windows that could not be decoded."""

    windows: int
    unread: tuple[int, ...]
    resumed: int
    batch_size: int
    device: str
    precision: Precision
    backend: str
    seconds: float

    @property
    def windows_per_second(self) -> float:
        """Rate over the windows computed in this run."""
        return (self.windows - self.resumed) / max(self.seconds, 1e-9)


@dataclass(eq=False)
class _Progress:
    """Where a job stands."""

    job: Job[Any]
    checkpoint: Checkpoint | None
    batches_left: int
    batches_done: int
    resumed: int
    started: float
    unread: set[int] = field(default_factory=set)
    reading: Reading | None = None
    """How its windows are read, where its plan has a spacing."""

    def save(self, now: bool = False) -> None:
        """Write the checkpoint, where there is one and its time has come."""
        if self.checkpoint is not None and self.batches_done:
            self.checkpoint.save(self.job.sink, self.batches_done, sorted(self.unread), now)


@dataclass(eq=False)
class _Batch:
    """Windows being read into a buffer. `parts` are `(progress, plan indices)`: more than one only when packing."""

    buffer: torch.Tensor
    parts: list[tuple[_Progress, Int64Array]]
    readable: npt.NDArray[np.bool_]
    reads: list[Future[None]]
    outputs: ModelOutputs | None = None
    arrived: torch.cuda.Event | None = None
    """On a GPU, when `outputs` are in the host's memory."""


class PatchEngine:
    """Runs models over sources. One engine serves any number of runs, one at a time.

    Another thread may set `stop`: the run then ends with `KeyboardInterrupt` after its batch, its progress saved.
    """

    def __init__(
        self,
        settings: EngineSettings | None = None,
        on_windows: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """`on_windows` is called with the number of windows just finished (for a progress bar)."""
        self.settings = settings or EngineSettings()
        self.device = resolve_device(self.settings.device)
        self.stop = stop or threading.Event()
        self._on_windows = on_windows or (lambda _count: None)
        self._batch_size = self.settings.batch_size

    def prepare(self, model: PatchModel) -> Runner:
        """The model ready to run as the settings say; to be given to several runs, where making it takes time.

        Raises:
            UsageError: if the model, the device, the backend and the precision do not fit each other.
        """
        return prepare(model, self.device, self.settings.backend, self.settings.precision)

    def with_batch_size(self, batch_size: int) -> PatchEngine:
        """An engine of the same settings and listener for windows of another size."""
        return PatchEngine(replace(self.settings, batch_size=batch_size), self._on_windows, self.stop)

    def run(
        self,
        source: Source,
        plan: TilePlan,
        model: PatchModel | Runner,
        sink: Sink[R],
        checkpoint: Path | None = None,
    ) -> tuple[R, RunStats]:
        """Run `model`, prepared or not, over the windows of one plan; returns the sink's result and what happened.

        With `checkpoint`, progress is saved there at intervals and at an interruption, and a run that finds a
        checkpoint of the same source, plan and model continues after it. The caller deletes it once the result is safe.

        Raises:
            UsageError: if the plan's window or spacing is not the model's.
        """
        job = Job(source, plan, sink, checkpoint)
        for _, result, stats in self.run_many([job], model):
            return result, stats
        raise AssertionError("a run yields exactly one result per job")

    def run_many(
        self, jobs: Iterable[Job[R]], model: PatchModel | Runner, pack: bool = False
    ) -> Iterator[tuple[Job[R], R, RunStats]]:
        """Run over several jobs, reading the next while the device still works on the last; yields each as it ends.

        `jobs` is consumed lazily, so that a generator may open sources when their turn comes. With `pack`, one batch
        may hold windows of several jobs, which is what many one-window images need; without it a job's batches are its
        own, and its numbers cannot depend on its neighbours.
        """
        runner = model if isinstance(model, Runner) else self.prepare(model)
        model = runner.model
        self._batch_size = self.settings.batch_size
        buffers: list[torch.Tensor] = []
        active: list[_Progress] = []
        finished: deque[_Progress] = deque()
        batches = self._batches(jobs, runner, pack, active, finished)
        reading: deque[_Batch] = deque()
        running: deque[_Batch] = deque()
        pool = ThreadPoolExecutor(self.settings.readers, thread_name_prefix="medvision-read")
        try:
            while True:
                if self.stop.is_set():
                    raise KeyboardInterrupt
                while len(reading) + len(running) < self.settings.buffers:
                    parts = next(batches, None)
                    if parts is None:
                        break
                    reading.append(self._start_reading(pool, buffers, parts, model))
                if reading:
                    batch = reading.popleft()
                    for read in batch.reads:
                        read.result()
                    self._launch(batch, runner)
                    running.append(batch)
                # On a GPU the launch returns at once: collect the batch before, while this one computes.
                if running and (len(running) > 1 or not reading):
                    batch = running.popleft()
                    self._collect(batch, finished)
                    buffers.append(batch.buffer)
                while finished:
                    progress = finished.popleft()
                    active.remove(progress)
                    yield self._finish(progress, runner)
                if not reading and not running:
                    break
        except BaseException:
            # An interrupted job keeps what it has, so that the next run continues there.
            for progress in active:
                progress.save(now=True)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _batches(
        self,
        jobs: Iterable[Job[Any]],
        runner: Runner,
        pack: bool,
        active: list[_Progress],
        finished: deque[_Progress],
    ) -> Iterator[list[tuple[_Progress, Int64Array]]]:
        """Groups of at most a batch of windows, in storage order, with the jobs they belong to."""
        size = self.settings.batch_size
        kind: object = None
        held: list[tuple[_Progress, Int64Array]] = []
        for job in jobs:
            _check(job.plan, job.source, runner.model)
            progress, groups = self._begin(job, runner, size)
            active.append(progress)
            if not groups:
                finished.append(progress)
            for group in groups:
                if not pack:
                    yield [(progress, group)]
                    continue
                room = size - sum(len(indices) for _, indices in held)
                if held and (len(group) > room or job.source.dtype != kind):
                    yield held
                    held = []
                kind = job.source.dtype
                held.append((progress, group))
        if held:
            yield held

    def _begin(self, job: Job[Any], runner: Runner, size: int) -> tuple[_Progress, list[Int64Array]]:
        order = job.plan.storage_order()
        groups = [order[k : k + size] for k in range(0, len(order), size)]
        checkpoint: Checkpoint | None = None
        done, unread = 0, list[int]()
        if job.checkpoint is not None:
            # "order" names the order of reading: batches done mean other windows in another one.
            key = {"plan": job.plan.digest, "batch_size": size, "order": "strips", **runner.identity}
            checkpoint = Checkpoint(job.checkpoint, key, self.settings.checkpoint_seconds)
            done, unread = checkpoint.restore(job.sink)
        resumed = sum(len(group) for group in groups[:done]) - len(unread)
        self._on_windows(resumed)
        # What could not be read before is tried again, at the end: the fault may have passed.
        again = np.array(sorted(unread), np.int64)
        left = groups[done:] + [again[k : k + size] for k in range(0, len(again), size)]
        spacing = job.plan.spacing
        reading = None if spacing is None or not left else Reading.of(job.source, spacing)
        started = time.perf_counter()
        return _Progress(job, checkpoint, len(left), done, resumed, started, set(unread), reading), left

    def _start_reading(
        self,
        pool: ThreadPoolExecutor,
        buffers: list[torch.Tensor],
        parts: list[tuple[_Progress, Int64Array]],
        model: PatchModel,
    ) -> _Batch:
        source = parts[0][0].job.source
        shape, dtype = (self.settings.batch_size, *model.window, source.channels), _TYPES[source.dtype]
        fits = [k for k, spare in enumerate(buffers) if (spare.shape, spare.dtype) == (shape, dtype)]
        pinned = self.device.type == "cuda"
        buffer = buffers.pop(fits[0]) if fits else torch.empty(shape, dtype=dtype, pin_memory=pinned)
        pixels = buffer.numpy()
        items = [(p, box) for p, indices in parts for box in p.job.plan.boxes[indices].tolist()]
        for progress, (first, last) in items:
            if progress.reading is not None:
                progress.reading.fetch_ahead(Box(tuple(first), tuple(last)))
        readable = np.ones(len(items), bool)
        bounds = np.linspace(0, len(items), min(self.settings.readers, len(items)) + 1).astype(int)
        reads = [
            pool.submit(_fill, pixels, readable, items, int(a), int(b)) for a, b in itertools.pairwise(bounds)
        ]
        return _Batch(buffer, parts, readable, reads)

    def _launch(self, batch: _Batch, runner: Runner) -> None:
        """Run the model on the readable windows; on a GPU this returns before the result is there."""
        count = len(batch.readable)
        rows = np.flatnonzero(batch.readable)
        if len(rows) == 0:
            return
        pixels = batch.buffer[:count] if len(rows) == count else batch.buffer[torch.from_numpy(rows)]
        while True:
            try:
                chunks = torch.split(pixels, self._batch_size)
                with torch.inference_mode():
                    outputs = [runner(chunk) for chunk in chunks]
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or self._batch_size == 1:
                    what = str(error).strip().splitlines() or [type(error).__name__]
                    raise DeviceError(f"{self.device}: {runner.model.name}: {what[0]}") from error
                self._batch_size = max(1, min(self._batch_size, len(rows)) // 2)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        tensors = [part for part in outputs if isinstance(part, torch.Tensor)]
        if tensors:
            batch.outputs = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        else:
            batch.outputs = [found for part in outputs for found in part if isinstance(found, dict)]
        if self.device.type == "cuda":
            batch.outputs, batch.arrived = _sent_home(batch.outputs)

    def _collect(self, batch: _Batch, finished: deque[_Progress]) -> None:
        """Wait for the outputs and hand them to the sinks."""
        if batch.arrived is not None:
            batch.arrived.synchronize()
        outputs = _to_host(batch.outputs)
        batch.outputs = batch.arrived = None
        at, row = 0, 0
        for progress, indices in batch.parts:
            ok = batch.readable[at : at + len(indices)]
            at += len(indices)
            good = indices[ok]
            if len(good):
                progress.job.sink.add(_windows(progress.job.plan, good), outputs[row : row + len(good)])
                progress.unread.difference_update(good.tolist())
                row += len(good)
            if not ok.all():
                bad = indices[~ok]
                progress.job.sink.unread(_windows(progress.job.plan, bad))
                progress.unread.update(bad.tolist())
            progress.batches_left -= 1
            progress.batches_done += 1
            progress.save()
            if progress.batches_left == 0:
                finished.append(progress)
        self._on_windows(at)

    def _finish(self, progress: _Progress, runner: Runner) -> tuple[Job[Any], Any, RunStats]:
        stats = RunStats(
            windows=len(progress.job.plan),
            unread=tuple(sorted(progress.unread)),
            resumed=progress.resumed,
            batch_size=self._batch_size,
            device=str(self.device),
            precision=runner.precision,
            backend=runner.backend,
            seconds=time.perf_counter() - progress.started,
        )
        return progress.job, progress.job.sink.finish(), stats


def _fill(
    pixels: Values,
    readable: npt.NDArray[np.bool_],
    items: list[tuple[_Progress, list[list[int]]]],
    start: int,
    stop: int,
) -> None:
    """Read windows `start..stop` of a batch into their slots. A window that cannot be decoded is marked, not fatal."""
    boxes_of = [Box(*(tuple(corner) for corner in box)) for _, box in items[start:stop]]
    for (_, mirrored), run in itertools.groupby(
        range(start, stop),
        lambda slot: (id(items[slot][0]), _mirrors(items[slot][0], boxes_of[slot - start])),
    ):
        slots = list(run)
        progress = items[slots[0]][0]
        boxes = [boxes_of[slot - start] for slot in slots]
        if progress.reading is not None and not mirrored:
            errors = progress.reading.read_many(boxes, pixels[slots[0] : slots[-1] + 1])
            readable[slots] = [error is None for error in errors]
            continue
        for slot, box in zip(slots, boxes, strict=True):
            try:
                pixels[slot] = _read_mirrored(progress, box) if mirrored else progress.job.source.read(box, 0)
            except WindowUnreadableError:
                readable[slot] = False


def _mirrors(progress: _Progress, box: Box) -> bool:
    """Whether a window shows something of the mirrored image."""
    plan = progress.job.plan
    return plan.outside == "mirror" and box.intersect(Box((0,) * len(plan.extent), plan.extent)) != box


def _read_mirrored(progress: _Progress, box: Box) -> Values:
    source, reading = progress.job.source, progress.reading
    read = (lambda part: source.read(part, 0)) if reading is None else reading.read
    return read_mirrored(read, box, progress.job.plan.extent)


def _check(plan: TilePlan, source: Source, model: PatchModel) -> None:
    if plan.window != model.window:
        raise UsageError(
            f"the plan's window {plan.window} is not the window of {model.name!r}: {model.window}"
        )
    if plan.spacing is not None and model.spacing is not None:
        # A plan has the model's number of axes, its window's, or was refused above.
        ratios = [a / b for a, b in zip(plan.spacing.values, model.spacing.values, strict=False)]
        if plan.spacing.unit != model.spacing.unit or not all(0.98 < ratio < 1.02 for ratio in ratios):
            raise UsageError(f"the plan is at {plan.spacing}, but {model.name!r} wants {model.spacing}")
    channels = len(model.normalisation.mean)
    if source.channels != channels:
        raise UsageError(f"{source.path}: {source.channels} channels, but {model.name!r} wants {channels}")
    if model.normalisation.window is None and source.dtype != UINT8:
        raise UsageError(
            f"{source.path}: values are {source.dtype.name}, but {model.name!r} takes bytes; its normalisation needs a "
            "window, such as -1000 to 400 HU"
        )


def _windows(plan: TilePlan, indices: Int64Array) -> Windows:
    return Windows(indices, plan.boxes[indices], plan.cores[indices])


def _sent_home(outputs: ModelOutputs) -> tuple[ModelOutputs, torch.cuda.Event]:
    """Outputs on their way to the host, and when they will be there.

    Asked for here, right behind the batch that makes them: asked for later, they would wait for the next batch as well,
    which is queued by then, and the GPU would have nothing to do while they are waited for.
    """

    def home(tensor: torch.Tensor) -> torch.Tensor:
        kept = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=True)
        return kept.copy_(tensor, non_blocking=True)

    sent: ModelOutputs
    if isinstance(outputs, torch.Tensor):
        sent = home(outputs)
    else:
        sent = [{name: home(value) for name, value in found.items()} for found in outputs]
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return sent, arrived


def _to_host(outputs: ModelOutputs | None) -> Outputs:
    if outputs is None:
        return np.zeros((0,), np.float32)
    if isinstance(outputs, list):
        return [{name: value.float().cpu().numpy() for name, value in found.items()} for found in outputs]
    return outputs.float().cpu().numpy()
