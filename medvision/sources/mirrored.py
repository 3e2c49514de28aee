"""Reading beyond the edge of an image: the image mirrored at its first and last pixels.

This is how U-Net sees what lies outside (Ronneberger et al., MICCAI 2015, the overlap-tile strategy). The edge pixels
themselves are not repeated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from medvision.core.geometry import Box
from medvision.sources.base import Values


def read_mirrored(read: Callable[[Box], Values], box: Box, extent: tuple[int, ...]) -> Values:
    """`(*box.shape, channels)` of an image of `extent` that goes on mirrored on all sides, as often as it takes.

    `read` gives pixels of a box inside the image; it is asked once.
    """
    picks = [mirrored(a, b, n) for a, b, n in zip(box.start, box.stop, extent, strict=True)]
    first = tuple(int(pick.min()) for pick in picks)
    inside = read(Box(first, tuple(int(pick.max()) + 1 for pick in picks)))
    return inside[np.ix_(*(pick - start for pick, start in zip(picks, first, strict=True)))]


def mirrored(start: int, stop: int, length: int) -> npt.NDArray[np.int64]:
    """The pixels, of `length` along an axis, that stand at places `start` to `stop`.

    >>> mirrored(-2, 5, 3).tolist()
    [2, 1, 0, 1, 2, 1, 0]
    """
    period = max(1, 2 * (length - 1))
    at = np.arange(start, stop, dtype=np.int64) % period
    return np.minimum(at, period - at)
