"""Batch normalisation folded into the convolution before it: the same function with one pass over memory less.

In evaluation mode a batch normalisation is one multiplication and addition per channel, which the convolution's weights
can carry (Jacob et al., "Quantization and Training of Neural Networks", CVPR 2018, section 3.2).
"""

from __future__ import annotations

import copy
from collections import Counter

from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# What code written for tensors raises when it is given a symbol instead.
_UNTRACEABLE = (TraceError, TypeError, ValueError, AttributeError, IndexError, KeyError, RuntimeError)


def fold_norms(net: nn.Module) -> tuple[nn.Module, int]:
    """A copy of `net` in evaluation mode with every foldable normalisation folded, and how many were.

    Only a pair of plain torch modules is folded, each of which is called once and the first of which feeds nothing but
    the second, as a symbolic trace of the network shows. What cannot be traced is
    copied as it is. `net` is not changed.
    """
    twin = copy.deepcopy(net).eval()
    kinds = {type(module) for module in twin.modules()}
    if not kinds.intersection(_CONVOLUTIONS) or not kinds.intersection(_NORMS):
        return twin, 0
    pairs = _pairs(twin)
    for first, second in pairs:
        convolution, norm = twin.get_submodule(first), twin.get_submodule(second)
        folded = fuse_conv_bn_eval(convolution, norm)  # type: ignore[type-var,arg-type]
        _replace(twin, first, folded)
        _replace(twin, second, nn.Identity())
    return twin, len(pairs)


def is_traceable(net: nn.Module) -> bool:
    """Whether the network does the same whatever values it sees, so that a recording of one call stands for all."""
    try:
        fx.Tracer().trace(copy.deepcopy(net).eval())
    except _UNTRACEABLE:
        return False
    return True


def _pairs(net: nn.Module) -> list[tuple[str, str]]:
    """Paths of convolutions and of the normalisations that follow them."""
    try:
        # Tracing runs the network's own code: on a copy, so that what that code counts or keeps is not touched.
        nodes = list(fx.Tracer().trace(copy.deepcopy(net)).nodes)
    except _UNTRACEABLE:
        return []
    calls = {node: net.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"}
    times = Counter(id(module) for module in calls.values())
    found = []
    for node, module in calls.items():
        before = node.args[0] if node.args else None
        if type(module) not in _NORMS or not isinstance(before, fx.Node) or before not in calls:
            continue
        source = calls[before]
        plain = all(
            times[id(m)] == 1 and not m._forward_hooks and not m._forward_pre_hooks for m in (source, module)
        )
        # `fuse_conv_bn_eval` needs the statistics, which some normalisations do not keep.
        kept = module.running_mean is not None and module.running_var is not None
        if type(source) in _CONVOLUTIONS and plain and kept and len(before.users) == 1:
            found.append((str(before.target), str(node.target)))
    return found


def _replace(net: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)
