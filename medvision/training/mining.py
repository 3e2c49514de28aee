"""Hard negatives: where a network's own heatmaps of its training slides show tumour that is not there."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np

from medvision.core.errors import StoreError
from medvision.engine.contract import PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.heatmap import compute_heatmap, locate_tissue, plan_heatmap, read_overview
from medvision.store.files import atomic_write
from medvision.training.cohort_config import HardNegativesConfig
from medvision.training.slide_sampling import NONE, distance_to_tumour
from medvision.training.slide_windows import Places, SlideWindows

_GRID_UM = 8.0


def mine_hard_negatives(
    windows: SlideWindows, model: PatchModel, how: HardNegativesConfig, device: str = "auto"
) -> list[Places]:
    """Per slide, the centres of normal cells to which `model` gives `how.least` or more, the most probable first.

    Cells within `how.beyond_um` of annotated tumour are left out: there the outline may be what errs.
    """
    engine = PatchEngine(EngineSettings(device=device, precision="float32"))
    runner = engine.prepare(model)
    positive = model.positive or model.classes[-1]
    found = []
    for slide in range(len(windows)):
        source = windows.source(slide)
        overview = read_overview(source)
        stride = model.window[0] if how.stride_px is None else how.stride_px
        plan = plan_heatmap(source, model, locate_tissue(overview), overview, stride)
        if len(plan) == 0:
            found.append(NONE)
            continue
        raster, _ = compute_heatmap(engine, source, plan, runner)
        scores = np.nan_to_num(raster.channel(positive), nan=0.0)
        cells = np.argwhere(scores >= how.least)
        centres = (cells + 0.5) * np.array(raster.spacing.values) + np.array(raster.offset)
        distance = distance_to_tumour(windows, slide, _GRID_UM)
        at = np.minimum((centres / _GRID_UM).astype(np.int64), np.array(distance.shape) - 1)
        wrong = distance[at[:, 0], at[:, 1]] > how.beyond_um
        order = np.argsort(-scores[cells[wrong, 0], cells[wrong, 1]], kind="stable")[: how.per_slide]
        found.append(np.asarray(centres[wrong][order], np.float64))
    return found


def write_hard(windows: SlideWindows, hard: Sequence[Places], path: Path) -> None:
    """The places as CSV: slide_id, row_um, column_um. A run that is resumed reads them instead of mining again."""
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["slide_id", "row_um", "column_um"])
    for slide, places in zip(windows.slides, hard, strict=True):
        writer.writerows([slide.slide_id, repr(float(row)), repr(float(column))] for row, column in places)
    atomic_write(path, stream.getvalue().encode())


def read_hard(windows: SlideWindows, path: Path) -> list[Places]:
    """The places of `write_hard`.

    Raises:
        StoreError: if the file is not of these slides.
    """
    names = {slide.slide_id: number for number, slide in enumerate(windows.slides)}
    found: list[list[tuple[float, float]]] = [[] for _ in names]
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                found[names[row["slide_id"]]].append((float(row["row_um"]), float(row["column_um"])))
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(
            f"{path}: not the places of this run's slides ({error}); delete it to mine again"
        ) from error
    return [np.array(places, np.float64).reshape(-1, 2) for places in found]
