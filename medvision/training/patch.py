"""Train a patch classifier: cross-validate with slides kept apart, calibrate on that, train on all, write it down.

Out of it come `model.safetensors` (with its contract), `model-card.md`, `report.json`, the out-of-fold predictions and
the course of every run as CSV. The same configuration and data give the same weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.metrics.calibration import fit_temperature
from medvision.models.catalogue import as_patch_model
from medvision.models.classifiers.slim_resnet import SlimResNet
from medvision.models.contract import Figure, WeightsContract
from medvision.models.weights import State, digest_state, write_weights
from medvision.store.files import atomic_write, make_output
from medvision.training.augment import augment, match_colours
from medvision.training.card import render_card
from medvision.training.difference import WAYS, measure_differences, prepare_ways
from medvision.training.figures import figure_lines
from medvision.training.loop import Batch, Check, Fit, LoopSettings, fit, write_checks
from medvision.training.patch_config import TrainPatchConfig
from medvision.training.patch_data import Render, TrainData, check_folds, load_data
from medvision.training.patch_score import (
    MEAN,
    STD,
    Floats,
    Predictions,
    cross_validated_figures,
    normalised,
    positive_index,
    predict_margins,
    synthetic_figure,
    write_predictions,
)
from medvision.training.patches import PatchSet, as_float, batches


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What training yielded. `figures` are measured as their `protocol` says."""

    weights: Path
    card: Path
    digest: str
    steps: int
    temperature: float
    figures: dict[str, Figure]
    seconds: float

    def summary(self) -> str:
        """The figures, one a line, for a person."""
        last = f"temperature {self.temperature:.3g}; {self.steps} steps; {self.seconds:.0f} s"
        return "\n".join([*figure_lines(self.figures), last])


def train_patch(
    config: TrainPatchConfig,
    out: Path,
    render: Render | None = None,
    on_check: Callable[[str, Check], None] | None = None,
    ways: Sequence[tuple[str, str]] = WAYS,
) -> TrainReport:
    """Train as `config` says and write everything below `out`; an interrupted run continues there.

    Args:
        render: makes synthetic windows, where `config.synthetic` asks for some.
        on_check: told the name of the run ("fold tumor_001", "final") and its state at each check.
        ways: backends with precisions whose difference from eager float32 is measured on the labelled patches, for the
            contract and the card; those that are not installed are left out.

    Raises:
        UsageError: if `out` cannot be written to, data are missing, a file's name lacks its slide, or a fold names an
            unknown slide.
        StoreError: if `out` holds the progress of other data or another configuration.
    """
    began = time.perf_counter()
    make_output(out)
    data = load_data(config, render)
    folds = check_folds(config, data.patches)
    (out / "progress").mkdir(parents=True, exist_ok=True)
    start = _train_common(config, data, out, on_check)
    predictions = _cross_validate(config, data, folds, start, out, on_check) if folds else None
    held = data.patches.of(config.holdout)
    validation = data.patches.where(held) if held.any() else None
    final = _train(
        config, data, data.patches.where(~held), validation, start, config.seed, out, "final", on_check
    )
    temperature = (
        1.0
        if predictions is None
        else fit_temperature(predictions.margins, predictions.labels == positive_index(config))
    )
    figures = {} if predictions is None else cross_validated_figures(config, predictions)
    if data.rendered_test is not None:
        figures["synthetic_auc"] = synthetic_figure(config, final.net, data.rendered_test)
    contract = _contract(config, temperature, predictions is not None, figures)
    contract = _measured(final.net, contract, data.patches, positive_index(config), ways)
    weights, card = out / "model.safetensors", out / "model-card.md"
    write_weights(weights, final.net.state_dict(), contract.model_dump(mode="json"))
    atomic_write(card, render_card(config, contract, data.patches, final, weights).encode())
    if predictions is not None:
        write_predictions(predictions, temperature, out / "out-of-fold.csv")
    report = TrainReport(
        weights,
        card,
        digest_state(final.net.state_dict()),
        final.checks[-1].step,
        temperature,
        figures,
        time.perf_counter() - began,
    )
    _write_report(report, config, out / "report.json")
    return report


def _train_common(
    config: TrainPatchConfig, data: TrainData, out: Path, on_check: Callable[[str, Check], None] | None
) -> State | None:
    """Weights from which every fold and the final network start, learnt without any patch of any slide."""
    if config.common_steps == 0:
        return None
    if data.rendered is None:
        raise UsageError("common_steps learn from synthetic windows, but the configuration asks for none")
    stage = config.model_copy(
        update={"steps": config.common_steps, "learning_rate": config.common_learning_rate}
    )
    none = data.patches.where(np.zeros(len(data.patches), bool))
    return _train(stage, data, none, None, None, config.seed, out, "common", on_check).net.state_dict()


