"""Train a model of slides on feature tables: attention MIL or CNN-LSTM, patients kept apart, measured out of fold.

Out of it come `model.safetensors` (with its contract), `model-card.md`, `report.json`, the predictions of slides that
were held out, and the course of every run as CSV and TensorBoard events. The same configuration and tables give the
same weights.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import nn

from medvision.core.digest import digest_file, digest_json
from medvision.core.errors import UsageError, WeightsError
from medvision.core.features import FeatureSource
from medvision.metrics.ranking import roc_auc
from medvision.models.contract import Figure
from medvision.models.mil import Aggregator, AggregatorContract, BagOutput, write_slide_model
from medvision.models.mil.aggregators import build, design
from medvision.models.weights import digest_state, read_weights
from medvision.store.files import atomic_write, make_output
from medvision.training.figures import figure_lines, interval_over
from medvision.training.loop import Check, Fit, LoopSettings, fit, write_checks
from medvision.training.slides_card import render_card
from medvision.training.slides_config import TrainSlidesConfig
from medvision.training.slides_data import SlideSet, bags, moments, split_patients

Floats = npt.NDArray[np.float64]
OnCheck = Callable[[str, Check], None]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Probabilities `(n, classes)` of slides by networks that never saw their patient, with `labels` (n,)."""

    slides: tuple[str, ...]
    patients: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    probabilities: Floats


@dataclass(frozen=True, slots=True)
class SlidesReport:
    """What training yielded. `figures` are measured as their `protocol` says."""

    weights: Path
    card: Path
    digest: str
    steps: int
    figures: dict[str, Figure]
    seconds: float

    def summary(self) -> str:
        """The figures, one a line, for a person."""
        return "\n".join([*figure_lines(self.figures), f"{self.steps} steps; {self.seconds:.0f} s"])


def train_slides(
    config: TrainSlidesConfig, data: SlideSet, out: Path, on_check: OnCheck | None = None
) -> SlidesReport:
    """Train as `config` says on the tables of `data` and write everything below `out`; an interrupted run continues.

    With folds, each is held out once, to stop early and to be predicted; the final network learns from every slide, for
    the median of the folds' best steps. Without, one part of the patients is held out for both, and the network of the
    best check is the final one.

    Raises:
        UsageError: if `out` cannot be written to, or the slides are too few for the folds.
        StoreError: if `out` holds the progress of other data or another configuration.
    """
    began = time.perf_counter()
    make_output(out)
    (out / "progress").mkdir(parents=True, exist_ok=True)
    contract = _contract(config, data)
    with _one_thread():
        final, held, steps = _with_folds(config, contract, data, out, on_check)
    figures = _figures(config, held)
    contract = contract.model_copy(update={"figures": figures})
    weights, card = out / "model.safetensors", out / "model-card.md"
    write_slide_model(weights, final, contract)
    atomic_write(card, render_card(config, contract, data, final, weights, steps).encode())
    atomic_write(out / "out-of-fold.csv", _table(held, config.classes).encode())
    report = SlidesReport(
        weights, card, digest_state(final.state_dict()), steps, figures, time.perf_counter() - began
    )
    _write_report(report, config, data, out / "report.json")
    return report


def _with_folds(
    config: TrainSlidesConfig,
    contract: AggregatorContract,
    data: SlideSet,
    out: Path,
    on_check: OnCheck | None,
) -> tuple[Aggregator, HeldOut, int]:
    """The final network, the predictions of held-out slides, and the final network's steps."""
    parts = config.folds or max(2, round(1 / config.validation_share))
    groups = split_patients(data, parts, config.seed)
    if config.folds == 0:
        groups = groups[:1]
    found = []
    best: list[int] = []
    for number, group in enumerate(groups):
        rest = np.delete(np.arange(len(data)), group)
        name = f"fold {number + 1}" if config.folds else "final"
        fitted = _train(config, contract, data.of(rest), data.of(group), config.steps, out, name, on_check)
        best.append(fitted.best_step)
        found.append(_predict(contract, _network(fitted), data.of(group)))
    held = _joined(found)
    if config.folds == 0:
        return _network(fitted), held, best[0]
    steps = max(1, int(np.median(best)))
    fitted = _train(config, contract, data, None, steps, out, "final", on_check)
    return _network(fitted), held, steps


