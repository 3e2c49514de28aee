"""Predictions and truth of classified images as CSV files, joined strictly: no image is lost or counted twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.store.tables import CsvTable, read_number, read_table

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SUM_TOLERANCE = 0.01
"""How far an image's probabilities may be from 1 in sum: two decimals of several classes are, logits are not."""
FEW = 30
FINER = "finer"
"""Column of a training's truth: what the label was made of, by a taxonomy; the label again where that is a leaf."""
TRUTH_TABLE = "CSV with the columns image, label and, where known, group"
"""What the truth is of an evaluation of images, in words."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scores (n, classes) in [0, 1] of `images` (n,); `classes` as the header writes them."""

    path: Path
    classes: tuple[str, ...]
    images: tuple[str, ...]
    scores: Floats


@dataclass(frozen=True, eq=False)
class Truth:
    """Label of each image, where the file says it its group (such as the patient), and the line it is in."""

    path: Path
    labels: Mapping[str, str]
    lines: Mapping[str, int]
    groups: Mapping[str, str] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Cases:
    """Images with truth and prediction: `labels` (n,) are places in `classes`, `probabilities` (n, classes)."""

    classes: tuple[str, ...]
    images: tuple[str, ...]
    labels: Ints
    probabilities: Floats
    groups: npt.NDArray[np.str_] | None
    notes: tuple[str, ...] = ()


def read_cases(predictions: Path, truth: Path, classes: Sequence[str] | None = None) -> Cases:
    """Cases of a table `image,<a probability per class>` and one `image,label[,group]`.

    Labels and names of classes are compared without regard to case. A single column of probability is of the class that
    it is named by, or of the label 1 where the labels are 0 and 1; the other class is what else the truth holds.

    Args:
        predictions: CSV.
        truth: CSV.
        classes: what the columns must be, in the order wanted; by default those of the file, in its order.

    Raises:
        UsageError: if a file is malformed, an image is missing, extra or named twice, a label is no class, the columns
            are not `classes`, or an image's probabilities do not sum to 1.
    """
    given, known = read_predictions(predictions), read_truth(truth)
    if len(given.classes) == 1 and (classes is None or len(classes) == 2):
        given = _both_classes(given, known, classes)
    check_sums(given)
    if classes is not None:
        given = ordered(given, classes)
    return join(given, known)


def read_predictions(path: Path, keys: Collection[str] = ("image",)) -> Predictions:
    """Images and scores; the column of images has one of the names `keys`, each other column is a class.

    Raises:
        UsageError: if the file is malformed, names an image twice, or a score is no number in [0, 1].
    """
    table, key = keyed_table(path, keys)
    names = [name for name in table.columns if name != key]
    if not names:
        raise UsageError(f"{path}: has no column beside {key}: one of probability for each class is needed")
    images: dict[str, list[float]] = {}
    for line, row in table.rows:
        image = image_name(path, line, row[key], images)
        images[image] = [read_number(path, line, name, row[name], 0, 1) for name in names]
    written = dict(zip(table.columns, table.written, strict=True))
    return Predictions(path, tuple(written[n] for n in names), tuple(images), np.array(list(images.values())))


def read_truth(path: Path) -> Truth:
    """Labels, and groups where there is such a column.

    Raises:
        UsageError: if the file is malformed, names an image twice, or leaves a label or group out.
    """
    table = read_table(path, ("image", "label"), ("group", FINER))
    labels: dict[str, str] = {}
    lines: dict[str, int] = {}
    groups: dict[str, str] = {}
    for line, row in table.rows:
        image = image_name(path, line, row["image"], labels)
        if not row["label"] or not row.get("group", "-"):
            what = "group" if row["label"] else "label"
            raise UsageError(f"{path}, line {line}: no {what} of image {image!r}")
        labels[image], lines[image], groups[image] = row["label"], line, row.get("group", "")
    unused = [*table.unused]
    if any(row.get(FINER, row["label"]).lower() != row["label"].lower() for _, row in table.rows):
        unused.append(FINER)
    notes = (f"columns of the truth not used: {', '.join(unused)}",) if unused else ()
    return Truth(path, labels, lines, groups if "group" in table.columns else None, notes)


def join(given: Predictions, known: Truth) -> Cases:
    """Cases in the order of the truth.

    Raises:
        UsageError: if an image is in one of the files only, or a label is no class of the predictions.
    """
    probabilities = align(given, known)
    place = {name.lower(): i for i, name in enumerate(given.classes)}
    for image, label in known.labels.items():
        if label.lower() not in place:
            raise UsageError(
                f"{known.path}, line {known.lines[image]}: label {label!r} of image {image!r} is no class of "
                f"{given.path.name}, which has {', '.join(given.classes)}"
            )
    labels = np.array([place[label.lower()] for label in known.labels.values()], dtype=np.int64)
    groups, notes = groups_of(known)
    return Cases(given.classes, tuple(known.labels), labels, probabilities, groups, (*known.notes, *notes))


