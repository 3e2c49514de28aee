"""How much a precision changes what a classifier says, for its contract and its card."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from medvision.core.errors import UsageError
from medvision.engine.backends import Runner, prepare
from medvision.engine.contract import PatchModel
from medvision.metrics.ranking import roc_auc
from medvision.models.contract import Difference


def measure_difference(
    model: PatchModel,
    windows: npt.NDArray[np.uint8],
    positive: npt.NDArray[np.bool_],
    precision: str = "bfloat16",
    backend: str = "fused",
) -> Difference:
    """The difference from float32 eager on uint8 `windows` `(n, *window, channels)`, of which `positive` are.

    Raises:
        UsageError: if the model gives no probabilities, or may not or cannot run so.
    """
    if model.output != "scores":
        raise UsageError(f"model {model.name!r} gives no probabilities to compare")
    cpu = torch.device("cpu")
    exact = _scores(prepare(model, cpu, "eager", "float32"), windows)
    rough = _scores(prepare(model, cpu, backend, precision), windows)
    column = model.classes.index(model.positive or model.classes[-1])
    change = abs(roc_auc(positive, rough[:, column]) - roc_auc(positive, exact[:, column]))
    return Difference(probability=float(np.abs(rough - exact).max()), auc=change, windows=len(windows))


def _scores(runner: Runner, windows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    with torch.inference_mode():
        parts = [runner(part) for part in torch.split(torch.from_numpy(windows), 32)]
    return np.concatenate([part.numpy() for part in parts if isinstance(part, torch.Tensor)]).astype(
        np.float64
    )
