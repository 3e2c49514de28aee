"""A patch classifier evaluated fully convolutionally: the features of overlapping windows are computed once.

A classifier is a *trunk*, which turns pixels into maps of features, and a *head*, which turns the maps of one window
into scores. The trunk is run over a block much larger than a window; the head, unchanged, on the part of the maps that
each window would have (Sermanet et al., OverFeat, ICLR 2014; Long et al., CVPR 2015). With total stride s of the trunk
and stride t of the heatmap, cells `lcm(s, t)` apart share one pass; the `lcm(s, t) / t` phases per axis between them
are passes over the shifted block, stitched ("shift and stitch").

A network that nowhere pads gives what it gives window by window. One that pads sees zeros around each window, and in a
block the neighbouring tissue instead: near, not equal, and the difference is the caller's to measure. Normalisation
and squeezing over the whole window become sliding means over a window's size where the network has modules for them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.engine.contract import ModelOutputs, PatchModel
from medvision.models.split import NotDenseError, split_classifier

BLOCK_PX = 1280
"""Longest side of a block. A larger one shares more at its border and takes more memory: 1,664 px is 5% to 10% faster
for a ResNet-18, and its first maps take 70% more."""

HALO_PX = 32
"""Pixels around a block whose features are thrown away where the trunk pads, so that blocks leave hardly a seam."""

_HEAD_ELEMENTS = 1 << 24
"""Feature values copied for the head at once: 64 MiB."""


@dataclass(frozen=True, eq=False)
class DenseView:
    """What is known of a classifier that can be evaluated densely.

    `stride` is the trunk's in pixels, `features` the (rows, columns) of the maps of one window, `head_share` the head's
    share of the multiplications of one window. `obstacles` says, in words, why dense and patch-wise scores differ;
    empty where they are equal up to floating-point noise, which a comparison on random pixels has then confirmed.
    """

    model: PatchModel
    trunk: nn.Module
    head: nn.Module
    stride: int
    features: tuple[int, int]
    head_share: float
    obstacles: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """True where dense scores equal patch-wise ones up to floating-point noise."""
        return not self.obstacles

    @property
    def halo(self) -> int:
        """Pixels around the windows of a block, a multiple of the trunk's stride."""
        return 0 if self.exact else math.ceil(HALO_PX / self.stride) * self.stride

    def phases(self, stride: int) -> int:
        """Shifted passes per axis that a heatmap of `stride` pixels per cell takes."""
        return math.lcm(self.stride, stride) // stride

    def block(self, stride: int, cells: tuple[int, int]) -> tuple[int, int]:
        """Sides in pixels of a block that holds all windows of `cells`."""
        rows, columns = (
            (n - 1) * stride + side + 2 * self.halo for n, side in zip(cells, self.model.window, strict=True)
        )
        return rows, columns

    def cells(self, stride: int, lattice: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of cells per block that cover `lattice` evenly with blocks of at most `BLOCK_PX`."""
        phases = self.phases(stride)
        sides = []
        for count, window in zip(lattice, self.model.window, strict=True):
            most = max(1, (max(0, BLOCK_PX - window - 2 * self.halo) // stride + 1) // phases)
            blocks = math.ceil(count / (most * phases))
            sides.append(math.ceil(math.ceil(count / blocks) / phases) * phases)
        return sides[0], sides[1]

    def gain(self, stride: int, cells: tuple[int, int]) -> float:
        """How many times fewer multiplications a full block takes than its windows one by one."""
        phases = self.phases(stride)
        window = math.prod(self.model.window)
        pixels = math.prod(n - (phases - 1) * stride for n in self.block(stride, cells))
        trunk = phases**2 * pixels / window / math.prod(cells)
        return 1 / ((1 - self.head_share) * trunk + self.head_share)


@lru_cache(maxsize=2)
def dense_view(model: PatchModel) -> DenseView:
    """The dense view of a classifier. The network given is not changed; the view shares its weights.

    Raises:
        UsageError: where the network has no such view (attention between all positions, a fixed input size), naming it.
    """
    if len(model.window) != 2 or model.output != "scores":
        raise UsageError(
            f"model {model.name!r} scores no flat windows, so it has no dense view; use --dense off"
        )
    tensors: dict[int, Any] = {
        id(t): t for t in [*model.net.parameters(), *model.net.buffers()]
    }  # copied modules, shared weights
    net = copy.deepcopy(model.net, tensors).eval()
    device = next((t.device for t in net.parameters()), torch.device("cpu"))
    channels = len(model.normalisation.mean)
    try:
        with torch.inference_mode():
            parts = split_classifier(net, (model.window[0], model.window[1]), channels)
            share = parts.head_share
            if share > 0.5:
                raise NotDenseError(
                    f"{share:.0%} of its work mixes all positions of a window and cannot be shared"
                )
            view = DenseView(
                model, parts.trunk, parts.head, parts.stride, parts.features, share, parts.obstacles
            )
            if view.exact and not _agrees(view, channels, device):
                view = replace(
                    view, obstacles=("its features at one place depend on the rest of the window",)
                )
    except NotDenseError as reason:
        raise UsageError(
            f"model {model.name!r} cannot be evaluated densely: {reason}; use --dense off"
        ) from reason
    return view


def dense_model(view: DenseView, stride: int, cells: tuple[int, int]) -> PatchModel:
    """A model of whole blocks: `(n, *block, channels)` in, scores `(n, *cells, classes)` out.

    Cell (i, j) sees the window that starts `halo + stride * (i, j)` into the block. `cells` are multiples of
    `view.phases(stride)`, as `view.cells` gives them.

    Raises:
        UsageError: for cells that are not such multiples.
    """
    phases = view.phases(stride)
    if any(n < 1 or n % phases for n in cells):
        raise UsageError(f"blocks of {cells} cells do not hold the {phases} phases of stride {stride} evenly")
    model = view.model
    return replace(
        model,
        net=DenseNet(view, stride, cells),
        window=view.block(stride, cells),
        output="array",
        digest=digest_json([model.digest, "dense", stride, list(cells), view.halo]),
        activation=CellActivation(model.activation),
    )


@dataclass(frozen=True, slots=True)
class CellActivation:
    """The activation of a classifier, applied to every cell: `(n, classes, rows, columns)` to classes last."""

    each: Callable[[Any], ModelOutputs]

    def __call__(self, raw: torch.Tensor) -> torch.Tensor:
        """Scores `(n, rows, columns, classes)`."""
        last = raw.permute(0, 2, 3, 1)
        scores = self.each(last.reshape(-1, last.shape[-1]))
        assert isinstance(scores, torch.Tensor), "a classifier gives one row of scores per window"
        return scores.reshape(*last.shape[:3], -1)


class DenseNet(nn.Module):
    """Raw scores `(n, classes, *cells)` for blocks `(n, channels, *block)`: trunk once per phase, head per cell."""

    def __init__(self, view: DenseView, stride: int, cells: tuple[int, int]) -> None:
        super().__init__()
        self.trunk, self.head = view.trunk, view.head
        self._features = view.features
        self._phases = view.phases(stride)
        self._stride = stride
        self._margin = view.halo // view.stride
        self._step = self._phases * stride // view.stride
        self._count = (cells[0] // self._phases, cells[1] // self._phases)

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        """Each phase sees the block from `phase * stride` on, and gives every `phases`-th cell."""
        lost = (self._phases - 1) * self._stride
        rows, columns = blocks.shape[2] - lost, blocks.shape[3] - lost
        stitched: torch.Tensor | None = None
        for r in range(self._phases):
            for c in range(self._phases):
                top, left = r * self._stride, c * self._stride
                part = self._cells(self.trunk(blocks[:, :, top : top + rows, left : left + columns]))
                if stitched is None:
                    full = (n * self._phases for n in self._count)
                    stitched = part.new_empty((*part.shape[:2], *full))
                stitched[:, :, r :: self._phases, c :: self._phases] = part
        assert stitched is not None, "there is at least one phase"
        return stitched

    def _cells(self, maps: torch.Tensor) -> torch.Tensor:
        """The head on the maps of each window: `(n, classes, rows, columns)` of one phase's cells."""
        rows, columns = self._count
        inner = maps[:, :, self._margin :, self._margin :]
        views = inner.unfold(2, self._features[0], self._step).unfold(3, self._features[1], self._step)
        # Channels last, as the maps are: the head reads whole vectors of features.
        windows = views[:, :, :rows, :columns].permute(0, 2, 3, 4, 5, 1)
        size = len(maps) * columns * math.prod(windows.shape[3:])
        at_once = max(1, _HEAD_ELEMENTS // max(size, 1))
        scores = []
        for start in range(0, rows, at_once):
            chunk = windows[:, start : start + at_once]
            raw = self.head(chunk.reshape(-1, *windows.shape[3:]).permute(0, 3, 1, 2))
            scores.append(raw.reshape(*chunk.shape[:3], -1))
        return torch.cat(scores, dim=1).permute(0, 3, 1, 2)


def _agrees(view: DenseView, channels: int, device: torch.device) -> bool:
    """True where four overlapping windows of random pixels get the raw scores that they get alone."""
    random = torch.Generator().manual_seed(0)
    sides = view.block(view.stride, (2, 2))
    coarse = torch.randn((1, channels, 3, 3), generator=random)
    block = nn.functional.interpolate(coarse, sides) + torch.randn((1, channels, *sides), generator=random)
    block = block.to(device)
    dense = DenseNet(view, view.stride, (2, 2)).eval()(block)[0].flatten(1).T
    (rows, columns), s = view.model.window, view.stride
    windows = [block[:, :, i : i + rows, j : j + columns] for i in (0, s) for j in (0, s)]
    alone = view.model.net.eval()(torch.cat(windows))
    spread = float((alone - alone.mean(0)).abs().max())
    return float((dense - alone).abs().max()) <= 1e-3 * spread + 2e-6 * float(alone.abs().max())
