"""Where a classifier stops to be a function of place: its trunk, its head, and what in the trunk looks beyond."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.utils._python_dispatch import TorchDispatchMode

_PADDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d)
_MARGIN = 192
"""Pixels by which an input is enlarged to see which maps grow; a multiple of every usual stride."""


class NotDenseError(Exception):
    """Why a network has no dense view, in words that follow "because"."""


@dataclass(frozen=True, eq=False)
class Parts:
    """A classifier in two, `head(trunk(x))`.

    `stride` is the trunk's in pixels, `features` the size of the maps of one window, `head_share` the
    head's share of the multiplications of one window, `obstacles` what keeps dense scores
    from being equal to those of single windows.
    """

    trunk: nn.Module
    head: nn.Module
    stride: int
    features: tuple[int, int]
    head_share: float
    obstacles: tuple[str, ...]


def split_classifier(net: nn.Module, window: tuple[int, int], channels: int) -> Parts:
    """`net` as trunk and head. Modules of `net` move into the parts, and those that average over a window are replaced.

    Raises:
        NotDenseError: if its features do not form maps that grow with the input.
    """
    with torch.no_grad():
        # Shapes alone are wanted here: they are found on sketches, whose tensors hold no values.
        small = torch.empty((1, channels, *window), device="meta")
        if hasattr(net, "forward_features") and hasattr(net, "forward_head"):
            trunk: nn.Module = _TimmTrunk(net)
            head: nn.Module = _TimmHead(net)
        else:
            trunk, head = _split_graph(net, small)
        sketch = _sketch(trunk)
        features = _maps(sketch, small)
        stride = _total_stride(sketch, features, small)
        share = _head_share(sketch, _sketch(head), small)
        sizes = _sizes_of_means(sketch, small)
        obstacles = _obstacles(sketch, small)
    _slide_means(trunk, sizes)
    return Parts(trunk, head, stride, (features[2], features[3]), share, obstacles)


class _TimmTrunk(nn.Module):
    """The half of a timm classifier before its pooling."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.net.forward_features(pixels)  # type: ignore[operator]
        return maps


class _TimmHead(nn.Module):
    """The half of a timm classifier from its pooling on."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        raw: torch.Tensor = self.net.forward_head(maps)  # type: ignore[operator]
        return raw


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of every tensor on the way."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation."""
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.seen[n.name] = tuple(value.shape)
        return value


