"""What is annotated on a slide, as an area: the same questions to outlines and to a mask image.

Nothing of the size of the slide is ever held: outlines are rasterised over the box that is asked for, and of a mask
image only the tiles under it are read, from the level that is nearest and not coarser.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from medvision.core.errors import AnnotationError, UnreadableSourceError
from medvision.core.geometry import Box
from medvision.ops.rasterise import Mask, Points, Polygon, contains, rasterise
from medvision.sources.annotations import camelyon_polygons, read_annotations
from medvision.sources.base import Source
from medvision.sources.opening import open_source
from medvision.sources.write import write_mask

MASKS = frozenset({".tif", ".tiff", ".png", ".bmp"})
"""Endings of mask images; every other annotation holds outlines."""
_NATIVE_SIDE = 2048
"""Side of the largest block of a mask image that is held."""
_LEARNT_AT = 32
"""Coarsest downsample at which the values of a mask are learnt: single cells of a cluster are still seen there."""


class Area(Protocol):
    """The annotated tumour of one slide."""

    @property
    def empty(self) -> bool:
        """Whether nothing is annotated."""

    def contains(self, points: Points) -> npt.NDArray[np.bool_]:
        """Which of `points` (n, 2), (row, column) in level-0 pixels of the slide, lie inside."""

    def mask(self, box: Box, downsample: float | tuple[float, float] = 1.0) -> Mask:
        """Mask over a box of a downsampled grid that starts at the slide's corner; see `rasterise`."""

    def close(self) -> None:
        """Release the file, where one is held."""


def read_area(path: Path | None, shape: tuple[int, int]) -> Area:
    """The annotated tumour of a slide of `shape` level-0 pixels; None and an empty file are of a normal slide.

    ASAP XML, QuPath GeoJSON and NCRF JSON are taken by CAMELYON's groups, holes last. A mask image may be coarser than
    the slide; tumour is 255 (from 128 up) or, where no value is above 2, 2 beside tissue of 1, or 1.

    Raises:
        AnnotationError: if the file cannot be read, or a mask is of another shape than the slide.
    """
    if path is None or (path.is_file() and path.stat().st_size == 0):
        return Outlines((), ())
    if path.suffix.lower() in MASKS:
        return MaskImage.open(path, shape)
    try:
        positive, excluded = camelyon_polygons(read_annotations(path))
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    return Outlines(tuple(positive), tuple(excluded))


def write_area(
    path: Path,
    area: Area,
    shape: tuple[int, int],
    spacing_um: float,
    *,
    downsample: int = 1,
    value: int = 255,
) -> Path:
    """Write an annotated area as a mask image, a tiled pyramid of `value` on tumour and 0 elsewhere.

    It is rasterised block by block. A mask of a slide of `shape` level-0 pixels of `spacing_um` may be written coarser,
    by `downsample`; `read_area` places it on the slide again.

    Raises:
        UsageError: if shape or spacing cannot mean anything.
        StoreError: if the file could not be written whole.
    """
    rows, columns = (max(1, round(n / downsample)) for n in shape)
    scale = (shape[0] / rows, shape[1] / columns)

    def read(box: Box) -> npt.NDArray[np.uint8]:
        return area.mask(box, scale).astype(np.uint8) * np.uint8(value)

    return write_mask(path, (rows, columns), read, spacing_um * downsample)


@dataclass(frozen=True, eq=False)
class Outlines:
    """Polygons, and those to cut out of them, in level-0 pixels."""

    positive: tuple[Polygon, ...]
    excluded: tuple[Polygon, ...]

    @property
    def empty(self) -> bool:
        """Whether there is no polygon of tumour."""
        return not self.positive

    def contains(self, points: Points) -> npt.NDArray[np.bool_]:
        """See `Area`."""
        return contains(self.positive, points, self.excluded)

    def mask(self, box: Box, downsample: float | tuple[float, float] = 1.0) -> Mask:
        """See `Area`."""
        return rasterise(self.positive, box, downsample, self.excluded)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, eq=False)
class MaskImage:
    """A label image. `ratio` is the side of its level-0 pixel in level-0 pixels of the slide, (row, column)."""

    source: Source
    ratio: tuple[float, float]
    least: int
    """Values from `least` to `most` are tumour."""
    most: int
    empty: bool

    @classmethod
    def open(cls, path: Path, shape: tuple[int, int]) -> MaskImage:
        """Open a mask of a slide of `shape`, and learn from a coarse level which value is tumour."""
        source, ratio = open_mask(path, shape)
        try:
            least, most, empty = learn_tumour(source)
        except AnnotationError as error:
            source.close()
            raise AnnotationError(f"{path}: {error}") from error
        return cls(source, ratio, least, most, empty)

    def contains(self, points: Points) -> npt.NDArray[np.bool_]:
        """See `Area`; a point is where the pixel of the mask that holds it is."""
        places = np.floor(np.asarray(points) / self.ratio).astype(np.int64)
        rows, columns = self.source.levels[0].shape
        found = np.zeros(len(places), dtype=bool)
        for index, (row, column) in enumerate(places.tolist()):
            if 0 <= row < rows and 0 <= column < columns:
                found[index] = self._tumour(Box((row, column), (row + 1, column + 1)), 0)[0, 0]
        return found

    def mask(self, box: Box, downsample: float | tuple[float, float] = 1.0) -> Mask:
        """See `Area`; each pixel has the value that the mask has at its centre."""
        wanted = np.broadcast_to(np.asarray(downsample, dtype=np.float64), (2,)) / self.ratio
        sides = [max(level.downsample) for level in self.source.levels]
        level = max((k for k, side in enumerate(sides) if side <= min(wanted) * 1.01), default=0)
        values = mask_values(self.source, self.ratio, box, downsample, level)
        return np.asarray((values >= self.least) & (values <= self.most))

    def close(self) -> None:
        """See `Area`."""
        self.source.close()

    def _tumour(self, box: Box, level: int) -> Mask:
        values = self.source.read(box, level)[..., 0]
        return np.asarray((values >= self.least) & (values <= self.most))


