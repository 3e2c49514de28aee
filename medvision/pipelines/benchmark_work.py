"""The pieces of work that the benchmark times. Each returns windows per second."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from medvision.core.geometry import Box, Spacing
from medvision.engine.backends import Runner, prepare
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.device import resolve_device
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import TilePlan, grid
from medvision.engine.sinks import RasterSink
from medvision.models import load_model
from medvision.ops.tissue import box_share
from medvision.pipelines.heatmap import locate_tissue, read_overview
from medvision.sources import Source, extent_at, open_source
from medvision.sources.resample import Reading
from medvision.sources.spacing import require_spacing

T = TypeVar("T")
BATCH = 32


class Bench:
    """A slide with what the workloads share: its tissue, and where windows of each kind lie."""

    def __init__(self, path: Path, device: str, windows: int) -> None:
        self.path, self.device, self.windows = path, device, windows
        source = open_source(path)
        try:
            self.spacing_um = require_spacing(source).mean
            self.overview = read_overview(source)
            self.tissue = locate_tissue(self.overview)
            self.tile = 256
            self.source_id = source.id
            self.extents = {um: extent_at(source, um) for um in (self.spacing_um, 2 * self.spacing_um, 0.5)}
        finally:
            source.close()
        self.models = {"camelyon-mini": load_model("camelyon-mini"), "resnet18": _resnet18()}

    def close(self) -> None:
        """Let go of the networks."""
        self.models.clear()

    def plan(self, window: int, spacing_um: float, shift: int = 0) -> TilePlan:
        """Windows over the middle of the tissue, as a heatmap would read them."""
        extent = self.extents.get(spacing_um) or self.extents[0.5]
        spacing = Spacing((spacing_um, spacing_um))
        plan = grid(self.source_id, extent, (window, window), spacing=spacing)
        share = box_share(self.tissue.mask, self.overview.spacing_um, plan.cores, spacing_um)
        kept = plan.keep(share > 0.5)
        order = kept.storage_order()
        first = max(0, (len(order) - self.windows) // 2)
        chosen = np.zeros(len(kept), bool)
        chosen[order[first : first + self.windows]] = True
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


def workloads(bench: Bench) -> dict[str, Callable[[], float]]:
    """Every workload by name."""
    work: dict[str, Callable[[], float]] = {}
    plans = {
        "256 aligned": (bench.plan(256, bench.spacing_um), 1),
        "256": (bench.plan(256, bench.spacing_um, shift=100), 1),
        "448": (bench.plan(224, 2 * bench.spacing_um, shift=50), 2),
    }
    for threads in (1, 2):
        for name, (plan, factor) in plans.items():
            case = (bench, plan, factor, threads)
            work[f"read {name} x{threads}"] = partial(_read, *case)
            work[f"openslide {name} x{threads}"] = partial(_openslide, *case)
            work[f"limit {name} x{threads}"] = partial(_decode_once, *case)
    coarse = plans["448"][0]
    null = prepare(_null_model(2 * bench.spacing_um), resolve_device(bench.device))
    work["null engine"] = lambda: _engine(bench, null, coarse, native=True)
    for name, model in bench.models.items():
        assert model.spacing is not None, "both networks state a spacing"
        plan = bench.plan(model.window[0], 0.5)
        runner = prepare(model, resolve_device(bench.device))
        work[f"{name} alone"] = lambda r=runner: _alone(bench, r)  # type: ignore[misc]
        work[f"{name} engine"] = lambda r=runner, p=plan: _engine(bench, r, p)  # type: ignore[misc]
    return work


def process_figures(slide: Path, out: Path, device: str) -> Iterator[tuple[str, str, float]]:
    """Whole commands, each in a process of its own: seconds, and peak memory where it matters."""
    python = sys.executable
    commands = {
        "import medvision": [python, "-c", "import medvision"],
        "medvision --help": [python, "-m", "medvision.cli", "--help"],
    }
    for name, command in commands.items():
        yield name, "s", min(_seconds(command) for _ in range(5))
    analyze = [python, "-m", "medvision.cli", "analyze", str(slide), "--out", str(out), "--device", device]
    yield "medvision analyze", "s", _seconds(analyze)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    yield "medvision analyze, peak memory", "MB", peak / 1024
    plan = [python, "-m", "medvision.pipelines.benchmark_plan", str(slide)]
    seconds, growth = subprocess.run(plan, check=True, capture_output=True, text=True).stdout.split()
    yield "tissue and plan of 100,000 px", "s", float(seconds)
    yield "tissue and plan of 100,000 px, memory", "MB", float(growth)


def _native(path: Path) -> Source:
    """The slide with its full resolution alone, so that 448 px are read for a window of 224 px on any slide."""
    source = open_source(path)
    source.levels = source.levels[:1]
    return source


def _read(bench: Bench, plan: TilePlan, factor: int, threads: int) -> float:
    """Windows read by this package at level 0, from a freshly opened slide."""
    boxes = [plan.box(int(index)) for index in plan.storage_order()]
    source = _native(bench.path)
    try:
        return _rate(boxes, threads, Reading.of(source, factor * bench.spacing_um).read)
    finally:
        source.close()


def _openslide(bench: Bench, plan: TilePlan, factor: int, threads: int) -> float:
    """The same windows by OpenSlide at level 0, reduced by an area average."""
    import cv2
    import openslide

    boxes = [plan.box(int(index)) for index in plan.storage_order()]
    slide = openslide.OpenSlide(bench.path)

    def read(box: Box) -> object:
        rows, columns = (side * factor for side in box.shape)
        region = slide.read_region((box.start[1] * factor, box.start[0] * factor), 0, (columns, rows))
        pixels = np.asarray(region.convert("RGB"))
        if factor == 1:
            return pixels
        return cv2.resize(pixels, box.shape[::-1], interpolation=cv2.INTER_AREA)

    try:
        return _rate(boxes, threads, read)
    finally:
        slide.close()


def _decode_once(bench: Bench, plan: TilePlan, factor: int, threads: int) -> float:
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
        for i in range(top * factor // rows, (bottom * factor - 1) // rows + 1):
            for j in range(left * factor // columns, (right * factor - 1) // columns + 1):
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
    engine = PatchEngine(EngineSettings(device=bench.device, batch_size=BATCH))
    source = _native(bench.path) if native else open_source(bench.path)
    try:
        started = time.perf_counter()
        engine.run(source, plan, runner, RasterSink(plan, runner.model.classes))
        return len(plan) / (time.perf_counter() - started)
    finally:
        source.close()


def _alone(bench: Bench, runner: Runner) -> float:
    """The network on batches that are in memory already, as many windows as the engine is given."""
    batch = torch.randint(0, 256, (BATCH, *runner.model.window, 3), dtype=torch.uint8)
    batches = max(1, bench.windows // BATCH)
    with torch.inference_mode():
        started = time.perf_counter()
        for _ in range(batches):
            runner(batch)
        if runner.device.type == "cuda":
            torch.cuda.synchronize(runner.device)
        return batches * BATCH / (time.perf_counter() - started)


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


class _First(nn.Module):
    """A network that does nothing: what is left is everything but the network."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1, 0, 0]


def _null_model(spacing_um: float) -> PatchModel:
    return PatchModel(
        name="null",
        net=_First(),
        window=(224, 224),
        spacing=Spacing((spacing_um, spacing_um)),
        normalisation=Normalisation((0.0,) * 3, (1.0,) * 3),
        output="scores",
        classes=("first",),
        digest="null",
        activation=torch.sigmoid,
    )


def _resnet18() -> PatchModel:
    """ResNet-18 at 224 px with random weights: the network that the field's tools are timed with."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return PatchModel(
        name="resnet18",
        net=resnet18(num_classes=2),
        window=(224, 224),
        spacing=Spacing((0.5, 0.5)),
        normalisation=Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        output="scores",
        classes=("normal", "tumor"),
        digest="resnet18-random",
        activation=lambda logits: torch.softmax(logits, dim=1),
    )
