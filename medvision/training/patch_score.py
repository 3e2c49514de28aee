"""How good a patch classifier is on slides that it never saw: margins, figures with intervals, the temperature."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medvision.core.errors import UsageError
from medvision.metrics.ranking import bootstrap_interval, roc_auc
from medvision.models.contract import Figure
from medvision.store.files import atomic_write
from medvision.training.patch_config import TrainPatchConfig
from medvision.training.patches import PatchSet, as_float

Floats = npt.NDArray[np.float64]

MEAN = (0.7, 0.7, 0.7)
STD = (0.2, 0.2, 0.2)
"""Normalisation of the windows: about what bright-field histology has, and one for all colours."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Of patches by networks that never saw their slide.

    `margins` (n,): logit of the positive class minus the log-sum-exp of the others.
    `recoloured` holds the margins once more for each colour target.
    """

    seeds: npt.NDArray[np.int64]
    slides: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    margins: Floats
    recoloured: dict[str, Floats]


def predict_margins(net: nn.Module, images: torch.Tensor, positive: int, batch_size: int = 64) -> Floats:
    """Margins `(n,)` of float windows `(n, 3, ...)` in 0..1: logit of the positive class over the rest."""
    net.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            logits = net(normalised(images[start : start + batch_size])).double()
            others = torch.cat([logits[:, :positive], logits[:, positive + 1 :]], dim=1)
            found.append(logits[:, positive] - torch.logsumexp(others, dim=1))
    return torch.cat(found).numpy()


def cross_validated_figures(config: TrainPatchConfig, found: Predictions) -> dict[str, Figure]:
    """AUC over all kept-out patches, pooled, with its 95% bootstrap interval; per seed; and per colour target.

    Raises:
        UsageError: if the folds' slides hold one class only.
    """
    positive = found.labels == positive_index(config)
    if positive.all() or not positive.any():
        raise UsageError("the folds' slides hold one class only, so no AUC can be measured on them")
    seeds = np.unique(found.seeds).tolist()
    first = found.seeds == found.seeds[0]
    protocol = f"slides kept apart, pooled out-of-fold, {int(first.sum())} patches of {len(set(found.slides))} slides"
    mean = _mean_over_seeds(found.seeds, found.margins)
    interval = bootstrap_interval(roc_auc, positive[first], mean, n=2000)
    how = "patches resampled" + (f"; mean margin of {len(seeds)} seeds" if len(seeds) > 1 else "")
    figures = {
        "auc": Figure(value=roc_auc(positive[first], mean), interval=interval, protocol=f"{protocol}; {how}")
    }
    for seed in seeds if len(seeds) > 1 else []:
        of_seed = found.seeds == seed
        value = roc_auc(positive[of_seed], found.margins[of_seed])
        figures[f"auc_seed_{seed}"] = Figure(value=value, protocol=f"{protocol}; seed {seed}")
    for name, margins in found.recoloured.items():
        value = roc_auc(positive[first], _mean_over_seeds(found.seeds, margins))
        figures[f"auc_recoloured_{name}"] = Figure(
            value=value, protocol=f"{protocol}; in the colours of {name}"
        )
    return figures


def _mean_over_seeds(seeds: npt.NDArray[np.int64], margins: Floats) -> Floats:
    """Mean margin per patch; every seed lists the patches in one order."""
    return np.asarray(np.mean([margins[seeds == seed] for seed in np.unique(seeds)], axis=0), np.float64)


def synthetic_figure(config: TrainPatchConfig, net: nn.Module, test: PatchSet) -> Figure:
    """AUC on rendered windows that were not trained on."""
    margins = predict_margins(net, as_float(test.images), positive_index(config))
    positive = test.labels == positive_index(config)
    return Figure(
        value=roc_auc(positive, margins),
        interval=bootstrap_interval(roc_auc, positive, margins, n=1000),
        protocol=f"{len(test)} rendered windows of seeds not trained on",
    )


def write_predictions(found: Predictions, temperature: float, path: Path) -> None:
    """The out-of-fold predictions as CSV."""
    lines = ["seed,slide,label,margin,probability"]
    for seed, slide, label, margin in zip(
        found.seeds, found.slides, found.labels, found.margins, strict=True
    ):
        lines.append(f"{seed},{slide},{label},{margin:.5f},{1 / (1 + np.exp(-margin / temperature)):.5f}")
    atomic_write(path, ("\n".join(lines) + "\n").encode())


def positive_index(config: TrainPatchConfig) -> int:
    """Which output is the positive class: the last."""
    return len(config.classes) - 1


def normalised(windows: torch.Tensor) -> torch.Tensor:
    """Float windows in 0..1 as the network takes them."""
    mean = torch.tensor(MEAN).view(1, -1, 1, 1)
    std = torch.tensor(STD).view(1, -1, 1, 1)
    return ((windows - mean) / std).contiguous(memory_format=torch.channels_last)