def _sketch(module: nn.Module) -> nn.Module:
    """A copy that computes shapes only."""
    tensors: dict[int, Any] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        empty = torch.empty_like(tensor, device="meta")
        tensors[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    sketch = copy.deepcopy(module, tensors)
    for name in [n for n, part in sketch.named_modules() if isinstance(part, nn.BatchNorm2d) and n]:
        sketch.set_submodule(name, nn.Identity())  # of the same shape, and much faster to follow
    return sketch


def _split_graph(net: nn.Module, small: torch.Tensor) -> tuple[nn.Module, nn.Module]:
    """Cut at the last value through which everything flows and which still is a map that grows with the input."""
    try:
        traced = fx.symbolic_trace(net)
    except (ValueError, TypeError, RuntimeError, AssertionError, NameError) as error:
        raise NotDenseError(f"its layers cannot be followed ({error})") from error
    sketch = _sketch(traced)
    assert isinstance(sketch, fx.GraphModule), "a copy is of the same type"
    near, far = _Shapes(sketch), _Shapes(sketch)
    near.run(small)
    # A head of a fixed size fails on a larger input; what came before it is noted.
    with contextlib.suppress(RuntimeError, AssertionError):
        far.run(small.new_empty((*small.shape[:2], *(n + _MARGIN for n in small.shape[2:]))))
    nodes = list(traced.graph.nodes)
    cut = None
    live: set[fx.Node] = set()
    left = {node: len(node.users) for node in nodes}
    for node in nodes:
        for used in node.all_input_nodes:
            left[used] -= 1
            if not left[used]:
                live.discard(used)
        if left[node]:
            live.add(node)
        grows = _grows(near.seen.get(node.name, ()), far.seen.get(node.name, ()))
        if live == {node} and node.op != "placeholder" and grows:
            cut = node
    if cut is None:
        raise NotDenseError("no layer of it gives maps that grow with the input")
    return _cut(traced, nodes, cut)


def _grows(near: tuple[int, ...], far: tuple[int, ...]) -> bool:
    return len(near) == len(far) == 4 and near[:2] == far[:2] and near[2] < far[2] and near[3] < far[3]


def _cut(traced: fx.GraphModule, nodes: list[fx.Node], cut: fx.Node) -> tuple[nn.Module, nn.Module]:
    first, second = fx.Graph(), fx.Graph()
    place = nodes.index(cut) + 1
    copied: dict[fx.Node, fx.Node] = {}
    for node in nodes[:place]:
        copied[node] = first.node_copy(node, copied.__getitem__)
    first.output(copied[cut])
    copied = {cut: second.placeholder("maps")}
    for node in nodes[place:]:
        copied[node] = second.node_copy(node, copied.__getitem__)
    trunk = fx.GraphModule(traced, first).eval()
    # Convolutions take their normalisation in: a block's largest maps are then held once, not twice.
    shared = {id(tensor) for tensor in traced.parameters()}
    fused = fuse(trunk, inplace=True, no_trace=True)
    for convolution in (part for part in fused.modules() if isinstance(part, nn.Conv2d)):
        if id(convolution.weight) not in shared:
            # In the order of the pixels, so that they need not be turned round for every block.
            convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)
    return fused, fx.GraphModule(traced, second).eval()


def _maps(trunk: nn.Module, pixels: torch.Tensor) -> tuple[int, ...]:
    """Shape of the maps of some pixels."""
    try:
        maps = trunk(pixels)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise NotDenseError(f"it takes no other input size than its own ({error})") from error
    if not isinstance(maps, torch.Tensor) or maps.ndim != 4:
        found = tuple(maps.shape) if isinstance(maps, torch.Tensor) else type(maps).__name__
        raise NotDenseError(f"its features are no maps (n, channels, rows, columns) but {found}")
    return tuple(maps.shape)


def _total_stride(trunk: nn.Module, features: tuple[int, ...], small: torch.Tensor) -> int:
    """Pixels from one place of the maps to the next, the same along both axes and everywhere."""
    window = small.shape[2:]

    def grown(by: int) -> tuple[int, ...]:
        shape = _maps(trunk, small.new_empty((*small.shape[:2], *(n + by for n in window))))
        if not _grows(features, shape):
            raise NotDenseError(f"its maps of {features} do not grow with the input (to {shape})")
        return shape

    rows, columns = (b - a for a, b in zip(features[2:], grown(_MARGIN)[2:], strict=True))
    stride = round(_MARGIN / rows)
    if rows != columns or any(b - a != 3 for a, b in zip(features[2:], grown(3 * stride)[2:], strict=True)):
        raise NotDenseError(f"its maps do not grow evenly with the input ({rows} rows for {_MARGIN} px)")
    return stride


def _obstacles(trunk: nn.Module, small: torch.Tensor) -> tuple[str, ...]:
    """What in the trunk sees the border of a window, or all of it. Modules that do not run there do not count."""
    modules: list[nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda ran, _inputs: modules.append(ran))
        for module in trunk.modules()
    ]
    trunk(small)
    for hook in hooks:
        hook.remove()
    padded = sum(isinstance(module, _PADDED) and _pads(module) for module in modules)
    ceiled = sum(bool(getattr(module, "ceil_mode", False)) for module in modules)
    norms = sum(isinstance(module, (nn.InstanceNorm2d, nn.GroupNorm)) for module in modules)
    squeezes = sum(isinstance(module, nn.AdaptiveAvgPool2d) for module in modules)
    found = {
        "pad their input": padded,
        "pool beyond the border": ceiled,
        "normalise over the whole window": norms,
        "average over the whole window": squeezes,
    }
    return tuple(f"{count} of its layers {words}" for words, count in found.items() if count)


