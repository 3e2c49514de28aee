"""What a file is, for a person or as JSON, from allow-listed facts only: nothing here identifies a patient."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from medvision.core.geometry import Spacing
from medvision.sources.base import Source, VolumeSource
from medvision.sources.describe_volume import VolumeDescription, describe_volume, volume_text
from medvision.sources.opening import open_source
from medvision.sources.spacing import spacing_warnings


@dataclass(frozen=True, slots=True)
class LevelDescription:
    """One level: `shape` (rows, columns) in pixels, `downsample` per axis, `spacing_um` per axis or None."""

    shape: tuple[int, ...]
    downsample: tuple[float, ...]
    spacing_um: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """A source as it was opened. Lengths in array order (rows, columns)."""

    name: str
    reader: str
    why: str
    vendor: str
    shape: tuple[int, ...]
    size_mm: tuple[float, ...] | None
    spacing_um: tuple[float, ...] | None
    spacing_origin: str | None
    """"file" or "supplied"; None where nobody stated one."""
    objective_power: str | None
    compression: str | None
    levels: tuple[LevelDescription, ...]
    metadata: dict[str, str]
    digest: str
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """The same as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)


def describe(
    path: str | Path, spacing_um: float | tuple[float, float] | None = None
) -> SourceDescription | VolumeDescription:
    """Open a file, say what it is, and close it. Raises what `open_source` raises."""
    source = open_source(path, spacing_um)
    try:
        if source.axes == "zyx":
            return describe_volume(cast("VolumeSource", source))
        return describe_source(source)
    finally:
        source.close()


def describe_source(source: Source) -> SourceDescription:
    """Describe an open source. Reads the whole file once, for its digest."""
    spacing = source.spacing
    shape = source.levels[0].shape
    values = None if spacing is None else _micrometres(spacing)
    return SourceDescription(
        name=source.path.name,
        reader=source.reader,
        why=source.why,
        vendor=source.vendor,
        shape=shape,
        size_mm=None
        if values is None
        else tuple(round(n * v / 1000, 4) for n, v in zip(shape, values, strict=True)),
        spacing_um=values,
        spacing_origin=None if spacing is None else spacing.origin,
        objective_power=source.metadata.get("objective_power"),
        compression=source.metadata.get("compression"),
        levels=tuple(
            LevelDescription(
                level.shape,
                level.downsample,
                None
                if values is None
                else tuple(v * d for v, d in zip(values, level.downsample, strict=True)),
            )
            for level in source.levels
        ),
        metadata=dict(source.metadata),
        digest=source.id,
        warnings=tuple(spacing_warnings(source)),
    )


def render_text(description: SourceDescription | VolumeDescription) -> str:
    """The description as aligned lines for a terminal."""
    if isinstance(description, VolumeDescription):
        return volume_text(description)
    found = description
    rows = [
        ("File", found.name),
        ("Format", found.vendor),
        ("Reader", f"{found.reader}: {found.why}"),
        ("Size", _size(found)),
        ("Spacing", _spacing(found.spacing_um, found.spacing_origin)),
        *((_label(key), value) for key, value in found.metadata.items() if key != "mpp"),
        ("SHA-256", found.digest),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    lines += ["", *_level_table(found.levels)]
    lines += [f"\nWarning: {text}" for text in found.warnings]
    return "\n".join(lines)


def _micrometres(spacing: Spacing) -> tuple[float, ...]:
    return tuple(v * 1000 for v in spacing.values) if spacing.unit == "mm" else spacing.values


def _size(found: SourceDescription) -> str:
    pixels = f"{found.shape[1]:,} x {found.shape[0]:,} px"
    if found.size_mm is None:
        return f"{pixels} (wide x high)"
    return f"{pixels}, {found.size_mm[1]:.3g} x {found.size_mm[0]:.3g} mm (wide x high)"


def _spacing(values: tuple[float, ...] | None, origin: str | None) -> str:
    if values is None:
        return "not stated"
    return f"{_side(values)} µm/px ({'supplied' if origin == 'supplied' else 'from the file'})"


def _side(values: tuple[float, ...]) -> str:
    """One figure for a square pixel, width x height otherwise."""
    figures = [f"{v:.4g}" for v in values]
    return figures[0] if len(set(figures)) == 1 else " x ".join(reversed(figures))


def _label(key: str) -> str:
    return {"icc_profile": "ICC profile"}.get(key, key.replace("_", " ").capitalize())


def _level_table(levels: tuple[LevelDescription, ...]) -> list[str]:
    cells = [("Level", "Width", "Height", "Downsample", "µm/px")]
    for index, level in enumerate(levels):
        side = "-" if level.spacing_um is None else _side(level.spacing_um)
        cells.append(
            (str(index), f"{level.shape[1]:,}", f"{level.shape[0]:,}", _side(level.downsample), side)
        )
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return ["  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)) for row in cells]
