"""Images that look alike: a hash of what is seen at a glance, and the pairs of hashes that differ in few bits.

The hash is the sign pattern of an image's low frequencies (Zauner 2010, pHash), here 12 x 12 of them: with the usual
8 x 8 any two chest X-rays are near each other, because they show the same scene.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.bool_]
"""Hashes `(n, BITS)`."""

SIDE = 32
"""Pixels a side of the thumbnail that is hashed."""
LOW = 12
"""Frequencies kept along each axis, the mean among them."""
BITS = LOW * LOW
LEAST_CONTRAST = 2.0
"""Standard deviation of a thumbnail's grey values (0..255) below which there is nothing to recognise an image by."""

_BLOCK = 1024


def perceptual_hash(image: npt.NDArray[np.uint8]) -> tuple[Bits, float]:
    """Hash `(BITS,)` of a grey `(rows, columns)` or RGB `(rows, columns, 3)` image, and its thumbnail's contrast.

    The hash is kept by changes of size, brightness, contrast and compression; a crop, a turn or a mirror changes it. Of
    an image with a contrast below `LEAST_CONTRAST` it is noise.
    """
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    how = cv2.INTER_AREA if min(grey.shape) >= SIDE else cv2.INTER_LINEAR
    small = cv2.resize(grey.astype(np.float32), (SIDE, SIDE), interpolation=how)
    waves = cv2.dct(small)[:LOW, :LOW].ravel()
    return waves > np.median(waves), float(small.std())


def near_pairs(hashes: Bits, most: int) -> Iterator[tuple[int, int, int]]:
    """First index, second index and distance of each pair of hashes `(n, BITS)` that differ in at most `most` bits.

    Every pair is looked at, by products of blocks: n * n * BITS additions, in memory that grows with n.
    """
    signs = np.where(hashes, np.float32(1), np.float32(-1))
    bits = hashes.shape[1]
    for first in range(0, len(signs), _BLOCK):
        # Of two sign patterns, the product is the number of equal bits less that of different ones: exact in float32.
        alike = signs[first : first + _BLOCK] @ signs[first:].T
        for row, column in np.argwhere(alike >= bits - 2 * most):
            if column > row:
                yield int(first + row), int(first + column), round((bits - float(alike[row, column])) / 2)
