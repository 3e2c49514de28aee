"""The one training loop. It shows everything that happens to a network: batch, loss, step, average, check, save.

Batches are a function of the step, so a run that is resumed sees what an uninterrupted one would have seen, and ends
with the same weights.
"""

from __future__ import annotations

import csv
import math
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, send_to_device
from torch import nn
from torch.optim.swa_utils import AveragedModel

from medvision.core.digest import digest_json
from medvision.core.errors import StoreError, UsageError
from medvision.training.accelerator import Device, Precision, accelerate
from medvision.training.board import Board

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets, as the loss takes them; each has a row per case."""

WideBatch = tuple[tuple[torch.Tensor, ...], torch.Tensor]
"""A batch for a network of several arguments: one tensor for each."""

Optimiser = Literal["adamw", "sgd"]


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How long and how fast to learn. `average` is the decay per step of the averaged weights that are kept, in the end
    (see `decay_at`)."""

    steps: int
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 20
    average: float = 0.98
    check_every: int = 50
    patience: int | None = None
    """Checks without a better validation score after which to stop; None runs all the steps."""
    clip: float = 1.0
    seed: int = 0
    """Of the network's own randomness (dropout): each step draws from `seed` and its number."""
    optimiser: Optimiser = "adamw"
    """Or "sgd", stochastic gradient descent with a momentum of 0.9."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.check_every < 1:
            raise UsageError(f"steps {self.steps} and check_every {self.check_every} must be at least 1")


@dataclass(frozen=True, slots=True)
class Check:
    """The state of learning at one step. `score` is the validation score, higher is better, where there is one."""

    step: int
    loss: float
    learning_rate: float
    score: float | None


@dataclass(eq=False)
class Fit:
    """A trained network (averaged weights, of the best check where there is validation) and how it came about."""

    net: nn.Module
    checks: list[Check]
    best_step: int
    resumed_at: int = 0


@dataclass(eq=False)
class _State:
    """What changes from step to step, apart from the weights."""

    step: int = 0
    checks: list[Check] = field(default_factory=list)
    best_score: float = -math.inf
    best_step: int = 0
    best: dict[str, torch.Tensor] | None = None


def fit(
    net: nn.Module,
    batch: Callable[[int], Batch | WideBatch],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    settings: LoopSettings,
    validate: Callable[[nn.Module], float] | None = None,
    on_check: Callable[[Check], None] | None = None,
    checkpoint: Path | None = None,
    identity: dict[str, Any] | None = None,
    *,
    precision: Precision = "float32",
    device: Device = "auto",
    tensorboard: Path | None = None,
) -> Fit:
    """Train `net` on `batch(0)`, `batch(1)`, ... with a warm-up, a cosine decay and averaged weights.

    On several devices (`torchrun --nproc-per-node 4 -m medvision.cli train ...`) each process learns from its share of
    every batch, which must divide evenly, and the gradients are averaged; the first process alone validates.

    Args:
        validate: gives a score of a network in evaluation mode, higher is better; the best check's weights are kept.
            The network takes and gives tensors of the CPU, wherever it runs.
        checkpoint: file for progress, written at every check. If it is there, the run continues after it.
        identity: what the run is of (JSON values). A checkpoint of anything else is refused.
        precision: of the products; weights and their averages stay float32.
        device: "auto" takes a GPU where there is one. On the CPU in float32, equal input gives equal weights.
        tensorboard: folder for TensorBoard's event files of loss, learning rate and score.

    Raises:
        StoreError: if the checkpoint belongs to another run, or cannot be read.
        UsageError: if precision or device is not to be had, a batch does not divide evenly, or weights are not finite.
    """
    key = _key(identity, settings, precision)
    place = accelerate(precision, device)
    net = net.to(place.device)
    average = _Average(net, settings.average)
    optimiser = _optimiser(net, settings)
    state = _restore(checkpoint, key, net, average, optimiser, place)
    resumed_at = state.step
    learner, stepper = place.prepare(net, optimiser)
    running, seen = 0.0, 0
    # Of cuDNN's algorithms only those that repeat themselves, and no float32 product in fewer bits.
    repeatable = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with repeatable, Board(tensorboard if place.is_main_process else None, resumed_at) as board:
        while state.step < settings.steps and not _exhausted(state, settings):
            rate = _rate(state.step, settings)
            for group in optimiser.param_groups:
                group["lr"] = rate
            learner.train()
            inputs, targets = _share(batch(state.step), place)
            with _randomness(settings.seed, state.step, place):
                value = loss(learner(*inputs), targets)
            stepper.zero_grad(set_to_none=True)
            place.backward(value)
            place.clip_grad_norm_(learner.parameters(), settings.clip)
            stepper.step()
            average.update_parameters(net)
            running, seen, state.step = running + float(value.detach()), seen + 1, state.step + 1
            if state.step % settings.check_every == 0 or state.step == settings.steps:
                _require_finite(net, state.step, settings)
                score = None if validate is None else _score(validate, average.module, place)
                check = Check(state.step, running / seen, rate, score)
                running, seen = 0.0, 0
                _note(state, check, average.module)
                board.add(check.step, {"loss": check.loss, "learning_rate": rate, "score": score})
                if on_check is not None and place.is_main_process:
                    on_check(check)
                if place.is_main_process:
                    _save(checkpoint, key, state, net, average, optimiser, place)
    return Fit(_kept(average.module, state, place), state.checks, state.best_step, resumed_at)


def dealt(count: int, processes: int) -> torch.Tensor:
    """Which of `count` cases each process learns from: indices `(processes, count / processes)`.

    Cases go round like cards, each round beginning with the next process. However a batch is ordered, one class after
    the other or in turns, each process so has cases of both: its norms take their statistics from its own share.
    """
    rounds = torch.arange(count).reshape(-1, processes)
    return torch.stack([row.roll(k) for k, row in enumerate(rounds)], dim=1)


def write_checks(checks: list[Check], path: Path) -> None:
    """The course of a run as CSV: step, loss, learning_rate, score (empty where there was no validation)."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["step", "loss", "learning_rate", "score"])
        for check in checks:
            score = "" if check.score is None else f"{check.score:.6f}"
            writer.writerow([check.step, f"{check.loss:.6f}", f"{check.learning_rate:.3e}", score])


