"""`medvision embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medvision.cli.console import console, errors, print_made, print_note, without_prefix


def embed(
    images: list[Path] | None = None,
    /,
    *,
    model: Path,
    out: Path,
    config: Path | None = None,
    data: Path | None = None,
    split: Literal["test", "validation", "train", "all"] = "test",
    method: Literal["tsne", "umap", "pca"] = "tsne",
    neighbours: int = 30,
    seed: int = 0,
    limit: int = 3000,
    image_window: str | None = None,
    device: str = "auto",
    batch_size: int = 32,
) -> int:
    """Show images as a classifier sees them before its last layer: dots in a plane, coloured by class.

    Example: medvision embed --config configs/train-pneumonia.yaml --data DIR --model out/pneumonia
    --out out/pneumonia/embedding

    Parameters
    ----------
    images
        Image files, or folders of them, without labels: the colour is the predicted class.
    model
        Weights of `medvision train classify`, or the folder of that training.
    out
        Folder for embedding.csv, .json, .png, .svg and .html; made when absent.
    config
        In place of images: a training's YAML file, whose images are labelled and split as in that training.
    data
        Folder in which the configuration's paths lie, in place of the one that it names.
    split
        Which side of the training's split; all takes every image as it is.
    method
        t-SNE, UMAP (needs the package umap-learn), or the first two principal components.
    neighbours
        Perplexity of t-SNE, or neighbours of UMAP.
    seed
        Of what is drawn; equal seeds give equal pictures.
    limit
        Images at most; of more, so many are drawn.
    image_window
        How grey of more than 8 bits is shown: LOW,HIGH, percentiles or full. Default: as in the model's training.
    device
        auto, cpu, cuda, cuda:1, ... or mps.
    batch_size
        Images per batch.
    """
    from medvision.core.errors import UsageError
    from medvision.models.image_model import read_image_model
    from medvision.pipelines.configured_image import weights_file
    from medvision.pipelines.embed import EmbedSettings, files_below, labelled_set
    from medvision.pipelines.embed import embed as place
    from medvision.training.classify_config import read_classify_config

    if bool(images) == (config is not None):
        raise UsageError("name images, or a training by --config, whose images are labelled; one of the two")
    read = read_image_model(weights_file(model))
    settings = EmbedSettings(method, neighbours, seed, limit, device, batch_size)
    if config is not None:
        if image_window is not None:
            raise UsageError("--image-window is for image files; a configuration says its own window")
        wanted = labelled_set(read_classify_config(config, data), split)
    else:
        wanted = files_below(images or [], read, image_window)
    outcome = place(read, wanted, out, settings)
    console.print(f"{outcome.images:,} images placed", markup=False)
    for name, value, what in outcome.figures:
        print_note(f"{name}: {value} ({what})")
    for name, reason in outcome.failed.items():
        errors.print(f"failed: {name}: {without_prefix(reason, name)}", markup=False, soft_wrap=True)
    for path in outcome.files.values():
        print_made(path.suffix[1:], path)
    return 1 if outcome.failed else 0
