"""Labelled windows for training a patch classifier, and the order in which they are drawn.

A window knows its slide, because windows of one slide must never lie on both sides of a split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.sources import open_source

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})


@dataclass(frozen=True, eq=False)
class PatchSet:
    """`images` uint8 `(n, window, window, 3)` RGB, `labels` int64 `(n,)`, `slides` one name per image."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    slides: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, mask: npt.NDArray[np.bool_]) -> PatchSet:
        """The images where `mask` (n,) is true."""
        slides = tuple(name for name, keep in zip(self.slides, mask, strict=True) if keep)
        return PatchSet(self.images[mask], self.labels[mask], slides)

    def of(self, slides: Sequence[str]) -> npt.NDArray[np.bool_]:
        """True for images of the given slides."""
        return np.array([name in set(slides) for name in self.slides], bool)


def read_folder(folder: Path, classes: Sequence[str], slide_pattern: str, window_px: int) -> PatchSet:
    """Patches in one sub-folder per class, the file names starting with what `slide_pattern` matches: the slide.

    The whole field of each image is area-averaged to one window, so all should show a field of one physical size.

    Raises:
        UsageError: if the folder or a class is missing, a name lacks the slide, or an image cannot be read.
    """
    images, labels, slides = [], [], []
    for label, name in enumerate(classes):
        for path in _class_files(folder, name):
            found = re.match(slide_pattern, path.stem)
            if found is None:
                raise UsageError(
                    f"{path}: the name does not begin with a slide's name (pattern {slide_pattern!r}); without it "
                    "patches of one slide could be trained on and tested on"
                )
            images.append(to_window(read_rgb(path), window_px))
            labels.append(label)
            slides.append(found.group(0))
    return PatchSet(np.stack(images), np.array(labels, np.int64), tuple(slides))


def cut_region(
    image: npt.NDArray[np.uint8], label: int, slide: str, side_px: int, stride_px: int, window_px: int
) -> PatchSet:
    """Windows of a large image that is of one class throughout: squares of `side_px`, `stride_px` apart.

    Raises:
        UsageError: if the image is smaller than one square.
    """
    rows, columns = image.shape[:2]
    tops = range(0, rows - side_px + 1, stride_px)
    lefts = range(0, columns - side_px + 1, stride_px)
    if not tops or not lefts:
        raise UsageError(f"{slide}: an image of {rows} x {columns} pixels holds no square of {side_px}")
    cut = [to_window(image[r : r + side_px, c : c + side_px], window_px) for r in tops for c in lefts]
    return PatchSet(np.stack(cut), np.full(len(cut), label, np.int64), (slide,) * len(cut))


def join(sets: Sequence[PatchSet]) -> PatchSet:
    """All images of several sets, in order."""
    return PatchSet(
        np.concatenate([s.images for s in sets]),
        np.concatenate([s.labels for s in sets]),
        tuple(name for s in sets for name in s.slides),
    )


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """An image file as `(rows, columns, 3)` RGB."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise UsageError(f"{path}: not an image that can be read")
    return np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8)


def read_region(path: Path, box: tuple[int, int, int, int] | None) -> npt.NDArray[np.uint8]:
    """Level-0 pixels of a slide or picture as RGB; `box` is first row and column, then row and column after the last.

    Raises:
        UnreadableSourceError: if the file cannot be opened.
        UsageError: if the box leaves the image.
    """
    source = open_source(path)
    try:
        rows, columns = source.levels[0].shape
        top, left, bottom, right = (0, 0, rows, columns) if box is None else box
        if not (0 <= top < bottom <= rows and 0 <= left < right <= columns):
            raise UsageError(f"{path}: box {box} leaves the image of {rows} x {columns} pixels, or is empty")
        return source.read(Box((top, left), (bottom, right)))
    finally:
        source.close()


def to_window(image: npt.NDArray[np.uint8], window_px: int) -> npt.NDArray[np.uint8]:
    """The whole field of an image as one window: area-averaged down, or linearly interpolated up."""
    how = cv2.INTER_AREA if min(image.shape[:2]) >= window_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (window_px, window_px), interpolation=how), np.uint8)


def as_float(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Images as a float tensor `(n, 3, rows, columns)` in 0..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def batches(
    groups: Sequence[tuple[PatchSet, float]], size: int, seed: int
) -> Callable[[int], tuple[torch.Tensor, torch.Tensor, torch.Generator]]:
    """A function of the step that draws a batch: float windows `(size, 3, ...)` in 0..1, labels, and the generator.

    `groups` are sets with their share of a batch. Within a set the classes are drawn equally often, and within a class
    each slide in proportion to the square root of its images, so that a large slide does not drown a small one.
    """
    weights = torch.from_numpy(np.concatenate([share * _weights(s) for s, share in groups if len(s)]))
    whole = join([s for s, _ in groups if len(s)])
    pixels = torch.from_numpy(whole.images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(whole.labels)

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pick = torch.multinomial(weights, size, replacement=True, generator=generator)
        return pixels[pick].float() / 255, labels[pick], generator

    return draw


def _weights(patches: PatchSet) -> npt.NDArray[np.float64]:
    """Chance of each image; they sum to 1."""
    slides = np.array(patches.slides)
    weights = np.zeros(len(patches))
    for label in np.unique(patches.labels):
        for slide in np.unique(slides):
            member = (patches.labels == label) & (slides == slide)
            if member.any():
                weights[member] = 1 / np.sqrt(member.sum())
        of_class = patches.labels == label
        weights[of_class] /= weights[of_class].sum()
    return np.asarray(weights / weights.sum(), np.float64)


def _class_files(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of patches; it should hold one sub-folder per class")
    inner = folder / name
    if not inner.is_dir():
        there = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())) or "none"
        raise UsageError(f"{folder}: no sub-folder for the class {name!r}; there: {there}")
    files = sorted(p for p in inner.iterdir() if p.suffix.lower() in IMAGES)
    if not files:
        raise UsageError(f"{inner}: no images ({', '.join(sorted(IMAGES))})")
    return files
