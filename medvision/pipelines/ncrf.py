"""The heatmap of an NCRF with each embedding computed once.

By its definition an NCRF looks at nine cells to score one, so patch by patch every cell of the tissue goes through the
network nine times. But a cell's neighbours, `cell_px` away, lie on the heatmap's own lattice whenever the stride
divides `cell_px`. So the network runs once over the lattice, ring of neighbours included, and the CRF over gathered
rows of embeddings: the same numbers up to floating-point noise.

The neighbours of a cell need not hold tissue, or lie on the slide: outside it a reader shows `source.fill`, as it does
to the definition. A neighbour that cannot be decoded is left out of the CRF's sums; a cell that cannot be decoded
itself is NaN. (The definition would lose every cell whose region touches the damage.)
"""

from __future__ import annotations

import copy
import zipfile
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.core.results import FloatArray, Raster
from medvision.engine.backends import Runner, prepare
from medvision.engine.contract import PatchModel
from medvision.engine.engine import PatchEngine, RunStats
from medvision.engine.plan import TilePlan
from medvision.engine.rows import RowsSink
from medvision.engine.sinks import RasterSink, Windows
from medvision.models.ncrf import CENTRE, NODES, SIDE, NcrfClassifier
from medvision.models.turns import TURNS, MeanOfTurns, TurnedNet, turn
from medvision.sources.base import Source

Scores = npt.NDArray[np.float64]

_GATHERED = 1 << 23
"""Floats of gathered embeddings on the device at once: 32 MiB."""


@dataclass(frozen=True, eq=False)
class LatticePlan:
    """`crops` holds every crop that some cell of `cells` needs, once; `neighbours` `(cells, 9)` are indices into it.

    `turns` are the orientations of the region over which scores are averaged.
    """

    net: NcrfClassifier
    cells: TilePlan
    crops: TilePlan
    neighbours: npt.NDArray[np.int32]
    turns: tuple[int, ...]

    @property
    def units(self) -> int:
        """Crops that the engine will report as done."""
        return len(self.crops) * len(self.turns)

    @property
    def gain(self) -> float:
        """How many times fewer crops go through the network than by the definition."""
        return NODES * len(self.cells) / max(1, len(self.crops))


def lattice_net(model: PatchModel) -> tuple[NcrfClassifier, tuple[int, ...]] | None:
    """The network of an NCRF with its CRF, and its orientations; None for every other model."""
    net = model.net
    turns: tuple[int, ...] = (0,)
    if isinstance(net, TurnedNet):
        turns = tuple(range(net.turns))
        net = net.net
    return (net, turns) if isinstance(net, NcrfClassifier) and net.grid.crf else None


def plan_lattice(model: PatchModel, cells: TilePlan) -> LatticePlan | None:
    """The crops that the cells of a grid plan of an NCRF's regions need; None for other models.

    Raises:
        UsageError: for a stride at which a cell's neighbours are not cells of the lattice.
    """
    found = lattice_net(model)
    if found is None:
        return None
    net, turns = found
    if cells.lattice is None or cells.cells is None:
        raise UsageError("an NCRF scores the cells of a grid plan: only those have neighbours on a lattice")
    grid, stride = net.grid, cells.lattice.cell[0]
    check_stride(model, stride)
    steps = grid.cell_px // stride
    rows, columns = cells.lattice.shape
    # A place for every cell and for the ring around the lattice, of which those are kept that some cell needs.
    place = np.full((rows + 2 * steps, columns + 2 * steps), -1, np.int32)
    row, column = np.unravel_index(cells.cells, cells.lattice.shape)
    for i in range(SIDE):
        for j in range(SIDE):
            place[row + i * steps, column + j * steps] = 0
    needed = np.flatnonzero(place.ravel() == 0)
    place.ravel()[needed] = np.arange(len(needed), dtype=np.int32)
    neighbours = np.stack(
        [place[row + i * steps, column + j * steps] for i in range(SIDE) for j in range(SIDE)], axis=1
    )
    # From a lattice cell to its crop: in the middle of the region, which `grid` has centred on the lattice cell.
    inside = grid.cell_px + grid.margin_px - (model.window[0] - stride) // 2
    at = np.stack(np.unravel_index(needed, place.shape), axis=1).astype(np.int64) - steps
    start = at * stride + inside
    boxes = np.stack([start, start + grid.crop_px], axis=1)
    crops = TilePlan(
        source_id=cells.source_id,
        spacing=cells.spacing,
        extent=cells.extent,
        window=(grid.crop_px, grid.crop_px),
        boxes=boxes,
        cores=np.clip(boxes, 0, np.array(cells.extent, np.int64)),
    )
    return LatticePlan(net, cells, crops, neighbours, turns)


