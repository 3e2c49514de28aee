"""`medvision train nodules` and `medvision train nodule-fpr`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medvision.cli.console import print_check, print_note, print_sensitivity, print_trained

if TYPE_CHECKING:
    from medvision.training.nodules import NoduleReport


def nodules(
    *,
    config: Path,
    out: Path,
    data: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> int:
    """Train a detector of candidates for lung nodules on CT scans in LUNA16's layout.

    Scans are split by their folds, and the proof is printed. Writes the weights with their contract, the model card,
    and candidates as `medvision evaluate luna16` reads them.
    Example: medvision train nodules --config configs/train-nodules.yaml --data chest --out out/nodules

    Parameters
    ----------
    config
        YAML file of parameters; see configs/train-nodules.yaml.
    out
        Folder for weights, card, candidates, checkpoints and logs; an interrupted training continues there.
    data
        Folder of folds and tables, in place of the one that the configuration names.
    device
        Where to learn; auto takes a GPU if there is one.
    """
    from medvision.training.nodule_config import read_nodules_config
    from medvision.training.nodules import train_nodules

    read = read_nodules_config(config, data)
    return _end(train_nodules(read, out, print_sensitivity, print_note, device))


def nodule_fpr(
    *,
    config: Path,
    out: Path,
    candidates: Path | None = None,
    data: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> int:
    """Train a 3-D network that tells nodules from other candidates, and give candidates their new probability.

    Learns from cubes around nodules and around candidates that hit nothing, in rounds of its own worst errors.
    Example: medvision train nodule-fpr --config configs/train-nodule-fpr.yaml --data chest
    --candidates out/nodules/candidates-all.csv --out out/nodule-fpr

    Parameters
    ----------
    config
        YAML file of parameters; see configs/train-nodule-fpr.yaml.
    out
        Folder for weights, card, candidates, checkpoints and logs; an interrupted training continues there.
    candidates
        CSV of a detector's candidates in all scans, in place of the configuration's.
    data
        Folder of folds and tables, in place of the one that the configuration names.
    device
        Where to learn; auto takes a GPU if there is one.
    """
    from medvision.training.nodule_config import read_nodule_fpr_config
    from medvision.training.nodule_fpr import train_nodule_fpr

    read = read_nodule_fpr_config(config, data, candidates)
    return _end(train_nodule_fpr(read, out, print_check, print_note, device))


def _end(report: NoduleReport) -> int:
    return print_trained(
        report.summary(),
        weights=report.weights,
        card=report.card,
        candidates=report.candidates,
        scans=report.series,
    )
