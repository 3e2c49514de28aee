"""Every segmentation network: how far it looks can be found, and what is called exact is exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medvision.models.segmentation import (
    SegmentModel,
    build_segment_net,
    list_segment_nets,
    usual_segment_contract,
)
from medvision.models.segmentation.designs import SEGMENTERS
from medvision.models.segmentation.reach import reach_of
from medvision.models.segmentation.tiling import SEAMLESS, choose_tiling, seam_difference


@pytest.mark.slow
@pytest.mark.parametrize("name", list_segment_nets())
def test_exact_is_exact(name: str) -> None:
    """Two windows side by side with a halo of the network's influence are one run over both, or are found not to be."""
    torch.manual_seed(0)
    contract = usual_segment_contract(name, **SEGMENTERS[name].slim)
    reach = reach_of(contract)
    assert min(reach.margin) >= 0
    if reach.influence is None:
        return
    assert all(far < 2048 for far in reach.influence)
    needed = max(2 * far + reach.multiple for far in reach.influence)
    if any(reach.margin):
        side = contract.window[0]
    else:
        side = reach.least + -(-max(0, needed - reach.least) // reach.multiple) * reach.multiple
    if side > 700:
        pytest.skip(f"cores would need windows of {side} px")
    window = (side,) * len(contract.window)
    model = SegmentModel(name, build_segment_net(contract).eval(), contract)
    tiling = choose_tiling(contract, tuple(4 * n for n in window), window=window, blend="none")
    if not any(reach.margin):
        step = tuple(
            max(1, (n - 2 * far) // reach.multiple) * reach.multiple
            for n, far in zip(window, reach.influence, strict=True)
        )
        tiling = replace(tiling, step=step)
    difference = seam_difference(model, model.net, tiling)
    if reach.multiple > 1:
        assert difference < SEAMLESS
