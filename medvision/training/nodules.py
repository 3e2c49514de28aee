"""Train a detector of nodule candidates: windows of slices, validation on whole scans, candidates of every part.

Out of it come `model.safetensors` (with its contract), `model-card.md`, `report.json`, `split.json`, the course of the
run, and candidates as LUNA16 has them: `candidates.csv` of the scans held out, whose uids are in `seriesuids.csv`, and
`candidates-all.csv`, from which a reduction of false positives learns. The same configuration and data give the same
weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvision.core.errors import UsageError
from medvision.engine.contract import PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.models.contract import Figure
from medvision.models.nodules import (
    DetectorContract,
    NoduleDetector,
    NoduleModel,
    ReductionContract,
    Target,
    build_nodule_net,
    usual_contract,
    write_nodule_model,
)
from medvision.models.weights import digest_state
from medvision.store.files import atomic_write, make_output
from medvision.store.luna16_files import Points, write_series
from medvision.training.accelerator import Device, without_hooks
from medvision.training.figures import figure_lines
from medvision.training.loop import Check, Fit, LoopSettings, fit, write_checks
from medvision.training.nodule_card import render_card
from medvision.training.nodule_config import TrainNoduleFprConfig, TrainNodulesConfig
from medvision.training.nodule_scans import PARTS, NoduleScans, load_scans, write_split
from medvision.training.nodule_score import detect_in, froc_figures, froc_of, write_points
from medvision.training.nodule_windows import DetectorBatches

OnCheck = Callable[[str, Check], None]
OnNote = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class NoduleReport:
    """What a training yielded. `candidates` are those of the scans held out, `series` their uids."""

    weights: Path
    card: Path
    candidates: Path
    series: Path
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


class DetectorLearner(nn.Module):
    """A detector as the loop calls it: windows and padded boxes in, the sum of the losses out."""

    def __init__(self, detector: NoduleDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, windows: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """The sum of the losses of windows `(n, 1, slices, rows, columns)`; boxes `(n, most, 2, 3)`, NaN for none."""
        targets: list[Target] = []
        for row in boxes:
            held = row[~torch.isnan(row).flatten(1).any(dim=1)]
            labels = torch.zeros(len(held), dtype=torch.int64, device=held.device)
            targets.append({"boxes": held, "labels": labels})
        losses = self.detector(windows, targets)
        return torch.stack([value.float() for value in losses.values()]).sum()


def train_nodules(
    config: TrainNodulesConfig,
    out: Path,
    on_check: OnCheck | None = None,
    on_note: OnNote | None = None,
    device: Device = "auto",
) -> NoduleReport:
    """Train as `config` says and write everything below `out`; an interrupted run continues there.

    Args:
        config: the parameters.
        out: folder, made when absent.
        on_check: told the name of the run and its state at each check; the score is a sensitivity.
        on_note: told in words how the scans are split, and what is being done.
        device: of learning and of looking for candidates.

    Raises:
        UsageError: if `out` cannot be written to, data are missing or parts of the split share a scan, or the network
            or its contract are not possible.
        StoreError: if `out` holds the progress of other data or another configuration.
    """
    began = time.perf_counter()
    note = on_note or (lambda _text: None)
    contract = contract_of(config)
    if not isinstance(contract, DetectorContract):
        raise UsageError(f"network {config.architecture!r} judges candidates; it finds none")
    make_output(out)
    held = load_scans(config.scans, out / "progress")
    try:
        note(f"split: {held.proof()}")
        for said in held.notes:
            note(said)
        write_split(held, out / "split.json")
        engine = PatchEngine(EngineSettings(device=device, batch_size=8))
        fitted = _fit(config, contract, held, out, engine, on_check, device)
        assert isinstance(fitted.net, DetectorLearner), "the loop gives back what it was given"
        detector = fitted.net.detector
        found = _candidates(config, contract, detector, held, out, engine, note)
    finally:
        held.reader.close()
    figures = froc_figures(held.of("held_out"), found, "held-out folds") if found else {}
    contract = contract.model_copy(update={"figures": figures, "version": config.version})
    return written(config, contract, detector, held, fitted, out, began, _course(config, fitted))


def contract_of(config: TrainNodulesConfig | TrainNoduleFprConfig) -> DetectorContract | ReductionContract:
    """The network's usual contract with the changes that a configuration asks for."""
    return usual_contract(config.architecture, **config.contract)


def loop_settings(config: TrainNodulesConfig | TrainNoduleFprConfig, seed: int) -> LoopSettings:
    """What the loop is told of a configuration."""
    return LoopSettings(
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        average=config.average,
        check_every=config.check_every,
        patience=config.patience,
        seed=seed,
    )


def identity_of(config: TrainNodulesConfig | TrainNoduleFprConfig) -> dict[str, Any]:
    """What of the configuration changes a network; data are digested apart."""
    apart = {
        *("scans", "candidates", "name", "version", "licence", "data_statement", "limits"),
        *("candidates_for", "most_candidates", "turns"),
    }
    said: dict[str, Any] = config.model_dump(mode="json", exclude=apart)
    return said


