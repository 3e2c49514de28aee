"""Many images to their classes: a folder with a page for each, or figures alone in one pass for thousands."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medvision.core.errors import MedvisionError, UsageError
from medvision.models.image_model import logits_of
from medvision.ops.appearance import Appearance, appearance_of
from medvision.ops.resize import Pixels
from medvision.pipelines.classify_image import (
    check_image_config,
    classify_image,
    describe_image_model,
    image_engine,
    judge_image,
    shown_window,
)
from medvision.pipelines.device import compute
from medvision.pipelines.image_config import ImageConfig
from medvision.report.build import RESULT, read_record
from medvision.sources.image_archive import read_image_archive
from medvision.sources.still import STILL_SUFFIXES, read_still
from medvision.store.files import atomic_write, make_output
from medvision.store.image_records import ImageModelInfo, ImageResult
from medvision.store.names import claim_names, told_apart
from medvision.store.predictions import PREDICTIONS, write_predictions
from medvision.store.records import Record, SlideOutcome

RESULTS = "results.json"
ARCHIVE_SUFFIX = ".npz"
_READERS = 2
_AHEAD = 16
"""Images decoded ahead of the network."""


class ClassifiedImage(Record):
    """One image of a run. `reason` says in what it is unlike those of the training."""

    image: str
    predicted: str
    probabilities: dict[str, float]
    in_scope: bool | None
    energy: float
    reason: str = ""


class FailedImage(Record):
    """An image that could not be classified, and why."""

    image: str
    reason: str


class ImageResults(Record):
    """The content of `results.json`."""

    schema_version: int = 1
    notice: str = "Research use only: not for diagnosis."
    model: ImageModelInfo
    results: tuple[ClassifiedImage, ...]
    failed: tuple[FailedImage, ...]


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image to classify: its file, and what `predictions.csv` calls it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class ImagesOutcome:
    """Where the tables are, and what they say, in the order in which the images were given."""

    predictions: Path
    results: Path
    content: ImageResults


def list_still_images(paths: Sequence[Path]) -> list[ListedImage]:
    """Files as given, by their names, and images below folders in order, by their paths in them; each file once.

    Where two would have one name, both have as much of their paths as tells them apart.

    Raises:
        UsageError: if a path does not exist, or no image is found at all.
    """
    found: dict[Path, ListedImage] = {}
    for path in paths:
        if path.is_dir():
            inner = sorted(
                p
                for p in path.rglob("*")
                if p.suffix.lower() in STILL_SUFFIXES and p.is_file() and not p.name.startswith(".")
            )
            listed = [ListedImage(p, p.relative_to(path).as_posix()) for p in inner]
        elif path.exists():
            listed = [ListedImage(path, path.name)]
        else:
            raise UsageError(f"{path}: no such file or folder")
        for one in listed:
            found.setdefault(one.path.absolute(), one)
    if not found:
        raise UsageError(
            f"{', '.join(map(str, paths)) or 'no path given'}: no images ({', '.join(STILL_SUFFIXES)})"
        )
    listed = list(found.values())
    apart = told_apart([one.name for one in listed], [one.path for one in listed])
    return [ListedImage(one.path, name) for one, name in zip(listed, apart, strict=True)]


def classify_each(
    images: Sequence[ListedImage],
    out: Path,
    config: ImageConfig,
    on_plan: Callable[[str, int], None] | None = None,
    on_windows: Callable[[int], None] | None = None,
) -> Iterator[SlideOutcome]:
    """Classify images into folders below `out`, in order; one that fails does not stop the others.

    An outcome's `called` is the image's name, and more of its path where an earlier run into `out` had another image of
    that name.

    Raises:
        MedvisionError: before anything is written, if the model, the device or a parameter is none.
    """
    check_image_config(config)
    make_output(out)
    named = claim_names(out, [one.path for one in images], [one.name for one in images])
    stop = threading.Event()
    for one in named:
        yield classify_image(one.path, out, config, one.name, on_plan, on_windows, stop, called=one.called)


def write_tables(outcomes: Iterable[SlideOutcome], out: Path, config: ImageConfig) -> ImagesOutcome:
    """`results.json` of a run of `classify_each`, from its outcomes, beside its `predictions.csv`."""
    done: list[ClassifiedImage] = []
    failed: list[FailedImage] = []
    for outcome in outcomes:
        if not outcome.ok:
            failed.append(FailedImage(image=outcome.shown, reason=outcome.reason))
            continue
        result = read_record(out / outcome.name / RESULT, ImageResult)
        done.append(
            ClassifiedImage(
                image=outcome.shown,
                predicted=result.predicted,
                probabilities=result.probabilities,
                in_scope=result.in_scope,
                energy=result.energy,
                reason=result.reason,
            )
        )
    content = ImageResults(
        model=describe_image_model(check_image_config(config)), results=tuple(done), failed=tuple(failed)
    )
    predictions = out / PREDICTIONS
    # The run's page wrote it, of all images of the folder, unless none has a result.
    if not predictions.exists():
        write_predictions(predictions, content.model.classes, ())
    return ImagesOutcome(predictions, _write_results(out, content), content)


@dataclass(eq=False)
class _Pass:
    """One pass over many images: what was seen of those that could be read, and why others could not be."""

    names: list[str] = field(default_factory=list)
    seen: list[Appearance] = field(default_factory=list)
    failed: list[FailedImage] = field(default_factory=list)

    def pixels(self, images: Iterable[tuple[str, Future[Pixels] | Pixels]]) -> Iterator[Pixels]:
        """Pixels of what can be read, in order; the rest is noted."""
        for name, held in images:
            try:
                pixels = held.result() if isinstance(held, Future) else held
            except (MedvisionError, OSError, MemoryError) as error:
                self.failed.append(FailedImage(image=name, reason=str(error) or type(error).__name__))
                continue
            self.names.append(name)
            self.seen.append(appearance_of(pixels))
            yield pixels


def predict_files(
    images: Sequence[ListedImage],
    out: Path,
    config: ImageConfig,
    on_plan: Callable[[str, int], None] | None = None,
    on_windows: Callable[[int], None] | None = None,
) -> ImagesOutcome:
    """Classify images in one pass, many in a batch, and write the tables alone: no pages, no maps.

    Raises:
        MedvisionError: before anything is written, if the model, the device or a parameter is none.
    """
    ready = check_image_config(config)
    if on_plan is not None:
        on_plan("images", len(images))
    window = shown_window(config, ready.model)

    def read(path: Path) -> Pixels:
        return read_still(path, window, config.frame).pixels

    with ThreadPoolExecutor(_READERS, thread_name_prefix="medvision-still") as pool:
        ahead: deque[tuple[str, Future[Pixels] | Pixels]] = deque()

        def held() -> Iterator[tuple[str, Future[Pixels] | Pixels]]:
            for one in images:
                ahead.append((one.name, pool.submit(read, one.path)))
                if len(ahead) > _AHEAD:
                    yield ahead.popleft()
            while ahead:
                yield ahead.popleft()

        return _predict(held(), out, config, on_windows)


def predict_archive(
    path: Path,
    split: str,
    out: Path,
    config: ImageConfig,
    on_plan: Callable[[str, int], None] | None = None,
    on_windows: Callable[[int], None] | None = None,
) -> ImagesOutcome:
    """The same for one split of a MedMNIST archive; the images are called `SPLIT/NUMBER`, as in a training on it.

    Raises:
        UnreadableSourceError: if the archive is damaged or not one.
        UsageError: if it has no such split.
    """
    parts = {part.name: part for part in read_image_archive(path)}
    if split not in parts:
        raise UsageError(f"{path}: no split {split!r}; choose --split among {', '.join(parts)}")
    images = parts[split].images
    if on_plan is not None:
        on_plan(split, len(images))
    held: Iterator[tuple[str, Future[Pixels] | Pixels]] = (
        (f"{split}/{number}", pixels) for number, pixels in enumerate(images)
    )
    return _predict(held, out, config, on_windows)


def _predict(
    images: Iterable[tuple[str, Future[Pixels] | Pixels]],
    out: Path,
    config: ImageConfig,
    on_windows: Callable[[int], None] | None,
) -> ImagesOutcome:
    ready = check_image_config(config)
    make_output(out)
    engine = image_engine(config, on_windows)
    run = _Pass()

    def one_pass() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return logits_of(ready.model, run.pixels(images), engine, ready.runner)

    logits = compute(str(engine.device), engine.stop, one_pass)
    done = []
    for name, seen, row in zip(run.names, run.seen, logits, strict=True):
        try:
            found = judge_image(ready.model, row, seen)
        except MedvisionError as error:
            run.failed.append(FailedImage(image=name, reason=str(error)))
            continue
        done.append(
            ClassifiedImage(
                image=name,
                predicted=found.predicted,
                probabilities=found.probabilities,
                in_scope=found.in_scope,
                energy=found.energy,
                reason=found.reason,
            )
        )
    return _written(out, describe_image_model(ready), done, run.failed)


def _written(
    out: Path, model: ImageModelInfo, done: Sequence[ClassifiedImage], failed: Sequence[FailedImage]
) -> ImagesOutcome:
    rows = ((one.image, [one.probabilities[name] for name in model.classes]) for one in done)
    predictions = write_predictions(out / PREDICTIONS, model.classes, rows)
    content = ImageResults(model=model, results=tuple(done), failed=tuple(failed))
    return ImagesOutcome(predictions, _write_results(out, content), content)


def _write_results(out: Path, content: ImageResults) -> Path:
    atomic_write(out / RESULTS, content.model_dump_json(indent=1).encode() + b"\n")
    return out / RESULTS
