"""The model card that a training run writes: what the model was trained on, how good it is, what it is for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medvision.models.contract import WeightsContract
from medvision.training.loop import Fit
from medvision.training.patch_config import TrainPatchConfig
from medvision.training.patches import PatchSet


def render_card(
    config: TrainPatchConfig, contract: WeightsContract, patches: PatchSet, fitted: Fit, weights: Path
) -> str:
    """The card as Markdown. It names no path."""
    size = weights.stat().st_size / 1e6
    parameters = sum(p.numel() for p in fitted.net.parameters())
    rows = [
        f"| {name.replace('_', ' ')} | {figure.value:.3f} | {_interval(figure.interval)} | {figure.protocol} |"
        for name, figure in contract.figures.items()
    ]
    counts = Counter(zip(patches.slides, patches.labels.tolist(), strict=True))
    data = [
        f"| {slide} | " + " | ".join(str(counts[slide, k]) for k in range(len(config.classes))) + " |"
        for slide in sorted(set(patches.slides))
    ]
    return "\n".join(
        [
            f"# {config.name}",
            "",
            "**Research use only: not for diagnosis.**",
            "",
            "## What it does",
            f"Gives each window of {contract.window_px} × {contract.window_px} pixels at {contract.spacing_um:g} µm/px "
            f"a probability of each class: {', '.join(contract.classes)}. "
            f"{contract.architecture}, {parameters:,} parameters, {size:.2f} MB, version {contract.version}. "
            f"Input: red, green, blue, divided by 255, mean {contract.mean}, standard deviation {contract.std}.",
            "",
            "## Data",
            config.data_statement.strip(),
            "",
            "| slide | " + " | ".join(config.classes) + " |",
            "|---|" + "---:|" * len(config.classes),
            *data,
            "",
            "## Measured",
            "| figure | value | 95% interval | how |",
            "|---|---:|---|---|",
            *(rows or ["| none | | | |"]),
            "",
            "## Calibration",
            f"{contract.calibration[:1].upper()}{contract.calibration[1:]}; temperature {contract.temperature:g}. "
            "A probability of 0.5 is the threshold.",
            "",
            "## Training",
            *_start(config),
            f"{fitted.best_step} steps of {config.batch_size} windows, seed {config.seed}; AdamW, cosine decay, "
            "averaged weights; stain, colour, magnification, blur, noise, compression and mixing augmentation.",
            "",
            "## Limits",
            config.limits.strip(),
            "",
            "## Licence",
            config.licence,
            "",
        ]
    )


def _start(config: TrainPatchConfig) -> list[str]:
    if config.common_steps == 0:
        return []
    averaged = f", averaged in again by {config.common_weight:g} at the end" if config.common_weight else ""
    return [f"{config.common_steps} steps on regions and rendered windows alone{averaged}; then"]


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
