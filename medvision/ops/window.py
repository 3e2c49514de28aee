"""Values of any range as grey of 0 to 255: the window of a screen, a report, a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

HU_WINDOWS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "lung": (-1000.0, 400.0),
        "mediastinum": (-160.0, 240.0),
        "bone": (-450.0, 1050.0),
        "brain": (0.0, 80.0),
        "full": (-1024.0, 3071.0),
    }
)
"""Hounsfield units shown black and white, by the name of what they are for. "lung" is the usual one of LUNA16
entries."""


def between(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """255 * (value - low) / (high - low), rounded and cut to 0..255; of equal ends, 0 up to them and 255 above.

    Of any shape. NaN is 0.
    """
    if high <= low:
        return np.where(values > low, 255, 0).astype(np.uint8)
    scaled = np.subtract(values, low, dtype=np.float64)
    scaled *= 255 / (high - low)
    scaled += 0.5
    np.clip(scaled, 0, 255, out=scaled)
    if values.dtype.kind == "f":
        np.nan_to_num(scaled, copy=False)
    return np.asarray(scaled.astype(np.uint8))
