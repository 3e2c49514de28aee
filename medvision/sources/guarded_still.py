"""Untrusted still images: `read_still_guarded` is `read_still` in a process of its own, like `open_guarded`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medvision.core.errors import UnreadableSourceError, UsageError, WindowUnreadableError
from medvision.core.geometry import Box
from medvision.sources.base import UINT8
from medvision.sources.faults import MAX_FLAT_PIXELS, check_pixels
from medvision.sources.guarded import GuardedSource
from medvision.sources.guarded_keeper import Keeper
from medvision.sources.guarded_process import Limits
from medvision.sources.still_image import StillImage, Window, Windowing, check_window


def read_still_guarded(
    path: str | Path, window: Window = None, frame: int | None = None, limits: Limits | None = None
) -> StillImage:
    """`read_still` in a process of its own, with `limits`. The same image, the same errors, and these besides.

    Raises:
        UnreadableSourceError: also where two processes in a row died, took too long or wanted too much memory over the
            file.
        UsageError: also if the system is not Linux.
    """
    if not hasattr(os, "memfd_create"):
        raise UsageError("reading in a guarded process needs Linux; read the image without it")
    path = Path(path)
    check_window(window)
    keeper = Keeper(path, limits or Limits(), {"window": window, "frame": frame})
    try:
        found = keeper.facts
        try:
            still = _checked(found.still)
        except (ValueError, TypeError, KeyError):
            raise UnreadableSourceError(
                f"{path}: cannot be read: the reading process answered out of form"
            ) from None
        shape = found.levels[0].shape
        check_pixels(str(path), shape, MAX_FLAT_PIXELS)
        if found.channels != (1 if still["grey"] else 3) or found.dtype != UINT8 or found.axes != "yx":
            raise UnreadableSourceError(f"{path}: cannot be read: the reading process answered out of form")
        try:
            pixels = GuardedSource(path, keeper).read(Box((0, 0), shape))
        except WindowUnreadableError as error:
            raise UnreadableSourceError(str(error)) from error
    finally:
        keeper.close()
    how, low, high, inverted = still["windowing"]
    return StillImage(
        pixels=np.ascontiguousarray(pixels[..., 0]) if still["grey"] else pixels,
        windowing=Windowing(how, low, high, inverted),
        bits=still["bits"],
        kind=found.reader,
        digest=still["digest"],
        metadata=found.metadata,
    )


def _checked(told: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What the other process said, if that is what an honest one says; else `ValueError` or the like."""
    if told is None:
        raise ValueError("nothing was said")
    digest, bits, (how, low, high, inverted) = told["digest"], told["bits"], told["windowing"]
    sound = (
        isinstance(digest, str)
        and len(digest) == 64
        and set(digest) <= set("0123456789abcdef")
        and type(bits) is int
        and 1 <= bits <= 64
        and isinstance(how, str)
        and len(how) < 200
        and all(end is None or (isinstance(end, float | int) and math.isfinite(end)) for end in (low, high))
        and type(inverted) is bool
        and type(told["grey"]) is bool
    )
    if not sound:
        raise ValueError("out of form")
    return told
