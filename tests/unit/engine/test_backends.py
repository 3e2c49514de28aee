"""Every backend against float32 eager, and what a backend refuses."""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medvision.core.errors import UnknownNameError, UsageError
from medvision.engine import backends, runtimes
from medvision.engine.backends import BACKENDS, BOUND, prepare
from medvision.engine.contract import Normalisation, PatchModel, normalise
from medvision.engine.device import computes_bfloat16
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.fold import fold_norms
from medvision.engine.plan import grid
from medvision.engine.sinks import RasterSink
from medvision.sources.array_source import ArraySource

CPU = torch.device("cpu")
EXTRAS = {"openvino": "openvino", "onnxruntime": "onnxruntime"}


def have(backend: str) -> str:
    """The backend, or a skip where it is an extra that is absent."""
    module = EXTRAS.get(backend)
    if module is not None and importlib.util.find_spec(module) is None:
        pytest.skip(f"the optional package {module} is not installed")
    return backend


class Small(nn.Module):
    """Folds in two places and must not in the third, whose convolution feeds two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second, self.norm = nn.Conv2d(8, 8, 3, stride=2, groups=2), nn.BatchNorm2d(8)
        self.shared, self.after = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.second(self.first(x))))
        both = self.shared(x)
        scores: torch.Tensor = self.head(self.drop((self.after(both) + both).mean((2, 3))))
        return scores


class Branching(nn.Module):
    """Does what the values say, so that no recording stands for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        return y.amax((2, 3)) if x.mean() > 0 else y.amin((2, 3))


def lively(net: nn.Module) -> nn.Module:
    """With statistics and weights as after training, not those of a fresh normalisation."""
    torch.manual_seed(3)
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
    return net.eval()


def softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits, dim=1)


def classifier(net: nn.Module, **changes: object) -> PatchModel:
    options: dict[str, object] = {
        "name": "small",
        "net": net,
        "window": (24, 32),
        "spacing": None,
        "normalisation": Normalisation((0.7, 0.6, 0.5), (0.2, 0.25, 0.3)),
        "output": "scores",
        "classes": ("a", "b"),
        "digest": "small",
        "activation": softmax,
        "precisions": ("float32", "bfloat16"),
    }
    return PatchModel(**(options | changes))  # type: ignore[arg-type]


def windows(count: int = 5, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)
    return torch.from_numpy(values)


def test_normalisation_is_that_of_the_contract_in_channels_last_order() -> None:
    batch, norm = windows(), Normalisation((0.7, 0.6, 0.5), (0.2, 0.25, 0.3))
    expected = (batch.double() / 255 - torch.tensor(norm.mean)) / torch.tensor(norm.std)
    got = normalise(batch, *norm.rows(32))
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, expected.permute(0, 3, 1, 2).float(), atol=2e-6, rtol=1e-6)


def test_folding_keeps_the_function_and_leaves_the_network_alone() -> None:
    net = lively(Small())
    before = copy.deepcopy(net.state_dict())
    folded, count = fold_norms(net)
    assert count == 2
    assert isinstance(folded.norm, nn.Identity)
    assert isinstance(folded.after, nn.BatchNorm2d)
    x = torch.randn(3, 3, 24, 32)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), net(x), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert isinstance(net.norm, nn.BatchNorm2d)


def test_a_network_that_branches_on_values_is_not_folded() -> None:
    folded, count = fold_norms(lively(Branching()))
    assert count == 0
    assert isinstance(folded.norm, nn.BatchNorm2d)


@pytest.mark.parametrize("name", ["eager", "fused", "openvino", "onnxruntime"])
def test_a_backend_gives_the_probabilities_of_eager_for_any_batch(name: str) -> None:
    model = classifier(lively(Small()))
    before = copy.deepcopy(model.net.state_dict())
    runner = prepare(model, CPU, have(name), "float32")
    assert (runner.backend, runner.precision) == (name, "float32")
    with torch.inference_mode():
        for count in (1, 5, 2):
            batch = windows(count, seed=count)
            torch.testing.assert_close(runner(batch), model(batch), atol=2e-6, rtol=1e-5)
    assert runner.difference is None or runner.difference < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in model.net.state_dict().items())
    assert {value.dtype for value in model.net.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["eager", "fused"])
def test_bfloat16_stays_within_the_bound_and_gives_float32(name: str) -> None:
    model = classifier(lively(Small()))
    runner = prepare(model, CPU, name, "bfloat16")
    with torch.inference_mode():
        scores = runner(windows())
        exact = model(windows())
    assert isinstance(scores, torch.Tensor) and isinstance(exact, torch.Tensor)
    assert scores.dtype == torch.float32
    assert 0 < (scores - exact).abs().max() < BOUND
    assert runner.difference is not None and 0 < runner.difference < BOUND


@pytest.mark.slow
def test_the_compiled_network_gives_the_probabilities_of_eager() -> None:
    model = classifier(lively(Small()))
    runner = prepare(model, CPU, "compile", "float32")
    with torch.inference_mode():
        torch.testing.assert_close(runner(windows(7)), model(windows(7)), atol=2e-6, rtol=1e-5)


def test_auto_is_the_same_every_time_and_says_what_it_is() -> None:
    model = classifier(lively(Small()))
    first, second = (prepare(model, CPU) for _ in range(2))
    assert first.identity == second.identity
    assert first.precision == "float32"  # bfloat16 is allowed, but was not measured to be close
    assert first.backend in ("openvino", "fused")
    with torch.inference_mode():
        assert torch.equal(first(windows()), second(windows()))  # type: ignore[arg-type]


