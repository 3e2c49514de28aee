"""`predictions.csv`: `image` and a probability of each class, as `medvision evaluate` takes it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from medvision.store.files import atomic_write

PREDICTIONS = "predictions.csv"


def write_predictions(
    path: Path, classes: Sequence[str], rows: Iterable[tuple[str, Iterable[float]]]
) -> Path:
    """Write each image's name and its probabilities, in the order of `classes`; returns the path.

    Raises:
        StoreError: if the file cannot be written.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("image", *classes))
    writer.writerows((image, *(f"{value:.6f}" for value in values)) for image, values in rows)
    atomic_write(path, stream.getvalue().encode())
    return path


def may_replace(path: Path) -> bool:
    """Whether no file of another make has that name."""
    if not path.is_file():
        return True
    with path.open("rb") as stream:
        return stream.readline().startswith(b"image,")
