"""Train an NCRF and its base model: the same network on the same batches, with the CRF and without it.

Out of it come `model.safetensors` and `base.safetensors` (with their contracts), `model-card.md`, `report.json`, and
the course of both runs as CSV and TensorBoard events. The same configuration and slides give the same weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from medvision.core.digest import digest_json
from medvision.metrics.calibration import fit_temperature
from medvision.metrics.ranking import roc_auc
from medvision.models.contract import IMAGENET_MEAN, IMAGENET_STD, CellGrid, Figure, WeightsContract
from medvision.models.ncrf import MEAN, NODES, STD, build_ncrf, cut, start_from_classifier
from medvision.models.weights import digest_state, read_weights, write_weights
from medvision.store.cohort import CohortSlide, read_cohort
from medvision.store.files import atomic_write, make_output
from medvision.training.figures import figure_lines, interval_over
from medvision.training.loop import Check, Fit, LoopSettings, fit, write_checks
from medvision.training.ncrf_card import render_card
from medvision.training.ncrf_config import TrainNcrfConfig
from medvision.training.ncrf_data import RegionSet, draw_regions, region_batches
from medvision.training.slide_sampling import (
    patient_of,
    prove_disjoint,
    require_other_content,
    split_validation,
)
from medvision.training.slide_windows import SlideWindows

OnCheck = Callable[[str, Check], None]
CLASSES = ("normal", "tumor")
RUNS = {"ncrf": True, "base": False}
"""Whether the CRF is on in each run."""


@dataclass(frozen=True, slots=True)
class NcrfReport:
    """What training yielded. `figures` are of the NCRF and of its base model by name, measured as they say."""

    weights: Path
    base: Path
    card: Path
    digests: dict[str, str]
    steps: dict[str, int]
    figures: dict[str, dict[str, Figure]]
    seconds: float

    def summary(self) -> str:
        """The figures, one a line, for a person."""
        lines = []
        for run, figures in self.figures.items():
            lines += [f"{run} {line}" for line in figure_lines(figures)]
        steps = ", ".join(f"{run} {count}" for run, count in self.steps.items())
        return "\n".join([*lines, f"best steps: {steps}; {self.seconds:.0f} s"])


@dataclass(frozen=True, eq=False)
class NcrfData:
    """Regions to learn from, and of patients held out, where there are any. `proof` says that none is on both sides."""

    learnt: RegionSet
    held: RegionSet | None
    held_slides: tuple[CohortSlide, ...]
    proof: str

    @property
    def digest(self) -> str:
        """Of all pixels and labels."""
        return digest_json([self.learnt.digest, None if self.held is None else self.held.digest])


def train_ncrf(
    config: TrainNcrfConfig,
    out: Path,
    on_check: OnCheck | None = None,
    on_note: Callable[[str], None] | None = None,
) -> NcrfReport:
    """Train as `config` says and write everything below `out`; an interrupted run continues there.

    Args:
        on_check: told the name of the run ("ncrf", "base") and its state at each check.
        on_note: told what a person should know: the split and its proof.

    Raises:
        UsageError: if `out` cannot be written to, a patient lies in two splits of the cohort, or there is no annotated
            tumour on either side of the split.
        WeightsError: if the weights to start from are of another network.
        StoreError: if `out` holds the progress of other data or another configuration.
    """
    began = time.perf_counter()
    make_output(out)
    (out / "progress").mkdir(parents=True, exist_ok=True)
    data = load_regions(config)
    if on_note is not None:
        on_note(data.proof)
    fits = {run: _train(config, data, crf, run, out, on_check) for run, crf in RUNS.items()}
    contracts: dict[str, WeightsContract] = {}
    files = {"ncrf": out / "model.safetensors", "base": out / "base.safetensors"}
    for run, fitted in fits.items():
        contracts[run] = _contract(config, data, fitted.net, RUNS[run])
        write_weights(files[run], fitted.net.state_dict(), contracts[run].model_dump(mode="json"))
    card = out / "model-card.md"
    names = tuple(slide.slide_id for slide in data.held_slides)
    text = render_card(config, contracts, data.learnt, names, fits, files["ncrf"].stat().st_size)
    atomic_write(card, text.encode())
    report = NcrfReport(
        weights=files["ncrf"],
        base=files["base"],
        card=card,
        digests={run: digest_state(fitted.net.state_dict()) for run, fitted in fits.items()},
        steps={run: fitted.best_step for run, fitted in fits.items()},
        figures={run: contract.figures for run, contract in contracts.items()},
        seconds=time.perf_counter() - began,
    )
    _write_report(report, config, data, out / "report.json")
    return report


def load_regions(config: TrainNcrfConfig) -> NcrfData:
    """Split the slides by patient and read the regions.

    Raises:
        UsageError, UnreadableSourceError: if a slide or annotation is missing or unreadable, or tumour is.
    """
    cohort = read_cohort(config.cohort)
    cohort.check_disjoint()
    slides = cohort.slides if config.split is None else cohort.of(config.split)
    how = config.regions
    share = config.validation_share if how.validation else 0.0
    learnt, held = split_validation(slides, share, config.seed) if share else (slides, ())
    proof = prove_disjoint(learnt, held)
    seed, cell = config.seed * 1_000_003, config.cell_px
    with SlideWindows(learnt, config.spacing_um) as windows, SlideWindows(held, config.spacing_um) as away:
        require_other_content(windows, away)
        return NcrfData(
            draw_regions(windows, how, how.count, cell, seed),
            draw_regions(away, how, how.validation, cell, seed + 1) if held else None,
            held,
            proof,
        )


def _train(
    config: TrainNcrfConfig, data: NcrfData, crf: bool, run: str, out: Path, on_check: OnCheck | None
) -> Fit:
    """One of the two networks. Both see the same batches, from the same weights at the start."""
    grid = _grid(config, crf)
    finish = partial(_crops, grid=grid, mean=_mean(config), std=_std(config))
    batch = region_batches(
        data.learnt, config.batch_size, config.regions.tumour_share, config.augmentation, finish, config.seed
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = build_ncrf(config.trunk, crf)
    if config.start is not None:
        start_from_classifier(net, read_weights(config.start)[0], 1, config.start)
    validate: Callable[[nn.Module], float] | None = None
    if data.held is not None:
        validate = partial(_negative_loss, regions=data.held, finish=finish)
    settings = LoopSettings(
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        average=config.average,
        check_every=config.check_every,
        patience=config.patience,
        seed=config.seed,
        optimiser=config.optimiser,
    )
    fitted = fit(
        net,
        batch,
        functional.binary_cross_entropy_with_logits,
        settings,
        validate,
        None if on_check is None else partial(on_check, run),
        out / "progress" / f"{run}.pt",
        {"config": _identity(config), "data": data.digest, "run": run},
        precision=config.precision,
        device=config.device,
        tensorboard=out / "tensorboard" / run,
    )
    write_checks(fitted.checks, out / "progress" / f"{run}.csv")
    return fitted


def _contract(config: TrainNcrfConfig, data: NcrfData, net: nn.Module, crf: bool) -> WeightsContract:
    """What the weights want and give; temperature and figures from the regions held out, where there are any."""
    grid = _grid(config, crf)
    temperature, how = 1.0, "uncalibrated"
    figures: dict[str, Figure] = {}
    if data.held is not None:
        margins = _logits(net, data.held, partial(_crops, grid=grid, mean=_mean(config), std=_std(config)))
        middle, labels = margins[:, NODES // 2], data.held.centre
        temperature = round(fit_temperature(middle, labels), 4)
        how = "temperature scaling on regions of patients held out, as many with tumour in the middle as the training"
        figures = {"auc": _figure(labels, middle, data)}
        mixed = (data.held.labels.min(axis=1) < 0.5) & (data.held.labels.max(axis=1) > 0.5)
        if mixed.any() and 0 < labels[mixed].sum() < mixed.sum():
            value = roc_auc(labels[mixed], middle[mixed])
            protocol = f"{int(mixed.sum())} of these, whose regions hold normal cells and tumour"
            figures["auc_at_edges"] = Figure(value=value, protocol=protocol)
    return WeightsContract(
        architecture=f"ncrf-{config.trunk}",
        classes=CLASSES,
        positive=CLASSES[1],
        window_px=grid.window_px,
        spacing_um=config.spacing_um,
        mean=_mean(config),
        std=_std(config),
        temperature=temperature,
        isotonic=None,
        calibration=how,
        precisions=("float32", "bfloat16"),
        version=config.version,
        figures=figures,
        grid=grid,
    )


def _figure(labels: npt.NDArray[np.bool_], margins: npt.NDArray[np.float64], data: NcrfData) -> Figure:
    assert data.held is not None, "measured on patients held out"
    patient = {slide.slide_id: patient_of(slide) for slide in data.held_slides}
    patients = [patient[name] for name in data.held.slides]
    return Figure(
        value=roc_auc(labels, margins),
        interval=interval_over(patients, roc_auc, labels, margins),
        protocol=f"{len(labels)} cells in the middle of regions, {len(set(data.held.slides))} slides of patients held "
        "out, which also chose the step; patients resampled",
    )


def _crops(
    images: torch.Tensor, grid: CellGrid, mean: tuple[float, ...], std: tuple[float, ...]
) -> torch.Tensor:
    """Regions `(n, 3, side, side)`, 0..1, as the network takes them: normalised crops `(n, 9, 3, crop, crop)`."""
    shift, scale = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return cut((images - shift) / scale, grid)


def _logits(
    net: nn.Module, regions: RegionSet, finish: Callable[[torch.Tensor], torch.Tensor]
) -> npt.NDArray[np.float64]:
    """Logits `(n, 9)` of every cell."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(regions), 16):
            part = torch.from_numpy(regions.images[start : start + 16]).permute(0, 3, 1, 2).float() / 255
            found.append(net(finish(part)).double())
    return torch.cat(found).numpy()


