"""The model card of a nodule network: what it looks for, what it learnt from, how good it is, what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from medvision.models.architectures import ARCHITECTURES
from medvision.models.nodules import DetectorContract, ReductionContract
from medvision.training.card_layout import calibration, figure_table, lay_out
from medvision.training.nodule_config import TrainNoduleFprConfig, TrainNodulesConfig
from medvision.training.nodule_scans import NoduleScans


def render_card(
    config: TrainNodulesConfig | TrainNoduleFprConfig,
    contract: DetectorContract | ReductionContract,
    held: NoduleScans,
    net: nn.Module,
    weights: Path,
    training: Sequence[str],
) -> str:
    """The card as Markdown. It names no path. `training` says how it learnt."""
    design = ARCHITECTURES[contract.architecture]
    parameters = sum(p.numel() for p in net.parameters())
    window = " × ".join(str(side) for side in contract.window)
    spacing = " × ".join(f"{side:g}" for side in contract.spacing_mm)
    finds = isinstance(contract, DetectorContract)
    does = (
        "Finds candidates for lung nodules in a chest CT: boxes with a score, many of them no nodules."
        if finds
        else "Gives each candidate in a chest CT the probability that it is a nodule."
    )
    sections = {
        "What it does": [
            f"{does} {contract.architecture} ({design.paper}), {parameters:,} parameters, "
            f"{weights.stat().st_size / 1e6:.2f} MB, version {contract.version}. Input: {window} voxels of {spacing} "
            f"mm (slice, row, column), cut to {contract.hu[0]:g} to {contract.hu[1]:g} HU.",
        ],
        "Data": [config.data_statement.strip(), "", f"{held.proof()}."],
        "Measured": figure_table(contract.figures),
        "Calibration": calibration(contract.calibration, f"; temperature {contract.temperature:g}."),
        "Training": list(training),
    }
    return lay_out(config, sections)
