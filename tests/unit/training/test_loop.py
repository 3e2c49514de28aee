"""The training loop: it learns, repeats itself, resumes as if nothing had happened, and stops in time."""

from __future__ import annotations

import math
import os
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event, SessionLog
from torch import nn
from torch.nn import functional

from medvision.core.errors import StoreError, UsageError
from medvision.training.loop import (
    Batch,
    LoopSettings,
    dealt,
    decay_at,
    decay_of_statistics,
    fit,
    write_checks,
)

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


def test_a_checkpoint_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoint = tmp_path / "progress.pt"
    fit(network(), batch, functional.cross_entropy, SETTINGS, checkpoint=checkpoint)
    whole = checkpoint.read_bytes()
    for content in (b"", b"not weights", whole[: len(whole) // 2]):
        checkpoint.write_bytes(content)
        with pytest.raises(StoreError, match=r"progress\.pt: not a readable checkpoint; delete it"):
            fit(network(), batch, functional.cross_entropy, SETTINGS, checkpoint=checkpoint)


def test_weights_that_overflow_end_the_run(tmp_path: Path) -> None:
    def broken(step: int) -> Batch:
        inputs, targets = batch(step)
        return (inputs * float("nan") if step == 12 else inputs), targets

    checkpoint = tmp_path / "progress.pt"
    with pytest.raises(UsageError, match=r"no longer finite at step 20: the learning rate of 0\.05"):
        fit(network(), broken, functional.cross_entropy, SETTINGS, checkpoint=checkpoint)
    resumed = fit(network(), batch, functional.cross_entropy, SETTINGS, checkpoint=checkpoint)
    assert resumed.resumed_at == 10  # what was kept is from before


def test_every_process_has_cases_of_both_classes_however_a_batch_is_ordered() -> None:
    assert dealt(6, 2).tolist() == [[0, 3, 4], [1, 2, 5]]
    assert dealt(6, 3).tolist() == [[0, 5], [1, 3], [2, 4]]
    for processes in (1, 2, 4, 8):
        shares = dealt(32, processes)
        assert sorted(shares.flatten().tolist()) == list(range(32))
        for share in shares:
            assert 0 < (share % 2).sum() < len(share)  # tumour and normal in turns, as slides are sampled
            assert 0 < (share < 16).sum() < len(share)  # tumour first, as regions and patches are


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


def plainly(net: nn.Module, settings: LoopSettings) -> nn.Module:
    """The same training, written out with nothing but PyTorch."""
    average: dict[str, torch.Tensor] = {}
    decayed = [p for p in net.parameters() if p.ndim > 1]
    free = [p for p in net.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    )
    for step in range(settings.steps):
        share = (step - settings.warmup) / (settings.steps - settings.warmup)
        rate = settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        if step < settings.warmup:
            rate = settings.learning_rate * (step + 1) / settings.warmup
        for group in optimiser.param_groups:
            group["lr"] = rate
        net.train()
        inputs, targets = batch(step)
        torch.manual_seed(settings.seed * 1_000_003 + step)
        optimiser.zero_grad()
        functional.cross_entropy(net(inputs), targets).backward()
        nn.utils.clip_grad_norm_(net.parameters(), settings.clip)
        optimiser.step()
        decay = min(settings.average, step / (step + 1))
        for name, now in net.state_dict().items():
            average[name] = torch.lerp(average[name], now, 1 - decay) if step else now.clone()
    net.load_state_dict(average)
    return net


def test_the_average_of_a_short_training_owes_nothing_to_the_start() -> None:
    assert [decay_at(step, 0.98) for step in (0, 1, 3, 49, 10_000)] == [0, 0.5, 0.75, 0.98, 0.98]
    of_the_first = math.prod(decay_at(step, 0.98) for step in range(1, 60))
    assert of_the_first < 0.02 < 0.3 < 0.98**59


def test_averaged_statistics_of_norms_are_as_far_behind_as_the_weights() -> None:
    assert decay_of_statistics(0.5) == 0 and decay_of_statistics(0.9) == pytest.approx(0, abs=1e-9)
    assert decay_of_statistics(0.98) == pytest.approx(40 / 41)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    found = fit(net, batch, functional.cross_entropy, replace(SETTINGS, steps=10)).net
    assert int(found[1].num_batches_tracked) == 10


def test_on_the_cpu_in_float32_the_weights_are_those_of_plain_pytorch() -> None:
    found = fit(network(), batch, functional.cross_entropy, SETTINGS, device="cpu")
    assert torch.equal(weights(found.net), weights(plainly(network(), SETTINGS)))


def test_bfloat16_learns_with_float32_weights_and_resumes_to_the_same(tmp_path: Path) -> None:
    def trained(draw, checkpoint=None):  # type: ignore[no-untyped-def]
        loss = functional.cross_entropy
        return fit(network(), draw, loss, SETTINGS, checkpoint=checkpoint, precision="bfloat16", device="cpu")

    whole = trained(batch)
    assert {p.dtype for p in whole.net.parameters()} == {torch.float32}
    assert accuracy(whole.net) > 0.85
    exact = fit(network(), batch, functional.cross_entropy, SETTINGS, device="cpu")
    assert not torch.equal(weights(whole.net), weights(exact.net))
    checkpoint = tmp_path / "progress.pt"

    def interrupted(step: int) -> Batch:
        if step == 25:
            raise KeyboardInterrupt
        return batch(step)

    with pytest.raises(KeyboardInterrupt):
        trained(interrupted, checkpoint)
    with pytest.raises(StoreError, match="other data or settings"):
        fit(network(), batch, functional.cross_entropy, SETTINGS, checkpoint=checkpoint)
    assert torch.equal(weights(trained(batch, checkpoint).net), weights(whole.net))


def test_what_cannot_be_had_is_said() -> None:
    for arguments, message in (
        ({"precision": "float8"}, "known: float32, bfloat16, float16"),
        ({"precision": "float16", "device": "cpu"}, "needs a GPU"),
    ):
        with pytest.raises(UsageError, match=message):
            fit(network(), batch, functional.cross_entropy, SETTINGS, **arguments)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="'cuda' is not available"):
            fit(network(), batch, functional.cross_entropy, SETTINGS, device="cuda")


def events(folder: Path) -> list[tuple[int, str, float]]:
    """(step, name, value) of TensorBoard's record files."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in records(path):
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def records(path: Path) -> list[Event]:
    """Length, checksum, message, checksum, again and again."""
    found, content, at = [], path.read_bytes(), 0
    while at < len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        found.append(Event.FromString(content[at + 12 : at + 12 + size]))
        at += 16 + size
    return found


def test_tensorboard_gets_every_check_and_nothing_leaves_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "gethostname", lambda: "machine-of-jane")
    board = tmp_path / "board"
    found = fit(network(), batch, functional.cross_entropy, SETTINGS, accuracy, tensorboard=board)
    written = events(board)
    assert [step for step, name, _ in written if name == "score"] == [10, 20, 30, 40]
    losses = [value for _, name, value in written if name == "loss"]
    assert losses == pytest.approx([check.loss for check in found.checks])
    assert {name for _, name, _ in written} == {"loss", "learning_rate", "score"}
    (file,) = board.iterdir()
    assert "machine-of-jane" not in file.name and b"machine-of-jane" not in file.read_bytes()


def test_tensorboard_hides_the_steps_that_a_resumed_run_repeats(tmp_path: Path) -> None:
    board, checkpoint = tmp_path / "board", tmp_path / "progress.pt"

    def interrupted(step: int) -> Batch:
        if step == 25:
            raise KeyboardInterrupt
        return batch(step)

    with pytest.raises(KeyboardInterrupt):
        fit(
            network(),
            interrupted,
            functional.cross_entropy,
            SETTINGS,
            checkpoint=checkpoint,
            tensorboard=board,
        )
    fit(network(), batch, functional.cross_entropy, SETTINGS, checkpoint=checkpoint, tensorboard=board)
    first, second = sorted(board.iterdir())
    assert [step for step, name, _ in events(board) if name == "loss"] == [10, 20, 30, 40]
    status = [event.session_log.status for event in records(second) if event.HasField("session_log")]
    assert status == [SessionLog.START]
    assert next(event.file_version for event in records(first)) == "brain.Event:2"


_DISTRIBUTED = """

import os
import sys

import torch
from torch import nn
from torch.nn import functional

from medvision.training.loop import LoopSettings, decay_at, decay_of_statistics, fit

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2))


