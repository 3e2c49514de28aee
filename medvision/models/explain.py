"""Where in an image a class shows, by the network's own gradients: Grad-CAM (Selvaraju et al., ICCV 2017).

With the last spatial feature map A (channels k, places i, j) and the logit y of a class,

    w_k = mean over i, j of dy / dA_kij        map_ij = max(0, sum over k of w_k A_kij)

For a network that ends in global average pooling and one linear layer, w_k is that layer's weight over the number of
places, and the map is the class activation map of Zhou et al. (CVPR 2016) up to this factor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.engine.contract import PatchModel


@dataclass(frozen=True, slots=True)
class LastMap:
    """The module whose output is the last spatial feature map, and the map's shape: channels, rows, columns."""

    module: str
    shape: tuple[int, int, int]


class GradCam(nn.Module):
    """Maps `(n, rows, columns)` of one class for float images `(n, channels, side, side)`.

    It can be run where gradients are off, in inference mode even: they are computed from the feature map to the logit
    only, and the network's weights get none.
    """

    def __init__(self, net: nn.Module, last: LastMap, index: int) -> None:
        """`index` counts in the classes."""
        super().__init__()
        self.net = net
        self.last = last
        self.index = index

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The maps, as large as the feature map; not scaled."""
        held: list[torch.Tensor] = []

        def from_here(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            """Let gradients begin here; a copy goes on, as the next layer may write into its input."""
            torch.set_grad_enabled(True)
            held[:] = [output.detach().requires_grad_()]
            return held[0].clone()

        # What was made in inference mode can take no part in gradients; a copy made outside can. The context puts
        # back the mode that the hook changes.
        with torch.inference_mode(False), torch.no_grad():
            hook = self.net.get_submodule(self.last.module).register_forward_hook(from_here)
            try:
                logits = self.net(images.clone())
            finally:
                hook.remove()
            features = held[0]
            (slopes,) = torch.autograd.grad(logits[:, self.index].sum(), features)
            weights = slopes.mean(dim=(2, 3), keepdim=True)
            return torch.relu((weights * features.detach()).sum(dim=1))


def gradcam_model(model: PatchModel, last: LastMap, index: int) -> PatchModel:
    """What the engine runs to get the maps of a class from a classifier of whole images."""
    return replace(
        model,
        net=GradCam(model.net, last, index).eval(),
        output="array",
        digest=digest_json(["gradcam", last.module, index, model.digest]),
    )


def last_map(net: nn.Module, side: int) -> LastMap:
    """The last spatial feature map of a classifier: the last output `(1, channels, rows, columns)`, not 1 x 1, through
    which all goes that the network knows of the image; an output beside which others pass, as in a branch, is not one.

    Found by computing an image of `side` pixels, in the order in which modules end, so that of a block and its last
    layer the block counts. The network must be in evaluation mode.

    Raises:
        UsageError: if there is none, or what comes after it is arranged in space all the same, as in transformers.
    """
    own = next(iter(net.parameters()), torch.zeros(()))
    image = torch.zeros((1, 3, side, side), device=own.device, dtype=own.dtype)
    ended = _shapes(net, image)
    for number in range(len(ended) - 1, -1, -1):
        name, shape = ended[number]
        if _is_tokens(shape):
            break
        if _is_map(shape) and _is_passed_by_all(net, name, image):
            return LastMap(name, (shape[1], shape[2], shape[3]))
    raise UsageError(
        f"{type(net).__name__} has no last feature map in rows and columns, which Grad-CAM needs; "
        "use --saliency occlusion"
    )


def _shapes(net: nn.Module, image: torch.Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Names of the modules as they end, with the shapes of their outputs."""
    ended: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: object) -> None:
            if isinstance(output, torch.Tensor):
                ended.append((name, tuple(output.shape)))

        return hook

    hooks = [part.register_forward_hook(note(name)) for name, part in net.named_modules() if name]
    try:
        with torch.no_grad():
            net(image)
    finally:
        for hook in hooks:
            hook.remove()
    return ended


def _is_passed_by_all(net: nn.Module, name: str, image: torch.Tensor) -> bool:
    """Whether the logits know the image through the output of this module only: cut there, no gradient arrives."""
    watched = image.clone().requires_grad_()
    hook = net.get_submodule(name).register_forward_hook(lambda _m, _i, output: output.detach())
    try:
        with torch.enable_grad():
            logits = net(watched)
            if not logits.requires_grad:
                return True
            (slope,) = torch.autograd.grad(logits.sum(), watched, allow_unused=True)
    finally:
        hook.remove()
    return slope is None


def _is_map(shape: tuple[int, ...]) -> bool:
    """Square images have square maps; channels may also come last, as `(1, rows, columns, channels)`."""
    return len(shape) == 4 and shape[2] == shape[3] > 1


def _is_tokens(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 or (
        len(shape) == 4 and not _is_map(shape) and max(shape[1:3]) > 1 and shape[3] > 1
    )
