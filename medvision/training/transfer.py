"""What a pretrained trunk is worth: the same training from random weights and from others, on few images.

For each transfer, number of images per class and seed every arm learns from the same images for the same number of
steps, chosen beforehand, and answers the same test images. Nothing is stopped early or chosen by validation images:
with five training images of a class nobody has hundreds to validate on.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.digest import digest_file, digest_json
from medvision.core.errors import StoreError, UsageError
from medvision.metrics.agreement import confusion_counts
from medvision.metrics.classes import balanced_accuracy, decide, medmnist_auc
from medvision.metrics.crossed import Crossed, Statistic, cross
from medvision.store.files import atomic_write, make_output, remove_tree
from medvision.training.accelerator import Device
from medvision.training.classify import identity_of, train_classify
from medvision.training.classify_config import TrainClassifyConfig
from medvision.training.images import LabelledImages, pixel_digest
from medvision.training.images_load import load_images
from medvision.training.images_proof import SplitProof, prove_split
from medvision.training.loop import Check
from medvision.training.transfer_config import Arm, Transfer, TransferConfig

Floats = npt.NDArray[np.float64]


def _balanced(labels: npt.NDArray[np.int64], probabilities: Floats) -> float:
    classes = probabilities.shape[1]
    return balanced_accuracy(confusion_counts(labels, decide(probabilities), (classes, classes)))


FIGURES: dict[str, Statistic] = {"AUC": medmnist_auc, "balanced accuracy": _balanced}
"""What is measured: the AUC as MedMNIST has it (of several classes the mean of one against the rest), and the mean
sensitivity of the classes."""


@dataclass(frozen=True, slots=True)
class Part:
    """One training of the study and its figures on the test images."""

    transfer: str
    arm: str
    images_per_class: int
    seed: int
    figures: dict[str, float]
    steps: int
    seconds: float


@dataclass(frozen=True, eq=False)
class TransferResult:
    """What a transfer came to: for each number of images and figure, all arms over all seeds.

    `test`, `pool` and `groups` count test images, training images to draw from, and the test images' patients (None
    where each image counts by itself). `start` says where the weights are from.
    """

    transfer: Transfer
    classes: tuple[str, ...]
    test: int
    pool: int
    groups: int | None
    grouped_by: str
    start: str
    found: dict[int, dict[str, Crossed]]
    parts: tuple[Part, ...]


def study_transfer(
    config: TransferConfig,
    out: Path,
    on_part: Callable[[Part, int, int], None] | None = None,
    on_check: Callable[[str, Check], None] | None = None,
    *,
    device: Device = "auto",
) -> tuple[TransferResult, ...]:
    """Run the study below `out`; what is done there already is kept, and a training that was cut short continues.

    Args:
        on_part: told each part, its number and how many there are.
        on_check: told the course of the sources' trainings.

    Raises:
        StoreError: if `out` holds parts of a study of other images or settings.
        UnreadableSourceError: if an image is damaged.
        UsageError: if a class has fewer training images than asked for, or a source learns from a target's images.
        WeightsError: if the weights to start from are unsafe or of another network.
    """
    make_output(out)
    total = len(config.transfers) * len(config.images_per_class) * len(config.seeds) * len(config.arms)
    done = 0
    results = []
    for transfer in config.transfers:
        images, proof = _target(transfer, max(config.images_per_class))
        weights = _source(transfer, config.draws, images, out, on_check, device)
        start = {"weights": digest_file(weights), "trunk": transfer.target.trunk}
        parts, probabilities = [], dict[tuple[int, int, str], Floats]()
        for count, seed, arm in _plan(config):
            folder = out / "parts" / transfer.name / f"{count}-images-seed-{seed}" / arm.name
            one = _config(transfer, arm, weights, count, seed)
            part, answers = _part(transfer, arm, one, start, (images, proof), folder, device)
            parts.append(part)
            probabilities[count, seed, arm.name] = answers
            done += 1
            if on_part is not None:
                on_part(part, done, total)
        results.append(_result(config, transfer, images, probabilities, tuple(parts), weights))
    write_parts(results, out / f"{config.name}.csv")
    return tuple(results)


def write_parts(results: list[TransferResult], path: Path) -> None:
    """A row for each training: transfer, arm, images per class, seed, figures, steps, seconds."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["transfer", "arm", "images_per_class", "seed", *FIGURES, "steps", "seconds"])
        for part in (part for result in results for part in result.parts):
            figures = [f"{part.figures[name]:.6f}" for name in FIGURES]
            row = [part.transfer, part.arm, part.images_per_class, part.seed, *figures]
            writer.writerow([*row, part.steps, f"{part.seconds:.1f}"])


def _plan(config: TransferConfig) -> Iterator[tuple[int, int, Arm]]:
    """Seeds go round outside, so that a study that is cut short has whole curves."""
    for seed in config.seeds:
        for count in config.images_per_class:
            for arm in config.arms:
                yield count, seed, arm


