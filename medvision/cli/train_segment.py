"""`medvision train segment`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medvision.cli.console import print_dice, print_note, print_trained


def segment(
    *,
    config: Path,
    out: Path,
    data: Path | None = None,
    fold: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> int:
    """Train a network that says what each pixel or voxel is, on images with labels.

    Images are split by patient or slide into folds. Writes the weights with their contract, the model card, the split,
    and label images of what was held out, which `medvision evaluate segment` scores.
    Example: medvision train segment --config configs/train-segment-hippocampus.yaml --data hippocampus
    --out out/hippocampus

    Parameters
    ----------
    config
        YAML file of parameters; see configs/train-segment-isbi2012.yaml, -dsb2018.yaml, -hippocampus.yaml and
        -slides.yaml.
    out
        Folder for weights, card, predictions, checkpoints and logs; an interrupted training continues there.
    data
        Folder of images and labels, or table of slides (CSV), in place of what the configuration names.
    fold
        The fold that is held out, from 0, or all, in place of the configuration's.
    device
        Where to learn; auto takes a GPU if there is one.
    """
    from medvision.training.segment import train_segment
    from medvision.training.segment_config import read_segment_config

    report = train_segment(read_segment_config(config, data, fold), out, print_dice, print_note, device)
    return print_trained(
        report.summary(), weights=report.weights, card=report.card, predictions=report.predictions
    )
