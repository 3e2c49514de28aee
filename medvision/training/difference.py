"""How much a way of computing a classifier changes what it says, for its contract and its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from medvision.core.errors import UsageError
from medvision.engine.backends import Runner, prepare
from medvision.engine.contract import PatchModel
from medvision.metrics.ranking import roc_auc
from medvision.models.contract import Difference

WAYS: tuple[tuple[str, str], ...] = (
    ("fused", "float32"),
    ("openvino", "float32"),
    ("onnxruntime", "float32"),
    ("eager", "bfloat16"),
    ("fused", "bfloat16"),
    ("openvino", "bfloat16"),
)
"""Backends with precisions. "compile" computes the fused network, and takes a minute to begin: it is not among them."""

_ENOUGH = 1000


@dataclass(frozen=True, eq=False)
class Ways:
    """Runners of a model: `exact` in eager float32, and those that are compared with it.

    `refused` says, by backend and precision, why a way could not be had.
    """

    exact: Runner
    others: tuple[Runner, ...]
    refused: dict[tuple[str, str], str]


def prepare_ways(model: PatchModel, ways: Sequence[tuple[str, str]] = WAYS) -> Ways:
    """Runners on the CPU of those `ways` that the model's contract allows and that are installed.

    Raises:
        UsageError: if the model gives no probabilities.
    """
    if model.output != "scores":
        raise UsageError(f"model {model.name!r} gives no probabilities to compare")
    cpu = torch.device("cpu")
    others: list[Runner] = []
    refused: dict[tuple[str, str], str] = {}
    for backend, precision in ways:
        try:
            others.append(prepare(model, cpu, backend, precision))
        except UsageError as error:
            refused[backend, precision] = str(error)
    return Ways(prepare(model, cpu, "eager", "float32"), tuple(others), refused)


def measure_differences(
    ways: Ways, windows: npt.NDArray[np.uint8], positive: npt.NDArray[np.bool_]
) -> tuple[Difference, ...]:
    """The differences on uint8 `windows` `(n, *window, channels)`, of which `positive` (n,) are.

    Windows are turned and mirrored to their eight orientations where there are fewer than 1,000: a network answers
    each differently, and an AUC of few windows moves in large steps.

    Raises:
        UsageError: if the windows are of one class.
    """
    if len(windows) < _ENOUGH:
        windows, positive = eight_orientations(windows), np.tile(positive, 8)
    model = ways.exact.model
    column = model.classes.index(model.positive or model.classes[-1])
    exact = _scores(ways.exact, windows)
    auc = roc_auc(positive, exact[:, column])
    found = []
    for runner in ways.others:
        scores = _scores(runner, windows)
        difference = Difference(
            backend=runner.backend,
            precision=runner.precision,
            probability=float(np.abs(scores - exact).max()),
            auc=abs(roc_auc(positive, scores[:, column]) - auc),
            windows=len(windows),
        )
        found.append(difference)
    return tuple(found)


def eight_orientations(windows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`(8 * n, side, side, channels)` from `(n, side, side, channels)`: every quarter turn, and its mirror image."""
    turned = [np.rot90(windows, quarter, axes=(1, 2)) for quarter in range(4)]
    return np.concatenate([*turned, *(part[:, :, ::-1] for part in turned)])


def _scores(runner: Runner, windows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    with torch.inference_mode():
        parts = [runner(part) for part in torch.split(torch.from_numpy(windows), 32)]
    return np.concatenate([part.numpy() for part in parts if isinstance(part, torch.Tensor)]).astype(
        np.float64
    )
