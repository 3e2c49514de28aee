"""The training loop: it learns, repeats itself, resumes as if nothing had happened, and stops in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from medvision.core.errors import StoreError, UsageError
from medvision.training.loop import Batch, LoopSettings, fit, write_checks

SETTINGS = LoopSettings(steps=40, learning_rate=0.05, check_every=10, warmup=2, average=0.9)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(16, 4, generator=generator)
    return inputs, (inputs.sum(dim=1) > 0).long()


def accuracy(net: nn.Module) -> float:
    inputs, targets = batch(10_000)
    with torch.no_grad():
        return float((net(inputs).argmax(dim=1) == targets).float().mean())


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_it_learns_and_reports() -> None:
    found = fit(network(), batch, functional.cross_entropy, SETTINGS)
    assert accuracy(found.net) > 0.85
    assert [check.step for check in found.checks] == [10, 20, 30, 40]
    assert found.checks[-1].loss < found.checks[0].loss
    assert found.checks[0].score is None
    assert not found.net.training


def test_it_repeats_itself_whatever_the_global_generator() -> None:
    first = fit(network(), batch, functional.cross_entropy, SETTINGS)
    net = network()
    torch.manual_seed(99)
    second = fit(net, batch, functional.cross_entropy, SETTINGS)
    assert torch.equal(weights(first.net), weights(second.net))


def test_gradient_descent_with_momentum_is_torchs() -> None:
    """One step at a constant rate, without averaging: weights move by the rate times the (clipped) gradient."""
    settings = LoopSettings(
        steps=1, learning_rate=0.1, weight_decay=0, warmup=1, average=0, clip=1e9, optimiser="sgd"
    )
    net = nn.Linear(4, 2)
    inputs, targets = batch(0)
    value = functional.cross_entropy(net(inputs), targets)
    (gradient,) = torch.autograd.grad(value, [net.weight])
    expected = net.weight.detach() - 0.1 * gradient
    found = fit(net, batch, functional.cross_entropy, settings)
    assert torch.allclose(found.net.weight, expected, atol=1e-6)  # type: ignore[arg-type]


def test_a_resumed_run_by_gradient_descent_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    settings = replace(SETTINGS, optimiser="sgd")
    whole = fit(network(), batch, functional.cross_entropy, settings)

    def interrupted(step: int) -> Batch:
        if step == 25:
            raise KeyboardInterrupt
        return batch(step)

    with pytest.raises(KeyboardInterrupt):
        fit(network(), interrupted, functional.cross_entropy, settings, checkpoint=tmp_path / "p.pt")
    resumed = fit(network(), batch, functional.cross_entropy, settings, checkpoint=tmp_path / "p.pt")
    assert resumed.resumed_at == 20
    assert torch.equal(weights(whole.net), weights(resumed.net))


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = fit(network(), batch, functional.cross_entropy, SETTINGS)
    checkpoint = tmp_path / "progress.pt"

    def interrupted(step: int) -> Batch:
        if step == 25:
            raise KeyboardInterrupt
        return batch(step)

    with pytest.raises(KeyboardInterrupt):
        fit(network(), interrupted, functional.cross_entropy, SETTINGS, checkpoint=checkpoint)
    seen: list[int] = []

    def recorded(step: int) -> Batch:
        seen.append(step)
        return batch(step)

    resumed = fit(network(), recorded, functional.cross_entropy, SETTINGS, checkpoint=checkpoint)
    assert resumed.resumed_at == 20
    assert seen == list(range(20, 40))
    assert torch.equal(weights(resumed.net), weights(whole.net))
    assert [c.loss for c in resumed.checks] == [c.loss for c in whole.checks]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "progress.pt"
    fit(network(), batch, functional.cross_entropy, SETTINGS, checkpoint=checkpoint, identity={"data": "a"})
    with pytest.raises(StoreError, match=r"progress\.pt.*other data or settings"):
        fit(
            network(),
            batch,
            functional.cross_entropy,
            SETTINGS,
            checkpoint=checkpoint,
            identity={"data": "b"},
        )


def test_it_stops_early_and_keeps_the_best_weights() -> None:
    scores = iter([0.1, 0.9, 0.3, 0.2, 0.1, 0.0])
    kept: list[torch.Tensor] = []

    def validate(net: nn.Module) -> float:
        kept.append(weights(net).clone())
        return next(scores)

    settings = LoopSettings(steps=60, learning_rate=0.05, check_every=10, patience=2)
    found = fit(network(), batch, functional.cross_entropy, settings, validate)
    assert [check.step for check in found.checks] == [10, 20, 30, 40]
    assert found.best_step == 20
    assert torch.equal(weights(found.net), kept[1])


def test_the_course_is_written_as_csv(tmp_path: Path) -> None:
    found = fit(network(), batch, functional.cross_entropy, SETTINGS, accuracy)
    path = tmp_path / "course.csv"
    write_checks(found.checks, path)
    lines = path.read_text().splitlines()
    assert lines[0] == "step,loss,learning_rate,score"
    assert [line.split(",")[0] for line in lines[1:]] == ["10", "20", "30", "40"]
    assert float(lines[-1].split(",")[3]) == pytest.approx(accuracy(found.net), abs=1e-6)


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError, match="steps 0"):
        LoopSettings(steps=0)
