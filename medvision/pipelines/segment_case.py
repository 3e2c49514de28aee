"""Opening what is to be segmented, as its network wants it: an image, a slide or a volume.

Images and volumes are read whole, at the network's spacing where it has one; slides stay on the disk and are read
window by window. Values are those that training reads (`medvision.training.segment_data`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvision.core.errors import (
    MedvisionError,
    SourceTooLargeError,
    SpacingError,
    UnreadableSourceError,
    UsageError,
)
from medvision.core.geometry import Box, Spacing
from medvision.core.world import WorldFrame
from medvision.models.segmentation import SegmentContract
from medvision.models.segmentation.values import percentile_ends, value_ends, with_channels
from medvision.pipelines.image_config import parse_window
from medvision.pipelines.segment_config import SegmentConfig, parse_sides
from medvision.sources import open_source
from medvision.sources.array_source import ArraySource
from medvision.sources.base import Pixels, Source, Values, VolumeSource
from medvision.sources.faults import MAX_FLAT_PIXELS
from medvision.sources.guarded import Limits, open_guarded
from medvision.sources.guarded_still import read_still_guarded
from medvision.sources.resample import Reading, extent_at
from medvision.sources.spacing import require_spacing
from medvision.sources.still import read_still
from medvision.sources.volume import open_volume
from medvision.store.segment_records import CaseInfo

MOST_VALUES = 3_000_000_000
"""Voxels times classes beyond which a volume's probabilities are not held in memory."""

_PICTURES = (b"\x89PNG", b"BM", b"RIFF", b"GIF8")
_JPEG = b"\xff\xd8"
_SHOWN = (0.5, 99.5)


@dataclass(eq=False)
class Case:
    """What is segmented.

    `source` gives the network's pixels over `extent`, on a grid of `grid` (None: the source's own pixels). `shape` and
    `spacing` are those of the file. `shown` are an image's pixels as uint8, `volume` a volume to draw planes of.
    """

    info: CaseInfo
    source: Source
    extent: tuple[int, ...]
    grid: Spacing | None
    spacing: Spacing | None
    ends: tuple[float, float]
    shown: Pixels | None = None
    volume: VolumeSource | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the file, in its own pixels."""
        return self.info.shape

    @property
    def pixels(self) -> Values:
        """An image or a volume in its own pixels, `(*shape, channels)`."""
        if self.volume is not None:
            return self.volume.read(Box((0, 0, 0), self.shape))
        assert self.shown is not None, "of an image or a volume"
        return self.shown if self.shown.ndim == 3 else self.shown[..., None]

    @property
    def frame(self) -> WorldFrame:
        """Where a volume lies."""
        frame = None if self.volume is None else self.volume.frame
        assert frame is not None, "of a volume with a spacing"
        return frame

    def close(self) -> None:
        """Release the files."""
        self.source.close()
        if self.volume is not None:
            self.volume.close()


def open_case(
    path: Path,
    config: SegmentConfig,
    contract: SegmentContract | None,
    name: str,
    limits: Limits | None = None,
) -> Case:
    """Open a file for a network, or (None) for a method that takes images and volumes as they are.

    Raises:
        UnreadableSourceError: if it cannot be read, or is a volume where the network wants images, or the other way.
        SpacingError: if the network wants a spacing, and neither the file nor `config` says the file's.
        UsageError: if its channels, or what `config` says of it, do not fit the network.
        SourceTooLargeError: of a volume whose probabilities would not fit in memory.
    """
    if contract is not None and contract.axes == "zyx":
        return _volume(path, config, contract, name, limits)
    if _is_picture(path):
        return _image(path, config, contract, name, None, limits)
    try:
        source = open_source(path) if limits is None else open_guarded(path, limits=limits)
    except UnreadableSourceError as error:
        try:
            return _image(path, config, contract, name, None, limits)
        except UnreadableSourceError:
            raise error from None
    if source.axes != "yx":
        source.close()
        if contract is None:
            return _volume(path, config, contract, name, limits)
        raise UnreadableSourceError(
            f"{path}: is a volume, and network {contract.architecture!r} takes images (windows of "
            f"{_times(contract.window)} pixels)"
        )
    if len(source.levels) > 1 or source.reader == "openslide" or _pixels(source) > MAX_FLAT_PIXELS:
        if contract is None:
            source.close()
            raise UsageError(f"{path}: is a slide, and methods without a network take images and volumes")
        return _slide(source, config, contract, name)
    spacing = source.spacing
    source.close()
    return _image(path, config, contract, name, spacing, limits)


def look_at_case(path: Path, config: SegmentConfig) -> None:
    """Open the header of a file, whatever it is.

    Raises:
        MedvisionError: if nothing that can be segmented is there.
    """
    from medvision.sources.still import look_at_still

    try:
        open_source(path).close()
    except UnreadableSourceError as error:
        try:
            look_at_still(path, frame=config.frame)
        except MedvisionError:
            raise error from None


def _is_picture(path: Path) -> bool:
    """Whether it is a flat picture by its first bytes. MRXS, a slide, begins like a JPEG."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
    except OSError:
        return False
    return head.startswith(_PICTURES) or (head.startswith(_JPEG) and path.suffix.lower() != ".mrxs")


def _pixels(source: Source) -> int:
    return math.prod(source.levels[0].shape)


