"""Regions of 3 x 3 cells from annotated slides, with a label for each cell, and the batches drawn from them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from medvision.core.errors import UsageError, WindowUnreadableError
from medvision.core.geometry import Box
from medvision.models.ncrf import NODES, SIDE
from medvision.models.turns import TURNS, turn
from medvision.models.weights import digest_state
from medvision.sources.base import Pixels
from medvision.training.augment import blur, jpeg, recolour, restain
from medvision.training.loop import Batch
from medvision.training.ncrf_config import RegionsConfig
from medvision.training.patch_config import AugmentationConfig
from medvision.training.slide_windows import SlideWindows, cell_centres

KINDS = ("normal", "edge", "tumour")
_READERS = 2


@dataclass(frozen=True, eq=False)
class RegionSet:
    """`images` uint8 `(n, 3 * cell, 3 * cell, 3)`, `labels` `(n, 9)` 0 or 1 by row, `slides` one name per region."""

    images: Pixels
    labels: npt.NDArray[np.float32]
    slides: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def centre(self) -> npt.NDArray[np.bool_]:
        """Whether the cell in the middle is tumour."""
        return np.asarray(self.labels[:, NODES // 2] > 0.5)

    @property
    def digest(self) -> str:
        """Of every pixel and label."""
        return digest_state(
            {"images": torch.from_numpy(self.images), "labels": torch.from_numpy(self.labels)}
        )


def draw_regions(windows: SlideWindows, how: RegionsConfig, count: int, cell_px: int, seed: int) -> RegionSet:
    """`count` regions of the slides, in shares as `how` says; the same seed gives the same places.

    A region that cannot be decoded is left out. Cells outside the slide are white and normal.

    Raises:
        UsageError: if no tissue, or no tumour, is found, or nothing can be read.
    """
    random = np.random.default_rng(seed)
    side_um = SIDE * cell_px * windows.spacing_um
    places = [_places(windows, slide, side_um) for slide in range(len(windows))]
    tumour = round(count * how.tumour_share)
    edge = round((count - tumour) * how.edge_share)
    wanted = {"tumour": tumour, "edge": edge, "normal": count - tumour - edge}
    chosen: list[tuple[int, npt.NDArray[np.float64]]] = []
    for kind in KINDS:
        there = [slide for slide, found in enumerate(places) if len(found[kind])]
        if not there and wanted[kind]:
            looked_at = ", ".join(slide.slide_id for slide in windows.slides)
            raise UsageError(f"no tissue for regions of kind {kind!r} was found on these slides: {looked_at}")
        for number in range(wanted[kind]):
            slide = there[number % len(there)]
            found = places[slide][kind]
            corner, pixel_um = found[random.integers(len(found))], places[slide]["pixel"][0, 0]
            chosen.append((slide, (corner + random.random(2)) * pixel_um))
    with ThreadPoolExecutor(_READERS) as pool:
        read = list(pool.map(lambda place: _read(windows, place[0], place[1], SIDE * cell_px), chosen))
    kept = [k for k, image in enumerate(read) if image is not None]
    if not kept:
        raise UsageError(f"none of {len(chosen)} regions could be read")
    cell_um = cell_px * windows.spacing_um
    labels = [windows.tumour(chosen[k][0], cell_centres(chosen[k][1], cell_um)).ravel() for k in kept]
    images = np.stack([image for image in read if image is not None])
    names = tuple(windows.slides[chosen[k][0]].slide_id for k in kept)
    return RegionSet(images, np.array(labels, np.float32), names)


def region_batches(
    regions: RegionSet,
    size: int,
    tumour_share: float,
    how: AugmentationConfig,
    finish: Callable[[torch.Tensor], torch.Tensor],
    seed: int,
) -> Callable[[int], Batch]:
    """Batches as a function of the step: what `finish` makes of changed regions, and labels `(size, 9)`.

    `tumour_share` of each batch are regions with tumour in the middle. Regions are `(size, 3, side, side)`, 0..1.
    """
    centre = regions.centre
    groups = (np.flatnonzero(centre), np.flatnonzero(~centre))
    if not len(groups[0]) or not len(groups[1]):
        raise UsageError("the regions to learn from are of one class only")
    tumour = min(size - 1, max(1, round(size * tumour_share)))

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        picks = []
        for group, many in zip(groups, (tumour, size - tumour), strict=True):
            index = torch.randint(len(group), (many,), generator=generator)
            picks.append(group[index.numpy()])
        pick = np.concatenate(picks)
        images = torch.from_numpy(regions.images[pick]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(regions.labels[pick])
        images, labels = augment_regions(images, labels, how, generator)
        return finish(images), labels

    return batch


def augment_regions(
    images: torch.Tensor, labels: torch.Tensor, how: AugmentationConfig, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Changed regions `(n, 3, side, side)` with the labels `(n, 9)` of their cells, which turn with them."""
    which = torch.randint(TURNS, (len(images),), generator=generator).tolist()
    images = torch.stack([turn(image, k) for image, k in zip(images, which, strict=True)])
    grids = labels.reshape(-1, SIDE, SIDE)
    labels = torch.stack([turn(grid, k) for grid, k in zip(grids, which, strict=True)]).flatten(1)
    images = recolour(images, how.recolour, generator)
    images = restain(images, how, generator)
    images = blur(images, how.blur, how.blur_sigma_px, generator)
    sigma = how.noise * torch.rand((len(images), 1, 1, 1), generator=generator)
    images = images + sigma * torch.randn(images.shape, generator=generator)
    return jpeg(images.clamp(0, 1), how.jpeg, generator), labels


def _places(windows: SlideWindows, slide: int, side_um: float) -> dict[str, npt.NDArray[np.float64]]:
    """Upper left corners, in overview pixels, of the pixels of each kind; and the side of a pixel in micrometres."""
    tissue, pixel_um = windows.tissue(slide)
    tumour = windows.tumour_mask(slide, Box((0, 0), (tissue.shape[0], tissue.shape[1])), pixel_um) & tissue
    near = np.zeros_like(tumour)
    if tumour.any():
        near = ndimage.distance_transform_edt(~tumour) * pixel_um < side_um / 2
    masks = {"tumour": tumour, "edge": tissue & near & ~tumour, "normal": tissue & ~near}
    found = {kind: np.argwhere(mask).astype(np.float64) for kind, mask in masks.items()}
    return {**found, "pixel": np.array([[pixel_um]])}


def _read(
    windows: SlideWindows, slide: int, place_um: npt.NDArray[np.float64], side_px: int
) -> Pixels | None:
    with suppress(WindowUnreadableError):
        return windows.read(slide, place_um, side_px)
    return None
