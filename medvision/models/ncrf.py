"""NCRF: a patch classifier whose neighbouring cells vote, by a conditional random field trained with it.

Li & Ping, "Cancer Metastasis Detection With Neural Conditional Random Field" (MIDL 2018, arXiv:1806.07064). A region of
3 x 3 cells is cut up, the centre crop of each cell goes through one network that gives an embedding and a logit (the
unary potential), and a fully connected CRF over the nine cells turns the nine logits into nine better ones.

Cells are in row order: cell `3 * row + column` of the region, the fifth (index 4) in the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from medvision.core.errors import UsageError, WeightsError
from medvision.models.classifiers.slim_resnet import WIDTHS, SlimResNet
from medvision.models.contract import CellGrid, WeightsContract
from medvision.models.weights import State, apply_weights

SIDE = 3
NODES = SIDE * SIDE
CENTRE = NODES // 2
ITERATIONS = 10

MEAN = (128 / 255,) * 3
STD = (128 / 255,) * 3
"""The published normalisation, `(value - 128) / 128`."""

PUBLISHED = CellGrid(cell_px=256, crop_px=224, stride_px=64)
SLIM = CellGrid(cell_px=128, crop_px=112, stride_px=32)
"""The same field of view at twice the spacing, for the small network."""


class MeanFieldCrf(nn.Module):
    """A fully connected CRF over the cells of a region, solved by mean-field iterations.

    For cells i, j with embeddings f and unary logits u, and one learnt matrix W `(1, nodes, nodes)`, zero at the start:

        P_ij = cos(f_i, f_j) * (W_ij + W_ji) / 2
        logit_i <- u_i + sum_j (2 * sigmoid(logit_j) - 1) * P_ij        ten times, from logit = u

    `2q - 1` is the expected sign of a neighbour's label, so a neighbour that looks alike (cosine near 1) and is surely
    tumour adds W_ij. The cell itself is among its neighbours. A cell whose embedding is zero has cosine 0 with all, and
    so neither gives nor takes: this is how a cell that could not be read is left out.
    """

    def __init__(self, nodes: int = NODES, iterations: int = ITERATIONS) -> None:
        super().__init__()
        self.iterations = iterations
        self.W = nn.Parameter(torch.zeros(1, nodes, nodes))

    def forward(self, embeddings: torch.Tensor, unary: torch.Tensor) -> torch.Tensor:
        """Logits `(n, nodes)` from embeddings `(n, nodes, width)` and unary logits `(n, nodes)`."""
        unit = functional.normalize(embeddings, dim=2)
        potential = unit @ unit.transpose(1, 2) * (self.W + self.W.transpose(1, 2)) / 2
        logits = unary
        for _ in range(self.iterations):
            signs = 2 * torch.sigmoid(logits) - 1
            logits = unary + (potential @ signs.unsqueeze(2)).flatten(1)
        return logits


class CellNet(nn.Module):
    """Embedding and logit of cells: `(n, width + 1)`, the logit last, for crops `(n, 3, crop, crop)`.

    `trunk` gives the embedding `(n, width)`. `dropout` acts on the logit's way only: on the embeddings it would shrink
    the cosines in training and not afterwards.
    """

    def __init__(self, trunk: nn.Module, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 1)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Embeddings, then the logit."""
        embeddings = self.trunk(crops)
        return torch.cat([embeddings, self.head(self.dropout(embeddings))], dim=1)


class Ncrf(nn.Module):
    """Logits `(n, 9)` of the cells of regions `(n, 9, 3, crop, crop)`; without a CRF (base model) the unary ones."""

    def __init__(self, cell: CellNet, crf: bool = True) -> None:
        super().__init__()
        self.cell = cell
        self.crf = MeanFieldCrf() if crf else None

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        """Nine logits per region."""
        found = self.cell(regions.flatten(0, 1)).reshape(-1, NODES, self.cell.width + 1)
        logits: torch.Tensor = found[:, :, -1]
        if self.crf is not None:
            logits = self.crf(found[:, :, :-1], logits)
        return logits


class NcrfClassifier(nn.Module):
    """An NCRF as a classifier of windows: logits `(n, 2)`, 0 and that of the cell in the middle.

    With the CRF a window is a whole region, `3 * cell_px` on a side; this is the published definition, which computes
    nine embeddings for one answer (`pipelines.ncrf` computes each once). Without it a window is one crop.
    """

    def __init__(self, ncrf: Ncrf, grid: CellGrid) -> None:
        super().__init__()
        self.ncrf = ncrf
        self.grid = grid
        self.stride_px = grid.stride_px

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """The middle cell's logit beside 0, so that a softmax gives its sigmoid."""
        logits = self.ncrf(cut(windows, self.grid)) if self.grid.crf else self.ncrf.cell(windows)
        logit = logits[:, CENTRE if self.grid.crf else -1]
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def cut(regions: torch.Tensor, grid: CellGrid) -> torch.Tensor:
    """Centre crops `(n, 9, channels, crop, crop)` of the cells of regions `(n, channels, 3 * cell, 3 * cell)`."""
    starts = [k * grid.cell_px + grid.margin_px for k in range(SIDE)]
    side = grid.crop_px
    crops = [regions[:, :, r : r + side, c : c + side] for r in starts for c in starts]
    return torch.stack(crops, dim=1)


