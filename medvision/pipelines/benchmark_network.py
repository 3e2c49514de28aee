"""The networks that the benchmark runs, and the work in which they are most of it: backends, engine, dense heatmaps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from medvision.core.errors import UsageError
from medvision.core.geometry import Spacing
from medvision.core.results import Raster
from medvision.engine.backends import Runner, prepare
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.device import computes_bfloat16, resolve_device
from medvision.engine.plan import TilePlan, grid
from medvision.engine.sinks import BlockSink, RasterSink, Sink
from medvision.models.dense import dense_model, dense_view

BATCH = 32


def batches_alone(runner: Runner, count: int) -> float:
    """Windows per second of a network on `count` batches that are in memory already."""
    batch = torch.randint(0, 256, (BATCH, *runner.model.window, 3), dtype=torch.uint8)
    return _timed(lambda: runner(batch), count, runner.device)


def eager_as_peers(model: PatchModel, device: torch.device, count: int) -> float:
    """Windows per second of the plain float32 network, channels first, as most tools run it, normalised before."""
    net = model.net.eval().to(device)
    batch = torch.rand((BATCH, 3, *model.window), device=device)
    return _timed(lambda: net(batch), count, device)


def _timed(run: Callable[[], object], count: int, device: torch.device) -> float:
    with torch.inference_mode():
        started = time.perf_counter()
        for _ in range(count):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return count * BATCH / (time.perf_counter() - started)


def other_backends(
    model: PatchModel, device: torch.device, backends: Sequence[str], known: Runner
) -> Iterator[tuple[str, Runner]]:
    """Those of `backends`, in every precision, that this machine runs `model` with, by name; `known` is one of them."""
    allowed = replace(model, precisions=("float32", "bfloat16"))
    precisions = ("float32", "bfloat16") if computes_bfloat16(device) else ("float32",)
    for precision in precisions:
        for backend in backends:
            name = f"{backend} {precision}"
            if (known.backend, known.precision) == (backend, precision):
                yield name, known
                continue
            try:
                yield name, prepare(allowed, device, backend, precision)
            except UsageError:
                continue  # not installed, or not in this precision


RunPlan = Callable[[Runner, TilePlan, Sink[Raster], int], None]
"""Runs a prepared model over a plan into a sink, with a batch size."""


class DenseWork:
    """A square of cells over tissue, evaluated in whole blocks and, some of it, window by window.

    Both in float32 with folded normalisation, by torch, through the engine. Rates are in cells per second.
    """

    def __init__(
        self,
        model: PatchModel,
        device: str,
        source_id: str,
        extent: tuple[int, ...],
        stride: int,
        windows: int,
    ) -> None:
        view = dense_view(model)
        lattice = tuple(-(-n // stride) for n in extent)
        side = view.cells(stride, lattice)
        spacing, step = model.spacing, (side[0] * stride, side[1] * stride)
        cells = grid(source_id, extent, model.window, (stride, stride), spacing)
        blocks = grid(source_id, extent, view.block(stride, side), step, spacing)
        assert blocks.lattice is not None, "a grid has a lattice"
        # The block in the middle, whose cells are all inside the slide.
        middle = tuple(max(0, (extent[a] // step[a] - 1) // 2) for a in (0, 1))
        chosen = np.zeros(len(blocks), bool)
        chosen[np.ravel_multi_index(middle, blocks.lattice.shape)] = True
        self.blocks = blocks.keep(chosen)
        (core,) = self.blocks.cores
        inside = (cells.cores >= core[0]).all(axis=(1, 2)) & (cells.cores <= core[1]).all(axis=(1, 2))
        self.cells = cells.keep(inside)
        order = self.cells.storage_order()[:windows]
        self.windows = self.cells.keep(np.isin(np.arange(len(self.cells)), order))
        where = resolve_device(device)
        self._of_blocks = prepare(dense_model(view, stride, side), where, "eager", "float32")
        self._of_windows = prepare(model, where, "fused", "float32")

    def dense(self, run: RunPlan) -> float:
        """Cells per second in blocks."""
        cells = RasterSink(self.cells, self._of_windows.model.classes)
        started = time.perf_counter()
        run(self._of_blocks, self.blocks, BlockSink(self.blocks, self.cells, cells), 1)
        return len(self.cells) / (time.perf_counter() - started)

    def patch_wise(self, run: RunPlan) -> float:
        """Cells per second window by window."""
        started = time.perf_counter()
        run(self._of_windows, self.windows, RasterSink(self.windows, self._of_windows.model.classes), BATCH)
        return len(self.windows) / (time.perf_counter() - started)


class _First(nn.Module):
    """A network that does nothing: what is left is everything but the network."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1, 0, 0]


def null_model(spacing_um: float) -> PatchModel:
    """A model of 224 px whose network does nothing."""
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


def resnet18() -> PatchModel:
    """ResNet-18 at 224 px with random weights: the network that the field's tools are timed with."""
    from torchvision.models import resnet18 as build

    torch.manual_seed(0)
    return PatchModel(
        name="resnet18",
        net=build(num_classes=2),
        window=(224, 224),
        spacing=Spacing((0.5, 0.5)),
        normalisation=Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        output="scores",
        classes=("normal", "tumor"),
        digest="resnet18-random",
        activation=lambda logits: torch.softmax(logits, dim=1),
    )
