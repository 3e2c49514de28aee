"""A still image as a classifier sees it, and how grey values of any range become 0..255."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.ops.window import between
from medvision.sources.base import Pixels

Grey = npt.NDArray[Any]
"""Grey values `(rows, columns)` of any number type."""

Window = tuple[float, float] | Literal["percentiles", "full"] | None
"""How grey values of more than 8 bits are shown: as 0 at the low value and 255 at the high one, between the image's own
percentiles, over the full range of their bits, or (None) as the file says, which a DICOM file may."""

WINDOWS = (
    "(low, high) in the file's values, 'percentiles' of each image, or 'full' for all that its bits can hold"
)
"""The choices of a window, in words for a person."""

PERCENTILES = (0.5, 99.5)
"""Percentiles of an image's values that become 0 and 255."""


@dataclass(frozen=True, slots=True)
class Windowing:
    """How stored values became 0..255. `low` and `high` are in rescaled values, None where they are shown as stored.

    `how` says in words where they came from. `inverted`: low values are bright in the file's meaning (MONOCHROME1).
    """

    how: str
    low: float | None = None
    high: float | None = None
    inverted: bool = False

    def __str__(self) -> str:
        span = "" if self.low is None else f" {self.low:g} to {self.high:g}"
        return f"{self.how}{span}{', inverted' if self.inverted else ''}"


AS_STORED = Windowing("as stored")


@dataclass(frozen=True, eq=False, slots=True)
class StillImage:
    """One image, upright: `pixels` uint8 grey `(rows, columns)` or RGB `(rows, columns, 3)`.

    `bits` are those stored per sample, `kind` names the format, `digest` is the SHA-256 of the file. `metadata` holds
    allow-listed facts of the acquisition (`medvision.sources.facts`), never what could identify a patient.
    """

    pixels: Pixels
    windowing: Windowing
    bits: int
    kind: str
    digest: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def check_window(window: Window) -> None:
    """Refuse a window that means nothing.

    Raises:
        UsageError: if its ends are not finite or not in order, or its name is unknown.
    """
    if window is None or window in ("percentiles", "full"):
        return
    ends = window if isinstance(window, tuple) and len(window) == 2 else (math.nan, math.nan)
    if not (all(math.isfinite(end) for end in ends) and ends[0] < ends[1]):
        raise UsageError(f"window {window!r} cannot be shown; choose {WINDOWS}")


def windowed(
    values: Grey,
    window: Window,
    full: tuple[float, float] | None,
    counted: npt.NDArray[np.bool_] | None = None,
) -> tuple[Pixels, Windowing]:
    """Grey values `(rows, columns)` as uint8 through a window that is not None, and what was done.

    `full` is the range of the stored bits, None where there is none (floating point). Percentiles are those of the
    values where `counted` is true.

    Raises:
        UsageError: if the full range is asked of values that have none.
    """
    if isinstance(window, tuple):
        how, (low, high) = "given window", window
    elif window == "percentiles":
        how = f"percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g} of the image:"
        within = values if counted is None or not counted.any() else values[counted]
        low, high = (float(end) for end in np.percentile(within, PERCENTILES))
    elif full is None:
        raise UsageError(
            "floating-point values have no full range; give a window as (low, high) or 'percentiles'"
        )
    else:
        how, (low, high) = "full range", full
    return between(values, low, high), Windowing(how, low, high)