def _pads(module: nn.Module) -> bool:
    padding = getattr(module, "padding", 0)
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, tuple) else padding > 0


class SlidingMean(nn.Module):
    """Mean over a neighbourhood of a window's size around each place, of what lies inside the maps; same shape."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """One axis after the other; an even size takes its extra place before the centre."""
        for axis, size in enumerate(self.size):
            length = maps.shape[2 + axis]
            kernel = (size, 1) if axis == 0 else (1, size)
            padding = (size // 2, 0) if axis == 0 else (0, size // 2)
            maps = nn.functional.avg_pool2d(maps, kernel, 1, padding, count_include_pad=False)
            maps = maps.narrow(2 + axis, 0, length)
        return maps


class SlidingNorm(nn.Module):
    """Instance normalisation with the mean and deviation of a window's size around each place."""

    def __init__(self, norm: nn.InstanceNorm2d, size: tuple[int, int]) -> None:
        super().__init__()
        self.mean = SlidingMean(size)
        self.eps = norm.eps
        self.weight: nn.Parameter | None = norm.weight  # None where the norm is not affine
        self.bias = norm.bias

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps of the same shape."""
        mean = self.mean(maps)
        variance = (self.mean(maps * maps) - mean * mean).clamp_min(0)
        normal: torch.Tensor = (maps - mean) * torch.rsqrt(variance + self.eps)
        return (
            normal if self.weight is None else normal * self.weight[:, None, None] + self.bias[:, None, None]
        )


def _sizes_of_means(trunk: nn.Module, small: torch.Tensor) -> dict[str, tuple[int, int]]:
    """The modules that normalise or average over a window, with the size that the maps of one window have there."""
    sizes: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            sizes[name] = (inputs[0].shape[2], inputs[0].shape[3])

        return hook

    hooks = []
    for name, module in trunk.named_modules():
        norm = isinstance(module, nn.InstanceNorm2d) and not module.track_running_stats
        squeeze = isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))
        if norm or squeeze:
            hooks.append(module.register_forward_pre_hook(note(name)))
    trunk(small)
    for hook in hooks:
        hook.remove()
    return sizes


def _slide_means(trunk: nn.Module, sizes: dict[str, tuple[int, int]]) -> None:
    """Replace what normalises or averages over the window by its sliding form of the size it has there."""
    for name, size in sizes.items():
        module = trunk.get_submodule(name)
        sliding = SlidingNorm(module, size) if isinstance(module, nn.InstanceNorm2d) else SlidingMean(size)
        trunk.set_submodule(name, sliding)


class _Multiplications(TorchDispatchMode):
    """Counts the multiplications of convolutions and matrix products. torch's own counter imports Triton: 75 MB."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation."""
        aten, named = torch.ops.aten, kwargs or {}
        if func is aten.convolution.default:
            each = args[1].numel() // args[1].shape[0]
        elif func in (aten.mm.default, aten.bmm.default):
            each = args[0].shape[-1]
        elif func in (aten.addmm.default, aten.baddbmm.default):
            each = args[1].shape[-1]
        else:
            each = 0
            with self:  # what is made of others is counted by them
                made = func.decompose(*args, **named)
            if made is not NotImplemented:
                return made
        made = func(*args, **named)
        self.count += each * made.numel() if each else 0
        return made


def _head_share(trunk: nn.Module, head: nn.Module, small: torch.Tensor) -> float:
    """Share of the head in the multiplications of one window; 0 where nothing is multiplied."""
    with _Multiplications() as of_trunk:
        maps = trunk(small)
    with _Multiplications() as of_head:
        head(maps)
    total = of_trunk.count + of_head.count
    return of_head.count / total if total else 0.0