def _optimiser(net: nn.Module, settings: LoopSettings) -> torch.optim.Optimizer:
    groups = _groups(net, settings.weight_decay)
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _key(identity: dict[str, Any] | None, settings: LoopSettings, precision: Precision) -> str:
    """What a checkpoint must be of. Where it runs plays no part: a run may go on elsewhere."""
    said: list[Any] = [identity or {}, {name: getattr(settings, name) for name in settings.__slots__}]
    return digest_json(said if precision == "float32" else [*said, precision])


def _share(whole: Batch | WideBatch, place: Accelerator) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """This process's share of a batch, on its device."""
    given, targets = whole
    inputs = given if isinstance(given, tuple) else (given,)
    if place.num_processes > 1:
        if len(targets) % place.num_processes:
            raise UsageError(
                f"a batch of {len(targets)} does not divide evenly among {place.num_processes} processes"
            )
        mine = dealt(len(targets), place.num_processes)[place.process_index]
        inputs, targets = tuple(part[mine] for part in inputs), targets[mine]
    sent = send_to_device((*inputs, targets), place.device)
    return tuple(sent[:-1]), sent[-1]


@contextmanager
def _randomness(seed: int, step: int, place: Accelerator) -> Iterator[None]:
    """The network's own randomness as a function of step and process; the generators are left as they were."""
    devices = [] if place.device.type == "cpu" else [place.device]
    with torch.random.fork_rng(devices=devices, device_type=place.device.type):
        torch.manual_seed((seed * 1_000_003 + step) * place.num_processes + place.process_index)
        yield


def _score(validate: Callable[[nn.Module], float], net: nn.Module, place: Accelerator) -> float:
    """The validation score, measured once and told to every process, so that all stop at the same step."""
    told = [0.0]
    if place.is_main_process:
        hooks = []
        if place.device.type != "cpu":
            hooks.append(net.register_forward_pre_hook(lambda _, given: send_to_device(given, place.device)))
            hooks.append(net.register_forward_hook(lambda _, __, found: send_to_device(found, "cpu")))
        told = [validate(net.eval())]
        for hook in hooks:
            hook.remove()
    if place.num_processes > 1:
        broadcast_object_list(told)
    return told[0]


