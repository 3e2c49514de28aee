"""What an NCRF's heatmap costs with each embedding once, beside the published definition, and how far they differ.

    python tests/benchmarks/bench_ncrf.py SLIDE [--trunk resnet18] [--cells 400] [--by-definition 40]

The published cells (256 px, crops of 224, stride 64) at the slide's own spacing, and random weights with a CRF that
matters. A block of tissue of about `--cells` cells is scored with each embedding once, and `--by-definition` of them,
spread over it, patch by patch, in interleaved rounds. Crops are counted as the engine runs them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import TilePlan
from medvision.engine.sinks import RasterSink
from medvision.models.catalogue import MODELS, as_patch_model
from medvision.models.contract import WeightsContract
from medvision.models.ncrf import NODES, PUBLISHED, CellNet, NcrfClassifier, build_ncrf
from medvision.pipelines.heatmap import compute_heatmap, gain_of, locate_tissue, plan_heatmap, read_overview
from medvision.sources import open_source


@contextmanager
def counted(net: NcrfClassifier) -> Iterator[list[int]]:
    """Crops that went through the network, one entry a batch."""
    seen: list[int] = []

    def note(_module: CellNet, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        seen.append(len(inputs[0]))

    handle = net.ncrf.cell.register_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def block(plan: TilePlan, cells: int) -> TilePlan:
    """About `cells` neighbouring cells in the middle of the tissue."""
    assert plan.lattice is not None and plan.cells is not None
    place = np.stack(np.unravel_index(plan.cells, plan.lattice.shape), axis=1)
    middle = place[np.argmin(np.abs(place - np.median(place, axis=0)).sum(axis=1))]
    far = np.abs(place - middle).max(axis=1)
    return plan.keep(far <= np.sort(far)[min(cells, len(far)) - 1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", type=Path)
    parser.add_argument("--trunk", default="resnet18")
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--by-definition", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    source = open_source(given.slide)
    assert source.spacing is not None
    torch.manual_seed(0)
    net = build_ncrf(given.trunk)
    assert net.crf is not None
    net.crf.W.data = 0.5 * torch.randn(1, NODES, NODES)
    contract = MODELS[f"ncrf-{given.trunk}"].contract
    assert contract is not None
    said = contract.model_dump() | {
        "grid": PUBLISHED,
        "window_px": PUBLISHED.window_px,
        "spacing_um": source.spacing.mean,
    }
    model = as_patch_model(
        contract.architecture, NcrfClassifier(net, PUBLISHED), WeightsContract.model_validate(said)
    )
    overview = read_overview(source)
    whole = plan_heatmap(source, model, locate_tissue(overview), overview)
    cells = block(whole, given.cells)
    chosen = np.zeros(len(cells), bool)
    chosen[np.linspace(0, len(cells) - 1, given.by_definition).astype(int)] = True
    few = cells.keep(chosen)
    settings = EngineSettings(device=given.device, batch_size=32, precision="float32", backend="eager")
    engine, slow = PatchEngine(settings), PatchEngine(replace(settings, batch_size=4))
    runner = engine.prepare(model)
    assert isinstance(model.net, NcrfClassifier)
    once, each = [], []
    for _ in range(given.rounds):
        with counted(model.net) as crops:
            began = time.perf_counter()
            raster, _ = compute_heatmap(engine, source, cells, runner)
            once.append((time.perf_counter() - began) / len(cells))
        with counted(model.net) as patches:
            began = time.perf_counter()
            definition, _ = slow.run(source, few, runner, RasterSink(few, model.classes))
            each.append((time.perf_counter() - began) / len(few))
    here = definition.coverage
    apart = float(np.abs(definition.values[here] - raster.values[here]).max())
    whole_gain = gain_of(model, whole)
    print(f"{given.slide.name}, {given.trunk}: {len(cells)} cells, {len(few)} of them patch by patch")
    print(
        f"crops per cell: {sum(patches) / len(few):.2f} by definition, {sum(crops) / len(cells):.2f} with each once"
    )
    print(
        f"fewer passes: {sum(patches) / len(few) / (sum(crops) / len(cells)):.1f}x here, {whole_gain:.1f}x over the "
        f"slide's {len(whole):,} cells of tissue"
    )
    ratios = sorted(b / a for a, b in zip(once, each, strict=True))
    print(
        f"ms per cell: {1e3 * statistics.median(each):.0f} by definition, {1e3 * statistics.median(once):.0f} with "
        f"each once; {statistics.median(ratios):.1f}x ({ratios[0]:.1f}-{ratios[-1]:.1f})"
    )
    print(
        f"largest difference of a probability: {apart:.1e}; they range over "
        f"{np.nanmin(raster.values[..., 1]):.3f} to {np.nanmax(raster.values[..., 1]):.3f}"
    )
    source.close()


if __name__ == "__main__":
    main()