def check_stride(model: PatchModel, stride: int) -> None:
    """Raise `UsageError` for a stride that an NCRF with its CRF cannot be evaluated at; nothing for other models."""
    found = lattice_net(model)
    if found is not None and found[0].grid.cell_px % stride:
        cell = found[0].grid.cell_px
        choices = [n for n in range(8, cell + 1) if cell % n == 0]
        raise UsageError(
            f"stride {stride} does not divide the cells of {model.name!r}, {cell} px, so their neighbours are not on "
            f"the heatmap's lattice; strides that do: {', '.join(str(n) for n in choices)}"
        )


def compute_lattice(
    engine: PatchEngine, source: Source, plan: LatticePlan, runner: Runner, checkpoint: Path | None = None
) -> tuple[Raster, RunStats]:
    """Probabilities of both classes per cell, as by the definition; NaN where there is no tissue or no reading.

    Embeddings live in a file that is mapped into memory, 4 bytes a number: 2 kB a crop for 512 of them. With
    `checkpoint` it lies beside that file, and an interrupted run continues. The figures returned count cells.
    """
    activation = runner.model.activation
    # Sums over the orientations: of the probabilities, and of the squares of those whose spread is wanted.
    total = np.zeros((len(plan.cells), len(runner.model.classes)), np.float64)
    squares = np.zeros((len(plan.cells), 1), np.float64)
    positive = [activation.positive] if isinstance(activation, MeanOfTurns) else [0]
    resumed, seconds, batch_size = 0, 0.0, engine.settings.batch_size
    with TemporaryDirectory(prefix="medvision-ncrf-") as temporary:
        folder = Path(temporary) if checkpoint is None else checkpoint.parent
        for which in plan.turns:
            crop_runner = _crop_runner(runner, plan.net, which)
            done = _DoneTurn(folder / f"turn-{which}.npz", plan, crop_runner)
            scores = done.read() if checkpoint is not None else None
            if scores is None:
                rows = folder / f"turn-{which}.rows"
                progress = None if checkpoint is None else checkpoint.with_name(f"turn-{which}-progress.npz")
                sink = RowsSink(plan.crops, plan.net.ncrf.cell.width + 1, rows)
                found, stats = engine.run(source, plan.crops, crop_runner, sink, progress)
                scores = _score(plan, found, which, runner)
                done.write(scores)
                rows.unlink(missing_ok=True)  # gigabytes for a large slide
                resumed, seconds = resumed + stats.resumed, seconds + stats.seconds
                batch_size = stats.batch_size
            else:
                resumed += len(plan.crops)
            total += scores
            squares += scores[:, positive] ** 2
    mean = total / len(plan.turns)
    if runner.model.extras:
        variance = squares / len(plan.turns) - mean[:, positive] ** 2
        mean = np.concatenate([mean, np.sqrt(np.maximum(variance, 0))], axis=1)
    raster = _raster(plan.cells, mean.astype(np.float32), runner.model.columns)
    unread = np.flatnonzero(np.isnan(mean).any(axis=1))
    stats = RunStats(
        windows=len(plan.cells),
        unread=tuple(int(index) for index in unread),
        resumed=round(resumed / max(1, plan.units) * len(plan.cells)),
        batch_size=batch_size,
        device=str(engine.device),
        precision=runner.precision,
        backend=runner.backend,
        seconds=seconds,
    )
    return raster, stats


