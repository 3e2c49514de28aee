"""From the values of an image to those that a network is given: alike in training and in use."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.models.segmentation.contract import SegmentContract

# Luma of ITU-R BT.601, as image files in grey are made.
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def value_ends(values: npt.NDArray[Any], contract: SegmentContract) -> tuple[float, float]:
    """The values that count as 0 and 1: the contract's, or its percentiles of all `values` of the source."""
    return contract.range if contract.intensity == "fixed" else percentile_ends(values, contract.range)


def percentile_ends(values: npt.NDArray[Any], shares: tuple[float, float]) -> tuple[float, float]:
    """Two percentiles, 0 to 100, of `values`; 1 apart where all values are one."""
    low, high = (float(end) for end in np.percentile(values, shares))
    return (low, high) if low < high else (low, low + 1.0)


def with_channels(values: npt.NDArray[Any], contract: SegmentContract, name: str) -> npt.NDArray[Any]:
    """`values` `(*shape, channels)`, or `(*shape)`, with the network's channels: grey thrice, or colours' brightness.

    Raises:
        UsageError: for any other number of channels than the network's; it names `name`.
    """
    pixels = values if values.ndim > len(contract.window) else values[..., None]
    if pixels.shape[-1] == contract.channels:
        return pixels
    if contract.channels == 3 and pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    if contract.channels == 1 and pixels.shape[-1] == 3:
        grey: npt.NDArray[np.uint8] = np.rint(pixels.astype(np.float32) @ _GREY)[..., None].astype(np.uint8)
        return grey
    raise UsageError(
        f"{name}: has {pixels.shape[-1]} channels, and network {contract.architecture!r} takes {contract.channels}"
    )
