"""The pieces of work that the benchmark times. Each returns windows per second."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
from medvision.sources import extent_at, open_source, read_at
from medvision.sources.spacing import require_spacing

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
    fine = bench.plan(256, bench.spacing_um, shift=100)
    coarse = bench.plan(224, 2 * bench.spacing_um, shift=50)
    for threads in (1, 2):
        work[f"read 256 x{threads}"] = lambda n=threads: _read(bench, fine, n)  # type: ignore[misc]
        work[f"openslide 256 x{threads}"] = lambda n=threads: _openslide(bench, fine, 1, n)  # type: ignore[misc]
        work[f"limit 256 x{threads}"] = lambda n=threads: _decode_once(bench, fine, 1, n)  # type: ignore[misc]
        work[f"read 448 x{threads}"] = lambda n=threads: _read(bench, coarse, n)  # type: ignore[misc]
        work[f"openslide 448 x{threads}"] = lambda n=threads: _openslide(bench, coarse, 2, n)  # type: ignore[misc]
        work[f"limit 448 x{threads}"] = lambda n=threads: _decode_once(bench, coarse, 2, n)  # type: ignore[misc]
    null = prepare(_null_model(2 * bench.spacing_um), resolve_device(bench.device))
    work["null engine"] = lambda: _engine(bench, null, coarse)
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


def _read(bench: Bench, plan: TilePlan, threads: int) -> float:
    """Windows read by this package, from a freshly opened slide."""
    spacing_um = plan.spacing.mean if plan.spacing else 1.0
    boxes = [plan.box(int(index)) for index in plan.storage_order()]
    source = open_source(bench.path)
    try:
        return _rate(boxes, threads, lambda box: read_at(source, box, spacing_um))
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
    """The limit: each native tile that the windows touch fetched and decoded once, and nothing else done."""
    tile = bench.tile
    boxes = [plan.box(int(index)) for index in plan.storage_order()]
    needed: dict[tuple[int, int], None] = {}
    for box in boxes:
        (top, left), (bottom, right) = box.start, box.stop
        for i in range(top * factor // tile, (bottom * factor - 1) // tile + 1):
            for j in range(left * factor // tile, (right * factor - 1) // tile + 1):
                needed[i, j] = None
    source = open_source(bench.path)
    try:
        tiles = [Box.at((i * tile, j * tile), (tile, tile)) for i, j in needed]
        rate = _rate(tiles, threads, lambda box: source.read(box, 0))
    finally:
        source.close()
    return rate * len(boxes) / len(tiles)


def _rate(boxes: list[Box], threads: int, read: Callable[[Box], object]) -> float:
    started = time.perf_counter()
    if threads == 1:
        for box in boxes:
            read(box)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read, boxes, chunksize=8):
                pass
    return len(boxes) / (time.perf_counter() - started)


def _engine(bench: Bench, runner: Runner, plan: TilePlan) -> float:
    """The windows through the patch engine, from a freshly opened slide."""
    engine = PatchEngine(EngineSettings(device=bench.device, batch_size=BATCH))
    source = open_source(bench.path)
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
