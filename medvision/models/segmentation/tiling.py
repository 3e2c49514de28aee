"""How an image is cut into windows for a segmentation network, and how near the result is to one run over the whole.

A network without padding answers only for pixels all of whose surroundings it has seen, so its windows are laid side by
side. One that pads is exact as far from the edges of a window as those have no influence (`reach_of`); windows then
overlap by twice that, and each keeps its core. Where the window is too small for it, or every answer depends on the
whole window, outputs are blended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from medvision.core.errors import UsageError
from medvision.core.geometry import Spacing
from medvision.engine.blend import BLENDS, Blend
from medvision.engine.plan import TilePlan, overlapped
from medvision.models.segmentation.contract import SegmentContract
from medvision.models.segmentation.model import SegmentModel, TemperedClasses, check_window
from medvision.models.segmentation.reach import Reach, reach_of

ChosenBlend = Literal["auto", "none", "constant", "gaussian"]

OVERLAP = 0.5
"""Of windows that are blended, unless another is asked for, as in nnU-Net."""
SEAMLESS = 1e-4
"""Largest difference of a probability from a run over the whole that counts as none: noise of float32."""
_SMALLEST_CORE = 0.4
"""Share of a window's side that its core must have for cores to be worth their price."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Windows of `window` pixels every `step`; `exact` where the result is that of one run over the whole.

    `parted` are the axes along which there is more than one window.
    """

    window: tuple[int, ...]
    step: tuple[int, ...]
    parted: tuple[bool, ...]
    blend: Blend
    exact: bool
    reach: Reach

    @property
    def margin(self) -> tuple[int, ...]:
        """Pixels of a window, before each side, that get no answer."""
        return self.reach.margin

    @property
    def halo(self) -> tuple[int, ...]:
        """Pixels between the edge of what a window answers for and its core, in the middle of an image."""
        return tuple(
            (side - 2 * lost - by) // 2
            for side, lost, by in zip(self.window, self.margin, self.step, strict=True)
        )

    def plan(self, source_id: str, extent: tuple[int, ...], spacing: Spacing | None = None) -> TilePlan:
        """The windows over an image of `extent` pixels, which is mirrored where they leave it."""
        return overlapped(
            source_id,
            extent,
            self.window,
            self.step,
            margin=self.margin,
            multiple=self.reach.multiple,
            spacing=spacing,
        )


def choose_tiling(
    contract: SegmentContract,
    extent: tuple[int, ...],
    *,
    blend: ChosenBlend = "auto",
    overlap: float | None = None,
    halo: int | None = None,
    window: tuple[int, ...] | None = None,
) -> Tiling:
    """Windows for an image of `extent` pixels.

    Args:
        contract: of the network.
        extent: in pixels of the network's spacing.
        blend: "auto" takes cores where they are exact, else a Gaussian blend.
        overlap: share of a window's answers that its neighbour gives too, 0 to below 1.
        halo: pixels between the edge of what a window answers for and its core, in place of `overlap`.
        window: in place of the contract's. A window larger than the image is made as small as the image allows.

    Raises:
        UsageError: for a window that the network cannot take, or an overlap or halo that leaves no core.
    """
    asked = contract if window is None else contract.model_copy(update={"window": window})
    check_window(asked)
    if len(asked.window) != len(extent):
        raise UsageError(f"a window of {asked.window} does not fit an image of {len(extent)} axes")
    if overlap is not None and halo is not None:
        raise UsageError("an overlap and a halo say the same: give one of them")
    reach = reach_of(asked)
    if min(asked.window) < reach.least:
        raise UsageError(
            f"network {contract.architecture!r} gives no answer for a window of {asked.window}; the smallest side is "
            f"{reach.least}"
        )
    sides = tuple(
        min(side, _side_for(n, lost, reach))
        for side, n, lost in zip(asked.window, extent, reach.margin, strict=True)
    )
    answered = tuple(side - 2 * lost for side, lost in zip(sides, reach.margin, strict=True))
    parted = tuple(n > side for n, side in zip(extent, answered, strict=True))
    step = _asked_step(answered, overlap, halo) or _usual_step(answered, parted, blend, reach)
    step = tuple(max(1, by // reach.multiple) * reach.multiple for by in step)
    exact = {one: _is_exact(answered, step, parted, one, reach) for one in BLENDS}
    chosen: Blend = ("none" if exact["none"] else "gaussian") if blend == "auto" else blend
    return Tiling(sides, step, parted, chosen, exact[chosen], reach)


def seam_difference(model: SegmentModel, net: nn.Module, tiling: Tiling) -> float:
    """Largest difference of a probability between two windows side by side and one run over both, on noise.

    Measured along each axis that is parted, on strips as narrow as the network takes, with `net`, which holds the
    model's weights.
    """
    contract, reach = model.contract, tiling.reach
    activation = TemperedClasses(contract.temperature)
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    worst = 0.0
    for axis, (side, by, lost) in enumerate(zip(tiling.window, tiling.step, tiling.margin, strict=True)):
        if not tiling.parted[axis]:
            continue
        shape = [reach.least] * len(tiling.window)
        shape[axis] = side + by
        random = torch.Generator().manual_seed(axis)
        whole = torch.randn((1, contract.channels, *shape), generator=random).to(device)
        with torch.inference_mode():
            one = activation(net(whole)).movedim(2 + axis, 0)
            two = [activation(net(whole.narrow(2 + axis, k * by, side))).movedim(2 + axis, 0) for k in (0, 1)]
        middle = (by + side - 2 * lost) // 2
        pairs = ((one[:middle], two[0][:middle]), (one[middle:], two[1][middle - by :]))
        worst = max(worst, *(float((a - b).abs().max()) for a, b in pairs))
    return worst


def _asked_step(answered: tuple[int, ...], overlap: float | None, halo: int | None) -> tuple[int, ...] | None:
    if overlap is not None:
        if not 0 <= overlap < 1:
            raise UsageError(f"an overlap of {overlap:g} does not lie between 0 and below 1")
        return tuple(int(n * (1 - overlap)) for n in answered)
    if halo is None:
        return None
    if halo < 0 or any(n - 2 * halo < 1 for n in answered):
        raise UsageError(f"a halo of {halo} px leaves nothing of a window that answers for {answered} px")
    return tuple(n - 2 * halo for n in answered)


def _usual_step(
    answered: tuple[int, ...], parted: tuple[bool, ...], blend: ChosenBlend, reach: Reach
) -> tuple[int, ...]:
    """Side by side without padding; with it as far apart as cores are exact, where that leaves enough of them."""
    if any(reach.margin) or not any(parted):
        return answered
    if blend in ("auto", "none") and reach.influence is not None:
        gaps = (2 * far * more for far, more in zip(reach.influence, parted, strict=True))
        step = tuple(n - gap for n, gap in zip(answered, gaps, strict=True))
        if all(by >= _SMALLEST_CORE * n for by, n in zip(step, answered, strict=True)):
            return step
    return tuple(int(n * (1 - OVERLAP)) for n in answered)


def _side_for(pixels: int, lost: int, reach: Reach) -> int:
    """The smallest side whose answers cover so many pixels."""
    beyond = max(0, pixels + 2 * lost - reach.least)
    return reach.least + -(-beyond // reach.multiple) * reach.multiple


def _is_exact(
    answered: tuple[int, ...], step: tuple[int, ...], parted: tuple[bool, ...], blend: Blend, reach: Reach
) -> bool:
    if not any(parted):
        return True
    if reach.influence is None:
        return False
    return any(reach.margin) or (
        blend == "none"
        and all(
            not more or (side - by) // 2 >= far
            for more, side, by, far in zip(parted, answered, step, reach.influence, strict=True)
        )
    )
