"""Train a patch classifier: cross-validate with slides kept apart, calibrate on that, train on all, write it down.

Out of it come `model.safetensors` (with its contract), `model-card.md`, `report.json`, the out-of-fold predictions and
the course of every run as CSV. The same configuration and data give the same weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn import functional

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.metrics.ranking import bootstrap_interval, roc_auc
from medvision.models.classifiers.slim_resnet import SlimResNet
from medvision.models.contract import Figure, WeightsContract
from medvision.models.weights import State, digest_state, write_weights
from medvision.training.augment import augment, match_colours
from medvision.training.card import render_card
from medvision.training.loop import Batch, Check, Fit, LoopSettings, fit, write_checks
from medvision.training.patch_config import TrainPatchConfig
from medvision.training.patches import PatchSet, batches, cut_region, join, read_folder, read_rgb, to_window

Floats = npt.NDArray[np.float64]
Render = Callable[..., tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]
"""`render(n, seed, size_px=, spacing_um=)` gives images `(n, size, size, 3)` uint8 and labels `(n,)` 0 or 1."""

MEAN = (0.7, 0.7, 0.7)
STD = (0.2, 0.2, 0.2)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Of patches by networks that never saw their slide.

    `margins` (n,): logit of the positive class minus the log-sum-exp of the others.
    `recoloured` holds the margins once more for each colour target.
    """

    seeds: npt.NDArray[np.int64]
    slides: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    margins: Floats
    recoloured: dict[str, Floats]


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


@dataclass(frozen=True, eq=False)
class _Data:
    patches: PatchSet
    regions: PatchSet | None
    rendered: PatchSet | None
    rendered_test: PatchSet | None
    targets: dict[str, torch.Tensor]

    @property
    def digest(self) -> str:
        """Of every image and label used."""
        parts = [s for s in (self.patches, self.regions, self.rendered) if s is not None]
        tensors = {f"{k}.images": torch.from_numpy(s.images) for k, s in enumerate(parts)}
        tensors |= {f"{k}.labels": torch.from_numpy(s.labels) for k, s in enumerate(parts)}
        return digest_state(tensors)


def train_patch(
    config: TrainPatchConfig,
    out: Path,
    render: Render | None = None,
    on_check: Callable[[str, Check], None] | None = None,
) -> TrainReport:
    """Train as `config` says and write everything below `out`; an interrupted run continues there.

    Args:
        render: makes synthetic windows, where `config.synthetic` asks for some.
        on_check: told the name of the run ("fold tumor_001", "final") and its state at each check.

    Raises:
        UsageError: if data are missing, a file's name lacks its slide, or a fold names an unknown slide.
        StoreError: if `out` holds the progress of other data or another configuration.
    """
    began = time.perf_counter()
    data = _load(config, render)
    folds = _folds(config, data.patches)
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
        else fit_temperature(predictions.margins, predictions.labels == _last(config))
    )
    figures = {} if predictions is None else _figures(config, predictions)
    if data.rendered_test is not None:
        figures["synthetic_auc"] = _synthetic_figure(config, final.net, data.rendered_test)
    contract = _contract(config, temperature, predictions is not None, figures)
    weights, card = out / "model.safetensors", out / "model-card.md"
    write_weights(weights, final.net.state_dict(), contract.model_dump(mode="json"))
    card.write_text(render_card(config, contract, data.patches, final, weights), encoding="utf-8")
    if predictions is not None:
        _write_predictions(predictions, temperature, out / "out-of-fold.csv")
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


def predict_margins(net: nn.Module, images: torch.Tensor, positive: int, batch_size: int = 64) -> Floats:
    """Margins `(n,)` of float windows `(n, 3, ...)` in 0..1: logit of the positive class over the rest."""
    net.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            logits = net(_normalised(images[start : start + batch_size])).double()
            others = torch.cat([logits[:, :positive], logits[:, positive + 1 :]], dim=1)
            found.append(logits[:, positive] - torch.logsumexp(others, dim=1))
    return torch.cat(found).numpy()


def fit_temperature(margins: Floats, positive: npt.NDArray[np.bool_]) -> float:
    """The temperature at which `sigmoid(margin / temperature)` is likeliest for the labels (Guo et al., ICML 2017)."""
    sign = np.where(positive, 1.0, -1.0)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -sign * margins / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2.3, 2.3), method="bounded").x))


def _load(config: TrainPatchConfig, render: Render | None) -> _Data:
    root = config.data
    if not root.is_dir():
        raise UsageError(f"{root}: no such data folder; the configuration's `data` says where it is")
    patches = read_folder(root / config.patches, config.classes, config.slide_pattern, config.window_px)
    regions = [
        cut_region(
            read_rgb(root / r.path), config.classes.index(r.label), r.slide, r.side_px, config.window_px
        )
        for r in config.regions
    ]
    wanted = config.synthetic
    if (wanted.count or wanted.held_out) and render is None:
        raise UsageError("the configuration asks for synthetic windows, but no renderer was given")
    targets = {path.stem: _as_float(read_rgb(root / path)[None]) for path in config.colour_targets}
    return _Data(
        patches,
        join(regions) if regions else None,
        _rendered(config, render, wanted.count, wanted.seed),
        _rendered(config, render, wanted.held_out, wanted.seed + 1_000_003),
        targets,
    )


