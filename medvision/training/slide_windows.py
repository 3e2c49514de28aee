"""Windows of the slides of a cohort, by place, and what the annotation says of a place.

This is what every trainer on slides reads through. A place is (row, column) in micrometres from the corner of the
slide's level 0, which is the same whatever the spacing that is read; a window is labelled by its centre.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.engine.heatmap import locate_tissue, read_overview
from medvision.sources import open_source
from medvision.sources.areas import Area, read_area
from medvision.sources.base import Pixels, Source
from medvision.sources.resample import Reading
from medvision.sources.spacing import require_spacing
from medvision.store.cohort import CohortSlide

Places = npt.NDArray[np.float64]
"""(n, 2): row and column in micrometres from the corner of level 0."""

NORMAL_LABELS = frozenset({"normal", "negative", "0"})


@dataclass(frozen=True, eq=False)
class _Opened:
    slide: CohortSlide
    source: Source
    reading: Reading
    area: Area
    side_um: npt.NDArray[np.float64]


class SlideWindows:
    """Windows of `slides` at one spacing. Safe on any number of threads; a context manager that closes the files.

    Every method takes the number of a slide in `slides`.
    """

    def __init__(self, slides: Sequence[CohortSlide], spacing_um: float) -> None:
        """Open every slide and its annotation.

        Raises:
            UnreadableSourceError, SpacingError, AnnotationError: where a file cannot be read or measured.
            UsageError: if a slide that is labelled normal has annotated tumour, or one labelled otherwise, none.
        """
        self.slides = tuple(slides)
        self.spacing_um = spacing_um
        self._opened: list[_Opened] = []
        try:
            for slide in self.slides:
                self._opened.append(_open(slide, spacing_um))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.slides)

    def __enter__(self) -> SlideWindows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the files."""
        for one in self._opened:
            one.source.close()
            one.area.close()
        self._opened = []

    def source(self, slide: int) -> Source:
        """The opened slide, for runs through the engine."""
        return self._opened[slide].source

    def read(self, slide: int, centre_um: npt.ArrayLike, size_px: int) -> Pixels:
        """The window of `size_px` pixels at `spacing_um` around a place: uint8 `(size_px, size_px, 3)`.

        Its centre is the place to half a pixel. Outside the slide it is white.

        Raises:
            WindowUnreadableError: if a part of it cannot be decoded.
        """
        return self._opened[slide].reading.read(self.box(centre_um, size_px))

    def box(self, centre_um: npt.ArrayLike, size_px: int) -> Box:
        """The pixels of the plan grid that `read` reads."""
        row, column = np.asarray(centre_um, np.float64) / self.spacing_um
        start = (int(np.floor(row - size_px / 2 + 0.5)), int(np.floor(column - size_px / 2 + 0.5)))
        return Box.at(start, (size_px, size_px))

    def tumour(self, slide: int, places_um: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which of `places_um` `(..., 2)` lie in annotated tumour: bool `(...)`."""
        opened = self._opened[slide]
        places = np.asarray(places_um, np.float64)
        found = opened.area.contains(places.reshape(-1, 2) / opened.side_um)
        return found.reshape(places.shape[:-1])

    def tumour_mask(self, slide: int, box: Box, spacing_um: float) -> npt.NDArray[np.bool_]:
        """Annotated tumour over a box of a grid of `spacing_um` that starts at the slide's corner."""
        opened = self._opened[slide]
        rows, columns = spacing_um / opened.side_um
        return opened.area.mask(box, (float(rows), float(columns)))

    def tissue(self, slide: int) -> tuple[npt.NDArray[np.bool_], float]:
        """Mask of the tissue, from the slide's corner, and its spacing in um."""
        overview = read_overview(self._opened[slide].source)
        return locate_tissue(overview).mask, overview.spacing_um

    @property
    def digest(self) -> str:
        """Of the content of every slide and annotation, and of the spacing, whatever folder they lie in."""
        parts: list[object] = [self.spacing_um]
        for one in self._opened:
            drawn = one.slide.annotation
            marks = hashlib.sha256(b"" if drawn is None else drawn.read_bytes()).hexdigest()
            parts.append([one.slide.slide_id, one.source.id, one.side_um.tolist(), marks])
        return digest_json(parts)


def cell_centres(centre_um: npt.ArrayLike, cell_um: float, cells: int = 3) -> Places:
    """Centres of the cells of a square grid around a place: `(cells, cells, 2)` in um, row by row.

    The grid of `cells * size` pixels that `SlideWindows.read` reads around the place, cut into cells of `size` pixels,
    has its cells' centres here for `cell_um = size * spacing_um`; `SlideWindows.tumour` of them gives their labels, and
    `cells_of` the pixels.
    """
    steps = (np.arange(cells) - (cells - 1) / 2) * cell_um
    rows, columns = np.meshgrid(steps, steps, indexing="ij")
    return np.asarray(np.asarray(centre_um, np.float64) + np.stack([rows, columns], axis=-1))


def cells_of(region: Pixels, cells: int = 3) -> Pixels:
    """A region `(cells * size, cells * size, 3)` as its cells, row by row: `(cells * cells, size, size, 3)`."""
    size = region.shape[0] // cells
    parts = region.reshape(cells, size, cells, size, region.shape[2]).swapaxes(1, 2)
    return parts.reshape(cells * cells, size, size, region.shape[2])


def _open(slide: CohortSlide, spacing_um: float) -> _Opened:
    source = open_source(slide.path, slide.spacing_um)
    try:
        side = np.array(require_spacing(source).values)
        rows, columns = source.levels[0].shape
        area = read_area(slide.annotation, (rows, columns))
        _check_label(slide, area)
        return _Opened(slide, source, Reading.of(source, spacing_um), area, side)
    except BaseException:
        source.close()
        raise


def _check_label(slide: CohortSlide, area: Area) -> None:
    if slide.label is None:
        return
    normal = slide.label.casefold() in NORMAL_LABELS
    if normal and not area.empty:
        raise UsageError(
            f"slide {slide.slide_id!r} is labelled {slide.label!r}, but {slide.annotation} shows tumour"
        )
    if not normal and area.empty:
        drawn = "has no annotation" if slide.annotation is None else f"is empty in {slide.annotation}"
        raise UsageError(f"slide {slide.slide_id!r} is labelled {slide.label!r}, but {drawn}")
