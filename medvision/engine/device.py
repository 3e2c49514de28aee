"""Which device and precision a run uses, decided in one place."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from medvision.core.errors import UsageError
from medvision.engine.contract import PatchModel

Precision = Literal["float32", "bfloat16"]


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the first CUDA device, else Apple's MPS, else the CPU.

    Raises:
        UsageError: if that device is not present here, with the ones that are.
    """
    known = available_devices()
    if name == "auto":
        return torch.device(known[1] if len(known) > 1 else "cpu")
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in known:
        raise UsageError(f"device {name!r} is not available here; choose among: auto, {', '.join(known)}")
    return torch.device(wanted)


def available_devices() -> list[str]:
    """Names of the devices present, "cpu" first."""
    cuda = (
        [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *cuda, *mps]


def allowed_precision(name: str, model: PatchModel) -> Precision | None:
    """The precision called `name`; None for "auto", which leaves the choice to the backend.

    Raises:
        UsageError: if there is no such precision, or the model's contract does not allow it.
    """
    if name == "auto":
        return None
    if name == "float32":
        return "float32"
    if name == "bfloat16":
        if name not in model.precisions:
            allowed = ", ".join(model.precisions)
            raise UsageError(f"model {model.name!r} may not run in {name!r}; its contract allows: {allowed}")
        return "bfloat16"
    raise UsageError(f"precision {name!r} is unknown; choose among: auto, float32, bfloat16")


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16: without them it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Context in which the network computes in `precision`."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def is_out_of_memory(error: BaseException) -> bool:
    """True for an allocation failure of the device or, on the CPU, of the host allocator."""
    host = ("not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in host)
