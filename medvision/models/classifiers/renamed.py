"""Published tensors under the names of another port of the same network, renamed to those that we load.

The EfficientNets of the packages `efficientnet_pytorch` and `efficientnet_lite_pytorch` (converted from TensorFlow's
weights of Tan and Le, ICML 2019) are those of timm's `tf_efficientnet_*`: the same tensors, called otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

State = dict[str, torch.Tensor]

_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_BLOCK = re.compile(r"^_blocks\.(\d+)\.(\w+)\.(.+)$")
_OWN_BLOCK = re.compile(r"^blocks\.(\d+)\.(\d+)\.")


def renamed(state: State, own: Iterable[str]) -> State:
    """`state` with the names of timm where it has the other port's, else as it is; `own` are the network's names.

    The other port counts blocks through, timm within stages: the n-th block of one is the n-th of the other. A tensor
    that has no counterpart keeps its name, so that loading it says what is wrong.
    """
    if "_conv_stem.weight" not in state:
        return state
    blocks = sorted({(int(m[1]), int(m[2])) for name in own if (m := _OWN_BLOCK.match(name))})
    expanding = {m[1] for name in state if (m := _BLOCK.match(name)) and m[2] == "_expand_conv"}

    def new(name: str) -> str:
        found = _BLOCK.match(name)
        if found is None:
            part, _, rest = name.partition(".")
            return f"{_OUTER.get(part, part)}.{rest}"
        number, part, rest = found.groups()
        known = _SQUEEZE | (_INVERTED if number in expanding else _SEPARABLE)
        if int(number) >= len(blocks) or part not in known:
            return name
        stage, place = blocks[int(number)]
        return f"blocks.{stage}.{place}.{known[part]}.{rest}"

    return {new(name): value for name, value in state.items()}
