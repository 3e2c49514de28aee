"""Nodule networks through the engine and alone: detectors over a scan's windows, reductions over cubes in its lungs.

Alone, a network gets the same windows, in memory already. Weights are random. Rates do not depend on them, but for the
second stage of a Faster R-CNN, which without training has as many regions to look at as it may have.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvision.core.world import WorldFrame
from medvision.engine.backends import prepare
from medvision.engine.device import resolve_device
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import TilePlan, around
from medvision.engine.sinks import ObjectSink, TableSink
from medvision.models.nodules import NoduleModel, build_nodule_net, usual_contract
from medvision.models.nodules.run import LUNG_SPACING_MM, Lungs, find_lungs, plan_detection
from medvision.pipelines.benchmark_figures import RatioOf
from medvision.pipelines.nodule_config import NoduleConfig
from medvision.sources.base import VolumeSource
from medvision.sources.resample import Reading, extent_at
from medvision.sources.volume import open_volume
from medvision.sources.write_volume import write_metaimage
from medvision.synthetic.chest import draw_scan, sample_recipe

SLIM = {"faster-rcnn-vgg-slim": 16, "nodule-cnn3d-slim": 256}
"""The networks that are timed, and windows of each. The faster a network, the less time there is to read in."""
WIDE = {"retinanet3d-slim": 16, "nodule-cnn3d": 64}
"""Those besides, where there is more time."""
AIM = 0.95
_ENLARGED = 1.5
"""A child's thorax, which is quick to draw, becomes an adult's."""


class NoduleBench:
    """A scan with its lungs; `nets` names the networks to time on it, with numbers of windows."""

    def __init__(self, path: Path, device: str, nets: dict[str, int]) -> None:
        self.source = open_volume(path)
        self.device, self.nets = device, nets
        self.lungs = find_lungs(self.source)

    def close(self) -> None:
        """Release the scan."""
        self.source.close()


def write_benchmark_scan(path: Path) -> Path:
    """A chest CT of an adult's size: a small one, each voxel of it repeated along every axis."""
    scan = draw_scan(sample_recipe(5, "standard", nodules=(4, 4), spacing_mm=(2.0, 0.8)))
    voxels = scan.hu.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    plane, row, column = (side * _ENLARGED / 2 for side in scan.frame.spacing)
    frame = WorldFrame(scan.frame.origin, (plane, row, column), scan.frame.directions)
    return write_metaimage(path, voxels, frame)


def nodules(bench: NoduleBench) -> tuple[dict[str, Any], list[RatioOf]]:
    """Each network through the engine and alone, by the clock and by the processor's time of this process."""
    work: dict[str, Any] = {}
    wanted = []
    for name, windows in bench.nets.items():
        case = NoduleWork(name, bench.device, bench.source, bench.lungs, windows)
        work[f"{name} alone"] = case.alone
        work[f"{name} engine"] = case.engine
        wanted.append(
            RatioOf("Nodules", f"{name} through the engine / alone", f"{name} engine", f"{name} alone", AIM)
        )
        if case.runner.device.type == "cpu":
            # Beside other work on the machine the clock says little.
            for way in ("alone", "engine"):
                work[f"{name} {way}, processor"] = partial(case.by_processor, way)
            said = f"{name} through the engine / alone, processor time"
            wanted.append(
                RatioOf("Nodules", said, f"{name} engine, processor", f"{name} alone, processor", AIM)
            )
    return work, wanted


class NoduleWork:
    """Windows of one network in one scan. Rates are in windows per second."""

    def __init__(self, name: str, device: str, source: VolumeSource, lungs: Lungs, windows: int) -> None:
        contract = usual_contract(name)
        torch.manual_seed(0)
        model = NoduleModel(name, build_nodule_net(contract), contract).patch_model
        self.runner = prepare(model, resolve_device(device), "auto", "float32")
        self._source = source
        self._plan = _plan(source, self.runner.model, lungs, windows)
        self._batch_size: int = NoduleConfig.model_fields["batch_size"].default
        self._engine = PatchEngine(EngineSettings(device=device, batch_size=self._batch_size, readers=2))
        self._batches = _read(source, self._plan, self._batch_size)
        self._processor: dict[str, float] = {}

    def engine(self) -> float:
        """The rate through the engine."""
        objects = self.runner.model.output == "objects"
        sink: Any = ObjectSink(self._plan) if objects else TableSink(self._plan, self.runner.model.columns)
        return self._timed("engine", lambda: self._engine.run(self._source, self._plan, self.runner, sink))

    def alone(self) -> float:
        """The rate of the network on the same windows, read before."""
        return self._timed("alone", self._alone)

    def by_processor(self, way: str) -> float:
        """Of the latest run of a kind, windows per second of processor time, of all threads together."""
        return self._processor[way]

    def _alone(self) -> None:
        with torch.inference_mode():
            for batch in self._batches:
                self.runner(batch)
        if self.runner.device.type == "cuda":
            torch.cuda.synchronize(self.runner.device)

    def _timed(self, way: str, run: Any) -> float:
        started, processor = time.perf_counter(), time.process_time()
        run()
        self._processor[way] = len(self._plan) / (time.process_time() - processor)
        return len(self._plan) / (time.perf_counter() - started)


def _plan(source: VolumeSource, model: Any, lungs: Lungs, windows: int) -> TilePlan:
    """Windows of a detector in the middle of the lungs, or cubes about places in them."""
    if model.output == "objects":
        plan = plan_detection(source, model, lungs)
        first = max(0, (len(plan) - windows) // 2)
        chosen = np.zeros(len(plan), bool)
        chosen[first : first + windows] = True
        return plan.keep(chosen)
    inside = (np.argwhere(lungs.inside) + 0.5) * LUNG_SPACING_MM
    chosen = np.random.default_rng(0).integers(0, len(inside), windows)
    places = inside[chosen] / np.array(model.spacing.values)
    return around(source.id, extent_at(source, model.spacing), places, model.window, model.spacing)


def _read(source: VolumeSource, plan: TilePlan, batch_size: int) -> list[torch.Tensor]:
    """The windows of a plan in batches, in the engine's order."""
    assert plan.spacing is not None
    reading, order = Reading.of(source, plan.spacing), plan.storage_order()
    batches = []
    for first in range(0, len(order), batch_size):
        boxes = [plan.box(int(index)) for index in order[first : first + batch_size]]
        batch = np.empty((len(boxes), *plan.window, source.channels), source.dtype)
        reading.read_many(boxes, batch)
        batches.append(torch.from_numpy(batch))
    return batches
