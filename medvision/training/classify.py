"""Train a classifier of images: stages over a trunk, early stopping, calibration, and what it does on kept-out images.

The course of Kermany et al. (Cell 2018) and Esteva et al. (Nature 2017): a trunk that learnt elsewhere, a new head that
learns first while the trunk stays as it is, then more of the network at a lower rate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.metrics.calibration import fit_softmax_temperature
from medvision.models.class_tree import ClassTree
from medvision.models.classifiers.start import LIBRARY, Start, begin, check_start
from medvision.models.image_contract import ImageContract, Scope
from medvision.models.image_model import ImageModel, logits_of
from medvision.models.weights import digest_state, write_weights
from medvision.ops.appearance import appearance_of
from medvision.store.files import atomic_write, make_output
from medvision.training.accelerator import Device
from medvision.training.classify_card import render_card
from medvision.training.classify_config import Stage, TrainClassifyConfig
from medvision.training.classify_data import ResizedImages, batches
from medvision.training.classify_predictions import write_predictions
from medvision.training.classify_score import figures_of, figures_of_levels
from medvision.training.classify_taxonomy import load_parted
from medvision.training.images import LabelledImages
from medvision.training.images_load import load_images
from medvision.training.images_proof import SplitProof, write_proof
from medvision.training.loop import Check, Fit, LoopSettings, fit, write_checks

OnCheck = Callable[[str, Check], None]


@dataclass(frozen=True, eq=False)
class ClassifyReport:
    """What a training came to. Figures are of the test images, or of the validation images where there are none."""

    weights: Path
    card: Path
    proof: SplitProof
    model: ImageModel
    steps: int
    seconds: float

    def summary(self) -> str:
        """One line for the terminal."""
        figures = ", ".join(
            f"{name.replace('_', ' ')} {figure.value:.3f}"
            + ("" if figure.interval is None else f" ({figure.interval[0]:.3f} to {figure.interval[1]:.3f})")
            for name, figure in self.model.contract.figures.items()
        )
        return f"{self.steps} steps in {self.seconds:.0f} s; {figures or 'no images kept out to measure on'}"


class Staged(nn.Module):
    """A network of which only some modules learn: the others keep their weights and their norms' statistics."""

    def __init__(self, net: nn.Module, learning: tuple[str, ...] | None) -> None:
        """`learning` names modules; None is all of them.

        Raises:
            UsageError: if the network has no such module.
        """
        super().__init__()
        known = dict(net.named_modules())
        unknown = [name for name in learning or () if name not in known]
        if unknown:
            near = ", ".join(name for name in known if name and "." not in name)
            raise UsageError(f"the network has no module {unknown[0]!r} to train; its parts: {near}")
        self.net = net
        self.learning = learning
        for name, weights in net.named_parameters():
            weights.requires_grad_(self._learns(name))

    def train(self, mode: bool = True) -> Staged:
        """Modules that do not learn stay in evaluation mode: their norms would drift with the batches otherwise."""
        super().train(mode)
        for name, part in self.net.named_modules():
            if not self._learns(f"{name}.") and not self._holds_learning(name):
                part.train(False)
        return self

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits `(n, classes)`."""
        found: torch.Tensor = self.net(inputs)
        return found

    def _learns(self, name: str) -> bool:
        return self.learning is None or any(name.startswith(f"{module}.") for module in self.learning)

    def _holds_learning(self, name: str) -> bool:
        return any(
            module == name or module.startswith(f"{name}.") or not name for module in self.learning or ()
        )


def train_classify(
    config: TrainClassifyConfig,
    out: Path,
    on_check: OnCheck | None = None,
    on_proof: Callable[[SplitProof], None] | None = None,
    *,
    download: bool = False,
    device: Device = "auto",
    loaded: tuple[LabelledImages, SplitProof] | None = None,
    draws: int = 1000,
) -> ClassifyReport:
    """Train, calibrate and measure a classifier of images; writes weights, card, proof and predictions below `out`.

    A training that was interrupted continues in the same `out`. With `download` a library may fetch its own weights,
    into `out/pretrained`. `loaded` are the configuration's images where they have been read already; `draws` are
    of the bootstrap for the figures' intervals.

    Raises:
        UnreadableSourceError: if an image is damaged.
        UsageError: if the images leak between splits or lack a class, weights may not be fetched, or a part is unknown.
        WeightsError: if the weights to start from are unsafe or of another network.
    """
    began = time.perf_counter()
    recipe = check_start(config.trunk, config.weights, download=download)
    if config.input_px is None and recipe.window_px is None:
        raise UsageError(f"{config.trunk} has no input size of its own; say `input_px`")
    make_output(out)
    parted = None
    if config.taxonomy is None:
        images, proof = loaded or load_images(config.images)
    else:
        parted, proof = load_parted(config.images, config.taxonomy)
        images = parted.images
    if on_proof is not None:
        on_proof(proof)
    write_proof(proof, out)
    train, validation, test = (_side(images, name) for name in ("train", "validation", "test"))
    train = _limited(train, config)
    _require_classes(train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        start = begin(
            config.trunk,
            images.classes,
            LIBRARY if str(config.weights) == LIBRARY else config.weights,
            out / "pretrained" if download else None,
        )
    side = config.input_px or recipe.window_px
    assert side is not None, "one of them is there"
    net, fits = _learn(config, start, train, validation, side, proof.digest, out, on_check, device)
    tree = None if parted is None else parted.tree
    model = ImageModel(config.name, net, _contract(config, start, images, side, tree))
    engine = PatchEngine(EngineSettings(device="auto" if device == "auto" else device, precision="float32"))
    model = _calibrated(model, validation, train, engine)
    measured = test if len(test) else validation
    if len(measured):
        logits = logits_of(model, (measured.read(i) for i in range(len(measured))), engine)
        probabilities = model.probabilities(logits)
        write_predictions(measured, probabilities, out, () if tree is None else tree.levels)
        where = "test" if len(test) else "validation images, on which it was also stopped and calibrated"
        figures = figures_of(measured, probabilities, model.contract.positive, where, draws)
        if tree is not None:
            figures |= figures_of_levels(measured, probabilities, tree, where)
        model = replace(model, contract=model.contract.model_copy(update={"figures": figures}))
    weights, card = out / "model.safetensors", out / "model-card.md"
    write_weights(weights, model.net.state_dict(), model.contract.model_dump(mode="json"))
    steps = sum(one.checks[-1].step for one in fits)
    atomic_write(card, render_card(config, model, start, proof, fits, weights, parted).encode())
    report = ClassifyReport(weights, card, proof, model, steps, time.perf_counter() - began)
    _write_report(report, config, start, fits, out / "report.json")
    return report


def _side(images: LabelledImages, split: str) -> LabelledImages:
    return images.take([i for i, name in enumerate(images.splits or ()) if name == split])


def _limited(train: LabelledImages, config: TrainClassifyConfig) -> LabelledImages:
    """At most so many images of each class, drawn by the seed."""
    if config.limit_per_class is None:
        return train
    rng = np.random.default_rng((config.seed, 77))
    kept: list[int] = []
    for label in range(len(train.classes)):
        there = np.flatnonzero(train.labels == label)
        kept += rng.permutation(there)[: config.limit_per_class].tolist()
    return train.take(sorted(kept))


def _require_classes(train: LabelledImages) -> None:
    missing = [name for name, count in train.counts().items() if count == 0]
    if missing:
        raise UsageError(f"no training image shows {', '.join(missing)}; classes: {', '.join(train.classes)}")


def _learn(
    config: TrainClassifyConfig,
    start: Start,
    train: LabelledImages,
    validation: LabelledImages,
    side: int,
    data: str,
    out: Path,
    on_check: OnCheck | None,
    device: Device,
) -> tuple[nn.Module, list[Fit]]:
    """The stages, one after the other, each from where the last one ended."""
    given = ResizedImages(train, side, config.resize)
    mean, std = start.recipe.mean, start.recipe.std
    validate = None if not len(validation) else _validation(validation, config, side, mean, std)
    net, fits = start.net, []
    (out / "progress").mkdir(exist_ok=True)
    for number, stage in enumerate(config.stages, start=1):
        name = f"stage {number}"
        identity = {
            "config": identity_of(config),
            "data": data,
            "stage": number,
            "start": digest_state(net.state_dict()),
        }
        fitted = fit(
            Staged(net, _modules(stage, start)),
            batches(given, config, mean, std, config.seed * 101 + number),
            partial(functional.cross_entropy, label_smoothing=config.label_smoothing),
            _settings(config, stage, validate is not None),
            validate,
            None if on_check is None else partial(on_check, name),
            out / "progress" / f"stage-{number}.pt",
            identity,
            device=device,
        )
        write_checks(fitted.checks, out / "progress" / f"stage-{number}.csv")
        fits.append(fitted)
        inner: Any = fitted.net
        net = inner.net
    for weights in net.parameters():
        weights.requires_grad_(False)
    return net, fits


def _modules(stage: Stage, start: Start) -> tuple[str, ...] | None:
    if stage.train == "all":
        return None
    return start.head if stage.train == "head" else stage.train


def _settings(config: TrainClassifyConfig, stage: Stage, validated: bool) -> LoopSettings:
    return LoopSettings(
        steps=stage.steps,
        learning_rate=stage.learning_rate,
        weight_decay=config.weight_decay,
        average=config.average,
        check_every=config.check_every,
        patience=stage.patience if validated else None,
        seed=config.seed,
        optimiser=config.optimiser,
    )


def _validation(
    images: LabelledImages,
    config: TrainClassifyConfig,
    side: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Callable[[nn.Module], float]:
    """Minus the log loss on the validation images, each class weighing the same where sampling is balanced."""
    data = ResizedImages(images, side, config.resize)
    labels = torch.from_numpy(images.labels)
    counts = torch.bincount(labels, minlength=len(images.classes)).clamp_min(1)
    weight = (1.0 / counts if config.sampling == "balanced" else torch.ones(len(counts))).float()
    shift, scale = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (mean, std))

    def score(net: nn.Module) -> float:
        parts = np.array_split(np.arange(len(images)), max(1, len(images) // 64))
        with torch.inference_mode():
            logits = torch.cat([net((data.batch(part) - shift) / scale) for part in parts])
        return -float(functional.cross_entropy(logits, labels, weight=weight))

    return score


def _contract(
    config: TrainClassifyConfig, start: Start, images: LabelledImages, side: int, tree: ClassTree | None
) -> ImageContract:
    positive = config.positive
    if positive is None and len(images.classes) == 2:
        positive = images.classes[1]
    if positive is not None and positive not in images.classes:
        raise UsageError(f"positive {positive!r} is no class; classes: {', '.join(images.classes)}")
    window = config.images.window
    return ImageContract(
        architecture=config.trunk,
        classes=images.classes,
        positive=positive,
        input_px=side,
        resize=config.resize,
        mean=start.recipe.mean,
        std=start.recipe.std,
        version=config.version,
        window=None
        if window is None
        else str(window)
        if isinstance(window, str)
        else "{:g},{:g}".format(*window),
        tree=tree,
    )


def _calibrated(
    model: ImageModel, validation: LabelledImages, train: LabelledImages, engine: PatchEngine
) -> ImageModel:
    """The model with a temperature fitted on the validation images, and the bounds of what it has seen."""
    update: dict[str, Any] = {}
    if len(validation):
        logits = logits_of(model, (validation.read(i) for i in range(len(validation))), engine)
        update["temperature"] = round(fit_softmax_temperature(logits, validation.labels), 4)
        update["calibration"] = f"temperature scaling on {len(validation)} validation images"
        tempered = replace(model, contract=model.contract.model_copy(update=update))
        update["scope"] = scope_of(train, float(np.quantile(tempered.energy(logits), 0.99)))
    return replace(model, contract=model.contract.model_copy(update=update))


def scope_of(images: LabelledImages, energy: float) -> Scope:
    """The bounds of size, sides, brightness and colour of images, with some margin, and the limit of the energy."""
    seen = [appearance_of(images.read(index)) for index in range(len(images))]
    brightness = [one.brightness for one in seen]
    aspects = [one.aspect for one in seen]
    low, high = min(brightness), max(brightness)
    return Scope(
        energy=round(energy, 4),
        brightness=(round(max(0.0, low - 0.02), 4), round(min(1.0, high + 0.02), 4)),
        aspect=(round(min(aspects) * 0.95, 4), round(max(aspects) * 1.05, 4)),
        smallest_px=min(min(one.shape) for one in seen),
        grey=all(one.grey for one in seen),
    )


def identity_of(config: TrainClassifyConfig) -> dict[str, Any]:
    """What of the configuration changes a network; the images are digested apart, and words change nothing."""
    words = {
        "data",
        "images",
        "licence",
        "data_statement",
        "limits",
        "version",
        "name",
        "stages",
        "weights",
        "positive",
        "taxonomy",  # its classes are among what is digested of the images
    }
    return {
        **config.model_dump(mode="json", exclude=words),
        "stages": [stage.model_dump(mode="json") for stage in config.stages],
    }


def _write_report(
    report: ClassifyReport, config: TrainClassifyConfig, start: Start, fits: list[Fit], path: Path
) -> None:
    contract = report.model.contract
    said = {
        "weights": report.weights.name,
        "card": report.card.name,
        "model_digest": report.model.digest,
        "weights_digest": digest_state(report.model.net.state_dict()),
        "config_digest": digest_json(identity_of(config)),
        "start": {"from": start.said, "tensors": start.loaded, "digest": start.digest},
        "steps": report.steps,
        "best_steps": [one.best_step for one in fits],
        "temperature": contract.temperature,
        "figures": {name: figure.model_dump(mode="json") for name, figure in contract.figures.items()},
        "scope": None if contract.scope is None else contract.scope.model_dump(mode="json"),
        "images": {name: asdict(side) for name, side in report.proof.splits.items()},
        "seconds": report.seconds,
    }
    atomic_write(path, (json.dumps(said, indent=2, default=dict) + "\n").encode())
