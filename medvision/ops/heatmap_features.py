"""Numbers that describe a probability map as a whole, from which a slide is classified (Wang et al. 2016).

The paper names 28 geometrical and morphological features and gives examples: the share of tumour in the tissue, the
fill of the convex hull, mean probabilities, the longest axis. The list here is of the same kind and number; it is
ours. Lengths are in mm and areas in mm2, so that maps of other strides compare. A map without any region at a
threshold has 0 in that threshold's columns.

- whole map: `maximum`, `mean` and `deviation` over read cells, `score` (see `medvision.ops.components.slide_score`);
- `share_T`: share of the read cells at or above T, for T in 0.5, 0.6, 0.7, 0.8, 0.9;
- of the 8-connected regions at 0.5 and at 0.9: `regions_T`, their number, and `largest_share_T`, the largest one's
  share of their area; of the largest one `area_mm2_T`, `length_mm_T` (major axis of the ellipse with its second
  moments), `eccentricity_T` of that ellipse, `extent_T` (area by bounding box), `solidity_T` (area by convex hull),
  `mean_T` and `maximum_T` probability;
- `second_area_mm2_0.5`: area of the second largest region.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.ops.components import slide_score

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
REGIONS = (0.5, 0.9)
_OF_REGIONS = (
    "regions", "largest_share", "area_mm2", "length_mm", "eccentricity", "extent", "solidity", "mean", "maximum",
)  # fmt: skip
FEATURES: tuple[str, ...] = (
    *("maximum", "mean", "deviation", "score"),
    *(f"share_{threshold:g}" for threshold in SHARES),
    *(f"{name}_{threshold:g}" for threshold in REGIONS for name in _OF_REGIONS),
    "second_area_mm2_0.5",
)
"""Names of the features, in the order of `heatmap_features`."""


def heatmap_features(probability: npt.NDArray[np.floating], cell_um: float) -> npt.NDArray[np.float64]:
    """The features `(28,)` of a map, in the order of `FEATURES`, all finite.

    Args:
        probability: `(rows, columns)` in 0..1, NaN where unread.
        cell_um: side of a cell in micrometres.

    Raises:
        UsageError: for a map that is not two-dimensional or without a read cell, or a cell without size.
    """
    if probability.ndim != 2:
        raise UsageError(f"a probability map has shape (rows, columns), not {probability.shape}")
    if not cell_um > 0:
        raise UsageError(f"cell of {cell_um:g} um: the side must be above 0")
    read = probability[~np.isnan(probability)].astype(np.float64)
    if len(read) == 0:
        raise UsageError("a map without any read cell has no features")
    score, _ = slide_score(probability)
    assert score is not None, "there is a score wherever a cell was read"
    values = {
        "maximum": float(read.max()),
        "mean": float(read.mean()),
        "deviation": float(read.std()),
        "score": score,
    }
    values |= {f"share_{threshold:g}": float((read >= threshold).mean()) for threshold in SHARES}
    for threshold in REGIONS:
        found, second = _largest_region(probability, threshold, cell_um)
        values |= {f"{name}_{threshold:g}": value for name, value in zip(_OF_REGIONS, found, strict=True)}
        if threshold == REGIONS[0]:
            values["second_area_mm2_0.5"] = second
    return np.array([values[name] for name in FEATURES], dtype=np.float64)


def _largest_region(
    probability: npt.NDArray[np.floating], threshold: float, cell_um: float
) -> tuple[tuple[float, ...], float]:
    """The features of the regions at a threshold, and the area in mm2 of the second largest."""
    from skimage.measure import label, regionprops  # a second to load

    labels = label(np.nan_to_num(probability, nan=-1.0) >= threshold, connectivity=2)
    cells = np.bincount(labels.ravel())[1:]
    if len(cells) == 0:
        return (0.0,) * len(_OF_REGIONS), 0.0
    largest = int(cells.argmax())
    cell_mm2 = (cell_um / 1000) ** 2
    second = float(np.partition(cells, -2)[-2] * cell_mm2) if len(cells) > 1 else 0.0
    with warnings.catch_warnings():
        # A hull of one cell or of one line of them has no area: its solidity is then 1, as that of any convex region.
        warnings.simplefilter("ignore")
        (region,) = regionprops((labels == largest + 1).astype(np.uint8), intensity_image=probability)
        solidity = float(region.solidity) if min(region.image.shape) > 1 else 1.0
    return (
        float(len(cells)),
        float(cells[largest] / cells.sum()),
        float(cells[largest] * cell_mm2),
        float(region.axis_major_length * cell_um / 1000),
        float(region.eccentricity),
        float(region.extent),
        solidity,
        float(region.intensity_mean),
        float(region.intensity_max),
    ), second