def written(
    config: TrainNodulesConfig | TrainNoduleFprConfig,
    contract: DetectorContract | ReductionContract,
    net: nn.Module,
    held: NoduleScans,
    fitted: Fit,
    out: Path,
    began: float,
    course: list[str],
) -> NoduleReport:
    """Write weights, card and report; what a caller needs to know of them."""
    weights, card = out / "model.safetensors", out / "model-card.md"
    write_nodule_model(weights, net, contract)
    atomic_write(card, render_card(config, contract, held, net, weights, course).encode())
    report = NoduleReport(
        weights=weights,
        card=card,
        candidates=out / "candidates.csv",
        series=out / "seriesuids.csv",
        digest=digest_state(net.state_dict()),
        steps=fitted.checks[-1].step,
        resumed_at=fitted.resumed_at,
        figures=dict(contract.figures),
        proof=held.proof(),
        checks=tuple(fitted.checks),
        seconds=time.perf_counter() - began,
    )
    said = {
        "weights": weights.name,
        "digest": report.digest,
        "steps": report.steps,
        "best_step": fitted.best_step,
        "temperature": contract.temperature,
        "split": report.proof,
        "figures": {name: figure.model_dump(mode="json") for name, figure in report.figures.items()},
        "seconds": round(report.seconds, 1),
    }
    atomic_write(out / "report.json", (json.dumps(said, indent=2) + "\n").encode())
    return report


def as_patch_model(contract: DetectorContract | ReductionContract, net: nn.Module, name: str) -> PatchModel:
    """A copy of a network that is still learning, on the CPU, as the engine runs it."""
    return NoduleModel(name, without_hooks(net), contract).patch_model


def _fit(
    config: TrainNodulesConfig,
    contract: DetectorContract,
    held: NoduleScans,
    out: Path,
    engine: PatchEngine,
    on_check: OnCheck | None,
    device: Device,
) -> Fit:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = build_nodule_net(contract)
    assert isinstance(net, NoduleDetector), "the contract is a detector's"
    scans = held.of("validation")[: config.validation_scans]
    validate: Callable[[nn.Module], float] | None = None
    if any(len(scan.nodules) for scan in scans):
        validate = partial(_sensitivity, config=config, contract=contract, held=held, engine=engine)
    fitted = fit(
        DetectorLearner(net),
        DetectorBatches(held, config, contract),
        _as_it_is,
        loop_settings(config, config.seed),
        validate,
        None if on_check is None else partial(on_check, "detector"),
        out / "progress" / "detector.pt",
        {"config": identity_of(config), "data": held.digest},
        device=device,
        tensorboard=out / "tensorboard",
    )
    write_checks(fitted.checks, out / "progress" / "detector.csv")
    return fitted


def _as_it_is(losses: torch.Tensor, _boxes: torch.Tensor) -> torch.Tensor:
    """Detectors compute their losses themselves."""
    return losses


def _sensitivity(
    net: nn.Module,
    config: TrainNodulesConfig,
    contract: DetectorContract,
    held: NoduleScans,
    engine: PatchEngine,
) -> float:
    """Share of the validation scans' nodules found at the false positives per scan that the configuration states.

    Between networks that find the same, the mean over all rates of LUNA16 decides, which adds less than one nodule.
    """
    assert isinstance(net, DetectorLearner), "the loop averages what it was given"
    scans = held.of("validation")[: config.validation_scans]
    model = as_patch_model(contract, net.detector, config.name)
    found = detect_in(held, scans, model, engine, config.most_candidates).points
    at = froc_of(scans, found, (config.false_positives,)).score
    nodules = sum(len(scan.nodules) for scan in scans)
    return at + froc_of(scans, found).score / (nodules + 1)


def _candidates(
    config: TrainNodulesConfig,
    contract: DetectorContract,
    detector: NoduleDetector,
    held: NoduleScans,
    out: Path,
    engine: PatchEngine,
    note: OnNote,
) -> dict[str, Points]:
    """Candidates of the parts asked for, written; those of the scans held out are given back."""
    model = as_patch_model(contract, detector, config.name)
    everything: dict[str, Points] = {}
    for part in PARTS:
        if part not in config.candidates_for:
            continue
        scans = held.of(part)
        note(f"looking for candidates in {len(scans)} scans ({part.replace('_', ' ')})")
        found = detect_in(held, scans, model, engine, config.most_candidates)
        if found.unread:
            note(f"{found.unread} windows could not be read")
        everything |= found.points
    write_points(
        out / "candidates-all.csv", [scan for scan in held.scans if scan.uid in everything], everything
    )
    last = held.of("held_out")
    write_series(out / "seriesuids.csv", [scan.uid for scan in last])
    if "held_out" not in config.candidates_for:
        return {}
    write_points(out / "candidates.csv", last, everything)
    return everything


def _course(config: TrainNodulesConfig, fitted: Fit) -> list[str]:
    return [
        f"{fitted.best_step} steps of {config.batch_size} windows of {config.crop_px} pixels, "
        f"{config.nodule_share:.0%} of them with a nodule, seed {config.seed}; AdamW, cosine decay, averaged "
        f"weights; turned, mirrored, scaled by up to {1 + config.augmentation.scale:g}, shifted and noisy. Chosen by "
        f"the sensitivity at {config.false_positives:g} false positives per scan on the validation scans."
    ]