def _kept(net: nn.Module, state: _State, place: Accelerator) -> nn.Module:
    """The averaged weights of the best check, where there was validation, or the last; the same in every process."""
    if state.best is not None:
        net.load_state_dict(state.best)
    if place.num_processes > 1:  # running statistics of norms differ between processes
        net.load_state_dict(broadcast(net.state_dict()))
    return net.cpu().eval()


class _Average(AveragedModel):
    """The averaged weights, and running statistics of norms that are as far behind."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__(net, use_buffers=True)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        decay = decay_at(int(self.n_averaged), self._decay)
        for mean, now in zip(self.module.parameters(), model.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for kept, held in zip(self.module.buffers(), model.buffers(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(held, 1 - decay_of_statistics(decay))
            else:  # a count of batches has no mean
                kept.copy_(held)
        self.n_averaged += 1


def decay_at(updates: int, decay: float) -> float:
    """Decay of the averaged weights after so many updates: the plain mean of all, until that reaches as far back.

    At a constant 0.98 the weights of the start would still be a third of the mean after 60 steps.
    """
    return min(decay, updates / (updates + 1))


def decay_of_statistics(decay: float) -> float:
    """Decay of the averaged running statistics of norms, so that they are as far behind as the weights.

    They are a mean already, 9 steps behind (PyTorch's momentum of 0.1); a mean with decay d is d / (1 - d) behind.
    """
    behind = max(0.0, decay / (1 - decay) - 9)
    return behind / (1 + behind)


def _groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only: norms and biases set scales, which decay would distort."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    free = [p for p in net.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _rate(step: int, settings: LoopSettings) -> float:
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    share = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


def _exhausted(state: _State, settings: LoopSettings) -> bool:
    if settings.patience is None or not state.checks or state.checks[-1].score is None:
        return False
    later = [check for check in state.checks if check.step > state.best_step]
    return len(later) >= settings.patience


def _require_finite(net: nn.Module, step: int, settings: LoopSettings) -> None:
    """Of the weights, not the loss: in float16 a step whose loss overflows is left out, and learning goes on."""
    if not all(bool(torch.isfinite(weights).all()) for weights in net.parameters()):
        raise UsageError(
            f"the weights are no longer finite at step {step}: the learning rate of {settings.learning_rate:g} is too "
            "high, or an input is not finite"
        )


def _note(state: _State, check: Check, net: nn.Module) -> None:
    state.checks.append(check)
    if check.score is None:
        state.best_step = check.step
    elif check.score > state.best_score:
        state.best_score, state.best_step = check.score, check.step
        state.best = {name: value.clone() for name, value in net.state_dict().items()}


def _save(
    path: Path | None,
    key: str,
    state: _State,
    net: nn.Module,
    average: AveragedModel,
    optimiser: torch.optim.Optimizer,
    place: Accelerator,
) -> None:
    if path is None:
        return
    checks = [[c.step, c.loss, c.learning_rate, c.score] for c in state.checks]
    content = {
        "key": key,
        "step": state.step,
        "checks": checks,
        "best": [state.best_score, state.best_step, state.best],
        "net": net.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    if place.scaler is not None:
        content["scaler"] = place.scaler.state_dict()
    part = path.with_name(path.name + ".part")
    torch.save(content, part)
    os.replace(part, path)  # noqa: PTH105 - the one call that is atomic on every system


def _restore(
    path: Path | None,
    key: str,
    net: nn.Module,
    average: AveragedModel,
    optimiser: torch.optim.Optimizer,
    place: Accelerator,
) -> _State:
    if path is None or not path.exists():
        return _State()
    try:
        content = torch.load(path, map_location=place.device, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise StoreError(f"{path}: not a readable checkpoint; delete it to begin again") from error
    if not isinstance(content, dict) or content.get("key") != key:
        raise StoreError(
            f"{path}: this checkpoint belongs to a run with other data or settings; "
            "delete it or choose another folder"
        )
    net.load_state_dict(content["net"])
    average.load_state_dict(content["average"])
    optimiser.load_state_dict(content["optimiser"])
    if place.scaler is not None:
        place.scaler.load_state_dict(content["scaler"])
    checks = [Check(step, loss, rate, score) for step, loss, rate, score in content["checks"]]
    best_score, best_step, best = content["best"]
    return _State(content["step"], checks, best_score, best_step, best)
