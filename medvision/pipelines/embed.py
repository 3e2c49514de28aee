"""Images as a classifier sees them before its last layer, as points in a plane coloured by class.

Esteva et al. (Nature 2017) show their network's classes so: images of one class lie together where the network has
found what they have in common, whatever the last layer makes of it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medvision.core.errors import MedvisionError, UsageError
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.metrics.neighbours import chance_purity, neighbour_purity
from medvision.models.image_features import describe
from medvision.models.image_model import ImageModel
from medvision.ops.projection import NEIGHBOURS, Method, in_words, project
from medvision.ops.resize import Pixels
from medvision.pipelines.classify_images import list_still_images
from medvision.pipelines.image_config import parse_window
from medvision.report.embedding import Embedding, Point, draw_embedding, render_embedding
from medvision.report.pictures import small_image
from medvision.store.files import atomic_write, make_output
from medvision.training.classify_config import TrainClassifyConfig
from medvision.training.images import ImageFiles, ImageStore
from medvision.training.images_load import read_images, split_images

Split = Literal["test", "validation", "train", "all"]

NEAREST = 10
"""Neighbours that the purity counts."""
THUMBNAILS = 300
_SIDE = 96


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images to place: where their pixels are, their names, and what they show, where somebody says it."""

    store: ImageStore
    names: tuple[str, ...]
    labels: tuple[str, ...] | None
    said: str


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """How images are placed. `limit` is the most that are shown, drawn by `seed`."""

    method: Method = "tsne"
    neighbours: int = NEIGHBOURS
    seed: int = 0
    limit: int = 3000
    device: str = "auto"
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("neighbours", "limit", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', ' ')} is at least 1; got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class EmbedOutcome:
    """Paths by file name, the figures in words, and images that could not be read, with reasons."""

    files: dict[str, Path]
    figures: tuple[tuple[str, str, str], ...]
    images: int
    failed: dict[str, str]


def embed(model: ImageModel, images: ImageSet, out: Path, settings: EmbedSettings) -> EmbedOutcome:
    """Write `embedding.csv`, `.json`, `.png`, `.svg` and `.html` into `out`, which is made if absent.

    Images that cannot be read are left out and told of. Equal input and settings give equal points on one machine.

    Raises:
        UsageError: if too few images are left, or the method is not installed.
    """
    make_output(out)
    chosen = _limited(images, settings)
    opened = _Opened(images.store, chosen, settings.seed)
    engine = PatchEngine(EngineSettings(settings.device, settings.batch_size, precision="float32"))
    described = describe(model, opened.pixels(), engine)
    failed = {images.names[i]: reason for i, reason in opened.failed.items()}
    kept = [i for i in chosen if i not in opened.failed]
    places = project(described.features, settings.method, settings.seed, settings.neighbours)
    probabilities = model.probabilities(described.logits)
    labels = None if images.labels is None else _labels(model, [images.labels[i] for i in kept])
    said = probabilities.argmax(axis=1)
    classes = model.contract.classes
    points = tuple(
        Point(
            name=images.names[i],
            label=None if labels is None else labels[row],
            predicted=classes[said[row]],
            probability=float(probabilities[row, said[row]]),
            x=round(float(places[row, 0]), 4),
            y=round(float(places[row, 1]), 4),
            thumbnail=opened.thumbnails.get(i, ""),
        )
        for row, i in enumerate(kept)
    )
    shown = _in_order(classes, points)
    measured = None if labels is None else _purities(described.features, places, points, shown)
    made = _page(model, images, settings, points, shown, measured, failed)
    return EmbedOutcome(_write(made, model, settings, out, failed), made.figures, len(points), failed)


def files_below(paths: Sequence[Path], model: ImageModel, window: str | None) -> ImageSet:
    """Image files as given, and those below folders in order of name, each once; nobody says what they show.

    Args:
        paths: files and folders.
        model: whose contract says how grey of more than 8 bits is shown, unless `window` does.
        window: see `parse_window`.

    Raises:
        UsageError: if a path does not exist, no image is found, or the window is none.
    """
    listed = list_still_images(paths)
    try:
        grey = parse_window(window or model.contract.window)
    except ValueError as error:
        raise UsageError(f"--image-window: {error}") from error
    store = ImageFiles(tuple(one.path for one in listed), grey)
    return ImageSet(store, tuple(one.name for one in listed), None, f"{len(listed):,} files")


def labelled_set(config: TrainClassifyConfig, split: Split) -> ImageSet:
    """The images of one side of a training's split, as the training has them, or all as they are.

    Raises:
        UnreadableSourceError: as `load_images`.
        UsageError: as `load_images`, or if there is no such side.
    """
    if split == "all":
        images = read_images(config.images)
    else:
        images = split_images(config.images, every_class=config.taxonomy is None)[0].of(split)
    labels = tuple(images.classes[label] for label in images.labels)
    where = "all images" if split == "all" else f"{split} images"
    return ImageSet(images.store, images.names, labels, f"{where} of {images.provenance['source']}")


@dataclass(eq=False)
class _Opened:
    """Reads the chosen images, once each, in order; keeps some small, and the reasons of those that cannot be read."""

    store: ImageStore
    chosen: Sequence[int]
    seed: int
    failed: dict[int, str] = field(default_factory=dict)
    thumbnails: dict[int, str] = field(default_factory=dict)

    def pixels(self) -> Iterator[Pixels]:
        """Pixels of those that can be read."""
        order = np.random.default_rng((self.seed, 1)).permutation(np.asarray(self.chosen))
        small = set(order[:THUMBNAILS].tolist())
        for index in self.chosen:
            try:
                found = self.store.read(index)
            except MedvisionError as error:
                self.failed[index] = str(error)
                continue
            if index in small:
                self.thumbnails[index] = small_image(found, _SIDE, "").uri
            yield found


@dataclass(frozen=True, eq=False)
class _Purities:
    """Purities of the classes (n,), before and after the projection, and what chance would give."""

    k: int
    features: npt.NDArray[np.float64]
    plane: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    chance: float


def _limited(images: ImageSet, settings: EmbedSettings) -> list[int]:
    count = len(images.names)
    if count <= settings.limit:
        return list(range(count))
    rng = np.random.default_rng((settings.seed, 0))
    drawn: list[int] = np.sort(rng.permutation(count)[: settings.limit]).tolist()
    return drawn


def _labels(model: ImageModel, given: Sequence[str]) -> list[str]:
    """Labels as the model names its classes: a disease by the class that holds it; other names stay as they are."""
    tree, classes = model.contract.tree, model.contract.classes
    named = {name.lower(): name for name in (classes if tree is None else tree.taxonomy.parents)}

    def of(label: str) -> str:
        name = named.get(label.lower(), label)
        if tree is None or name not in tree.taxonomy.parents:
            return name
        return tree.taxonomy.holder(name, classes) or name

    return [of(label) for label in given]


def _in_order(classes: tuple[str, ...], points: Sequence[Point]) -> tuple[str, ...]:
    """The classes that are shown: those of the model, then what else labels say."""
    there = {point.shown for point in points}
    return (*(name for name in classes if name in there), *sorted(there - set(classes)))


def _purities(
    features: npt.NDArray[np.float64],
    places: npt.NDArray[np.float64],
    points: Sequence[Point],
    shown: tuple[str, ...],
) -> _Purities:
    labels = np.array([shown.index(point.shown) for point in points], np.int64)
    k = min(NEAREST, len(points) - 1)
    before, after = (neighbour_purity(vectors, labels, k) for vectors in (features, places))
    return _Purities(k, before, after, labels, chance_purity(labels))


def _page(
    model: ImageModel,
    images: ImageSet,
    settings: EmbedSettings,
    points: tuple[Point, ...],
    shown: tuple[str, ...],
    measured: _Purities | None,
    failed: dict[str, str],
) -> Embedding:
    """Everything that is shown."""
    offered = len(images.names)
    notes = [
        "Each dot is an image; images that the network describes alike lie together. Distances between far groups, and "
        f"the axes, mean nothing. Seed {settings.seed}.",
        "Colours are told apart with any colour vision; from the eighth class on the shape changes too.",
    ]
    figures: tuple[tuple[str, str, str], ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    if measured is None:
        notes.append("No labels: the colour is the predicted class.")
    else:
        chance = f"; by chance {measured.chance:.3f}"
        which = f"share of an image's {measured.k} nearest others that are of its class, mean over images"
        figures = (
            ("neighbour purity, features", f"{measured.features.mean():.3f}", f"{which}{chance}"),
            (
                "neighbour purity, picture",
                f"{measured.plane.mean():.3f}",
                "the same of the dots of the picture",
            ),
            ("predicted as labelled", f"{np.mean([not p.wrong for p in points]):.3f}", "share of the images"),
        )
        rows = tuple(_row(n, name, points, measured) for n, name in enumerate(shown))
    if len(points) + len(failed) < offered:
        notes.append(f"{len(points) + len(failed):,} of {offered:,} images, drawn by the seed.")
    if len(points) > THUMBNAILS:
        notes.append(f"{THUMBNAILS} of the images have a small picture.")
    if failed:
        notes.append(
            f"Not read, and left out: {len(failed)} of {offered:,} images, such as {next(iter(failed))}."
        )
    return Embedding(
        title="What the classifier sees alike",
        method=in_words(settings.method, settings.neighbours, len(points)),
        summary=f"{f'{len(points):,} of ' if len(points) < offered else ''}{images.said}; "
        f"{model.contract.architecture} with the classes {', '.join(model.contract.classes)}",
        classes=shown,
        points=points,
        figures=figures,
        head=("class", "images", "purity, features", "purity, picture", "predicted as labelled"),
        rows=rows,
        notes=tuple(notes),
    )


def _row(number: int, name: str, points: Sequence[Point], measured: _Purities) -> tuple[str, ...]:
    own = measured.labels == number
    right = np.mean([not point.wrong for point, is_own in zip(points, own, strict=True) if is_own])
    values = measured.features[own].mean(), measured.plane[own].mean(), right
    return (name, f"{int(own.sum()):,}", *(f"{value:.3f}" for value in values))


def _write(
    made: Embedding, model: ImageModel, settings: EmbedSettings, out: Path, failed: dict[str, str]
) -> dict[str, Path]:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["image", "label", "predicted", "x", "y"])
    for point in made.points:
        writer.writerow([point.name, point.label or "", point.predicted, point.x, point.y])
    said: dict[str, Any] = {
        "model": model.name,
        "model_digest": model.digest,
        "method": made.method,
        "seed": settings.seed,
        "images": len(made.points),
        "figures": {name: {"value": float(value), "what": what} for name, value, what in made.figures},
        "classes": [dict(zip(made.head, row, strict=True)) for row in made.rows],
        "failed": failed,
        "notice": "Research use only: not for diagnosis.",
    }
    plot = draw_embedding(made)
    files = {
        "embedding.csv": table.getvalue().encode(),
        "embedding.json": json.dumps(said, indent=1, ensure_ascii=False).encode() + b"\n",
        "embedding.png": plot.png,
        "embedding.svg": plot.svg,
        "embedding.html": render_embedding(made),
    }
    for name, data in files.items():
        atomic_write(out / name, data)
    return {name: out / name for name in files}