def align(given: Predictions, known: Truth) -> Floats:
    """The predictions' scores (n, classes) in the order of the truth.

    Raises:
        UsageError: if an image is in one of the files only.
    """
    check_same_images(given, known.path, known.labels)
    row = {image: i for i, image in enumerate(given.images)}
    return given.scores[[row[image] for image in known.labels]]


def groups_of(known: Truth) -> tuple[npt.NDArray[np.str_] | None, list[str]]:
    """The group of each image of the truth (n,), where it says them, and a note if they are few."""
    if known.groups is None:
        return None, []
    groups = np.array(list(known.groups.values()))
    count = len(np.unique(groups))
    return groups, [f"{count} groups are too few for an interval to say much"] if count < FEW else []


def keyed_table(path: Path, keys: Collection[str]) -> tuple[CsvTable, str]:
    """A table, and which of the columns `keys` names its images.

    Raises:
        UsageError: as `read_table`, or if it has none of them or several.
    """
    table = read_table(path, ())
    found = [name for name in table.columns if name in keys]
    if len(found) != 1:
        raise UsageError(
            f"{path}: has no column {' or '.join(keys)}; its first line must name the columns, found: "
            f"{', '.join(table.written)}"
            if not found
            else f"{path}: images are named in several columns: {', '.join(found)}"
        )
    return table, found[0]


def image_name(path: Path, line: int, name: str, seen: Collection[str]) -> str:
    """`name`, if it is one that was not `seen` before; else an error with file and line."""
    if not name:
        raise UsageError(f"{path}, line {line}: the image is not named")
    if name in seen:
        raise UsageError(f"{path}, line {line}: image {name!r} for the second time")
    return name


def check_same_images(given: Predictions, truth: Path, known: Collection[str]) -> None:
    """Raise `UsageError`, naming them, if an image is in one of the files only."""
    both = (
        (given.path, set(known) - set(given.images), truth),
        (truth, set(given.images) - set(known), given.path),
    )
    for path, missing, other in both:
        if missing:
            shown = ", ".join(sorted(missing)[:5]) + (" ..." if len(missing) > 5 else "")
            raise UsageError(f"{path}: lacks {len(missing)} of the images in {other.name}: {shown}")


def sums_to_one(given: Predictions) -> npt.NDArray[np.bool_]:
    """Whether each image's probabilities do (n,), but for rounding."""
    return np.asarray(np.abs(given.scores.sum(axis=1) - 1) <= SUM_TOLERANCE + 1e-9)


def check_sums(given: Predictions) -> None:
    """Raise `UsageError` where an image's probabilities do not sum to 1."""
    wrong = np.flatnonzero(~sums_to_one(given))
    if len(wrong):
        first = int(wrong[0])
        raise UsageError(
            f"{given.path}: the probabilities of {len(wrong)} of {len(given.images)} images do not sum to 1, such as "
            f"{given.scores[first].sum():.4g} of {given.images[first]!r}"
        )


def ordered(given: Predictions, classes: Sequence[str]) -> Predictions:
    """The predictions with their columns named and ordered as `classes`.

    Raises:
        UsageError: if the columns are others.
    """
    place = {name.lower(): i for i, name in enumerate(given.classes)}
    if place.keys() != {name.lower() for name in classes}:
        raise UsageError(
            f"{given.path}: the classes must be {', '.join(classes)}; got {', '.join(given.classes)}"
        )
    columns = [place[name.lower()] for name in classes]
    return replace(given, classes=tuple(classes), scores=given.scores[:, columns])


def _both_classes(given: Predictions, known: Truth, classes: Sequence[str] | None) -> Predictions:
    """Predictions of a class and of its contrary, in this order reversed, from those of the class alone."""
    positive = given.classes[0]
    labels = {label.lower(): label for label in known.labels.values()}
    names = labels if classes is None else {name.lower(): name for name in classes}
    if positive.lower() not in names and names.keys() == {"0", "1"}:
        positive = "1"
    others = [name for key, name in names.items() if key != positive.lower()]
    if (classes is not None and positive.lower() not in names) or len(others) != 1:
        held = "the classes are" if classes is not None else f"the labels of {known.path.name} are"
        raise UsageError(
            f"{given.path}: the only column {positive!r} is the probability of one of two classes, but {held} "
            f"{', '.join(sorted(names.values()))}"
        )
    return replace(
        given,
        classes=(others[0], positive),
        scores=np.stack([1 - given.scores[:, 0], given.scores[:, 0]], axis=1),
    )
