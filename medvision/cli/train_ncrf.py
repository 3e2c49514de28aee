"""`medvision train ncrf`."""

from __future__ import annotations

from pathlib import Path

from medvision.cli.console import print_check, print_note, print_trained


def ncrf(*, config: Path, out: Path, cohort: Path | None = None) -> int:
    """Train an NCRF, and the same network without its CRF, on slides with annotated tumour.

    Example: medvision train ncrf --config configs/train-ncrf.yaml --out out/ncrf

    Parameters
    ----------
    config
        YAML file of parameters; see configs/train-ncrf.yaml.
    out
        Folder for weights, card, checkpoints and logs; an interrupted training continues there.
    cohort
        Manifest (CSV) of slides, in place of the configuration's.
    """
    from medvision.training.config_file import read_yaml_config
    from medvision.training.ncrf import train_ncrf
    from medvision.training.ncrf_config import TrainNcrfConfig

    read = read_yaml_config(config, TrainNcrfConfig, cohort=cohort)
    report = train_ncrf(read, out, print_check, print_note)
    return print_trained(report.summary(), weights=report.weights, base_model=report.base, card=report.card)
