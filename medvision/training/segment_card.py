"""The model card of a segmentation network: what it tells apart, what it learnt from, how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from medvision.models.architectures import ARCHITECTURES
from medvision.models.segmentation import SegmentContract
from medvision.training.card_layout import calibration, figure_table, lay_out
from medvision.training.segment_config import TrainSegmentConfig


def render_card(
    config: TrainSegmentConfig,
    contract: SegmentContract,
    net: nn.Module,
    proof: str,
    notes: Sequence[str],
    weights: Path,
    best_step: int,
) -> str:
    """The card as Markdown. It names no path. `proof` says how the images are split, `notes` what was passed over."""
    design = ARCHITECTURES[contract.architecture]
    parameters = sum(p.numel() for p in net.parameters())
    sections = {
        "What it does": [
            f"Gives each {'pixel' if contract.axes == 'yx' else 'voxel'} a probability of each class: "
            f"{', '.join(contract.classes)}. {contract.architecture} ({design.paper}), {parameters:,} parameters, "
            f"{weights.stat().st_size / 1e6:.2f} MB, version {contract.version}. {_takes(contract)}",
        ],
        "Data": [config.data_statement.strip(), "", f"{proof}.", *(f"\n{note}." for note in notes)],
        "Measured": figure_table(contract.figures),
        "Calibration": calibration(contract.calibration, f"; temperature {contract.temperature:g}."),
        "Training": [_course(config, best_step)],
    }
    return lay_out(config, sections)


def _takes(contract: SegmentContract) -> str:
    window = " × ".join(str(side) for side in contract.window)
    low, high = contract.range
    if contract.spacing is None:
        spacing = "pixels as the image has them"
    else:
        unit = "µm" if contract.unit == "um" else "mm"
        spacing = f"{' × '.join(f'{side:g}' for side in contract.spacing)} {unit} a pixel"
    values = (
        f"cut to the {low:g}th and {high:g}th percentile of each image"
        if contract.intensity == "source"
        else f"from {low:g} to {high:g}"
    )
    return f"Input: windows of {window}, {spacing}, {contract.channels} channel(s), values {values}."


def _course(config: TrainSegmentConfig, best_step: int) -> str:
    how = config.augmentation
    loss = " + ".join(f"{weight:g} {name}" for name, weight in config.loss.terms.items())
    border = (
        ""
        if config.border is None
        else f", gaps weighted by {config.border.w0:g} ({config.border.sigma_px:g} px)"
    )
    deformed = "" if how.elastic == "none" else f", displaced by a {how.elastic} of {how.elastic_px:g} px"
    return (
        f"{best_step} steps of {config.batch_size} windows, {config.foreground_share:.0%} of them about the "
        f"foreground, seed {config.seed}; loss {loss}{border}; {config.optimiser}, cosine decay, averaged weights. "
        f"Windows are mirrored, rotated by up to {how.rotate_degrees:g} degrees, scaled by up to "
        f"{1 + how.scale:g}{deformed}, with other brightness, contrast and gamma, and with noise. Chosen by the mean "
        "Dice on the validation images."
    )
