"""Ways to compute a network: as it is, folded for speed, compiled, or by another runtime.

Each backend turns a model into a `Runner`, which takes uint8 windows and gives the model's outputs. The model itself is
never changed: a backend that rewrites the network works on a copy. What "auto" chooses depends on the model's contract,
on the processor and on what is installed, never on a timing, so that the same command gives the same bytes again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from medvision.core.errors import UsageError
from medvision.core.registry import Registry
from medvision.engine.contract import ModelOutputs, Normaliser, PatchModel, normalise
from medvision.engine.device import Precision, allowed_precision, autocast, computes_bfloat16
from medvision.engine.fold import fold_norms

BOUND = 0.01
"""Largest difference of a probability from float32 eager at which "auto" may choose a backend or precision."""

Raw = Callable[[torch.Tensor], torch.Tensor | object]
"""What a network returns, before its activation, for uint8 windows `(n, *window, channels)` on the device."""

Build = Callable[[PatchModel, torch.device, Precision], Raw]

BACKENDS: Registry[Build] = Registry("backend")


@dataclass(frozen=True, eq=False)
class Runner:
    """A model ready to run: call it with uint8 windows `(n, *window, channels)`, on the device or in pinned memory.

    `difference` is the largest difference of a probability from float32 eager over a few probe windows; None where it
    was not measured: for eager float32 itself, and for models that do not give probabilities.
    """

    model: PatchModel
    device: torch.device
    backend: str
    precision: Precision
    raw: Raw
    difference: float | None = None

    @property
    def identity(self) -> dict[str, str]:
        """All of this that changes an output."""
        return {"model": self.model.digest, "backend": self.backend, "precision": self.precision}

    def __call__(self, batch: torch.Tensor) -> ModelOutputs:
        """Outputs `(n, ...)` in float32, or one dictionary per window."""
        raw = self.raw(_moved(batch, self.device))
        return self.model.activation(raw.float() if isinstance(raw, torch.Tensor) else raw)


def _moved(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The batch on the device. From pinned memory it is copied to a GPU while that computes the batch before."""
    if device.type != "cuda" or not batch.is_pinned():
        return batch.to(device)
    copying, computing = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copying):
        moved = batch.to(device, non_blocking=True)
    computing.wait_stream(copying)
    moved.record_stream(computing)
    return moved


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def prepare(
    model: PatchModel, device: torch.device, backend: str = "auto", precision: str = "auto"
) -> Runner:
    """The model ready to run on `device`.

    A choice of "auto" is checked on probe windows, and the next best taken if it fails there or differs from float32
    eager by more than `BOUND`. What is named is taken as named, with its difference.

    Raises:
        UnknownNameError: for a backend that does not exist, with those that do.
        UsageError: if the model's contract does not allow the precision, the backend cannot compute in it, is not
            installed, or cannot run this network.
    """
    candidates = _candidates(model, device, backend, precision)
    problem: UsageError | None = None
    for number, (name, chosen) in enumerate(candidates):
        last = number == len(candidates) - 1
        try:
            runner = _made(model, device, name, chosen)
        except UsageError as error:
            if last:
                raise
            problem = error
            continue
        if last or (BOUND if runner.difference is None else runner.difference) <= BOUND:
            return runner
    raise problem or AssertionError("there is always a candidate")


def _candidates(
    model: PatchModel, device: torch.device, backend: str, precision: str
) -> list[tuple[str, Precision]]:
    """Backends with precisions to try, best first; one where both are named."""
    if backend != "auto":
        BACKENDS.check(backend)
    named = allowed_precision(precision, model)
    names = [backend]
    if backend == "auto" and not any(True for _ in model.net.parameters()):
        return [("eager", named or "float32")]  # nothing to gain where there are no weights
    if backend == "auto":
        from medvision.engine.runtimes import openvino_suits

        names = ["openvino", "fused"] if openvino_suits(model, device) else ["fused"]
    if named is not None:
        pairs = [(name, named) for name in names]
    else:
        rough: list[tuple[str, Precision]] = [
            (name, "bfloat16") for name in names if _may_round(model, device, name)
        ]
        pairs = [*rough, *((name, "float32") for name in names)]
    return [*pairs, ("eager", named or "float32")] if backend == "auto" else pairs


def _may_round(model: PatchModel, device: torch.device, backend: str) -> bool:
    """Whether "auto" may compute in bfloat16: where that is fast, allowed, and was measured to be close."""
    measured = "fused" if backend == "compile" else backend  # one network, compiled or not
    # Without probabilities there is no bound to keep, so float32 it is.
    bounded = model.output == "scores" and "bfloat16" in model.precisions
    return bounded and (measured, "bfloat16") in model.close and computes_bfloat16(device)


