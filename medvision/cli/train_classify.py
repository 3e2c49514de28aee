"""`medvision train classify`."""

from __future__ import annotations

from pathlib import Path

from medvision.cli.console import print_check, print_note, print_trained


def classify(
    *,
    config: Path,
    out: Path,
    data: Path | None = None,
    weights: Path | None = None,
    download: bool = False,
) -> int:
    """Train a classifier of images, such as OCT scans, chest X-rays or photographs of the skin.

    A trunk of torchvision or timm learns in stages; patients never lie on two sides of the split, and the proof of that
    is printed. Example: medvision train classify --config configs/train-pneumonia.yaml --out out/pneumonia

    Parameters
    ----------
    config
        YAML file of parameters; see configs/train-pneumonia.yaml, train-oct.yaml and train-skin.yaml.
    out
        Folder for weights, card, proof of the split, predictions, checkpoints and logs; an interrupted training
        continues there.
    data
        Folder in which the configuration's paths lie, in place of the one that it names.
    weights
        File to start from, in place of the one that the configuration names: model.safetensors of another training of
        the same trunk, or published weights.
    download
        Let torchvision or timm fetch their own weights, where the configuration says `weights: library`.
    """
    from medvision.training.classify import train_classify
    from medvision.training.classify_config import read_classify_config

    read = read_classify_config(config, data, weights)
    report = train_classify(
        read, out, print_check, lambda proof: print_note("\n".join(proof.lines())), download=download
    )
    print_trained(report.summary(), weights=report.weights, card=report.card)
    return print_trained(
        "Score the predictions:", predictions=out / "predictions.csv", truth=out / "truth.csv"
    )
