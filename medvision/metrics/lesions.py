"""Lesions of a slide and which detections hit them, as CAMELYON16 counts (Ehteshami Bejnordi et al., JAMA 2017).

Tumour areas closer than 75 um are one lesion: each grows by half of that, holes are filled, and what then touches (8
neighbours) is one. A lesion whose grown major axis is under 275 um, 200 um and the growth, is a cluster of isolated
tumour cells: hitting it counts neither way. The growth also accepts a detection up to 37.5 um outside the outline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import regionprops

from medvision.metrics.froc import CaseHits

Mask = npt.NDArray[np.bool_]

PIXEL_UM = 0.243 * 32
"""Side of a pixel of the level-5 masks that the official evaluation works on."""
JOIN_UM = 75.0
ISOLATED_UM = 275.0


@dataclass(frozen=True, eq=False)
class Lesions:
    """Labelled lesions over a part of the slide that holds them all.

    `labels` is (rows, columns), 0 outside lesions, else 1 to `count`; its first pixel is `origin` in the grid whose
    pixels are `downsample` (row, column) level-0 pixels long. `isolated` are the labels of isolated tumour cells.
    """

    labels: npt.NDArray[np.int32]
    origin: tuple[int, int]
    downsample: tuple[float, float]
    isolated: frozenset[int]

    @property
    def count(self) -> int:
        """Number of lesions, isolated tumour cells among them."""
        return int(self.labels.max(initial=0))


def growth_px(spacing_um: float) -> int:
    """Pixels by which the mask of all lesions must be wider than the tumour on each side, to grow and stay whole."""
    return math.ceil(JOIN_UM / (2 * spacing_um)) + 1


def label_lesions(
    mask: Mask,
    spacing_um: float = PIXEL_UM,
    origin: tuple[int, int] = (0, 0),
    downsample: tuple[float, float] = (32.0, 32.0),
) -> Lesions:
    """Lesions of a tumour mask.

    Args:
        mask: bool (rows, columns), True on tumour.
        spacing_um: side of a mask pixel; the official evaluation takes 7.776 whatever the slide states.
        origin: position of the mask's first pixel in the downsampled grid.
        downsample: side of a mask pixel in level-0 pixels, (row, column).
    """
    labels = np.zeros(mask.shape, dtype=np.int32)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return Lesions(labels, origin, downsample, frozenset())
    margin = growth_px(spacing_um)
    part = tuple(slice(max(0, found[0] - margin), found[-1] + margin + 1) for found in (rows, columns))
    grown = ndimage.distance_transform_edt(~mask[part]) < JOIN_UM / (spacing_um * 2)
    labels[part], _ = ndimage.label(ndimage.binary_fill_holes(grown), structure=np.ones((3, 3)))
    limit = ISOLATED_UM / spacing_um
    properties = regionprops(labels)
    isolated = frozenset(int(r.label) for r in properties if r.axis_major_length < limit)
    return Lesions(labels, origin, downsample, isolated)


def score_detections(
    case: str,
    lesions: Lesions | None,
    points: npt.NDArray[np.float64],
    probabilities: npt.NDArray[np.float64],
) -> CaseHits:
    """Which lesions the detections of one slide find, and how many are false.

    A lesion is found by its most probable hit; its other hits count neither way, nor does a hit on isolated tumour
    cells. Every detection outside a lesion, or on a normal slide (`lesions` None), is a false positive.

    Args:
        case: name of the slide.
        lesions: those of the slide, None if it is normal.
        points: (n, 2), (row, column) in level-0 pixels.
        probabilities: (n,).
    """
    if lesions is None:
        return CaseHits(case, np.empty(0), probabilities.copy(), 0)
    pixel = np.floor(points / lesions.downsample).astype(np.int64) - lesions.origin
    inside = ((pixel >= 0) & (pixel < lesions.labels.shape)).all(axis=1)
    hit = np.zeros(len(points), dtype=np.int64)
    hit[inside] = lesions.labels[tuple(pixel[inside].T)]
    best = np.full(lesions.count + 1, -np.inf)
    np.maximum.at(best, hit, probabilities)
    counted = np.setdiff1d(np.arange(1, lesions.count + 1), list(lesions.isolated))
    found = best[counted]
    return CaseHits(
        case, np.where(np.isneginf(found), np.nan, found), probabilities[hit == 0], len(lesions.isolated)
    )