def _target(transfer: Transfer, most: int) -> tuple[LabelledImages, SplitProof]:
    """The target's training and test images; those to validate on are left out."""
    images, proof = load_images(transfer.target.images)
    kept = [i for i, side in enumerate(images.splits or ()) if side in ("train", "test")]
    images = images.take(kept)
    few = {name: count for name, count in images.of("train").counts().items() if count < most}
    if few:
        said = ", ".join(f"{name} {count}" for name, count in few.items())
        raise UsageError(
            f"{transfer.name}: images_per_class asks for {most} training images of each class; there are {said}"
        )
    images.of("test")
    return images, prove_split(images, proof.duplicates)


def _source(
    transfer: Transfer,
    draws: int,
    images: LabelledImages,
    out: Path,
    on_check: Callable[[str, Check], None] | None,
    device: Device,
) -> Path:
    """The weights to start from; those of a source are trained first, on images that the target does not have."""
    if transfer.source is None:
        assert transfer.weights is not None, "the configuration has one or the other"
        return transfer.weights
    loaded = load_images(transfer.source.images)
    own = {pixel_digest(images.read(i)): images.names[i] for i in range(len(images))}
    for index, name in enumerate(loaded[0].names):
        if (other := own.get(pixel_digest(loaded[0].read(index)))) is not None:
            raise UsageError(
                f"{transfer.name}: the source learns from an image of the target: {name!r} is {other!r} there; name "
                "other classes or folders for one of them"
            )
    folder = out / "sources" / transfer.name
    return train_classify(
        transfer.source, folder, on_check, loaded=loaded, device=device, draws=draws
    ).weights


def _config(transfer: Transfer, arm: Arm, weights: Path, count: int, seed: int) -> TrainClassifyConfig:
    return transfer.target.model_copy(
        update={
            "weights": weights if arm.pretrained else None,
            "stages": arm.stages,
            "limit_per_class": count,
            "seed": seed,
            "check_every": max(stage.steps for stage in arm.stages),
        }
    )


def _part(
    transfer: Transfer,
    arm: Arm,
    config: TrainClassifyConfig,
    start: dict[str, str],
    loaded: tuple[LabelledImages, SplitProof],
    folder: Path,
    device: Device,
) -> tuple[Part, Floats]:
    """One training with its answers `(images, classes)`, made or found in `folder`.

    Weights and checkpoints go as soon as the answers are there: a study has hundreds of them.
    """
    images, proof = loaded
    key = digest_json(
        {"config": identity_of(config), "start": start if arm.pretrained else {}, "data": proof.digest}
    )
    record, test = folder / "part.json", images.of("test")
    if not record.is_file():
        report = train_classify(config, folder, loaded=loaded, device=device, draws=0)
        answers = _answers(folder / "predictions.csv", test)
        figures = {name: float(figure(test.labels, answers)) for name, figure in FIGURES.items()}
        count = config.limit_per_class or 0
        part = Part(transfer.name, arm.name, count, config.seed, figures, report.steps, report.seconds)
        atomic_write(record, (json.dumps({"key": key, **asdict(part)}, indent=1) + "\n").encode())
    (folder / "model.safetensors").unlink(missing_ok=True)
    remove_tree(folder / "progress")
    content = _record(record, key)
    return Part(**content), _answers(folder / "predictions.csv", test)


def _record(path: Path, key: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        found = content.pop("key")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise StoreError(f"{path}: not a readable record of a training; delete its folder") from error
    if found != key:
        raise StoreError(
            f"{path}: is of a study with other images, weights or settings; delete it or choose another folder"
        )
    return content


def _answers(path: Path, test: LabelledImages) -> Floats:
    """Probabilities `(images, classes)` in the order of the test images."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    if rows[0][1:] != list(test.classes) or [row[0] for row in rows[1:]] != list(test.names):
        raise StoreError(f"{path}: is of other images or classes; delete its folder")
    return np.array([row[1:] for row in rows[1:]], np.float64)


def _result(
    config: TransferConfig,
    transfer: Transfer,
    images: LabelledImages,
    probabilities: dict[tuple[int, int, str], Floats],
    parts: tuple[Part, ...],
    weights: Path,
) -> TransferResult:
    test = images.of("test")
    groups = None if test.groups is None or len(set(test.groups)) == len(test) else np.asarray(test.groups)
    found = {}
    for count in config.images_per_class:
        scores = np.array(
            [[probabilities[count, seed, arm.name] for seed in config.seeds] for arm in config.arms]
        )
        found[count] = {
            name: cross(figure, test.labels, scores, groups=groups, n=config.draws)
            for name, figure in FIGURES.items()
        }
    source = transfer.source
    return TransferResult(
        transfer=transfer,
        classes=images.classes,
        test=len(test),
        pool=len(images.of("train")),
        groups=None if groups is None else len(set(groups.tolist())),
        grouped_by=images.grouped_by,
        start=weights.name if source is None else f"{source.name}, trained in this study",
        found=found,
        parts=parts,
    )