def batch(step):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(int(sys.argv[2]), 4, generator=generator)
    return inputs, (inputs.sum(dim=1) > 0).long()


settings = LoopSettings(steps=12, check_every=4, warmup=2, patience=1)
scores = iter([0.1, 0.3, 0.2])
found = fit(net, batch, functional.cross_entropy, settings, lambda net: next(scores), device="cpu")
torch.save((found.net.state_dict(), found.best_step), f"{sys.argv[1]}/{os.environ.get('RANK', '0')}.pt")
"""


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(_DISTRIBUTED)

    def started(processes: int, size: int) -> subprocess.CompletedProcess[str]:
        out = tmp_path / str(processes)
        out.mkdir(exist_ok=True)
        script = [str(tmp_path / "train.py"), str(out), str(size)]
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
        command = [sys.executable, *(launcher if processes > 1 else []), *script]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    for processes in (1, 2):
        made = started(processes, 16)
        assert made.returncode == 0, made.stderr
    one = torch.load(tmp_path / "1" / "0.pt")
    first, second = (torch.load(tmp_path / "2" / f"{rank}.pt") for rank in (0, 1))
    assert one[1] == first[1] == second[1] == 8
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name])
        if "running" not in name:  # each process normalises by its half of the batch
            assert torch.allclose(value.float(), one[0][name].float(), atol=2e-2), name
    odd = started(2, 15)
    assert odd.returncode != 0
    assert "a batch of 15 does not divide evenly among 2 processes" in odd.stderr
