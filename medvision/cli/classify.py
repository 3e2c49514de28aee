"""`medvision classify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medvision.cli.console import console, errors, print_made, table

if TYPE_CHECKING:
    from medvision.pipelines.classify import ClassifyOutcome


def classify(
    images: list[Path],
    /,
    *,
    out: Path,
    model: str = "camelyon-mini",
    weights: Path | None = None,
    classes: tuple[str, ...] | None = None,
    spacing: float | None = None,
    image_spacing: float | None = None,
    window: int | None = None,
    device: str = "auto",
    batch_size: int = 32,
) -> int:
    """Score single images, or every image in a folder; writes results.json.

    Example: medvision classify patches/ --model camelyon-mini --out scores

    Parameters
    ----------
    images
        Image files, or folders of them.
    out
        Folder for results.json; made when absent.
    model
        A model of `medvision models`, a torchvision or timm network, or the folder of a trained CNN-LSTM or MIL
        model, which judges each image as a whole from its patches.
    weights
        Local weights for that network, or for the trunk of a CNN-LSTM or MIL model.
    classes
        Class names, in the order of the network's outputs.
    spacing
        µm/px at which the network looks, where its contract does not say.
    image_spacing
        µm/px of the images. Without it each image is taken to show exactly one window of the model.
    window
        Side of the network's window in pixels, where its contract does not say.
    device
        auto, cpu, cuda, cuda:1, ... or mps.
    batch_size
        Windows per batch.
    """
    if (Path(model) / "model.safetensors").is_file() or Path(model).suffix == ".safetensors":
        from medvision.pipelines.aggregate import prepare_judge
        from medvision.pipelines.aggregate_config import AggregateConfig
        from medvision.pipelines.classify_whole import classify_whole

        wanted = AggregateConfig(
            model=Path(model),
            classes=classes,
            trunk_weights=weights,
            spacing=spacing,
            window=window,
            device=device,
            batch_size=batch_size,
        )
        judge = prepare_judge(wanted)
        names = judge.model.contract.classes
        outcome = classify_whole(images, judge, out, spacing_um=image_spacing)
    else:
        from medvision.models import load_model
        from medvision.pipelines.classify import classify_images

        network = load_model(model, weights=weights, classes=classes, spacing_um=spacing, window_px=window)
        names = network.classes
        outcome = classify_images(
            images, network, out, spacing_um=image_spacing, device=device, batch_size=batch_size
        )
    return _show(outcome, names)


def _show(outcome: ClassifyOutcome, names: tuple[str, ...]) -> int:
    """Print what was found; returns the exit status."""
    rows = [
        (
            Path(entry.path).name,
            entry.predicted,
            *(f"{entry.probabilities[name]:.4f}" for name in names),
        )
        for entry in outcome.results[:20]
    ]
    if rows:
        console.print(table("", ("image", "class", *names), rows))
    if len(outcome.results) > len(rows):
        console.print(f"... and {len(outcome.results) - len(rows)} more")
    for failure in outcome.failed:
        errors.print(f"failed: {failure.path}: {failure.reason}", markup=False, soft_wrap=True)
    print_made("results", outcome.file)
    return 2 if not outcome.results else (1 if outcome.failed else 0)
