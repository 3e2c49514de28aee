"""The card of a patch classifier that was trained on the slides of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvision.models.contract import WeightsContract
from medvision.store.cohort import CohortSlide
from medvision.training.card_layout import calibration, figure_table, lay_out, takes
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
    labels = [slide.label or "not labelled" for slide in slides]
    hard = config.hard_negatives
    rounds = (
        f", then {hard.rounds} round(s) of {hard.steps} steps with its own false alarms"
        if hard.rounds
        else ""
    )
    sections = {
        "What it does": [
            f"Gives each window of {contract.window_px} × {contract.window_px} pixels at {contract.spacing_um:g} µm/px "
            f"a probability of each class: {', '.join(contract.classes)}. A window is of the class of its centre. "
            + takes(contract, parameters, weights.stat().st_size)
        ],
        "Data": [
            config.data_statement.strip(),
            "",
            f"Windows of {len(slides)} slides of {len(set(map(patient_of, slides)))} patients, by label of the slide:",
            "",
            "| label | slides |",
            "|---|---:|",
            *(f"| {label} | {labels.count(label)} |" for label in sorted(set(labels))),
            "",
            f"Split: {proof}.",
        ],
        "Measured": figure_table(contract.figures),
        "Calibration": calibration(
            contract.calibration,
            f"; temperature {contract.temperature:g}. "
            "Half of those windows are tumour, which no slide is: a probability is relative to that.",
        ),
        "Training": [
            f"At most {config.steps} steps of {config.batch_size} windows{rounds}; seed {config.seed}, "
            f"{config.precision}; AdamW, cosine decay, averaged weights, stopped by the loss on patients kept out. "
            "Half of the windows are tumour, every slide alike; of the normal ones "
            f"{config.sampling.near_share:.0%} lie within {config.sampling.near_um:g} µm of tumour."
        ],
    }
    return lay_out(config, sections)