def _train(
    config: TrainSlidesConfig,
    contract: AggregatorContract,
    data: SlideSet,
    validation: SlideSet | None,
    steps: int,
    out: Path,
    name: str,
    on_check: OnCheck | None,
) -> Fit:
    """One network on `data`; early stopping where there is a validation set."""
    weights = _class_weights(config, data)
    of_bag = design(config.architecture).loss(config.options)
    settings = LoopSettings(
        steps=steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        average=config.average,
        check_every=min(config.check_every, steps),
        patience=config.patience if validation is not None else None,
        seed=config.seed,
    )
    slug = name.replace(" ", "-")
    fitted = fit(
        _start(config, contract, data),
        bags(data, config.batch_size, config.max_windows, config.seed),
        partial(_mean_loss, of_bag=of_bag, weights=weights),
        settings,
        None if validation is None else partial(_score, data=validation, of_bag=of_bag, weights=weights),
        None if on_check is None else partial(on_check, name),
        out / "progress" / f"{slug}.pt",
        {"config": _identity(config), "data": data.digest, "run": name},
        precision=config.precision,
        device=config.device,
        tensorboard=out / "tensorboard" / slug,
    )
    write_checks(fitted.checks, out / "progress" / f"{slug}.csv")
    return fitted


def _start(config: TrainSlidesConfig, contract: AggregatorContract, data: SlideSet) -> Aggregator:
    """The untrained network, drawn from the seed, which knows the mean and deviation of its training features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = build(contract)
    net.feature_mean, net.feature_std = moments(data)
    if config.start is not None:
        state, metadata = read_weights(config.start)
        _refuse_start(config.start, metadata, data)
        own = net.state_dict()
        fitting = {name: v for name, v in state.items() if name in own and own[name].shape == v.shape}
        if not fitting:
            raise UsageError(
                f"{config.start}: none of its {len(state)} tensors has the name and shape of one of this network"
            )
        net.load_state_dict(fitting, strict=False)
    return net


def _refuse_start(path: Path, metadata: dict[str, Any], data: SlideSet) -> None:
    """Refuse weights that say that they were trained on other features: of one length, they would fit all the same."""
    if metadata.get("features") is None:
        return
    try:
        said = FeatureSource.model_validate(metadata["features"])
    except ValidationError as error:
        raise WeightsError(
            f"{path}: says wrong things of its features ({error.errors()[0]['msg']})"
        ) from error
    if differ := data.source.differences(said):
        raise UsageError(f"{path}: a start that was trained on other features: {'; '.join(differ)}")


def _mean_loss(
    outputs: list[BagOutput],
    targets: torch.Tensor,
    of_bag: Callable[[BagOutput, torch.Tensor], torch.Tensor],
    weights: torch.Tensor,
) -> torch.Tensor:
    """Mean over the bags of their losses, each weighed by its class."""
    scale = weights.to(targets.device)
    losses = [of_bag(output, target) * scale[target] for output, target in zip(outputs, targets, strict=True)]
    return torch.stack(losses).mean()


def _score(
    net: nn.Module,
    data: SlideSet,
    of_bag: Callable[[BagOutput, torch.Tensor], torch.Tensor],
    weights: torch.Tensor,
) -> float:
    """Minus the mean loss over whole slides."""
    losses = []
    with torch.inference_mode():
        for k, label in enumerate(data.labels.tolist()):
            (output,) = net(torch.from_numpy(data.vectors(k))[None])
            losses.append(float(of_bag(output, torch.tensor(label)) * weights[label]))
    return -float(np.mean(losses))


def _predict(contract: AggregatorContract, net: Aggregator, data: SlideSet) -> HeldOut:
    probabilities = design(contract.architecture).probabilities
    found = []
    with torch.inference_mode():
        for k in range(len(data)):
            (output,) = net(torch.from_numpy(data.vectors(k))[None])
            found.append(probabilities(output).double().numpy())
    names = tuple(slide.name for slide in data.slides)
    return HeldOut(names, tuple(data.patients), data.labels, np.stack(found))


def _network(fitted: Fit) -> Aggregator:
    assert isinstance(fitted.net, Aggregator), "the loop returns the network it was given"
    return fitted.net


def _joined(parts: list[HeldOut]) -> HeldOut:
    return HeldOut(
        tuple(name for part in parts for name in part.slides),
        tuple(name for part in parts for name in part.patients),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
    )


def _class_weights(config: TrainSlidesConfig, data: SlideSet) -> torch.Tensor:
    """Weight of each class: n / (classes * slides of the class), so that a balanced set has 1."""
    counts = np.bincount(data.labels, minlength=len(config.classes))
    if config.class_weights == "none":
        return torch.ones(len(counts))
    return torch.from_numpy(len(data) / (len(counts) * np.maximum(counts, 1))).float()


def _figures(config: TrainSlidesConfig, held: HeldOut) -> dict[str, Figure]:
    """AUC of the positive class against the rest, where both are held out, and accuracy; patients resampled."""
    part = f"{config.folds} folds" if config.folds else "one held-out part"
    protocol = f"patients kept apart, {part}, {len(held.slides)} slides, which also chose the step; patients resampled"
    positive = held.labels == len(config.classes) - 1
    right = (held.probabilities.argmax(axis=1) == held.labels).astype(np.float64)
    figures = {
        "accuracy": Figure(
            value=float(right.mean()),
            interval=interval_over(held.patients, _mean, right),
            protocol=protocol,
        )
    }
    if positive.any() and not positive.all():
        scores = held.probabilities[:, -1]
        interval = interval_over(held.patients, roc_auc, positive, scores)
        figures["auc"] = Figure(value=roc_auc(positive, scores), interval=interval, protocol=protocol)
    return figures


def _mean(values: Floats) -> float:
    return float(values.mean())


def _table(held: HeldOut, classes: tuple[str, ...]) -> str:
    lines = [",".join(("slide", "patient", "label", *classes))]
    for name, patient, label, row in zip(
        held.slides, held.patients, held.labels.tolist(), held.probabilities.tolist(), strict=True
    ):
        lines.append(",".join((name, patient, classes[label], *(f"{p:.6f}" for p in row))))
    return "\n".join(lines) + "\n"


def _contract(config: TrainSlidesConfig, data: SlideSet) -> AggregatorContract:
    return AggregatorContract(
        architecture=config.architecture,
        classes=config.classes,
        positive=config.classes[-1],
        options=config.options,
        dimension=data.source.dimension,
        features=data.source,
        trunk=config.features.without_paths(),
        version=config.version,
    )


def _write_report(report: SlidesReport, config: TrainSlidesConfig, data: SlideSet, path: Path) -> None:
    said: dict[str, Any] = {
        "weights": report.weights.name,
        "card": report.card.name,
        "digest": report.digest,
        "architecture": config.architecture,
        "slides": len(data),
        "patients": len(set(data.patients)),
        "steps": report.steps,
        "figures": {name: figure.model_dump(mode="json") for name, figure in report.figures.items()},
        "seconds": round(report.seconds, 1),
        "config_digest": digest_json(_identity(config)),
    }
    atomic_write(path, (json.dumps(said, indent=2) + "\n").encode())


def _identity(config: TrainSlidesConfig) -> dict[str, Any]:
    """What of the configuration changes a network; where the data lie does not, their content is digested apart."""
    aside = {"cohort", "features", "licence", "data_statement", "limits", "version", "name", "start", "folds"}
    aside |= {"precision", "device"}
    fields: dict[str, Any] = config.model_dump(mode="json", exclude=aside)
    fields["start"] = None if config.start is None else digest_file(config.start)
    return fields


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """On the CPU these networks are too small to share: threads that wait for each other cost more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
