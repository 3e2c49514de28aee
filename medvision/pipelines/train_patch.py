"""`medvision train patch`: the training of `medvision.training.patch` with windows of the synthetic slide generator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medvision.synthetic import synthetic_patches
from medvision.training.loop import Check
from medvision.training.patch import TrainReport, train_patch
from medvision.training.patch_config import read_config


def train_patch_from_file(
    config: Path,
    out: Path,
    *,
    data: Path | None = None,
    on_check: Callable[[str, Check], None] | None = None,
) -> TrainReport:
    """Train as the YAML file `config` says, with all results below `out`. `data` replaces the file's data folder.

    Raises:
        UsageError: for a wrong configuration or missing data, naming the field or file.
    """
    settings = read_config(config)
    if data is not None:
        settings = settings.model_copy(update={"data": data})
    return train_patch(settings, out, synthetic_patches, on_check)