def _made(model: PatchModel, device: torch.device, name: str, precision: Precision) -> Runner:
    """The runner of a backend, tried on probe windows."""
    if name == "eager" and precision == "float32":
        return Runner(model, device, name, precision, _eager(model, device, precision))
    raw = BACKENDS[name](model, device, precision)
    runner = Runner(model, device, name, precision, raw)
    if model.output != "scores":
        return runner
    probe = _probe(model)
    exact = Runner(model, device, "eager", "float32", _eager(model, device, "float32"))
    with torch.inference_mode():
        try:
            found = runner(probe)
        except (RuntimeError, TypeError) as error:  # what a runtime does not implement is a RuntimeError
            said = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"backend {name!r} in {precision} cannot run model {model.name!r} ({said}); pass --backend eager"
            ) from error
        expected = exact(probe)
    return Runner(model, device, name, precision, raw, _difference(found, expected))


def _difference(a: ModelOutputs, b: ModelOutputs) -> float | None:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor) or a.shape != b.shape:
        return None
    return float((a.float() - b.float()).abs().max())


def _probe(model: PatchModel) -> torch.Tensor:
    """Two windows of smooth colour with some grain, always the same: the range of stained tissue, not of noise."""
    random = torch.Generator().manual_seed(0)
    channels = len(model.normalisation.mean)
    ends = model.normalisation
    coarse = torch.rand((2, channels, *(max(2, side // 16) for side in model.window)), generator=random)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(model.window)]
    smooth = nn.functional.interpolate(coarse, size=model.window, mode=mode)
    grain = torch.rand(smooth.shape, generator=random)
    values = 90 + 130 * smooth + 30 * grain
    if ends.window is not None:  # the same picture within the window, in whole values as scans have them
        values = ends.low + values * ((ends.high - ends.low) / 255)
        values = values.round() if ends.high - ends.low > 2 else values
    return values.to(windows_type(model)).movedim(1, -1).contiguous()


def windows_type(model: PatchModel) -> torch.dtype:
    """What a graph that is exported takes: bytes, or float32 where values have a window of their own."""
    return torch.uint8 if model.normalisation.window is None else torch.float32


class Windows(nn.Module):
    """A network that takes windows `(n, *window, channels)` as read: normalisation, then the network itself."""

    def __init__(self, model: PatchModel, net: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.net = net
        self.dtype = dtype
        self.window = model.normalisation.window
        scale, shift = model.normalisation.rows(model.window[-1])
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, batch: torch.Tensor) -> object:
        """What the network returns."""
        values = normalise(batch, self.scale, self.shift, self.window)  # type: ignore[arg-type]
        return self.net(values.to(self.dtype))


@BACKENDS.register("eager")
def _eager(model: PatchModel, device: torch.device, precision: Precision) -> Raw:
    """The network as it is; bfloat16 by autocast. On its own device the network itself is used, else a copy."""
    here = all(tensor.device == device for tensor in _tensors(model.net))
    net = model.net.eval() if here else copy.deepcopy(model.net).eval().to(device)
    return _normalised(model, net, device, torch.float32, precision)


@BACKENDS.register("fused")
def _fused(model: PatchModel, device: torch.device, precision: Precision) -> Raw:
    """Normalisations folded into convolutions, weights channels-last and in the precision itself."""
    module = fused_module(model, device, precision)
    return _normalised(model, module.net, device, module.dtype, "float32")


@BACKENDS.register("compile")
def _compiled(model: PatchModel, device: torch.device, precision: Precision) -> Raw:
    """The fused network compiled by torch.compile: the first batch waits for the compiler, tens of seconds."""
    compiled: Raw = torch.compile(fused_module(model, device, precision), dynamic=True)
    return compiled


@BACKENDS.register("openvino")
def _openvino(model: PatchModel, device: torch.device, precision: Precision) -> Raw:
    """Intel's runtime, on the CPU; extra `openvino`."""
    from medvision.engine.runtimes import openvino_raw

    return openvino_raw(model, device, precision)


@BACKENDS.register("onnxruntime")
def _onnxruntime(model: PatchModel, device: torch.device, precision: Precision) -> Raw:
    """ONNX Runtime, on the CPU in float32; extra `onnx`."""
    from medvision.engine.runtimes import onnxruntime_raw

    return onnxruntime_raw(model, device, precision)


def fused_module(model: PatchModel, device: torch.device, precision: Precision) -> Windows:
    """The network folded and laid out for `device`, with its normalisation before it; a copy."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    net, _ = fold_norms(model.net)
    net = net.requires_grad_(False).to(device=device, dtype=dtype)
    if len(model.window) == 2:
        net = net.to(memory_format=torch.channels_last)
    return Windows(model, net, dtype).eval().to(device)


def _normalised(
    model: PatchModel, net: nn.Module, device: torch.device, dtype: torch.dtype, casts: Precision
) -> Raw:
    """`net` on normalised windows, the network's own casts under autocast where `casts` is not float32."""
    normaliser = Normaliser(model.normalisation, model.window[-1], device, dtype)

    def run(batch: torch.Tensor) -> object:
        with autocast(device, casts):
            found = net(normaliser(batch))
        # A network that returns its input, or a view of it, must not have its output overwritten.
        return found.clone() if isinstance(found, torch.Tensor) and normaliser.owns(found) else found

    return run


def _tensors(net: nn.Module) -> list[torch.Tensor]:
    return [*net.parameters(), *net.buffers()]
