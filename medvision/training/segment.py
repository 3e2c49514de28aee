"""Train a segmentation network on images with labels: split by case, validation on whole images, held-out predictions.

Out of it come `model.safetensors` (with its contract), `model-card.md`, `report.json`, `split.json`, the course of the
run, and label images of everything that was held out in `predictions/`, with the values of the data's own labels, and
their names in `held-out.txt`; of slides they are at the network's spacing, beside their truth in `truth/`. With
`fold: all` each fold has a network and a folder of its own, `predictions/` holds all images out of fold, and a last
network learns from all of them. The same configuration and data give the same weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvision.core.errors import UsageError
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.models.contract import Figure
from medvision.models.segmentation import (
    SegmentContract,
    SegmentModel,
    build_segment_net,
    usual_segment_contract,
    write_segment_model,
)
from medvision.models.weights import digest_state
from medvision.sources.write_labels import write_labels
from medvision.store.files import atomic_write, make_output, safe_name
from medvision.training.accelerator import Device
from medvision.training.figures import figure_lines
from medvision.training.loop import Check, Fit, LoopSettings, fit, write_checks
from medvision.training.segment_card import render_card
from medvision.training.segment_classes import class_values
from medvision.training.segment_config import IGNORED, TrainSegmentConfig
from medvision.training.segment_data import (
    SegmentImage,
    SegmentImages,
    border_map,
    load_images,
)
from medvision.training.segment_losses import segment_loss
from medvision.training.segment_score import (
    Segmenter,
    at_full_size,
    dice_of,
    figures_of,
    fit_temperature,
    mean_dice,
    most_likely,
)
from medvision.training.segment_split import Split, deal_folds, part_of, proof_of, split_of, write_split
from medvision.training.segment_windows import SegmentBatches, Weights

OnCheck = Callable[[str, Check], None]
OnNote = Callable[[str], None]
FINAL = "final"


@dataclass(frozen=True, eq=False)
class SegmentReport:
    """What a training yielded. `predictions` is a folder of label images of the images held out."""

    weights: Path
    card: Path
    predictions: Path
    digest: str
    steps: int
    resumed_at: int
    figures: dict[str, Figure]
    proof: str
    checks: tuple[Check, ...]
    seconds: float

    def summary(self) -> str:
        """The split and the figures, one a line, for a person."""
        last = f"{self.steps} steps; {self.seconds:.0f} s"
        return "\n".join([f"split: {self.proof}", *figure_lines(self.figures), last])


@dataclass(frozen=True, eq=False)
class _Task:
    """What all runs of a training share."""

    config: TrainSegmentConfig
    contract: SegmentContract
    images: SegmentImages
    weights: Weights
    out: Path
    engine: PatchEngine
    device: Device
    on_check: OnCheck | None
    note: OnNote


@dataclass(frozen=True, eq=False)
class _Learnt:
    """One run: its network with its contract, and the Dice of each image that it held out."""

    fitted: Fit
    contract: SegmentContract
    rows: dict[str, list[float]]


def train_segment(
    config: TrainSegmentConfig,
    out: Path,
    on_check: OnCheck | None = None,
    on_note: OnNote | None = None,
    device: Device = "auto",
) -> SegmentReport:
    """Train as `config` says and write everything below `out`; an interrupted run continues there.

    Args:
        config: the parameters.
        out: folder, made when absent.
        on_check: told the name of the run and its state at each check; the score is a mean Dice.
        on_note: told in words how the images are split, and what was passed over.
        device: of learning and of looking at whole images.

    Raises:
        UsageError: if `out` cannot be written to, images or labels are missing or contradict each other, or the network
            or its contract are not possible.
        StoreError: if `out` holds the progress of other data or another configuration.
    """
    began = time.perf_counter()
    note = on_note or (lambda _text: None)
    contract = contract_of(config)
    segment_loss(config.loss, len(contract.classes))
    _check_flips(config, contract)
    class_values(config.data, contract)
    make_output(out)
    images = load_images(config.data, contract)
    for text in images.found.notes:
        note(text)
    runs = _runs(config, images)
    write_split(images, runs, out / "split.json")
    border = config.border
    maps = {} if border is None else {i.name: border_map(i, border, contract) for i in images.images}
    engine = PatchEngine(EngineSettings(device=device, batch_size=4, backend="eager", precision="float32"))
    task = _Task(config, contract, images, maps, out, engine, device, on_check, note)
    rows: dict[str, list[float]] = {}
    steps = 0
    for name, split in runs.items():
        note(f"{name}: {proof_of(images, split)}")
        learnt = _train_one(task, name, split)
        steps += learnt.fitted.checks[-1].step
        rows |= learnt.rows
        figures = _figures(task, learnt.rows if learnt.rows else rows, out_of_fold=not learnt.rows)
        where = out if len(runs) == 1 or name == FINAL else out / name.replace(" ", "-")
        report = _written(task, learnt, figures, proof_of(images, split), where, began, steps)
    atomic_write(out / "held-out.txt", "".join(f"{name}\n" for name in rows).encode())
    return report


def contract_of(config: TrainSegmentConfig) -> SegmentContract:
    """The network's usual contract with the changes that a configuration asks for.

    Raises:
        UsageError: for a network, field or value that is not possible.
    """
    given = dict(config.contract)
    channels = given.get("channels")
    if isinstance(channels, int):  # what they will be is measured, unless it is given
        given = {"mean": (0.5,) * channels, "std": (0.25,) * channels} | given
    return usual_segment_contract(config.architecture, **given)


def _check_flips(config: TrainSegmentConfig, contract: SegmentContract) -> None:
    flip = config.augmentation.flip
    if not isinstance(flip, bool) and len(flip) != len(contract.window):
        raise UsageError(f"augmentation.flip: {len(flip)} axes, and windows have {len(contract.window)}")


def identity_of(config: TrainSegmentConfig) -> dict[str, Any]:
    """What of the configuration changes a network; data and split are digested apart."""
    apart = {"data", "split", "name", "version", "licence", "data_statement", "limits", "probabilities"}
    said: dict[str, Any] = config.model_dump(mode="json", exclude=apart)
    return said


def _runs(config: TrainSegmentConfig, images: SegmentImages) -> dict[str, Split]:
    """The parts of each network to be trained, by the name of its run."""
    split = config.split
    if split.held_out is not None:
        return {split.held_out: split_of(images, split, part_of(images, split.held_out), 0)}
    folds = deal_folds(images, split)
    if split.fold != "all":
        return {f"fold {split.fold}": split_of(images, split, folds[split.fold], split.fold)}
    runs = {f"fold {k}": split_of(images, split, fold, k) for k, fold in enumerate(folds)}
    return {**runs, FINAL: split_of(images, split, (), split.folds)}


def _train_one(task: _Task, name: str, split: Split) -> _Learnt:
    """A network that learnt from one part and was chosen and calibrated on another; what it held out is written."""
    config, images = task.config, task.images
    train, validation = images.named(split["train"]), images.named(split["validation"])
    contract = _measured(task, train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = build_segment_net(contract)
    margin = SegmentModel(name, net, contract).margin
    answered = tuple(side - 2 * lost for side, lost in zip(contract.window, margin, strict=True))
    progress = task.out / "progress"
    progress.mkdir(exist_ok=True)
    file = name.replace(" ", "-")
    fitted = fit(
        net,
        SegmentBatches(train, task.weights, config, contract, answered),
        segment_loss(config.loss, len(contract.classes)),
        _settings(config),
        lambda learning: mean_dice(
            Segmenter.of(learning, contract, task.engine), validation[: config.validation_images]
        ),
        None if task.on_check is None else partial(task.on_check, name),
        progress / f"{file}.pt",
        {
            "config": identity_of(config),
            "data": images.digest,
            "parts": {k: list(v) for k, v in split.items()},
        },
        device=task.device,
        tensorboard=task.out / "tensorboard" / file,
    )
    write_checks(fitted.checks, progress / f"{file}.csv")
    segment = Segmenter.of(fitted.net, contract, task.engine)
    contract = contract.model_copy(
        update={
            "temperature": round(fit_temperature(segment, validation, config.seed), 4),
            "calibration": f"temperature scaling on pixels of {len(validation)} validation images",
            "version": config.version,
        }
    )
    segment = Segmenter.of(fitted.net, contract, task.engine)
    held = images.named(split["held_out"])
    return _Learnt(fitted, contract, {image.name: _predicted(task, segment, image) for image in held})


def _measured(task: _Task, train: Sequence[SegmentImage]) -> SegmentContract:
    """The contract with mean and standard deviation of the values to learn from, unless the configuration has them."""
    given = task.config.contract
    if "mean" in given or "std" in given:
        return task.contract
    total = sum(image.truth.size for image in train)
    axes = tuple(range(len(task.contract.window)))
    sums = [image.scaled().sum(axis=axes, dtype=np.float64) for image in train]
    mean = np.sum(sums, axis=0) / total
    squares = [((image.scaled() - mean) ** 2).sum(axis=axes, dtype=np.float64) for image in train]
    std = np.maximum(np.sqrt(np.sum(squares, axis=0) / total), 1e-3)
    update = {
        "mean": tuple(round(float(v), 4) for v in mean),
        "std": tuple(round(float(v), 4) for v in std),
    }
    return task.contract.model_copy(update=update)


def _predicted(task: _Task, segment: Segmenter, image: SegmentImage) -> list[float]:
    """Write what a network makes of an image that it never saw; the Dice of each class but the first."""
    at_spacing = segment(image)
    classes, layout = task.contract.classes, task.images.found.layout
    # A slide may be far too large for its own pixels.
    probabilities = at_spacing if layout == "slides" else at_full_size(at_spacing, image, task.contract)
    values = np.arange(IGNORED + 1, dtype=np.int32)
    for value, label in class_values(task.config.data, task.contract).items():
        values[label] = label if layout == "objects" else value
    write_labels(task.out / "predictions", image.name, values[most_likely(probabilities)], image.frame)
    if layout == "slides":
        write_labels(task.out / "truth", image.name, values[image.truth])
    if task.config.probabilities:
        for name, one in zip(classes, probabilities, strict=True):
            path = task.out / "probabilities" / safe_name(name) / f"{image.name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, one)
    return dice_of(image.truth, most_likely(at_spacing), len(classes))


def _figures(task: _Task, rows: dict[str, list[float]], *, out_of_fold: bool) -> dict[str, Figure]:
    cases = {image.name: image.pair.case for image in task.images.images}
    how = "out of fold, by networks of the same configuration" if out_of_fold else "held-out fold"
    names = list(rows)
    return figures_of(
        task.contract.classes[1:], [cases[name] for name in names], [rows[name] for name in names], how
    )


def _settings(config: TrainSegmentConfig) -> LoopSettings:
    return LoopSettings(
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        average=config.average,
        check_every=config.check_every,
        patience=config.patience,
        seed=config.seed,
        optimiser=config.optimiser,
    )


def _written(
    task: _Task,
    learnt: _Learnt,
    figures: dict[str, Figure],
    proof: str,
    where: Path,
    began: float,
    steps: int,
) -> SegmentReport:
    """Write weights, card and report of one network; what a caller needs to know of them."""
    where.mkdir(exist_ok=True)
    weights, card = where / "model.safetensors", where / "model-card.md"
    contract = learnt.contract.model_copy(update={"figures": figures})
    fitted = learnt.fitted
    write_segment_model(weights, fitted.net, contract)
    notes = task.images.found.notes
    text = render_card(task.config, contract, fitted.net, proof, notes, weights, fitted.best_step)
    atomic_write(card, text.encode())
    report = SegmentReport(
        weights=weights,
        card=card,
        predictions=task.out / "predictions",
        digest=digest_state(fitted.net.state_dict()),
        steps=steps,
        resumed_at=fitted.resumed_at,
        figures=figures,
        proof=proof,
        checks=tuple(fitted.checks),
        seconds=time.perf_counter() - began,
    )
    said = {
        "weights": weights.name,
        "digest": report.digest,
        "steps": fitted.checks[-1].step,
        "best_step": fitted.best_step,
        "temperature": contract.temperature,
        "split": proof,
        "figures": {name: figure.model_dump(mode="json") for name, figure in figures.items()},
        "dice": {
            name: [None if np.isnan(v) else round(v, 4) for v in row] for name, row in learnt.rows.items()
        },
        "seconds": round(report.seconds, 1),
    }
    atomic_write(where / "report.json", (json.dumps(said, indent=2) + "\n").encode())
    return report