def _rendered(config: TrainPatchConfig, render: Render | None, count: int, seed: int) -> PatchSet | None:
    if count == 0 or render is None:
        return None
    # Rendered twice as fine and averaged down, as a window read from a slide is.
    fine, labels = render(count, seed, size_px=2 * config.window_px, spacing_um=config.spacing_um / 2)
    images = np.stack([to_window(image, config.window_px) for image in fine])
    return PatchSet(images, labels.astype(np.int64), ("synthetic",) * count)


def _folds(config: TrainPatchConfig, patches: PatchSet) -> tuple[tuple[str, ...], ...]:
    known = sorted(set(patches.slides))
    folds = tuple((slide,) for slide in known) if config.folds is None else config.folds
    named = [slide for fold in (*folds, config.holdout) for slide in fold]
    unknown = sorted(set(named) - set(known))
    if unknown:
        raise UsageError(f"no patch is of slide {', '.join(unknown)}; slides: {', '.join(known)}")
    tested = [slide for fold in folds for slide in fold]
    if len(set(tested)) != len(tested):
        raise UsageError(f"a slide lies in more than one fold: {folds}")
    for fold in folds:
        left = patches.labels[~patches.of(fold)]
        if len(np.unique(left)) < len(config.classes):
            raise UsageError(f"without slides {', '.join(fold)} a class is absent from training")
    return folds


def _train_common(
    config: TrainPatchConfig, data: _Data, out: Path, on_check: Callable[[str, Check], None] | None
) -> State | None:
    """Weights from which every fold and the final network start, learnt without any patch: no fold's slide is in them."""
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
    data: _Data,
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
        return _normalised(windows), labels

    validate: Callable[[nn.Module], float] | None = None
    if validation is not None:
        images, labels = _as_float(validation.images), torch.from_numpy(validation.labels)
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
    return fitted


def _cross_validate(
    config: TrainPatchConfig,
    data: _Data,
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
            images = _as_float(tested.images)
            margins.append(predict_margins(net, images, _last(config)))
            for target, colours in data.targets.items():
                recoloured[target].append(predict_margins(net, match_colours(images, colours), _last(config)))
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


def _figures(config: TrainPatchConfig, found: Predictions) -> dict[str, Figure]:
    positive = found.labels == _last(config)
    if positive.all() or not positive.any():
        raise UsageError("the folds' slides hold one class only, so no AUC can be measured on them")
    first = found.seeds == found.seeds[0]
    protocol = f"slides kept apart, pooled out-of-fold, {int(first.sum())} patches of {len(set(found.slides))} slides"
    mean = _mean_over_seeds(found.seeds, found.margins)
    interval = bootstrap_interval(roc_auc, positive[first], mean, n=2000)
    repeated = f"; mean margin of {len(set(found.seeds.tolist()))} seeds"
    figures = {
        "auc": Figure(value=roc_auc(positive[first], mean), interval=interval, protocol=protocol + repeated)
    }
    for seed in sorted(set(found.seeds.tolist())):
        of_seed = found.seeds == seed
        value = roc_auc(positive[of_seed], found.margins[of_seed])
        figures[f"auc_seed_{seed}"] = Figure(value=value, protocol=f"{protocol}; seed {seed}")
    for name, margins in found.recoloured.items():
        value = roc_auc(positive[first], _mean_over_seeds(found.seeds, margins))
        figures[f"auc_recoloured_{name}"] = Figure(
            value=value, protocol=f"{protocol}; in the colours of {name}"
        )
    return figures


def _mean_over_seeds(seeds: npt.NDArray[np.int64], margins: Floats) -> Floats:
    """Mean margin per patch; every seed lists the patches in one order."""
    return np.asarray(np.mean([margins[seeds == seed] for seed in np.unique(seeds)], axis=0), np.float64)


def _synthetic_figure(config: TrainPatchConfig, net: nn.Module, test: PatchSet) -> Figure:
    margins = predict_margins(net, _as_float(test.images), _last(config))
    positive = test.labels == _last(config)
    return Figure(
        value=roc_auc(positive, margins),
        interval=bootstrap_interval(roc_auc, positive, margins, n=1000),
        protocol=f"{len(test)} rendered windows of seeds not trained on",
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


def _write_predictions(found: Predictions, temperature: float, path: Path) -> None:
    lines = ["seed,slide,label,margin,probability"]
    for seed, slide, label, margin in zip(
        found.seeds, found.slides, found.labels, found.margins, strict=True
    ):
        lines.append(f"{seed},{slide},{label},{margin:.5f},{1 / (1 + np.exp(-margin / temperature)):.5f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_report(report: TrainReport, config: TrainPatchConfig, path: Path) -> None:
    said = asdict(report)
    said |= {"weights": report.weights.name, "card": report.card.name}
    said["figures"] = {name: figure.model_dump(mode="json") for name, figure in report.figures.items()}
    said["config_digest"] = digest_json(_identity(config))
    path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _identity(config: TrainPatchConfig) -> dict[str, object]:
    """What of the configuration changes a network; where the data lie does not, their content is digested apart."""
    fields: dict[str, object] = config.model_dump(
        mode="json",
        exclude={"data", "patches", "licence", "data_statement", "folds", "fold_seeds", "version"},
    )
    return fields


def _negative_loss(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.inference_mode():
        logits = torch.cat([net(_normalised(part)) for part in torch.split(images, 64)])
    return -float(functional.cross_entropy(logits, labels))


def _normalised(windows: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor(MEAN).view(1, -1, 1, 1)
    std = torch.tensor(STD).view(1, -1, 1, 1)
    return ((windows - mean) / std).contiguous(memory_format=torch.channels_last)


def _as_float(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def _last(config: TrainPatchConfig) -> int:
    return len(config.classes) - 1
