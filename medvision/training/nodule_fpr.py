"""Train a network that tells nodules from other candidates: cubes, rounds of hard negatives, temperature, new scores.

Out of it come `model.safetensors` (with its contract), `model-card.md`, `report.json`, `split.json`, the course of each
round, and `candidates.csv`: the candidates of the scans held out with their new probabilities, as LUNA16 has them. The
same configuration and data give the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from medvision.core.digest import digest_json
from medvision.core.errors import StoreError, UsageError
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.metrics.calibration import fit_temperature
from medvision.models.nodules import ReductionContract, build_nodule_net
from medvision.models.nodules.run import rescore
from medvision.models.turns import with_turns
from medvision.models.weights import State
from medvision.sources.spacing import require_spacing
from medvision.store.files import make_output
from medvision.store.luna16_files import Points, read_candidates, write_series
from medvision.training.accelerator import Device
from medvision.training.loop import Fit, fit, write_checks
from medvision.training.nodule_config import TrainNoduleFprConfig
from medvision.training.nodule_cubes import (
    CubeBatches,
    Pool,
    judged,
    negatives,
    nodules_of,
    still_cubes,
    thinned,
)
from medvision.training.nodule_scans import PARTS, NoduleScans, load_scans, write_split
from medvision.training.nodule_score import froc_figures, write_points
from medvision.training.nodules import (
    NoduleReport,
    OnCheck,
    OnNote,
    as_patch_model,
    contract_of,
    identity_of,
    loop_settings,
    written,
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_NONE = Points(np.empty((0, 3)), np.empty(0))


def train_nodule_fpr(
    config: TrainNoduleFprConfig,
    out: Path,
    on_check: OnCheck | None = None,
    on_note: OnNote | None = None,
    device: Device = "auto",
) -> NoduleReport:
    """Train as `config` says and write everything below `out`; an interrupted run continues there.

    Args:
        config: the parameters.
        out: folder, made when absent.
        on_check: told the name of the run and its state at each check; the score is a balanced loss, negative.
        on_note: told in words how the scans are split, and what is being done.
        device: of learning and of judging candidates.

    Raises:
        UsageError: if `out` cannot be written to, data or candidates are missing, parts of the split share a scan, or
            the network or its contract are not possible.
        StoreError: if `out` holds the progress of other data or another configuration.
    """
    began = time.perf_counter()
    note = on_note or (lambda _text: None)
    contract = contract_of(config)
    if not isinstance(contract, ReductionContract):
        raise UsageError(f"network {config.architecture!r} finds candidates; it judges none")
    make_output(out)
    held = load_scans(config.scans, out / "progress")
    try:
        note(f"split: {held.proof()}")
        for said in held.notes:
            note(said)
        write_split(held, out / "split.json")
        points = _candidates(config, held)
        engine = PatchEngine(EngineSettings(device=device, batch_size=config.batch_size))
        fitted, course = _rounds(config, contract, held, points, out, engine, on_check, note, device)
        contract = _calibrated(contract, fitted.net, held, points)
        scored = _rescored(config, contract, fitted.net, held, points, engine, note)
    finally:
        held.reader.close()
    last = held.of("held_out")
    write_series(out / "seriesuids.csv", [scan.uid for scan in last])
    write_points(out / "candidates.csv", last, scored)
    figures = froc_figures(last, scored, f"held-out folds, {config.turns} orientations")
    figures |= froc_figures(last, points, "held-out folds, the detector's own scores", "_of_the_detector")
    contract = contract.model_copy(update={"figures": figures, "version": config.version})
    return written(config, contract, fitted.net, held, fitted, out, began, course)


def _candidates(config: TrainNoduleFprConfig, held: NoduleScans) -> dict[str, Points]:
    """Candidates of every scan; each part must have some."""
    table = read_candidates(config.candidates, [scan.uid for scan in held.scans]).scans
    for part in PARTS:
        if not any(scan.uid in table for scan in held.of(part)):
            raise UsageError(
                f"{config.candidates}: has no candidate in the scans for {part.replace('_', ' ')}; candidates-all.csv "
                "of `medvision train nodules` has those of every part"
            )
    return {scan.uid: table.get(scan.uid, _NONE) for scan in held.scans}


def _rounds(
    config: TrainNoduleFprConfig,
    contract: ReductionContract,
    held: NoduleScans,
    points: dict[str, Points],
    out: Path,
    engine: PatchEngine,
    on_check: OnCheck | None,
    note: OnNote,
    device: Device,
) -> tuple[Fit, list[str]]:
    """One network after the other, each from the weights of the last and more of what that got wrong."""
    nodules, diameters_mm = nodules_of(held, "train")
    others = negatives(held, points, "train", config.random_negatives, config.seed)
    validate = _validation(config, contract, held, points)
    said = [
        f"{len(nodules)} nodules and {len(others)} other places to learn from: candidates that hit no finding, and "
        f"{config.random_negatives} places in the lungs of each scan."
    ]
    note(said[0])
    identity: dict[str, object] = {
        "config": identity_of(config),
        "data": held.digest,
        "others": digest_json(np.round(others.places, 4).tolist()),
    }
    start: State | None = None
    hard: Ints | None = None
    fitted: Fit | None = None
    for number in range(1, config.rounds + 1):
        if fitted is not None:
            hard = _mine(config, contract, fitted.net, held, others, engine, out, number, identity)
            note(f"round {number}: {len(hard)} hard negatives")
            start = fitted.net.state_dict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net = build_nodule_net(contract)
        if start is not None:
            net.load_state_dict(start)
        name = f"round-{number}"
        seed = config.seed + 1000 * number
        fitted = fit(
            net,
            CubeBatches(held, config, contract, nodules, diameters_mm, others, hard, seed),
            partial(functional.cross_entropy, label_smoothing=config.label_smoothing),
            loop_settings(config, seed),
            validate,
            None if on_check is None else partial(on_check, name),
            out / "progress" / f"{name}.pt",
            {**identity, "round": number, "hard": None if hard is None else digest_json(hard.tolist())},
            device=device,
            tensorboard=out / "tensorboard" / name,
        )
        write_checks(fitted.checks, out / "progress" / f"{name}.csv")
        said.append(
            f"Round {number}: {fitted.best_step} steps of {config.batch_size} cubes, {config.nodule_share:.0%} of them "
            f"nodules{'' if hard is None else f', half of the others from {len(hard)} hard negatives'}."
        )
    assert fitted is not None, "there is at least one round"
    said.append(
        f"Seed {config.seed}; AdamW, cosine decay, averaged weights; crops from anywhere in the cube, turned, "
        "mirrored, scaled, shifted and noisy."
    )
    return fitted, [" ".join(said)]


def _mine(
    config: TrainNoduleFprConfig,
    contract: ReductionContract,
    net: nn.Module,
    held: NoduleScans,
    others: Pool,
    engine: PatchEngine,
    out: Path,
    number: int,
    identity: dict[str, object],
) -> Ints:
    """Indices of the negatives that the network takes most surely for nodules; a resumed run reads them again."""
    kept = out / "progress" / f"hard-{number}.npz"
    key = digest_json([identity, number])
    if kept.exists():
        with np.load(kept) as file:
            if str(file["key"]) != key:
                raise StoreError(
                    f"{kept}: belongs to a run with other data or settings; delete it to mine again"
                )
            return np.asarray(file["hard"], np.int64)
    model = as_patch_model(contract, net, config.name)
    runner = engine.prepare(model)
    scores = np.full(len(others), -np.inf)
    for which, scan in enumerate(others.scans):
        mine = np.flatnonzero(others.which == which)
        source = held.reader.source(scan.path)
        centres = others.places[mine] / require_spacing(source, "mm").values
        scores[mine] = rescore(runner, source, centres, engine)
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    hard = np.sort(order[: max(1, round(config.hardest * len(others)))]).astype(np.int64)
    part = kept.with_suffix(".part.npz")
    np.savez(part, key=np.array(key), hard=hard)
    part.replace(kept)
    return hard


def _validation(
    config: TrainNoduleFprConfig, contract: ReductionContract, held: NoduleScans, points: dict[str, Points]
) -> Callable[[nn.Module], float] | None:
    """The negative mean of the loss on nodules and that on other candidates; None where either is missing."""
    pool, hits = judged(held, points, "validation")
    chosen = thinned(hits, config.seed)
    nodules, _ = nodules_of(held, "validation")
    pool, hits = pool.take(chosen), hits[chosen]
    if not len(nodules) or hits.all():
        return None
    cubes = torch.cat([still_cubes(held, contract, pool), still_cubes(held, contract, nodules)])
    labels = torch.from_numpy(np.concatenate([hits, np.ones(len(nodules), bool)]).astype(np.int64))

    def score(net: nn.Module) -> float:
        with torch.inference_mode():
            logits = torch.cat([net(part) for part in torch.split(cubes, 32)])
        losses = functional.cross_entropy(logits, labels, reduction="none")
        return -float((losses[labels == 1].mean() + losses[labels == 0].mean()) / 2)

    return score


def _calibrated(
    contract: ReductionContract, net: nn.Module, held: NoduleScans, points: dict[str, Points]
) -> ReductionContract:
    """The contract with the temperature that fits the validation scans' candidates best."""
    pool, hits = judged(held, points, "validation")
    chosen = thinned(hits, 0)
    pool, hits = pool.take(chosen), hits[chosen]
    if hits.all() or not hits.any():
        return contract
    with torch.inference_mode():
        logits = [net(part) for part in torch.split(still_cubes(held, contract, pool), 32)]
    two = torch.cat(logits).double().numpy()
    temperature = fit_temperature(two[:, 1] - two[:, 0], hits)
    how = f"temperature scaling on {len(hits)} candidates of the validation scans, {int(hits.sum())} of them nodules"
    return contract.model_copy(update={"temperature": round(temperature, 4), "calibration": how})


def _rescored(
    config: TrainNoduleFprConfig,
    contract: ReductionContract,
    net: nn.Module,
    held: NoduleScans,
    points: dict[str, Points],
    engine: PatchEngine,
    note: OnNote,
) -> dict[str, Points]:
    """The held-out scans' candidates with new probabilities; one that could not be read keeps none, and is left out."""
    model = as_patch_model(contract, net, config.name)
    runner = engine.prepare(with_turns(model, config.turns) if config.turns > 1 else model)
    last = held.of("held_out")
    note(f"judging the candidates of {len(last)} scans")
    scored = {}
    for scan in last:
        source = held.reader.source(scan.path)
        assert source.frame is not None, (
            "scans without a place in the patient are refused when they are loaded"
        )
        centres = points[scan.uid].centres
        probabilities = rescore(runner, source, source.frame.to_voxels(centres), engine)
        read = np.isfinite(probabilities)
        if not read.all():
            note(f"{scan.uid}: {int((~read).sum())} candidates could not be read")
        scored[scan.uid] = Points(centres[read], probabilities[read])
    return scored
