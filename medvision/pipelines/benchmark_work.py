"""The pieces of work that the benchmark times. Each returns windows per second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medvision.core.geometry import Box, Spacing
from medvision.core.results import Raster
from medvision.engine.backends import Runner, prepare
from medvision.engine.device import resolve_device
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import TilePlan, grid
from medvision.engine.sinks import RasterSink, Sink
from medvision.models import load_model
from medvision.ops.tissue import box_share
from medvision.pipelines.benchmark_figures import RatioOf
from medvision.pipelines.benchmark_network import (
    BATCH,
    DenseWork,
    batches_alone,
    eager_as_peers,
    null_model,
    other_backends,
    resnet18,
)
from medvision.pipelines.heatmap import locate_tissue, read_overview
from medvision.sources import Source, extent_at, open_source
from medvision.sources.resample import Reading
from medvision.sources.spacing import require_spacing

T = TypeVar("T")
Workload = Callable[[], float]
"""Does a fixed piece of work and returns its rate."""

FRACTION = 2.4
"""Native pixels to a pixel in the reading of a spacing that is no whole multiple: 0.25 to 0.6 µm/px."""


class Bench:
    """A slide with what the workloads share: its tissue, and where windows of each kind lie."""

    def __init__(
        self,
        path: Path,
        device: str,
        windows: int,
        scored: int,
        batches: int,
        backends: Sequence[str],
        dense: Sequence[tuple[str, int]],
    ) -> None:
        """`windows` are read, `scored` of them by the small network; the large one gets `batches`.

        `dense` names the networks that are evaluated in whole blocks, with their strides.
        """
        self.path, self.device, self.windows, self.scored = path, device, windows, scored
        self.batches, self.backends, self.dense = batches, backends, dense
        self.auto: dict[str, Runner] = {}
        source = open_source(path)
        try:
            self.spacing_um = require_spacing(source).mean
            self.overview = read_overview(source)
            self.tissue = locate_tissue(self.overview)
            self.source_id = source.id
            spacings = (self.spacing_um, 2 * self.spacing_um, FRACTION * self.spacing_um, 0.5)
            self.extents = {um: extent_at(source, um) for um in spacings}
        finally:
            source.close()
        self.models = {"camelyon-mini": load_model("camelyon-mini"), "resnet18": resnet18()}

    def runner(self, name: str) -> Runner:
        """A network by the backend that "auto" chooses, made once."""
        if name not in self.auto:
            self.auto[name] = prepare(self.models[name], resolve_device(self.device))
        return self.auto[name]

    def plan(self, window: int, spacing_um: float, shift: int = 0, count: int | None = None) -> TilePlan:
        """`count` windows over the middle of the tissue, as a heatmap would read them."""
        count = self.windows if count is None else count
        extent = self.extents.get(spacing_um) or self.extents[0.5]
        spacing = Spacing((spacing_um, spacing_um))
        plan = grid(self.source_id, extent, (window, window), spacing=spacing)
        share = box_share(self.tissue.mask, self.overview.spacing_um, plan.cores, spacing_um)
        kept = plan.keep(share > 0.5)
        order = kept.storage_order()
        first = max(0, (len(order) - count) // 2)
        chosen = np.zeros(len(kept), bool)
        chosen[order[first : first + count]] = True
        moved = kept.keep(chosen)
        return TilePlan(
            moved.source_id,
            spacing,
            moved.extent,
            moved.window,
            moved.boxes + shift,
            moved.cores,
            moved.lattice,
            moved.cells,
        )


READING = (
    ("256 px aligned", "256 aligned", 0.75, 4.0),
    ("256 px unaligned", "256", 0.75, 4.0),
    ("448 to 224 px", "448", 0.75, 4.0),
    ("0.25 to 0.6 µm/px, 224 px", "fraction", 0.75, 4.0),
)
"""Kind of window in words and by its short name, and the aims of its reading over the limit and over OpenSlide."""


def reading(bench: Bench) -> tuple[dict[str, Workload], list[RatioOf]]:
    """Windows of each kind, by this package, by OpenSlide, and at the limit, on one thread and two."""
    plans = {
        "256 aligned": (bench.plan(256, bench.spacing_um), 1.0),
        "256": (bench.plan(256, bench.spacing_um, shift=100), 1.0),
        "448": (bench.plan(224, 2 * bench.spacing_um, shift=50), 2.0),
        "fraction": (bench.plan(224, FRACTION * bench.spacing_um, shift=50), FRACTION),
    }
    work: dict[str, Workload] = {}
    wanted: list[RatioOf] = []
    for words, name, of_limit, of_openslide in READING:
        plan, factor = plans[name]
        for threads in (1, 2):
            case = (bench, plan, factor, threads)
            ours, theirs, limit = (f"{who} {name} x{threads}" for who in ("read", "openslide", "limit"))
            work |= {ours: partial(_read, *case), theirs: partial(_openslide, *case)}
            work[limit] = partial(_decode_once, *case)
            on = f"{words}, {threads} thread{'s' * (threads > 1)}"
            wanted.append(RatioOf("Reading", f"{on} / limit", ours, limit, of_limit))
            wanted.append(RatioOf("Reading", f"{on} / OpenSlide", ours, theirs, of_openslide))
    return work, wanted


def engine(bench: Bench) -> tuple[dict[str, Workload], list[RatioOf]]:
    """Everything but the network, and the networks through the engine and alone."""
    device, um = resolve_device(bench.device), 2 * bench.spacing_um
    plan = bench.plan(224, um, shift=50)
    null = prepare(null_model(um), device)
    work: dict[str, Workload] = {
        "null engine": lambda: _engine(bench, null, plan, native=True),
        "limit 448 x2": partial(_decode_once, bench, plan, 2.0, 2),
    }
    wanted = [
        RatioOf(
            "Engine",
            "all but the network / limit, 2 threads",
            "null engine",
            "limit 448 x2",
            0.75,
        )
    ]
    for name, model in bench.models.items():
        count = bench.batches if name == "resnet18" else bench.scored // BATCH
        windows = bench.plan(model.window[0], 0.5, count=count * BATCH)
        runner = bench.runner(name)
        work[f"{name} alone"] = partial(batches_alone, runner, count)
        work[f"{name} engine"] = partial(_engine, bench, runner, windows)
        said = f"{name} through the engine / alone"
        wanted.append(RatioOf("Engine", said, f"{name} engine", f"{name} alone", 0.97))
    return work, wanted


def network(bench: Bench) -> tuple[dict[str, Workload], list[RatioOf]]:
    """ResNet-18 by every backend of this machine, over the plain network as most tools run it."""
    device, model = resolve_device(bench.device), bench.models["resnet18"]
    work: dict[str, Workload] = {"resnet18 eager NCHW": partial(eager_as_peers, model, device, bench.batches)}
    wanted = []
    known = bench.runner("resnet18")
    for name, runner in other_backends(model, device, bench.backends, known):
        called = "resnet18 alone" if runner is known else f"resnet18 {name}"  # which is timed already
        work[called] = partial(batches_alone, runner, bench.batches)
        aim = 4.0 if runner.precision == "bfloat16" else 2.0
        said = f"resnet18 {name} / eager NCHW float32"
        wanted.append(RatioOf("Network", said, called, "resnet18 eager NCHW", aim))
    return work, wanted


def dense(bench: Bench) -> tuple[dict[str, Workload], list[RatioOf]]:
    """Dense heatmaps over window by window, both through the engine in float32."""
    work: dict[str, Workload] = {}
    wanted = []
    for name, stride in bench.dense:
        count = (bench.batches if name == "resnet18" else bench.scored // BATCH) * BATCH
        case = DenseWork(bench.models[name], bench.device, bench.source_id, bench.extents[0.5], stride, count)
        run = partial(_run, bench)
        work[f"{name} dense {stride}"] = partial(case.dense, run)
        work[f"{name} windows {stride}"] = partial(case.patch_wise, run)
        said = f"{name}, stride {stride}: dense / windows"
        wanted.append(RatioOf("Dense", said, f"{name} dense {stride}", f"{name} windows {stride}", 8.0))
    return work, wanted


GROUPS = {"reading": reading, "engine": engine, "network": network, "dense": dense}
"""What can be measured by itself: workloads by name, and the ratios between them."""


def _native(path: Path) -> Source:
    """The slide with its full resolution alone, so that 448 px are read for a window of 224 px on any slide."""
    source: Any = open_source(path)
    source.levels = source.levels[:1]
    opened: Source = source
    return opened


def _read(bench: Bench, plan: TilePlan, factor: float, threads: int) -> float:
    """Windows read by this package at level 0, from a freshly opened slide."""
    boxes = [plan.box(int(index)) for index in plan.storage_order()]
    source = _native(bench.path)
    try:
        return _rate(boxes, threads, Reading.of(source, factor * bench.spacing_um).read)
    finally:
        source.close()


def _openslide(bench: Bench, plan: TilePlan, factor: float, threads: int) -> float:
    """The first third of the windows by OpenSlide at level 0, reduced by an area average: it takes long enough."""
    import cv2
    import openslide

    boxes = [plan.box(int(index)) for index in plan.storage_order()[: -(-len(plan) // 3)]]
    slide = openslide.OpenSlide(bench.path)

    def read(box: Box) -> object:
        top, left = (round(start * factor) for start in box.start)
        rows, columns = (round(side * factor) for side in box.shape)
        region = slide.read_region((left, top), 0, (columns, rows))
        pixels = np.asarray(region.convert("RGB"))
        if factor == 1:
            return pixels
        return cv2.resize(pixels, box.shape[::-1], interpolation=cv2.INTER_AREA)

    try:
        return _rate(boxes, threads, read)
    finally:
        slide.close()


def _decode_once(bench: Bench, plan: TilePlan, factor: float, threads: int) -> float:
    """The limit: each native tile that the windows touch fetched and decoded once, and nothing else done.

    Windows per second. A reader that shows no tiles is taken at its own reading of squares of 256 px.
    """
    source = open_source(bench.path)
    decode: Callable[[int, int, int], object] | None = getattr(source, "decode", None)
    rows, columns = (256, 256) if decode is None else source.tile_shape(0)  # type: ignore[attr-defined]
    needed: dict[tuple[int, int], None] = {}
    boxes = [plan.box(int(index)).intersect(Box((0, 0), plan.extent)) for index in plan.storage_order()]
    for box in boxes:
        (top, left), (bottom, right) = box.start, box.stop
        below, beyond = (math.ceil(stop * factor - 1e-6) - 1 for stop in (bottom, right))
        for i in range(int(top * factor) // rows, below // rows + 1):
            for j in range(int(left * factor) // columns, beyond // columns + 1):
                needed[i, j] = None

    def fetch(tile: tuple[int, int]) -> object:
        if decode is not None:
            return decode(0, *tile)
        return source.read(Box.at((tile[0] * rows, tile[1] * columns), (rows, columns)), 0)

    try:
        rate = _rate(list(needed), threads, fetch)
    finally:
        source.close()
    return rate * len(boxes) / len(needed)


def _rate(items: Sequence[T], threads: int, read: Callable[[T], object]) -> float:
    """Items per second, given to the threads in runs, so that handing them out costs nothing."""

    def run(first: int) -> None:
        for item in items[first : first + size]:
            read(item)

    size = max(1, min(16, len(items) // (4 * threads)))
    started = time.perf_counter()
    if threads == 1:
        for item in items:
            read(item)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(0, len(items), size)))
    return len(items) / (time.perf_counter() - started)


def _engine(bench: Bench, runner: Runner, plan: TilePlan, native: bool = False) -> float:
    """The windows through the patch engine, from a freshly opened slide."""
    started = time.perf_counter()
    _run(bench, runner, plan, RasterSink(plan, runner.model.classes), BATCH, native)
    return len(plan) / (time.perf_counter() - started)


def _run(
    bench: Bench, runner: Runner, plan: TilePlan, sink: Sink[Raster], batch_size: int, native: bool = False
) -> None:
    engine = PatchEngine(EngineSettings(device=bench.device, batch_size=batch_size))
    source = _native(bench.path) if native else open_source(bench.path)
    try:
        engine.run(source, plan, runner, sink)
    finally:
        source.close()