def open_mask(path: Path, shape: tuple[int, int]) -> tuple[Source, tuple[float, float]]:
    """A mask image of a slide of `shape` level-0 pixels, and the side of its pixel in those, (row, column).

    Raises:
        AnnotationError: if it cannot be read, or is of another shape than the slide.
    """
    try:
        source = open_source(path)
    except UnreadableSourceError as error:
        raise AnnotationError(f"mask that cannot be read: {error}") from error
    base = source.levels[0].shape
    if len(base) == 2:
        ratio = (shape[0] / base[0], shape[1] / base[1])
        if abs(math.log(ratio[0] / ratio[1])) <= 0.02:
            return source, ratio
    source.close()
    raise AnnotationError(f"{path}: mask of {base} pixels for a slide of {shape}: not of one shape")


def mask_values(
    source: Source,
    ratio: tuple[float, float],
    box: Box,
    downsample: float | tuple[float, float],
    level: int = 0,
) -> npt.NDArray[np.uint8]:
    """The value that a mask of `open_mask` has at the centre of each pixel of a box of a downsampled grid, 0 beyond it.

    It is looked up in one level: reduced ones may hold mixtures of labels.
    """
    wanted = np.broadcast_to(np.asarray(downsample, dtype=np.float64), (2,)) / ratio
    factors = wanted / source.levels[level].downsample
    found = np.zeros(box.shape, np.uint8)
    rows, columns = (max(1, int(_NATIVE_SIDE / f)) for f in factors)
    for part in _blocks(box, rows, columns):
        cut = part.shift((-box.start[0], -box.start[1])).slices()
        found[cut] = _sampled(source, part, level, factors)
    return found


def _sampled(source: Source, box: Box, level: int, factors: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    at = [
        np.floor((np.arange(box.start[k], box.stop[k]) + 0.5) * factors[k]).astype(np.int64) for k in (0, 1)
    ]
    seen = [(p >= 0) & (p < n) for p, n in zip(at, source.levels[level].shape, strict=True)]
    found = np.zeros(box.shape, np.uint8)
    if seen[0].any() and seen[1].any():
        rows, columns = (p[s] for p, s in zip(at, seen, strict=True))
        native = Box((int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1))
        inside = source.read(native, level)[..., 0]
        found[np.ix_(*seen)] = inside[np.ix_(rows - rows[0], columns - columns[0])]
    return found


def learn_tumour(source: Source) -> tuple[int, int, bool]:
    """The least and the largest value that mean tumour in a mask, and whether no pixel has one.

    A whole level is looked at, the coarsest that still shows single cells.

    Raises:
        AnnotationError: as `tumour_values`.
    """
    level = max(k for k, one in enumerate(source.levels) if k == 0 or max(one.downsample) <= _LEARNT_AT)
    known = _values(source, level)
    # A level made by averaging may hold nothing but mixtures of 0 and 255; a finer one tells them from other labels.
    while level > 0 and _meaningless(known):
        level -= 1
        known = _values(source, level)
    least, most = tumour_values(known)
    return least, most, not any(least <= value <= most for value in known)


def tumour_values(known: set[int]) -> tuple[int, int]:
    """The least and the largest value that mean tumour in a mask that holds the values `known`.

    255 (from 128 up, whatever a codec made of it); where no value is above 2: 2 beside tissue of 1, or 1.

    Raises:
        AnnotationError: if the largest value lies between these, because what it means would be a guess.
    """
    if _meaningless(known):
        listed = ", ".join(map(str, sorted(known)[:8]))
        raise AnnotationError(
            f"a mask of the values {listed}; tumour must be 255, 2 (where 1 is tissue) or 1"
        )
    if max(known, default=0) > 2:
        return 128, 255
    return (2, 2) if 2 in known else (1, 1)


def _meaningless(known: set[int]) -> bool:
    return 2 < max(known, default=0) < 128


def _values(source: Source, level: int) -> set[int]:
    known: set[int] = set()
    for block in _blocks(Box((0, 0), source.levels[level].shape), _NATIVE_SIDE, _NATIVE_SIDE):
        known |= set(np.unique(source.read(block, level)[..., 0]).tolist())
    return known


def _blocks(box: Box, rows: int, columns: int) -> Iterator[Box]:
    for i in range(box.start[0], box.stop[0], rows):
        for j in range(box.start[1], box.stop[1], columns):
            yield Box((i, j), (min(i + rows, box.stop[0]), min(j + columns, box.stop[1])))
