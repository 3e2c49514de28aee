"""`medvision train`."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from medvision.cli.console import console, print_made

app = App(
    name="train",
    help="Train a model. Example: medvision train patch --config configs/train-patch.yaml --out out",
)


@app.command
def patch(*, config: Path, out: Path) -> int:
    """Train a patch classifier: cross-validation that keeps slides apart, then the final model with its card.

    Example: medvision train patch --config configs/train-patch.yaml --out out/camelyon-mini

    Parameters
    ----------
    config
        YAML file of parameters; see configs/train-patch.yaml.
    out
        Folder for weights, card, checkpoints and logs; an interrupted training continues there.
    """
    from medvision.training.patch import load_config, train_patch

    report = train_patch(load_config(config), out)
    console.print(report.summary())
    print_made("weights", report.weights)
    print_made("card", report.card)
    return 0
