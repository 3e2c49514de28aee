"""The model card of an aggregator: what it judges, what it learnt from, how good it is, what it is for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from torch import nn

from medvision.models.architectures import ARCHITECTURES
from medvision.models.mil import AggregatorContract
from medvision.training.card_layout import calibration, figure_table, lay_out
from medvision.training.slides_config import TrainSlidesConfig
from medvision.training.slides_data import SlideSet


def render_card(
    config: TrainSlidesConfig,
    contract: AggregatorContract,
    data: SlideSet,
    net: nn.Module,
    weights: Path,
    steps: int,
) -> str:
    """The card as Markdown. It names no path."""
    source = data.source
    parameters = sum(p.numel() for p in net.parameters())
    design = ARCHITECTURES[contract.architecture]
    counts = Counter(data.labels.tolist())
    classes = "; ".join(f"{counts[k]} {name}" for k, name in enumerate(contract.classes))
    sections = {
        "What it does": [
            f"Gives a slide a probability of each class ({', '.join(contract.classes)}) from its feature table. "
            f"{contract.architecture} ({design.paper}), {parameters:,} parameters, "
            f"{weights.stat().st_size / 1e6:.2f} MB, version {contract.version}.",
        ],
        "Features": [
            f"{source.trunk}: {source.dimension} features of each window of {source.window_px} × {source.window_px} "
            f"pixels at {source.spacing_um:g} µm/px, every {source.stride_px} pixels where at least "
            f"{source.minimum_tissue:.0%} is tissue. Trunk SHA-256 {source.digest}.",
        ],
        "Data": [
            config.data_statement.strip(),
            "",
            f"{len(data)} slides of {len(set(data.patients))} patients: {classes}.",
        ],
        "Measured": figure_table(contract.figures),
        "Calibration": calibration(
            contract.calibration, f". A probability of {contract.threshold:g} is the threshold."
        ),
        "Training": [
            f"{steps} steps of {config.batch_size} slides, seed {config.seed}; AdamW, cosine decay, averaged weights, "
            f"class weights: {config.class_weights}.",
        ],
    }
    return lay_out(config, sections)
