"""What a volume is, for a person or as JSON, from allow-listed facts only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medvision.core.geometry import Box
from medvision.sources.base import Values, VolumeSource
from medvision.sources.spacing import spacing_warnings

_SLAB_VALUES = 1 << 22


@dataclass(frozen=True, slots=True)
class VolumeDescription:
    """A volume as it was opened, upright. Lengths in array order (planes, rows, columns).

    `values` are the smallest and largest, None where all are no numbers. `origin_mm` is the centre of the first
    voxel as LPS (x, y, z), `directions` the LPS unit vectors of the three axes, and `axes` their letters ("SPL":
    up, to the back, to the left). `oblique_degrees` is how far they are from the patient's own axes.
    """

    name: str
    reader: str
    why: str
    vendor: str
    shape: tuple[int, ...]
    size_mm: tuple[float, ...] | None
    spacing_mm: tuple[float, ...] | None
    spacing_origin: str | None
    axes: str | None
    oblique_degrees: float | None
    origin_mm: tuple[float, ...] | None
    directions: tuple[tuple[float, ...], ...] | None
    dtype: str
    quantity: str
    values: tuple[float, float] | None
    metadata: dict[str, str]
    digest: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """The same as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)


def describe_volume(source: VolumeSource) -> VolumeDescription:
    """Describe an open volume. Reads all of it twice, a slab at a time: for its values and for its digest.

    Raises:
        WindowUnreadableError: if a part of it cannot be read.
    """
    spacing, frame = source.spacing, source.frame
    shape = source.levels[0].shape
    sides = None if spacing is None else spacing.values
    return VolumeDescription(
        name=source.path.name,
        reader=source.reader,
        why=source.why,
        vendor=source.vendor,
        shape=shape,
        size_mm=None if sides is None else tuple(round(n * s, 3) for n, s in zip(shape, sides, strict=True)),
        spacing_mm=sides,
        spacing_origin=None if spacing is None else spacing.origin,
        axes=None if frame is None else frame.letters,
        oblique_degrees=None if frame is None else round(frame.obliqueness, 2),
        origin_mm=None if frame is None else frame.origin,
        directions=None if frame is None else frame.directions,
        dtype=source.dtype.name,
        quantity=source.quantity,
        values=value_range(source),
        metadata=dict(source.metadata),
        digest=source.id,
        notes=source.notes,
        warnings=tuple(spacing_warnings(source)),
    )


def value_range(source: VolumeSource) -> tuple[float, float] | None:
    """Smallest and largest value; what is no number is left out."""
    low, high = np.inf, -np.inf
    for slab in slabs(source):
        known = slab[np.isfinite(slab)] if slab.dtype.kind == "f" else slab
        if known.size:
            low, high = min(low, float(known.min())), max(high, float(known.max()))
    return (low, high) if low <= high else None


def slabs(source: VolumeSource) -> Iterator[Values]:
    """All values, a few planes at a time: `(planes, rows, columns)`."""
    planes, rows, columns = source.levels[0].shape
    step = max(1, _SLAB_VALUES // (rows * columns))
    for start in range(0, planes, step):
        yield source.read(Box((start, 0, 0), (min(planes, start + step), rows, columns)))[..., 0]


def volume_text(found: VolumeDescription) -> str:
    """The description as aligned lines for a terminal."""
    rows = [
        ("File", found.name),
        ("Format", found.vendor),
        ("Reader", f"{found.reader}: {found.why}"),
        ("Size", _size(found)),
        ("Spacing", _spacing(found)),
        ("Axes", _axes(found)),
        *([("Origin", f"{_figures(found.origin_mm, ', ')} mm (LPS x, y, z)")] if found.origin_mm else []),
        ("Values", _values(found)),
        *((key.replace("_", " ").capitalize(), value) for key, value in found.metadata.items()),
        ("SHA-256", found.digest),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    lines += [f"\nNote: {text}" for text in found.notes]
    lines += [f"\nWarning: {text}" for text in found.warnings]
    return "\n".join(lines)


def _size(found: VolumeDescription) -> str:
    voxels = " x ".join(f"{n:,}" for n in found.shape) + " voxels"
    size = "" if found.size_mm is None else ", " + " x ".join(f"{v:.4g}" for v in found.size_mm) + " mm"
    return f"{voxels}{size} (planes x rows x columns)"


def _spacing(found: VolumeDescription) -> str:
    if found.spacing_mm is None:
        return "not stated"
    said = "supplied" if found.spacing_origin == "supplied" else "from the file"
    return f"{_figures(found.spacing_mm, ' x ')} mm ({said})"


def _axes(found: VolumeDescription) -> str:
    if found.axes is None:
        return "not known without a spacing"
    names = {"S": "up", "I": "down", "P": "back", "A": "front", "L": "left", "R": "right"}
    ways = ", ".join(
        f"{what} to the {names[way]}" if way not in "SI" else f"{what} {names[way]}"
        for what, way in zip(("planes go", "rows", "columns"), found.axes, strict=True)
    )
    oblique = f"; oblique by {found.oblique_degrees:g} degrees" if found.oblique_degrees else ""
    return f"{found.axes}: {ways}{oblique}"


def _values(found: VolumeDescription) -> str:
    span = "no numbers" if found.values is None else f"{found.values[0]:g} to {found.values[1]:g}"
    return f"{span}{' HU' if found.quantity == 'HU' else ''} ({found.dtype})"


def _figures(values: tuple[float, ...], between: str) -> str:
    return between.join(f"{v:.6g}" for v in values)
