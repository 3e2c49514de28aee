"""A volume as a source, whatever its format: a reader gives stored voxels and where they lie, this turns them upright.

A reader makes a `StoredVolume`: a grid in the order of its file. Here its axes are transposed and flipped, never
interpolated, so that planes go up, rows to the back and columns to the left (`WorldFrame.upright`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from medvision.core.errors import UnreadableSourceError
from medvision.core.geometry import Box, Spacing
from medvision.core.world import WorldFrame
from medvision.sources.base import Level, Values, VolumeSource
from medvision.sources.facts import facts
from medvision.sources.opening import open_source
from medvision.sources.spacing import supplied_mm

if TYPE_CHECKING:
    from medvision.sources.guarded_process import Limits

_PIECE_VALUES = 1 << 21
AIR_HU = -1000
"""What surrounds a patient, in Hounsfield units."""


class Voxels(Protocol):
    """Stored values in the order of the file, slowest axis first. Reads are safe from several threads at once."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    """Type of the values that `read` gives, one of `DTYPES`: scale and intercept are applied."""

    def read(self, box: Box) -> Values:
        """Values of `box`, which lies inside. The array belongs to the caller.

        Raises:
            WindowUnreadableError: where they cannot be had, after a second try.
        """

    def digest(self) -> str:
        """SHA-256 of the content of all files."""

    def close(self) -> None:
        """Release the files; reads then raise `UnreadableSourceError`. Twice is allowed."""


@dataclass(frozen=True, slots=True)
class StoredVolume:
    """What a reader found: `voxels`, and `frame` of their grid in the order of the file.

    `has_spacing` is false where the file states none; the frame's spacing is then 1 and means nothing. `quantity` is
    "HU", "" or None for what the values decide; `found` are facts of the acquisition, `why` and `notes` as in `Source`.
    """

    voxels: Voxels
    frame: WorldFrame
    reader: str
    why: str
    vendor: str
    has_spacing: bool = True
    quantity: str | None = None
    found: Mapping[str, object] | None = None
    notes: tuple[str, ...] = ()


class Placed:
    """The spacing of a volume and its frame, which change together when a person supplies another spacing.

    Both are None where there is no spacing; where the volume would lie is remembered.
    """

    def __init__(self, frame: WorldFrame, spacing: Spacing | None) -> None:
        self.unsized, self._spacing = frame, spacing

    @property
    def frame(self) -> WorldFrame | None:
        """Where the voxels lie; None without a spacing."""
        return None if self._spacing is None else self.unsized

    @property
    def spacing(self) -> Spacing | None:
        """Spacing in millimetres, or None."""
        return self._spacing

    @spacing.setter
    def spacing(self, spacing: Spacing | None) -> None:
        """Take a spacing that a person supplied: the origin stays the centre of the first voxel."""
        self._spacing = spacing
        if spacing is not None:
            plane, row, column = spacing.values
            self.unsized = replace(self.unsized, spacing=(plane, row, column))


class Volume(Placed):
    """See `VolumeSource` and `DirectSource`."""

    axes = "zyx"
    channels = 1

    def __init__(self, path: Path, stored: StoredVolume) -> None:
        self.path = path
        self.voxels = stored.voxels
        """As the file has them, in its own order."""
        self._order, self._flips = stored.frame.upright()
        turned = stored.frame.rearranged(stored.voxels.shape, self._order, self._flips)
        shape = tuple(stored.voxels.shape[axis] for axis in self._order)
        self.levels: tuple[Level, ...] = (Level(shape, (1.0, 1.0, 1.0)),)
        self.dtype = stored.voxels.dtype
        self.reader, self.vendor = stored.reader, stored.vendor
        super().__init__(turned, Spacing(turned.spacing, "mm") if stored.has_spacing else None)
        self.notes = stored.notes
        self.quantity, said = _quantity(stored)
        self.fill = AIR_HU if self.quantity == "HU" else 0
        self.why = f"{stored.why}{said}"
        kept = {"orientation": _as_stored(stored.frame, turned), **(stored.found or {})}
        self.metadata: Mapping[str, str] = facts(kept)

    @property
    def id(self) -> str:
        """SHA-256 of the content of all files."""
        return self.voxels.digest()

    def read(self, box: Box, level: int = 0) -> Values:
        """See `Source.read`."""
        out = np.empty((*box.shape, 1), self.dtype)
        self.read_into(out, box, level)
        return out

    def read_into(self, out: Values, box: Box, level: int = 0) -> None:
        """See `DirectSource`."""
        shape = self.levels[level].shape
        inside = box.intersect(Box((0, 0, 0), shape))
        if inside != box:
            out[...] = self.fill
        if not inside.size:
            return
        # A few of the file's planes at a time: a large box takes little more than the array that it goes to.
        slowest = self._order.index(0)
        step = max(1, _PIECE_VALUES * inside.shape[slowest] // inside.size)
        for first in range(inside.start[slowest], inside.stop[slowest], step):
            start, stop = list(inside.start), list(inside.stop)
            start[slowest], stop[slowest] = first, min(first + step, inside.stop[slowest])
            part = Box(tuple(start), tuple(stop))
            out[..., 0][part.shift(tuple(-a for a in box.start)).slices()] = self._upright(part)

    def close(self) -> None:
        """Release the files. Twice is allowed."""
        self.voxels.close()

    def _upright(self, box: Box) -> Values:
        # In the file's order: where each axis of the result comes from, and from which end it counts.
        start, stop = [0, 0, 0], [0, 0, 0]
        for k, axis in enumerate(self._order):
            a, b, n = box.start[k], box.stop[k], self.levels[0].shape[k]
            start[axis], stop[axis] = (n - b, n - a) if self._flips[k] else (a, b)
        stored = self.voxels.read(Box(tuple(start), tuple(stop)))
        return np.flip(stored.transpose(self._order), tuple(k for k, flip in enumerate(self._flips) if flip))


def open_volume(
    path: str | Path,
    spacing_mm: float | tuple[float, float, float] | None = None,
    limits: Limits | None = None,
) -> VolumeSource:
    """`open_source` for what must be a volume.

    `spacing_mm` replaces what the file states: one number, or (plane, row, column) of the upright volume. With `limits`
    the file is read in a process of its own (`open_guarded`).

    Raises:
        UnreadableSourceError: as `open_source`, and where it is no volume.
        UsageError: if `spacing_mm` is not positive.
    """
    given = None if spacing_mm is None else supplied_mm(spacing_mm)
    if limits is None:
        source = open_source(path)
    else:
        from medvision.sources.guarded import open_guarded  # which serves volumes, and so imports this module

        source = open_guarded(path, limits=limits)
    if source.axes != "zyx":
        source.close()
        raise UnreadableSourceError(f"{path}: is not a volume but a {source.vendor} slide or picture")
    volume = cast("VolumeSource", source)
    if given is not None:
        volume.spacing = given
    return volume


def _quantity(stored: StoredVolume) -> tuple[str, str]:
    """What the values are, and how that is known where the file does not say it."""
    if stored.quantity is not None:
        return stored.quantity, ""
    voxels = stored.voxels
    if voxels.dtype.kind not in "if":
        return "", ""
    middle = voxels.shape[0] // 2
    plane = voxels.read(Box((middle, 0, 0), (middle + 1, *voxels.shape[1:])))
    low = float(np.nanmin(plane)) if not np.isnan(plane).all() else 0.0
    if -5000 <= low <= -900:
        return "HU", f"; values down to {low:g} in the middle plane are taken for Hounsfield units"
    return "", ""


def _as_stored(stored: WorldFrame, turned: WorldFrame) -> str:
    """The order of the file's axes, fastest first as its format counts them, and what was made of it."""
    now = "" if stored.letters == turned.letters else f", read as {turned.letters[::-1]}"
    return f"{stored.letters[::-1]} (x y z){now}"
