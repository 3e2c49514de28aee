"""GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004) in OpenCV's form: what is in a box, or near a first guess."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.labels import Labels

_COMPONENTS = 5
"""Gaussians of each of OpenCV's two colour models: each needs a pixel at least."""


def grab_cut(
    image: npt.NDArray[Any],
    *,
    box: tuple[int, int, int, int] | None = None,
    start: npt.NDArray[Any] | None = None,
    margin: int = 3,
    iterations: int = 5,
) -> Labels:
    """1 in the foreground, uint8 `(rows, columns)`; the same at every run.

    Two mixtures of Gaussians model the colours of foreground and background, and a graph cut decides; both in turn.
    Give one of `box` and `start`.

    Args:
        image: uint8 `(rows, columns, 3)` RGB, or `(rows, columns, 1)`.
        box: (top, left, bottom, right), half-open, in pixels; all outside it is background for certain.
        start: a first guess of the foreground, `(rows, columns)`. What lies deeper in it than `margin` is foreground
            for certain, what is farther off background; only the band between is decided.
        margin: of the guess, in pixels.
        iterations: of fitting and cutting.

    Raises:
        UsageError: for another kind of image, or a box or guess that leaves nothing inside or outside.
    """
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.dtype != np.uint8 or 0 in image.shape:
        raise UsageError(f"GrabCut takes uint8 (rows, columns, 1 or 3), not {image.dtype} {image.shape}")
    if (box is None) == (start is None):
        raise UsageError("GrabCut starts from a box or from a first guess: give one of them")
    if iterations < 1 or margin < 0:
        raise UsageError(f"{iterations} iterations must be at least 1, and margin {margin} at least 0")
    bgr = np.ascontiguousarray(np.broadcast_to(image[:, :, ::-1], (*image.shape[:2], 3)))
    mask = _from_box(box, image.shape[:2]) if box is not None else _from_guess(start, image.shape[:2], margin)
    for name, held in (("foreground", (mask & 1) == 1), ("background", (mask & 1) == 0)):
        if int(held.sum()) < _COMPONENTS:
            raise UsageError(f"GrabCut needs {_COMPONENTS} pixels of likely {name} to start from")
    cv2.setRNGSeed(0)  # the mixtures start from a random k-means
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(bgr, mask, (0, 0, 0, 0), background, foreground, iterations, cv2.GC_INIT_WITH_MASK)
    return (mask & 1).astype(np.uint8)  # certain and probable foreground are the odd values


def _from_box(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    top, left, bottom, right = box
    if not (0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1]):
        raise UsageError(
            f"box {box} (top, left, bottom, right) lies not in an image of {shape[0]} x {shape[1]}"
        )
    mask = np.full(shape, cv2.GC_BGD, np.uint8)
    mask[top:bottom, left:right] = cv2.GC_PR_FGD
    return mask


def _from_guess(start: npt.NDArray[Any] | None, shape: tuple[int, ...], margin: int) -> npt.NDArray[np.uint8]:
    guess = np.asarray(start) > 0
    if guess.shape != shape:
        raise UsageError(
            f"a first guess of shape {guess.shape} does not fit an image of {shape[0]} x {shape[1]}"
        )
    inner, outer = (
        cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) > margin for part in (guess, ~guess)
    )
    mask = np.where(guess, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[inner], mask[outer] = cv2.GC_FGD, cv2.GC_BGD
    return mask