def test_auto_takes_bfloat16_where_it_is_close_and_the_processor_computes_in_it() -> None:
    model = classifier(lively(Small()), close=(("fused", "bfloat16"), ("openvino", "bfloat16")))
    expected = "bfloat16" if computes_bfloat16(CPU) else "float32"
    assert prepare(model, CPU).precision == expected


@pytest.mark.parametrize("backend", ["auto", "fused", "compile", "eager", "onnxruntime"])
def test_auto_takes_bfloat16_only_of_the_backend_that_was_measured(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "computes_bfloat16", lambda device: True)
    monkeypatch.setattr(runtimes, "openvino_suits", lambda model, device: True)

    def tried(**changes: object) -> list[tuple[str, str]]:
        return list(backends._candidates(classifier(Small(), **changes), CPU, backend, "auto"))

    plain = {"auto": [("openvino", "float32"), ("fused", "float32"), ("eager", "float32")]}.get(
        backend, [(backend, "float32")]
    )
    measured = (("fused", "bfloat16"),)
    rough = {"auto": "fused", "fused": "fused", "compile": "compile"}.get(backend)
    assert tried(close=measured) == [*([(rough, "bfloat16")] if rough else []), *plain]
    assert tried() == plain
    assert tried(close=measured, precisions=("float32",)) == plain
    assert tried(close=measured, output="vector") == plain


def test_auto_leaves_a_network_alone_that_breaks_the_bound() -> None:
    class Rough(Small):
        """In any copy it says something else, as a wrong conversion would."""

        def __deepcopy__(self, memo: object) -> nn.Module:
            twin = lively(Small())
            twin.head.bias.data += torch.tensor([0.0, 3.0])  # type: ignore[union-attr,operator]
            return twin

    model = classifier(lively(Rough()))
    assert prepare(model, CPU).backend == "eager"
    named = prepare(model, CPU, "fused")
    assert named.difference is not None and named.difference > BOUND


def test_a_network_without_weights_runs_as_it_is() -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    assert prepare(classifier(Mean()), CPU).backend == "eager"


def test_what_does_not_go_together_is_refused_with_the_choices() -> None:
    model = classifier(lively(Small()), precisions=("float32",))
    with pytest.raises(UsageError, match="allows: float32"):
        prepare(model, CPU, "fused", "bfloat16")
    with pytest.raises(UsageError, match="auto, float32, bfloat16"):
        prepare(model, CPU, "fused", "float8")
    with pytest.raises(UnknownNameError, match=", ".join(BACKENDS)):
        prepare(model, CPU, "tensorrt")
    for name in EXTRAS:
        with pytest.raises(UsageError, match="CPU only"):
            prepare(model, torch.device("cuda:0"), name)
    with pytest.raises(UsageError, match="float32 only"):
        prepare(classifier(lively(Small())), CPU, "onnxruntime", "bfloat16")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_network_that_does_not_convert_is_one_line_and_a_quiet_fallback(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Windows of 24 x 32 are no multiple of 5 x 7, for which ONNX has no pooling."""
    have(name)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d((5, 7)), nn.Flatten(), nn.Linear(140, 2))
    model = classifier(lively(net))
    with pytest.raises(UsageError, match=f"'small' cannot be converted for backend '{name}': ") as refused:
        prepare(model, CPU, name)
    assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)
    assert prepare(model, CPU).backend == "fused"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "extra"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_an_absent_runtime_is_named_with_its_extra(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"medvision\[{extra}\]"):
        prepare(classifier(lively(Small())), CPU, name)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are bound to cores on Linux only")
def test_openvino_binds_no_thread_to_a_core_so_that_processes_side_by_side_do_not_share_one() -> None:
    have("openvino")
    run = runtimes.openvino_raw(classifier(lively(Small())), CPU, "float32")
    free: set[int] = os.sched_getaffinity(0)
    bound: list[str] = []

    def compute() -> None:
        run(torch.zeros((4, 24, 32, 3), dtype=torch.uint8))
        tasks = [task.name for task in Path("/proc/self/task").iterdir()]
        bound.extend(task for task in tasks if os.sched_getaffinity(int(task)) != free)

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert not bound


def test_openvino_reports_its_use_to_nobody() -> None:
    have("openvino")
    prepare(classifier(lively(Small())), CPU, "openvino")
    assert sys.modules.get("openvino_telemetry") is None


@pytest.mark.parametrize("name", ["eager", "fused", "openvino", "onnxruntime"])
def test_the_engine_says_how_it_computed_and_takes_a_prepared_model(name: str) -> None:
    model = classifier(lively(Small()))
    engine = PatchEngine(EngineSettings(device="cpu", batch_size=4, backend=have(name)))
    source = ArraySource(np.random.default_rng(1).integers(0, 256, (72, 96, 3), dtype=np.uint8))
    plan = grid(source.id, (72, 96), (24, 32))
    runner = engine.prepare(model)
    given, stats = engine.run(source, plan, runner, RasterSink(plan, ("a", "b")))
    own, _ = engine.run(source, plan, model, RasterSink(plan, ("a", "b")))
    assert (stats.backend, stats.precision) == (name, "float32")
    np.testing.assert_array_equal(given.values, own.values)


def test_openvino_refuses_a_precision_that_the_processor_would_not_compute_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On processors without AVX-512 the runtime takes the wish and computes in float32."""
    have("openvino")
    import openvino

    compiled = openvino.CompiledModel
    original = compiled.get_property
    monkeypatch.setattr(
        compiled,
        "get_property",
        lambda self, name: openvino.Type.f32 if "PRECISION" in name else original(self, name),
    )
    with pytest.raises(UsageError, match="cannot compute in bfloat16 on this processor"):
        prepare(classifier(lively(Small())), CPU, "openvino", "bfloat16")
