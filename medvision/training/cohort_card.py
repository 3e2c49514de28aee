"""The card of a patch classifier that was trained on the slides of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvision.models.contract import WeightsContract
from medvision.store.cohort import CohortSlide
from medvision.training.cohort_config import TrainCohortPatchConfig
from medvision.training.loop import Fit
from medvision.training.slide_sampling import patient_of


def render_cohort_card(
    config: TrainCohortPatchConfig,
    contract: WeightsContract,
    slides: Sequence[CohortSlide],
    proof: str,
    fitted: Fit,
    weights: Path,
) -> str:
    """The card as Markdown. It names no path and no patient."""
    parameters = sum(p.numel() for p in fitted.net.parameters())
    figures = [
        f"| {name.replace('_', ' ')} | {figure.value:.3f} | "
        + ("" if figure.interval is None else f"{figure.interval[0]:.3f} to {figure.interval[1]:.3f}")
        + f" | {figure.protocol} |"
        for name, figure in contract.figures.items()
    ]
    labels = [slide.label or "not labelled" for slide in slides]
    rows = [f"| {label} | {labels.count(label)} |" for label in sorted(set(labels))]
    hard = config.hard_negatives
    rounds = (
        f", then {hard.rounds} round(s) of {hard.steps} steps with its own false alarms"
        if hard.rounds
        else ""
    )
    return "\n".join(
        [
            f"# {config.name}",
            "",
            "**Research use only: not for diagnosis.**",
            "",
            "## What it does",
            f"Gives each window of {contract.window_px} × {contract.window_px} pixels at {contract.spacing_um:g} µm/px "
            f"a probability of each class: {', '.join(contract.classes)}. A window is of the class of its centre. "
            f"{contract.architecture}, {parameters:,} parameters, {weights.stat().st_size / 1e6:.2f} MB, "
            f"version {contract.version}. Input: red, green, blue, divided by 255, mean {contract.mean}, standard "
            f"deviation {contract.std}.",
            "",
            "## Data",
            config.data_statement.strip(),
            "",
            f"Windows of {len(slides)} slides of {len(set(map(patient_of, slides)))} patients, by label of the slide:",
            "",
            "| label | slides |",
            "|---|---:|",
            *rows,
            "",
            f"Split: {proof}.",
            "",
            "## Measured",
            "| figure | value | 95% interval | how |",
            "|---|---:|---|---|",
            *figures,
            "",
            "## Calibration",
            f"{contract.calibration[:1].upper()}{contract.calibration[1:]}; temperature {contract.temperature:g}. "
            "Half of those windows are tumour, which no slide is: a probability is relative to that.",
            "",
            "## Training",
            f"At most {config.steps} steps of {config.batch_size} windows{rounds}; seed {config.seed}, "
            f"{config.precision}; AdamW, cosine decay, averaged weights, stopped by the loss on patients kept out. "
            "Half of the windows are tumour, every slide alike; of the normal ones "
            f"{config.sampling.near_share:.0%} lie within {config.sampling.near_um:g} µm of tumour.",
            "",
            "## Limits",
            config.limits.strip(),
            "",
            "## Licence",
            config.licence,
            "",
        ]
    )
