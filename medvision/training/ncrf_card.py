"""The model card of an NCRF and its base model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from medvision.models.contract import WeightsContract
from medvision.training.card_layout import calibration, figure_rows, lay_out, takes
from medvision.training.loop import Fit
from medvision.training.ncrf_config import TrainNcrfConfig
from medvision.training.ncrf_data import RegionSet


def render_card(
    config: TrainNcrfConfig,
    contracts: Mapping[str, WeightsContract],
    regions: RegionSet,
    held_slides: tuple[str, ...],
    fits: Mapping[str, Fit],
    size: int,
) -> str:
    """The card as Markdown. It names no path."""
    contract = contracts["ncrf"]
    parameters = sum(p.numel() for p in fits["ncrf"].net.parameters())
    rows = [f"| {run} {row}" for run, found in contracts.items() for row in figure_rows(found.figures)]
    counts = Counter(zip(regions.slides, regions.centre.tolist(), strict=True))
    temperatures = ", ".join(f"{run} {found.temperature:g}" for run, found in contracts.items())
    started = "" if config.start is None else " from the weights of a trained classifier"
    sections = {
        "What it does": [
            f"Gives the cell in the middle of 3 × 3 cells of {config.cell_px} pixels at {config.spacing_um:g} µm/px a "
            f"probability of {contract.classes[1]}, from the centre crops of {config.crop_px} pixels of all nine "
            f"(Li & Ping, MIDL 2018). {takes(contract, parameters, size)} `base.safetensors` holds the same network "
            "trained without the CRF, which looks at one crop.",
        ],
        "Data": [
            config.data_statement.strip(),
            "",
            "| slide | regions with a normal cell in the middle | with tumour |",
            "|---|---:|---:|",
            *(
                f"| {slide} | {counts[slide, False]} | {counts[slide, True]} |"
                for slide in sorted(set(regions.slides))
            ),
            "",
            f"Held out, patients kept apart: {', '.join(held_slides) or 'none'}.",
        ],
        "Measured": [
            "| network | figure | value | 95% interval | how |",
            "|---|---|---:|---|---|",
            *(rows or ["| none | | | | |"]),
        ],
        "Calibration": calibration(
            contract.calibration, f"; temperatures: {temperatures}. A probability of 0.5 is the threshold."
        ),
        "Training": [
            f"{config.steps} steps of {config.batch_size} regions for each network{started}, the same batches; kept: "
            + ", ".join(f"{run} of step {fitted.best_step}" for run, fitted in fits.items())
            + f". {config.optimiser}, learning rate {config.learning_rate:g}, cosine decay, averaged weights, seed "
            f"{config.seed}; flips, rotations, stain, colour, noise, blur and compression of whole regions.",
        ],
    }
    return lay_out(config, sections)
