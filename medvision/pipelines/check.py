"""A dry run: what an analysis of each slide would meet and cost, without running the model over it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from medvision.core.errors import MedvisionError, UnreadableSourceError, WindowUnreadableError
from medvision.engine.backends import Runner
from medvision.engine.contract import PatchModel
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.configured import configured_runner
from medvision.pipelines.dense import plan_dense
from medvision.pipelines.heatmap import gain_of, locate_tissue, plan_heatmap, read_overview, spacing_of
from medvision.sources import open_source, read_at
from medvision.sources.spacing import require_spacing
from medvision.store.records import Record

_BYTES_PER_CELL = 6.0
"""Of the probability raster and its pyramid, compressed; the rest of a result is pictures of bounded size."""

_BYTES_PER_RESULT = 4_000_000


class SlideCheck(Record):
    """What was found about one slide. `problem` is empty where it can be analysed."""

    slide: str
    problem: str = ""
    reader: str = ""
    spacing_um: float | None = None
    tissue_mm2: float | None = None
    windows: int = 0
    seconds: float | None = None
    disk_bytes: int = 0


def check_slides(slides: Sequence[Path], config: AnalyzeConfig) -> Iterator[SlideCheck]:
    """Open each slide, find its tissue, count its windows, and estimate time and disk from a measured rate.

    Raises:
        MedvisionError: if the model or the device cannot be had.
    """
    runner = configured_runner(config).result()
    model, rate = runner.model, _model_rate(runner, config.batch_size)
    for slide in slides:
        try:
            yield _check(slide, config, model, rate)
        except (MedvisionError, OSError) as error:
            yield SlideCheck(slide=str(slide), problem=str(error))


def _check(slide: Path, config: AnalyzeConfig, model: PatchModel, rate: float) -> SlideCheck:
    source = open_source(slide, config.slide_spacing)
    try:
        spacing = require_spacing(source)
        started = time.perf_counter()
        overview = read_overview(source)
        tissue = locate_tissue(overview)
        plan = plan_heatmap(source, model, tissue, overview, config.stride, config.minimum_tissue)
        dense = plan_dense(model, plan, config.dense)
        planning = time.perf_counter() - started
        probes = np.linspace(0, len(plan) - 1, min(32, len(plan))).astype(int)
        started = time.perf_counter()
        unread = 0
        for index in probes:
            try:
                read_at(source, plan.box(int(index)), spacing_of(model))
            except WindowUnreadableError:
                unread += 1
        if unread > config.unread_limit * len(probes) or overview.unread > config.unread_limit:
            raise UnreadableSourceError(f"{slide}: much of it cannot be decoded; an analysis would fail")
        reading = (time.perf_counter() - started) / max(len(probes), 1) / config.readers
        cells = 0 if plan.lattice is None else int(np.prod(plan.lattice.shape)) * len(model.classes)
        return SlideCheck(
            slide=str(slide),
            reader=source.reader,
            spacing_um=spacing.mean,
            tissue_mm2=float(tissue.mask.sum()) * (overview.spacing_um / 1000) ** 2,
            windows=len(plan),
            seconds=2 * planning
            + len(plan) * max(1 / rate, reading) / (dense.gain if dense else gain_of(model, plan))
            + 2,
            disk_bytes=int(_BYTES_PER_RESULT + cells * _BYTES_PER_CELL),
        )
    finally:
        source.close()


def _model_rate(runner: Runner, batch_size: int) -> float:
    """Windows per second of the model alone."""
    channels = len(runner.model.normalisation.mean)
    batch = torch.zeros((batch_size, *runner.model.window, channels), dtype=torch.uint8)
    with torch.inference_mode():
        runner(batch)
        started = time.perf_counter()
        for _ in range(2):
            runner(batch)
        if runner.device.type == "cuda":
            torch.cuda.synchronize(runner.device)
        seconds = time.perf_counter() - started
    return 2 * batch_size / seconds