TRUNKS: dict[str, Callable[[], CellNet]] = {
    "resnet18": lambda: _resnet("resnet18"),
    "resnet34": lambda: _resnet("resnet34"),
    "slim": lambda: _slim(),
}


def build_ncrf(trunk: str, crf: bool = True) -> Ncrf:
    """An untrained NCRF on a `trunk` of `TRUNKS`: 11,177,106 parameters with resnet18, 21,285,266 with resnet34.

    Raises:
        UsageError: for a trunk that is not known.
    """
    if trunk not in TRUNKS:
        raise UsageError(f"no NCRF has a trunk called {trunk!r}; known: {', '.join(TRUNKS)}")
    return Ncrf(TRUNKS[trunk](), crf)


def check_crop(trunk: str, crop_px: int) -> None:
    """Raise `UsageError` for crops that the small network cannot halve twice after its first step of four."""
    if trunk == "slim" and crop_px % 16:
        raise UsageError(f"the slim trunk takes crops of a multiple of 16 px, not {crop_px}")


def load_ncrf(
    trunk: str, state: State, contract: WeightsContract, path: Path
) -> tuple[nn.Module, WeightsContract]:
    """The network of a weights file, and the contract it fulfils.

    A file without a CRF matrix is a base model, which looks at one crop whatever the contract given says.

    Raises:
        WeightsError: if the tensors are of another network, or the contract names no cells or other than two classes.
        UsageError: for crops that the trunk cannot take.
    """
    grid = contract.grid
    if grid is None or len(contract.classes) != 2:
        raise WeightsError(
            f"{path}: an NCRF needs a contract with the sizes of its cells (grid) and two classes, not "
            f"{len(contract.classes)}: {', '.join(contract.classes)}"
        )
    check_crop(trunk, grid.crop_px)
    own = from_published(state)
    crf = "crf.W" in own
    if crf != grid.crf:
        grid = grid.model_copy(update={"crf": crf})
        contract = contract.model_copy(update={"grid": grid, "window_px": grid.window_px})
    net = build_ncrf(trunk, crf)
    apply_weights(net, own, path)
    return NcrfClassifier(net, grid), contract


def from_published(state: State) -> State:
    """Tensors under our names from the published layout; those that have our names already stay as they are.

    Published checkpoints are `{epoch, step, state_dict}` (`read_weights` unwraps them) and name the network as
    torchvision's ResNet does, with one output: `fc.*` is our `cell.head.*`, `crf.W` stays, and all else (`conv1.*`,
    `bn1.*`, `layer1.*` ... `layer4.*`) is our `cell.trunk.*`.
    """
    if any(name.startswith("cell.") for name in state):
        return state
    named = {}
    for name, value in state.items():
        if name.startswith("crf."):
            named[name] = value
        elif name.startswith("fc."):
            named["cell.head." + name.partition(".")[2]] = value
        else:
            named["cell.trunk." + name] = value
    return named


def start_from_classifier(net: Ncrf, state: State, positive: int, path: Path) -> None:
    """Give `net` the trunk and the head of a trained two-class patch classifier of the same architecture.

    A softmax over two logits is a sigmoid of their difference, so the cell's logit starts as exactly the classifier's:
    positive minus the other. `state` may also be that of an NCRF or of a base model; the CRF is then left as it is.

    Raises:
        WeightsError: if the tensors are of another network, or of another number of classes.
    """
    if any(name.startswith("cell.") for name in state):
        cell = {
            name.removeprefix("cell."): value for name, value in state.items() if name.startswith("cell.")
        }
    else:
        cell = {}
        for name, value in state.items():
            first, _, rest = name.partition(".")
            if first not in ("fc", "head"):
                cell["trunk." + name] = value
                continue
            if value.shape[0] not in (1, 2):
                raise WeightsError(f"{path}: a start needs a classifier of two classes, not {value.shape[0]}")
            cell["head." + rest] = value if value.shape[0] == 1 else value[[positive]] - value[[1 - positive]]
    apply_weights(net.cell, cell, path)


def _resnet(name: str) -> CellNet:
    import torchvision

    trunk = torchvision.models.get_model(name, weights=None)
    width = trunk.fc.in_features
    trunk.fc = nn.Identity()
    return CellNet(trunk, width)


def _slim() -> CellNet:
    trunk = SlimResNet(dropout=0.0)
    trunk.head = nn.Identity()  # type: ignore[assignment]
    return CellNet(trunk, 2 * WIDTHS[-1], dropout=0.2)