def _train(
    config: TrainPatchConfig,
    data: TrainData,
    patches: PatchSet,
    validation: PatchSet | None,
    start: State | None,
    seed: int,
    out: Path,
    name: str,
    on_check: Callable[[str, Check], None] | None,
) -> Fit:
    """One network on `patches` and all that is not patches; early stopping where there is a validation set."""
    groups = [(patches, 1.0)]
    for extra, share in ((data.regions, config.region_share), (data.rendered, config.synthetic.share)):
        if extra is not None:
            groups = [(s, w * (1 - share)) for s, w in groups] + [(extra, share)]
    draw = batches(groups, config.batch_size, seed)

    def batch(step: int) -> Batch:
        windows, labels, generator = draw(step)
        windows, labels = augment(windows, labels, config.augmentation, generator)
        return normalised(windows), labels

    validate: Callable[[nn.Module], float] | None = None
    if validation is not None:
        images, labels = as_float(validation.images), torch.from_numpy(validation.labels)
        validate = partial(_negative_loss, images=images, labels=labels)
    settings = LoopSettings(
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        average=config.average,
        check_every=config.check_every,
        patience=config.patience if validation is not None else None,
        seed=seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SlimResNet(len(config.classes)).to(memory_format=torch.channels_last)
    if start is not None:
        net.load_state_dict(start)
    slug = name.replace(" ", "-")
    fitted = fit(
        net,
        batch,
        partial(functional.cross_entropy, label_smoothing=config.label_smoothing),
        settings,
        validate,
        None if on_check is None else partial(on_check, name),
        out / "progress" / f"{slug}.pt",
        {"config": _identity(config), "data": data.digest, "run": name},
    )
    write_checks(fitted.checks, out / "progress" / f"{slug}.csv")
    if start is not None and config.common_weight > 0:
        fitted.net.load_state_dict(_average(start, fitted.net.state_dict(), config.common_weight))
    return fitted


def _average(common: State, learnt: State, share: float) -> State:
    """`share` of the common weights and the rest of the learnt ones.

    Weights on the line between two solutions of one start keep most of what the second learnt and much of the first's
    robustness to data unlike it (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    """
    return {
        name: (share * common[name] + (1 - share) * value).to(value.dtype) for name, value in learnt.items()
    }


def _cross_validate(
    config: TrainPatchConfig,
    data: TrainData,
    folds: tuple[tuple[str, ...], ...],
    start: State | None,
    out: Path,
    on_check: Callable[[str, Check], None] | None,
) -> Predictions:
    """Predictions of every patch of the folds' slides by networks trained without those slides."""
    seeds: list[int] = []
    slides: list[str] = []
    labels: list[int] = []
    margins: list[Floats] = []
    recoloured: dict[str, list[Floats]] = {name: [] for name in data.targets}
    for seed in config.fold_seeds:
        for fold in folds:
            away = data.patches.of(fold)
            name = f"fold {'+'.join(fold)} seed {seed}"
            net = _train(config, data, data.patches.where(~away), None, start, seed, out, name, on_check).net
            tested = data.patches.where(away)
            images = as_float(tested.images)
            margins.append(predict_margins(net, images, positive_index(config)))
            for target, colours in data.targets.items():
                recoloured[target].append(
                    predict_margins(net, match_colours(images, colours), positive_index(config))
                )
            seeds += [seed] * len(tested)
            slides += tested.slides
            labels += tested.labels.tolist()
    return Predictions(
        np.array(seeds, np.int64),
        tuple(slides),
        np.array(labels, np.int64),
        np.concatenate(margins),
        {name: np.concatenate(parts) for name, parts in recoloured.items()},
    )


def _contract(
    config: TrainPatchConfig, temperature: float, calibrated: bool, figures: dict[str, Figure]
) -> WeightsContract:
    how = (
        "temperature scaling on out-of-fold predictions, slides kept apart" if calibrated else "uncalibrated"
    )
    return WeightsContract(
        architecture="slim-resnet",
        classes=config.classes,
        positive=config.classes[-1],
        window_px=config.window_px,
        spacing_um=config.spacing_um,
        mean=MEAN,
        std=STD,
        temperature=round(temperature, 4),
        calibration=how,
        precisions=("float32", "bfloat16"),
        version=config.version,
        figures=figures,
    )


def _measured(
    net: nn.Module,
    contract: WeightsContract,
    patches: PatchSet,
    positive: int,
    ways: Sequence[tuple[str, str]],
) -> WeightsContract:
    """The contract with how far each way of computing the network is from eager float32."""
    prepared = prepare_ways(as_patch_model(contract.architecture, net, contract), ways)
    found = measure_differences(prepared, patches.images, patches.labels == positive)
    return contract.model_copy(update={"differences": found})


def _write_report(report: TrainReport, config: TrainPatchConfig, path: Path) -> None:
    said = asdict(report)
    said |= {"weights": report.weights.name, "card": report.card.name}
    said["figures"] = {name: figure.model_dump(mode="json") for name, figure in report.figures.items()}
    said["config_digest"] = digest_json(_identity(config))
    atomic_write(path, (json.dumps(said, indent=2) + "\n").encode())


def _identity(config: TrainPatchConfig) -> dict[str, object]:
    """What of the configuration changes a network; where the data lie does not, their content is digested apart."""
    fields: dict[str, object] = config.model_dump(
        mode="json",
        exclude={
            "data",
            "patches",
            "licence",
            "data_statement",
            "limits",
            "folds",
            "fold_seeds",
            "version",
            "common_weight",
        },
    )
    return fields


def _negative_loss(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.inference_mode():
        logits = torch.cat([net(normalised(part)) for part in torch.split(images, 64)])
    return -float(functional.cross_entropy(logits, labels))
