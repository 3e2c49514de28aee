"""Tables of what a trained classifier says of images, and of what they show, as `medvision evaluate` takes them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from medvision.core.taxonomy import Coarser
from medvision.models.image_model import Floats
from medvision.store.predictions import PREDICTIONS
from medvision.store.predictions import write_predictions as store_predictions
from medvision.training.images import LabelledImages


def write_predictions(
    images: LabelledImages, probabilities: Floats, out: Path, levels: Sequence[Coarser] = ()
) -> None:
    """Write `predictions.csv` (image and a probability of each class), `predictions-level-N.csv` and `truth.csv`.

    Args:
        images: labelled with the classes; what their labels were made of, if anything, is the column finer.
        probabilities: `(n, classes)`.
        out: folder, which exists.
        levels: coarser classes, each summed into a table of its own.
    """
    store_predictions(out / PREDICTIONS, images.classes, zip(images.names, probabilities, strict=True))
    for level in levels:
        rows = zip(images.names, level.sum(probabilities), strict=True)
        store_predictions(out / f"predictions-level-{level.depth}.csv", level.classes, rows)
    # Images that are each a group of their own would make every interval one over groups, to no end.
    grouped = images.groups is not None and len(set(images.groups)) < len(images)
    further = {
        "group": images.groups if grouped else None,
        "finer": images.finer,
    }
    columns = {name: column for name, column in further.items() if column is not None}
    with (out / "truth.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label", *columns])
        for index, name in enumerate(images.names):
            own = [column[index] for column in columns.values()]
            writer.writerow([name, images.classes[images.labels[index]], *own])
