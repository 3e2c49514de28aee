"""`medvision train ncrf`."""

from __future__ import annotations

from pathlib import Path

from medvision.cli.console import console, print_made


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
    from medvision.training.loop import Check
    from medvision.training.ncrf import train_ncrf
    from medvision.training.ncrf_config import TrainNcrfConfig

    def show(run: str, check: Check) -> None:
        score = "" if check.score is None else f"  score {check.score:.4f}"
        console.print(f"{run:>6}  step {check.step:5d}  loss {check.loss:.4f}{score}", markup=False)

    found = read_yaml_config(config, TrainNcrfConfig)
    if cohort is not None:
        found = found.model_copy(update={"cohort": cohort})
    report = train_ncrf(found, out, show)
    console.print(report.summary(), markup=False)
    print_made("weights", report.weights)
    print_made("base model", report.base)
    print_made("card", report.card)
    return 0
