"""Runtimes beside torch, which are optional extras: OpenVINO and ONNX Runtime, both fed by one ONNX export.

Nothing here is imported before it is asked for.
"""

from __future__ import annotations

import importlib.util
import io
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from medvision.core.errors import UsageError
from medvision.engine.contract import PatchModel
from medvision.engine.device import Precision
from medvision.engine.fold import is_traceable

if TYPE_CHECKING:
    from medvision.engine.backends import Raw

_OPSET = 17


def openvino_suits(model: PatchModel, device: torch.device) -> bool:
    """Whether "auto" should consider OpenVINO: installed, an x86 CPU, and a network of probabilities that converts."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if importlib.util.find_spec("openvino") is None or model.output != "scores":
        return False
    convolutions = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    return any(isinstance(part, convolutions) for part in model.net.modules()) and is_traceable(model.net)


def openvino_raw(model: PatchModel, device: torch.device, precision: Precision) -> Raw:
    """The network compiled by OpenVINO for the CPU, on as many threads as torch uses.

    Raises:
        UsageError: if OpenVINO is absent, the device is no CPU, or the network or precision cannot be had.
    """
    _require_cpu("openvino", device)
    # Imported alone, OpenVINO reports its use over the network; without this package it does not. No data leave here.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise _absent("openvino", "openvino") from error
    from medvision.engine.backends import windows_type

    core = openvino.Core()
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        # Bound to cores, the threads of every process on a machine are bound to the same ones, from the first on.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        compiled = core.compile_model(
            core.read_model(io.BytesIO(_exported("openvino", model))), "CPU", options
        )
    except RuntimeError as error:
        raise _inconvertible("openvino", model, error) from error
    # A wish that the processor cannot grant is dropped in silence. One with AVX-512 alone grants it, slowly.
    if precision == "bfloat16" and compiled.get_property("INFERENCE_PRECISION_HINT") != openvino.Type.bf16:
        raise UsageError("backend 'openvino' cannot compute in bfloat16 on this processor; pass float32")
    request = compiled.create_infer_request()
    taken = windows_type(model)

    def run(batch: torch.Tensor) -> torch.Tensor:
        found = request.infer({0: batch.to(taken).contiguous().numpy()}, share_inputs=True)
        return torch.from_numpy(found[0])

    return run


def onnxruntime_raw(model: PatchModel, device: torch.device, precision: Precision) -> Raw:
    """The network run by ONNX Runtime on the CPU, on as many threads as torch uses.

    Raises:
        UsageError: if ONNX Runtime is absent, the device is no CPU, the precision is not float32, or the network
            cannot be exported.
    """
    _require_cpu("onnxruntime", device)
    if precision != "float32":
        raise UsageError(f"backend 'onnxruntime' computes in float32 only, not in {precision}")
    from medvision.engine.backends import windows_type

    try:
        import onnxruntime
    except ImportError as error:
        raise _absent("onnxruntime", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait by spinning would take the cores from the readers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            _exported("onnxruntime", model), options, providers=["CPUExecutionProvider"]
        )
    except RuntimeError as error:
        raise _inconvertible("onnxruntime", model, error) from error

    taken = windows_type(model)

    def run(batch: torch.Tensor) -> torch.Tensor:
        windows = batch.to(taken).contiguous().numpy()
        return torch.from_numpy(session.run(None, {"windows": windows})[0])

    return run


def _exported(backend: str, model: PatchModel) -> bytes:
    """ONNX of the folded network with its normalisation: `(n, *window, channels)` in, what it returns out."""
    from medvision.engine.backends import fused_module, windows_type

    module = fused_module(model, torch.device("cpu"), "float32")
    example = torch.zeros((2, *model.window, len(model.normalisation.mean)), dtype=windows_type(model))
    file = io.BytesIO()
    try:
        with warnings.catch_warnings(), _export_log_off(), torch.inference_mode():
            # The exporter by tracing takes a second and needs no further package; the newer takes ten and needs three.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example,),
                file,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=_OPSET,
                input_names=["windows"],
                output_names=["outputs"],
                dynamic_axes={"windows": {0: "n"}, "outputs": {0: "n"}},
            )
    except (RuntimeError, TypeError, ValueError) as error:
        raise _inconvertible(backend, model, error) from error
    return file.getvalue()


@contextmanager
def _export_log_off() -> Iterator[None]:
    """Without this the exporter prints the whole graph of a network that does not convert.

    It takes the function that tells whether its log is on for the answer, which is so always yes.
    """
    name = "_jit_is_onnx_log_enabled"
    asked = getattr(torch._C, name, None)
    if asked is None:
        yield
        return
    setattr(torch._C, name, asked() or None)
    try:
        yield
    finally:
        setattr(torch._C, name, asked)


def _require_cpu(backend: str, device: torch.device) -> None:
    if device.type != "cpu":
        raise UsageError(f"backend {backend!r} runs on the CPU only, not on {device}; pass --device cpu")


def _absent(backend: str, extra: str) -> UsageError:
    return UsageError(f"backend {backend!r} is not installed: pip install 'medvision[{extra}]'")


def _inconvertible(backend: str, model: PatchModel, error: Exception) -> UsageError:
    said = str(error).strip().partition("\n")[0].partition(". ")[0]
    return UsageError(f"model {model.name!r} cannot be converted for backend {backend!r}: {said}")
