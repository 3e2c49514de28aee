"""Where and how precisely a network learns: Hugging Face Accelerate, told everything and asking nobody."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from medvision.core.errors import UsageError

Precision = Literal["float32", "bfloat16", "float16"]
"""Of the products of a network; float16 needs a GPU."""

Device = Literal["auto", "cpu", "cuda"]

_NAMES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def accelerate(precision: Precision, device: Device) -> Accelerator:
    """What moves a network to its device, scales its gradients and joins the processes of a distributed run.

    Accelerate keeps its choices for the whole process. They are forgotten first, so that each run makes its own; the
    group of processes, which can be joined once only, stays.

    Raises:
        UsageError: if the precision is unknown or the device is not there or cannot compute so.
    """
    if precision not in _NAMES:
        raise UsageError(f"precision {precision!r} unknown; known: {', '.join(_NAMES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' is not available here; known: auto, cpu")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if precision == "float16" and on_cpu:
        raise UsageError("precision 'float16' needs a GPU; on the CPU use bfloat16 or float32")
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(mixed_precision=_NAMES[precision], cpu=on_cpu)


def without_hooks(net: nn.Module) -> nn.Module:
    """A copy of a network that is still learning, on the CPU, without what the loop has hung on it."""
    twin = copy.deepcopy(net)
    for part in twin.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return twin.cpu().eval()