def _negative_loss(
    net: nn.Module, regions: RegionSet, finish: Callable[[torch.Tensor], torch.Tensor]
) -> float:
    """Of the cells in the middle: those that a heatmap shows."""
    logits = torch.from_numpy(_logits(net, regions, finish)[:, NODES // 2])
    labels = torch.from_numpy(regions.centre).double()
    return -float(functional.binary_cross_entropy_with_logits(logits, labels))


def _grid(config: TrainNcrfConfig, crf: bool) -> CellGrid:
    return CellGrid(cell_px=config.cell_px, crop_px=config.crop_px, stride_px=config.stride_px, crf=crf)


def _mean(config: TrainNcrfConfig) -> tuple[float, ...]:
    return config.mean or (IMAGENET_MEAN if config.trunk == "slim" else MEAN)


def _std(config: TrainNcrfConfig) -> tuple[float, ...]:
    return config.std or (IMAGENET_STD if config.trunk == "slim" else STD)


def _identity(config: TrainNcrfConfig) -> dict[str, object]:
    """What of the configuration changes a network; the slides' content is digested apart."""
    left_out = {"cohort", "split", "licence", "data_statement", "limits", "version", "device", "start"}
    fields: dict[str, object] = config.model_dump(mode="json", exclude=left_out)
    if config.start is not None:
        fields["start"] = digest_state(read_weights(config.start)[0])
    return fields


def _write_report(report: NcrfReport, config: TrainNcrfConfig, data: NcrfData, path: Path) -> None:
    figures = {
        run: {name: figure.model_dump(mode="json") for name, figure in found.items()}
        for run, found in report.figures.items()
    }
    said = {
        "weights": report.weights.name,
        "base": report.base.name,
        "card": report.card.name,
        "digests": report.digests,
        "best_steps": report.steps,
        "figures": figures,
        "held_out": [slide.slide_id for slide in data.held_slides],
        "split": data.proof,
        "config_digest": digest_json(_identity(config)),
        "seconds": round(report.seconds, 1),
    }
    atomic_write(path, (json.dumps(said, indent=2) + "\n").encode())