def _image(
    path: Path,
    config: SegmentConfig,
    contract: SegmentContract | None,
    name: str,
    stated: Spacing | None,
    limits: Limits | None,
) -> Case:
    window = parse_window(config.image_window)
    still = (
        read_still(path, window, config.frame)
        if limits is None
        else read_still_guarded(path, window, config.frame, limits)
    )
    shape = still.pixels.shape[:2]
    spacing = _supplied(config, 2) or stated
    notes: tuple[str, ...] = ()
    values = still.pixels if still.pixels.ndim == 3 else still.pixels[..., None]
    if contract is not None:
        if contract.channels == 1 and not (values == values[..., :1]).all():
            notes = ("The image has colours, and the network saw its brightness only.",)
        values = with_channels(values, contract, str(path))
    if contract is not None and contract.spacing is not None:
        values = _resampled(path, values, spacing, Spacing(contract.spacing, contract.unit, "supplied"))
    info = CaseInfo(
        name=name,
        kind="image",
        digest=still.digest,
        reader=still.kind,
        vendor=still.kind,
        shape=shape,
        spacing=None if spacing is None else spacing.values,
        spacing_origin=None if spacing is None else spacing.origin,
        shown=str(still.windowing),
        metadata=dict(still.metadata),
        notes=notes,
    )
    source = ArraySource(values, path=path, fill=0)
    ends = _ends(values, contract)
    return Case(info, source, values.shape[:2], None, spacing, ends, shown=still.pixels)


def _resampled(path: Path, values: Pixels, spacing: Spacing | None, wanted: Spacing) -> Pixels:
    """An image at the network's spacing."""
    if spacing is None:
        raise SpacingError(f"{path}: states no spacing, and the model looks at {wanted}; pass --spacing")
    colour = values if values.shape[-1] == 3 else np.repeat(values[..., :1], 3, axis=-1)
    source = ArraySource(colour, spacing=spacing, path=path)
    found = Reading.of(source, wanted).read(Box((0, 0), extent_at(source, wanted)))
    return np.ascontiguousarray(found[..., : values.shape[-1]])


def _slide(source: Source, config: SegmentConfig, contract: SegmentContract, name: str) -> Case:
    given = _supplied(config, 2)
    if given is not None:
        source.spacing = given
    try:
        if source.channels != contract.channels:
            raise UsageError(
                f"{source.path}: a slide has {source.channels} channels, and network {contract.architecture!r} takes "
                f"{contract.channels}"
            )
        base = require_spacing(source)
        grid = None
        if contract.spacing is not None:
            grid = Spacing(contract.spacing, contract.unit, base.origin)
        extent = source.levels[0].shape if grid is None else extent_at(source, grid)
        info = CaseInfo(
            name=name,
            kind="slide",
            digest=source.id,
            reader=source.reader,
            reader_reason=source.why,
            vendor=source.vendor,
            shape=source.levels[0].shape,
            spacing=base.values,
            spacing_origin=base.origin,
            metadata=dict(source.metadata),
        )
        ends = contract.range
        if contract.intensity == "source":
            from medvision.pipelines.heatmap import read_overview

            ends = _ends(read_overview(source).image, contract)
        return Case(info, source, extent, grid, base, ends)
    except Exception:
        source.close()
        raise


def _volume(
    path: Path, config: SegmentConfig, contract: SegmentContract | None, name: str, limits: Limits | None
) -> Case:
    given = _supplied(config, 3)
    sides = None if given is None else (given.values[0], given.values[1], given.values[2])
    source = open_volume(path, sides, limits)
    try:
        if contract is not None and contract.channels != 1:
            raise UsageError(
                f"{path}: a volume has 1 channel, and network {contract.architecture!r} takes {contract.channels}"
            )
        spacing, shape = require_spacing(source, "mm"), source.levels[0].shape
        wanted = None if contract is None else contract.spacing
        classes = 2 if contract is None else len(contract.classes)
        grid = None if contract is None or wanted is None else Spacing(wanted, contract.unit, "supplied")
        extent = shape if grid is None else extent_at(source, grid)
        most = max(math.prod(extent), math.prod(shape)) * classes
        if most > MOST_VALUES:
            raise SourceTooLargeError(
                f"{path}: {math.prod(shape):,} voxels of {classes} classes do not fit in memory; the "
                f"limit is {MOST_VALUES:,} probabilities"
            )
        whole = Box((0, 0, 0), extent)
        values = source.read(whole) if grid is None else Reading.of(source, grid).read(whole)
        info = CaseInfo(
            name=name,
            kind="volume",
            digest=source.id,
            reader=source.reader,
            reader_reason=source.why,
            vendor=source.vendor,
            shape=shape,
            spacing=spacing.values,
            unit="mm",
            spacing_origin=spacing.origin,
            axes="" if source.frame is None else source.frame.letters,
            metadata=dict(source.metadata),
            notes=source.notes,
        )
        ends = _ends(values, contract)
        array = ArraySource(values, axes="zyx", fill=source.fill, path=path)
        return Case(info, array, extent, None, spacing, ends, volume=source)
    except Exception:
        source.close()
        raise


def _ends(values: Values, contract: SegmentContract | None) -> tuple[float, float]:
    """The values that count as 0 and 1; without a network, those that are shown black and white."""
    return percentile_ends(values, _SHOWN) if contract is None else value_ends(values, contract)


def _supplied(config: SegmentConfig, axes: int) -> Spacing | None:
    given = parse_sides(config.spacing, float)
    if given is None:
        return None
    if len(given) not in (1, axes):
        raise UsageError(f"--spacing: {len(given)} numbers for {axes} axes; give 1 or {axes}")
    values = given if len(given) == axes else given * axes
    return Spacing(values, "mm" if axes == 3 else "um", "supplied")


def _times(sides: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in sides)