@dataclass(frozen=True, eq=False)
class _DoneTurn:
    """The scores of one orientation, kept until the slide is done: a finished one is not computed again."""

    path: Path
    plan: LatticePlan
    runner: Runner

    @property
    def _key(self) -> str:
        return digest_json([self.plan.cells.digest, self.plan.crops.digest, self.runner.identity])

    def read(self) -> Scores | None:
        """The scores, where they are there and of the same run."""
        with (
            suppress(OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError),
            self.path.open("rb") as file,
            np.load(file, allow_pickle=False) as saved,
        ):
            if str(saved["key"]) == self._key:
                return np.asarray(saved["scores"], np.float64)
        return None

    def write(self, scores: Scores) -> None:
        """Whole or not at all."""
        part = self.path.with_name(self.path.name + ".part")
        with part.open("wb") as file:
            np.savez(file, key=np.array(self._key), scores=scores)
        part.replace(self.path)


def _score(plan: LatticePlan, rows: FloatArray, which: int, runner: Runner) -> Scores:
    """The CRF over the gathered neighbours of each cell: probabilities `(cells, classes)`, NaN for unread cells.

    Turning a region moves its cells: place p of the turned region holds cell `order[p]`. The middle stays the middle.
    """
    order = turn(torch.arange(NODES).reshape(SIDE, SIDE), which).flatten().numpy()
    crf = copy.deepcopy(plan.net.ncrf.crf)
    assert crf is not None, "only an NCRF with its CRF has a lattice"
    crf = crf.eval().to(runner.device)
    activation = runner.model.activation
    each = activation.each if isinstance(activation, MeanOfTurns) else activation
    step = max(1, _GATHERED // (NODES * rows.shape[1]))
    scores = np.full((len(plan.cells), len(runner.model.classes)), np.nan)
    for start in range(0, len(plan.cells), step):
        gathered = rows[plan.neighbours[start : start + step][:, order]]
        read = np.isfinite(gathered[:, :, -1])
        gathered[~read] = 0
        with torch.inference_mode():
            on_device = torch.from_numpy(gathered).to(runner.device)
            logit = crf(on_device[:, :, :-1], on_device[:, :, -1])[:, CENTRE]
            found = each(torch.stack([torch.zeros_like(logit), logit], dim=1))
        assert isinstance(found, torch.Tensor), "a classifier gives one row of scores per window"
        scores[start : start + step] = np.where(read[:, [CENTRE]], found.float().cpu().numpy(), np.nan)
    return scores


def _raster(cells: TilePlan, scores: FloatArray, classes: tuple[str, ...]) -> Raster:
    sink = RasterSink(cells, classes)
    if len(cells):
        sink.add(Windows(np.arange(len(cells), dtype=np.int64), cells.boxes, cells.cores), scores)
    return sink.finish()


@lru_cache(maxsize=TURNS)
def _crop_runner(runner: Runner, net: NcrfClassifier, which: int) -> Runner:
    """What gives embeddings and logits of crops in one orientation, on the device and backend of `runner`."""
    model = runner.model
    cell = net.ncrf.cell
    side = net.grid.crop_px
    crops = replace(
        model,
        net=cell if which == 0 else nn.Sequential(_Turn(which), cell).eval(),
        window=(side, side),
        output="vector",
        digest=digest_json([model.digest, "crops", which]),
        activation=_as_it_is,
    )
    return prepare(crops, runner.device, runner.backend, runner.precision)


class _Turn(nn.Module):
    """Windows in one of the eight orientations."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.which = which

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """See `turn`."""
        return turn(windows, self.which)


def _as_it_is(raw: torch.Tensor) -> torch.Tensor:
    return raw
