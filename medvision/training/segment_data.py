"""Images with their labels as arrays, as a segmentation network learns from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError
from medvision.core.geometry import Box, Spacing
from medvision.core.world import WorldFrame
from medvision.models.segmentation import SegmentContract
from medvision.models.segmentation.values import value_ends, with_channels
from medvision.ops.border_weights import border_weights
from medvision.sources.base import Source, Values
from medvision.sources.label_map import LabelMap, read_label_map
from medvision.sources.opening import open_source
from medvision.sources.resample import Reading, extent_at
from medvision.sources.still import Window, read_still
from medvision.training.segment_classes import Labels, class_values, classes_of
from medvision.training.segment_config import (
    IGNORED,
    BorderConfig,
    SegmentDataConfig,
)
from medvision.training.segment_files import Found, Pair, find_pairs
from medvision.training.segment_slides import find_slides, read_slide

_PLACES = 20_000
"""Pixels of each class that are remembered of an image, to draw windows about."""


@dataclass(frozen=True, eq=False)
class SegmentImage:
    """One image in memory, at the network's spacing where it has one.

    `values` are `(*shape, channels)` in the type of their source, `truth` `(*shape)` classes or `IGNORED`. `objects`
    `(*shape)` numbers them from 1, where the data tells objects apart. `range` are the values that count as 0 and 1.
    `full` is the shape and `spacing` of the file itself, and `frame` the place of a volume.
    """

    pair: Pair
    values: Values
    truth: Labels
    objects: npt.NDArray[np.int32] | None
    range: tuple[float, float]
    full: tuple[int, ...]
    spacing: Spacing | None
    frame: WorldFrame | None

    @property
    def name(self) -> str:
        """Of the file, without its ending."""
        return self.pair.name

    @cached_property
    def digest(self) -> str:
        """SHA-256 of values and labels, whatever the file is called."""
        return digest_json([self.content, hashlib.sha256(self.truth.tobytes()).hexdigest()])

    @cached_property
    def content(self) -> str:
        """SHA-256 of the values."""
        head = f"{self.values.shape} {self.values.dtype}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.values).tobytes()).hexdigest()

    @cached_property
    def places(self) -> tuple[npt.NDArray[np.int64], ...]:
        """For each class of the truth but the first, in order, up to some thousand of its pixels `(n, axes)`."""
        found = []
        for label in np.unique(self.truth):
            if label in (0, IGNORED):
                continue
            flat = np.flatnonzero(self.truth == label)
            if len(flat) > _PLACES:
                flat = np.random.default_rng(0).choice(flat, _PLACES, replace=False)
            found.append(np.stack(np.unravel_index(flat, self.truth.shape), axis=1))
        return tuple(found)

    def scaled(self) -> npt.NDArray[np.float32]:
        """The values cut to their range, from 0 to 1: `(*shape, channels)`."""
        low, high = self.range
        values = (self.values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
        return np.asarray(values.clip(0, 1), np.float32)


@dataclass(frozen=True, eq=False)
class SegmentImages:
    """All images in the order of their names, and what is known of how they were found."""

    images: tuple[SegmentImage, ...]
    found: Found

    def named(self, names: Sequence[str]) -> tuple[SegmentImage, ...]:
        """Those of some names, in their order here."""
        wanted = set(names)
        return tuple(image for image in self.images if image.name in wanted)

    @property
    def digest(self) -> str:
        """SHA-256 of all that is learnt from."""
        return digest_json([[image.name, image.pair.case, image.digest] for image in self.images])


def load_images(config: SegmentDataConfig, contract: SegmentContract) -> SegmentImages:
    """Read all images with their labels, resampled to the network's spacing where it has one.

    Raises:
        UsageError: if labels are of another size or place than their image, hold a value that is of no class, or no
            image shows a class.
        UnreadableSourceError: if a file cannot be read.
    """
    slides = config.layout == "slides" or (config.layout == "auto" and config.folder.is_file())
    found = find_slides(config) if slides else find_pairs(config)
    images = tuple(_read(pair, config, contract, found.layout) for pair in found.pairs)
    seen = set().union(*(np.unique(image.truth).tolist() for image in images))
    if missing := [name for k, name in enumerate(contract.classes) if k not in seen]:
        raise UsageError(f"{config.folder}: no label shows the class {missing[0]!r}")
    return SegmentImages(images, found)


def border_map(image: SegmentImage, how: BorderConfig, contract: SegmentContract) -> npt.NDArray[np.float32]:
    """U-Net's weights of an image, `(*shape)`.

    Raises:
        UsageError: if the data does not tell objects apart, and no class of theirs is named.
    """
    if how.objects is None:
        if image.objects is None:
            raise UsageError(
                f"{image.pair.image}: its labels do not tell objects apart; `border: {{objects: CLASS}}` takes the "
                "connected parts of a class"
            )
        return border_weights(image.objects, how.w0, how.sigma_px)
    from scipy import ndimage

    if how.objects not in contract.classes:
        raise UsageError(f"border.objects: {how.objects!r} is none of {', '.join(contract.classes)}")
    parts, _ = ndimage.label(image.truth == contract.classes.index(how.objects))
    return border_weights(parts, how.w0, how.sigma_px)


def _read(pair: Pair, config: SegmentDataConfig, contract: SegmentContract, layout: str) -> SegmentImage:
    if layout == "slides":
        slide = read_slide(pair, config, contract)
        ends = value_ends(slide.values, contract)
        return SegmentImage(pair, slide.values, slide.truth, None, ends, slide.full, slide.spacing, None)
    assert pair.labels is not None, "slides alone may be without"
    labels = read_label_map(pair.labels)
    values, full, spacing, frame = _values(pair, contract, config.image_window)
    if labels.values.shape != full:
        raise UsageError(f"{pair.labels}: labels of {labels.values.shape} for an image of {full}")
    _check_place(pair, labels, frame)
    objects = labels.labels if layout == "objects" else None
    truth = (
        classes_of(labels.labels, class_values(config, contract), contract, pair.labels)
        if objects is None
        else (objects > 0).astype(np.uint8)
    )
    if objects is not None and len(contract.classes) != 2:
        raise UsageError(f"objects of one kind need two classes, and there are {', '.join(contract.classes)}")
    if full != values.shape[:-1]:
        pick = np.ix_(*_nearest(full, values.shape[:-1], spacing, contract))
        truth, objects = truth[pick], None if objects is None else objects[pick]
    return SegmentImage(pair, values, truth, objects, value_ends(values, contract), full, spacing, frame)


def _values(
    pair: Pair, contract: SegmentContract, window: Window
) -> tuple[Values, tuple[int, ...], Spacing | None, WorldFrame | None]:
    """Values at the contract's spacing; shape, spacing and place of the file."""
    if contract.axes == "yx" and contract.spacing is None:
        pixels = read_still(pair.image, window).pixels
        return with_channels(pixels, contract, str(pair.image)), pixels.shape[:2], None, None
    source: Source = open_source(pair.image)
    try:
        if source.axes != contract.axes:
            raise UsageError(
                f"{pair.image}: has axes {source.axes}, and the network looks at {contract.axes}"
            )
        full = source.levels[0].shape
        if contract.spacing is None:
            values = source.read(Box((0,) * len(full), full))
        else:
            wanted = Spacing(contract.spacing, contract.unit, "supplied")
            values = Reading.of(source, wanted).read(Box((0,) * len(full), extent_at(source, wanted)))
        frame: WorldFrame | None = getattr(source, "frame", None)  # of volumes alone
        return with_channels(values, contract, str(pair.image)), full, source.spacing, frame
    finally:
        source.close()


def _check_place(pair: Pair, labels: LabelMap, frame: WorldFrame | None) -> None:
    if frame is None or labels.frame is None:
        return
    corners = np.array([(0.0, 0.0, 0.0), labels.values.shape])
    far = float(np.abs(frame.to_world(corners) - labels.frame.to_world(corners)).max())
    if far > 0.5 * min(frame.spacing):
        raise UsageError(f"{pair.labels}: lies {far:.3g} mm from its image by the headers of both")


def _nearest(
    full: tuple[int, ...], wanted: tuple[int, ...], spacing: Spacing | None, contract: SegmentContract
) -> list[npt.NDArray[np.int64]]:
    """Along each axis, the pixel of the file under the centre of each pixel of the network."""
    assert spacing is not None, "a shape changes with the spacing alone"
    assert contract.spacing is not None, "a shape changes with the spacing alone"
    steps = zip(full, wanted, spacing.values, contract.spacing, strict=True)
    return [
        np.minimum(((np.arange(n) + 0.5) * new / side).astype(np.int64), most - 1)
        for most, n, side, new in steps
    ]
