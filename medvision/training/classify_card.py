"""The card of a classifier of images: its data and split, what was measured, how it learnt, what it is not for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvision.models.classifiers.start import Start
from medvision.models.image_model import ImageModel
from medvision.training.card_layout import calibration, figure_table, lay_out
from medvision.training.classify_config import TrainClassifyConfig
from medvision.training.classify_taxonomy import Parted
from medvision.training.images_proof import SplitProof
from medvision.training.loop import Fit


def render_card(
    config: TrainClassifyConfig,
    model: ImageModel,
    start: Start,
    proof: SplitProof,
    fits: Sequence[Fit],
    weights: Path,
    parted: Parted | None = None,
) -> str:
    """The card as Markdown. It names no path."""
    contract = model.contract
    parameters = sum(weights.numel() for weights in model.net.parameters())
    mean, std = (", ".join(f"{value:.4g}" for value in of) for of in (contract.mean, contract.std))
    rows = [
        f"| {name} | {side.images} | {side.groups} | "
        + " | ".join(str(side.classes[one]) for one in contract.classes)
        + " |"
        for name, side in proof.splits.items()
    ]
    sections = {
        "What it does": [
            f"Gives an image a probability of each class: {', '.join(contract.classes)}. {contract.architecture}, "
            f"{parameters:,} parameters, {weights.stat().st_size / 1e6:.2f} MB, version {contract.version}. Input: "
            f"{contract.input_px} × {contract.input_px} px ({contract.resize}), red, green, blue, divided by 255, mean "
            f"({mean}), standard deviation ({std})."
        ],
        "Data": [
            config.data_statement.strip(),
            "",
            "| split | images | groups | " + " | ".join(contract.classes) + " |",
            "|---|---:|---:|" + "---:|" * len(contract.classes),
            *rows,
            "",
            f"Groups are by {proof.grouped_by}. Groups in two splits: {sum(proof.shared_groups.values())}."
            + ("" if proof.groups_known else " Images of one patient may lie in two splits."),
            *_limited(config),
        ],
        "Classes": [] if parted is None else _partition(parted),
        "Measured": figure_table(contract.figures),
        "Calibration": calibration(contract.calibration, f"; temperature {contract.temperature:g}."),
        "Training": [
            f"From {start.said}. {'; then '.join(_stage(config, number, fits) for number in range(len(fits)))}. "
            f"Batches of {config.batch_size}, {config.sampling} by class; {config.optimiser}, cosine decay, averaged "
            f"weights; label smoothing {config.label_smoothing:g}, mixup {config.mixup:g}; seed {config.seed}."
        ],
    }
    return lay_out(config, sections)


def _stage(config: TrainClassifyConfig, number: int, fits: Sequence[Fit]) -> str:
    stage = config.stages[number]
    what = {"all": "all layers", "head": "the head alone"}.get(
        str(stage.train)
    ) or f"{', '.join(stage.train)}"
    return f"{fits[number].best_step} steps of {what} at {stage.learning_rate:g}"


def _partition(parted: Parted) -> list[str]:
    """The training classes, what they hold, and what the levels above them are."""
    tree = parted.tree
    rows = []
    for one in tree.partition.classes:
        held = [f"{name} {tree.images[name]:,}" for name in one.members if tree.images.get(name)]
        rows.append(f"| {one.name} | {one.images:,} | {', '.join(held)} |")
    left_out = ", ".join(f"{name} ({count})" for name, count in sorted(parted.left_out.items()))
    levels = [f"{level.title} (level {level.depth}): {', '.join(level.classes)}" for level in tree.levels]
    summed = f"Probabilities of coarser classes are sums over them; {'; '.join(levels)}." if levels else ""
    return [
        f"By recursive partition of the taxonomy {tree.taxonomy.root!r} (Esteva et al., Nature 2017): a node with "
        f"fewer than {tree.max_class_size:,} training images is one class, any other is split.",
        "",
        "| class | training images | of them labelled |",
        "|---|---:|---|",
        *rows,
        *(["", summed] if summed else []),
        *(["", f"In no class, and left out: {left_out}."] if left_out else []),
    ]


def _limited(config: TrainClassifyConfig) -> list[str]:
    if config.limit_per_class is None:
        return []
    return ["", f"Of the training images at most {config.limit_per_class} of each class were used."]
