"""The model card that a training run writes: what the model was trained on, how good it is, what it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medvision.models.contract import Difference, WeightsContract
from medvision.training.card_layout import calibration, figure_table, lay_out, takes
from medvision.training.loop import Fit
from medvision.training.patch_config import TrainPatchConfig
from medvision.training.patches import PatchSet


def render_card(
    config: TrainPatchConfig, contract: WeightsContract, patches: PatchSet, fitted: Fit, weights: Path
) -> str:
    """The card as Markdown. It names no path."""
    parameters = sum(p.numel() for p in fitted.net.parameters())
    counts = Counter(zip(patches.slides, patches.labels.tolist(), strict=True))
    rows = [
        f"| {slide} | " + " | ".join(str(counts[slide, k]) for k in range(len(config.classes))) + " |"
        for slide in sorted(set(patches.slides))
    ]
    sections = {
        "What it does": [
            f"Gives each window of {contract.window_px} × {contract.window_px} pixels at {contract.spacing_um:g} µm/px "
            f"a probability of each class: {', '.join(contract.classes)}. "
            + takes(contract, parameters, weights.stat().st_size)
        ],
        "Data": [
            config.data_statement.strip(),
            "",
            "| slide | " + " | ".join(config.classes) + " |",
            "|---|" + "---:|" * len(config.classes),
            *rows,
        ],
        "Measured": figure_table(contract.figures),
        "Calibration": calibration(
            contract.calibration,
            f"; temperature {contract.temperature:g}. A probability of 0.5 is the threshold.",
        ),
        _WAYS: _differences(contract.differences),
        "Training": [
            *_start(config),
            f"{fitted.best_step} steps of {config.batch_size} windows, seed {config.seed}; AdamW, cosine decay, "
            "averaged weights; stain, colour, magnification, blur, noise, compression and mixing augmentation.",
        ],
    }
    return lay_out(config, sections)


def replace_differences(card: str, differences: Sequence[Difference]) -> str:
    """A card with its section on the ways to compute the model made anew, before "Training", or at the end."""
    before, heading, after = card.partition(f"## {_WAYS}\n")
    if heading:
        _, following, rest = after.partition("\n## ")
        after = f"## {rest}" if following else ""
    else:
        before, heading, after = card.partition("## Training\n")
        after = heading + after
    ways = _differences(differences)
    return before.rstrip("\n") + "\n\n" + "\n".join([*([f"## {_WAYS}", *ways, ""] if ways else []), after])


def difference_rows(differences: Sequence[Difference]) -> list[tuple[str, ...]]:
    """Backend, precision, changes of a probability and of the AUC, largest and mean of the heatmap, whether close."""
    return [
        (
            found.backend,
            found.precision,
            f"{found.probability:.2g}",
            f"{found.auc:.2g}",
            "" if found.heatmap is None else f"{found.heatmap:.2g}",
            "" if found.heatmap_mean is None else f"{found.heatmap_mean:.2g}",
            "yes" if found.is_close else "no",
        )
        for found in differences
    ]


def difference_note(differences: Sequence[Difference]) -> str:
    """On what the differences were measured, and what follows from them."""
    windows, cells = max(d.windows for d in differences), max(d.cells for d in differences)
    heatmap = f", and on {cells:,} cells of heatmaps" if cells else ""
    return (
        f"Against eager float32, on {windows:,} labelled windows{heatmap}. Close: probabilities and heatmap within "
        "0.01, AUC the same to three decimals; `--precision auto` takes bfloat16 only where it is close."
    )


_WAYS = "Ways to compute it"


def _differences(differences: Sequence[Difference]) -> list[str]:
    if not differences:
        return []
    return [
        difference_note(differences),
        "",
        "| backend | precision | largest change of a probability | change of AUC "
        "| largest change in the heatmap | mean | close |",
        "|---|---|---:|---:|---:|---:|---|",
        *("| " + " | ".join(row) + " |" for row in difference_rows(differences)),
    ]


def _start(config: TrainPatchConfig) -> list[str]:
    if config.common_steps == 0:
        return []
    averaged = f", averaged in again by {config.common_weight:g} at the end" if config.common_weight else ""
    return [f"{config.common_steps} steps on regions and rendered windows alone{averaged}; then"]
