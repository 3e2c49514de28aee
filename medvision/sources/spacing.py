"""The one place that decides what counts as a physical spacing, and when to refuse one.

Spacing is the side of a level-0 pixel in array order: micrometres (row, column) of a slide, millimetres (plane, row,
column) of a volume.
"""

from __future__ import annotations

import math
from pathlib import Path

from medvision.core.errors import SpacingError, UsageError
from medvision.core.geometry import Spacing, Unit
from medvision.sources.base import Source

FINEST_UM, COARSEST_UM = 0.02, 100.0
"""What a pixel of a microscope picture can measure; outside, the stated figure is a mistake."""
FINEST_MM, COARSEST_MM = 0.005, 50.0
"""What a voxel of a scan can measure: micro-CT to the thickest slices; outside, the stated figure is a mistake."""
MAX_ANISOTROPY = 0.02
"""Largest relative difference between the sides of a pixel that is treated as square."""
COARSEST_TAG_UM = 20.0
"""Coarsest spacing believed from TIFF resolution tags. Printing defaults (72 to 600 dpi) are 42 µm and coarser, and no
scanner's full resolution is; a coarser tag is about paper, not about tissue."""
USUAL_PRODUCT = (5.0, 20.0)
"""Magnification times spacing is about 10 µm on scanners (40x at 0.25, 20x at 0.5); outside this a warning is due."""
POSSIBLE_PRODUCT = (1.0, 640.0)
"""Outside this, magnification and spacing contradict each other: beyond any sensor, or beyond a 64-fold reduction."""


def stated(row_um: float | None, column_um: float | None) -> Spacing | None:
    """A spacing that a file states in micrometres, or None where it states nothing that is positive and finite."""
    if row_um is None or column_um is None:
        return None
    if not all(math.isfinite(v) and v > 0 for v in (row_um, column_um)):
        return None
    return Spacing((row_um, column_um))


def supplied(spacing_um: float | tuple[float, float]) -> Spacing:
    """A spacing that a person gave: one number, or (row, column).

    Raises:
        UsageError: if it is not positive and finite.
    """
    values = spacing_um if isinstance(spacing_um, tuple) else (spacing_um, spacing_um)
    if len(values) != 2 or not all(math.isfinite(v) and v > 0 for v in values):
        raise UsageError(f"a spacing of {spacing_um} um per pixel is not positive; a 20x slide has about 0.5")
    return Spacing((float(values[0]), float(values[1])), "um", "supplied")


def from_resolution(rows: float, columns: float, unit: str) -> Spacing | None:
    """Spacing from TIFF resolution tags, in pixels per `unit` ("inch", "cm"); None where they are about paper."""
    length = {"inch": 25_400.0, "cm": 10_000.0}.get(unit)
    if length is None or not rows > 0 or not columns > 0:
        return None
    spacing = stated(length / rows, length / columns)
    if spacing is None or not all(FINEST_UM <= v <= COARSEST_TAG_UM for v in spacing.values):
        return None
    return spacing


def volume_spacing_refused(path: Path, spacing_um: object) -> UsageError:
    """The error for a slide's spacing that was given for a volume."""
    return UsageError(f"{path}: is a volume, whose spacing is in millimetres; {spacing_um} µm cannot be it")


def supplied_mm(spacing_mm: float | tuple[float, float, float]) -> Spacing:
    """A volume's spacing that a person gave: one number, or (plane, row, column).

    Raises:
        UsageError: if it is not positive and finite.
    """
    values = spacing_mm if isinstance(spacing_mm, tuple) else (spacing_mm,) * 3
    if len(values) != 3 or not all(math.isfinite(v) and v > 0 for v in values):
        raise UsageError(
            f"a spacing of {spacing_mm} mm per voxel is not positive; a chest CT has about 1 0.7 0.7"
        )
    return Spacing(tuple(float(v) for v in values), "mm", "supplied")


def require_spacing(source: Source, unit: Unit = "um") -> Spacing:
    """The level-0 spacing of a slide (`unit` "um") or volume ("mm"), fit to measure with.

    Raises:
        SpacingError: if it is missing, of the other kind, or out of range: 0.005 to 50 mm for a volume; for a slide
            0.02 to 100 µm, square within 2%, and possible at the stated objective. The message says what to pass.
    """
    problem = _problem(source) if unit == "um" else _volume_problem(source)
    if problem is not None:
        raise SpacingError(f"{source.path.name}: {problem}")
    assert source.spacing is not None  # its absence is a problem
    return source.spacing


def spacing_warnings(source: Source) -> list[str]:
    """Sentences on a missing, refused or unlikely spacing; empty where all is well. They do not name the file."""
    problem = _volume_problem(source) if source.axes == "zyx" else _problem(source)
    if problem is not None:
        return [problem[0].upper() + problem[1:]]
    product = _product(source)
    if product is None or USUAL_PRODUCT[0] <= product <= USUAL_PRODUCT[1]:
        return []
    power = float(source.metadata["objective_power"])
    return [
        f"A spacing of {source.spacing} is unusual for a {power:g}x objective, where about {10 / power:g} µm/px is "
        "expected: the file may be a reduced copy, or the spacing wrong"
    ]


def _problem(source: Source) -> str | None:
    """Why the spacing cannot be measured with, and what to pass instead; None where it can."""
    spacing = source.spacing
    if len(source.levels[0].shape) == 3:
        return "it is a volume in millimetres, and a slide or picture in micrometres is wanted"
    if spacing is None:
        return (
            "the file does not say how large a pixel is. Supply it in micrometres, for example --slide-spacing 0.5 for "
            "a 20x scan or --slide-spacing 0.25 for a 40x scan"
        )
    if spacing.unit != "um":
        return f"spacing is in {spacing.unit}, and a slide wants micrometres"
    advice = "If you know better, pass the true value in micrometres, for example --slide-spacing 0.5"
    if not all(FINEST_UM <= v <= COARSEST_UM for v in spacing.values):
        return f"a spacing of {spacing} is outside {FINEST_UM:g} to {COARSEST_UM:g} µm/px. {advice}"
    if max(spacing.values) / min(spacing.values) - 1 > MAX_ANISOTROPY:
        return (
            f"pixels of {spacing.values[0]:g} µm (rows) by {spacing.values[1]:g} µm (columns) are not square within "
            f"{MAX_ANISOTROPY:.0%}. {advice}"
        )
    product = _product(source)
    if (
        product is not None
        and spacing.origin == "file"
        and not POSSIBLE_PRODUCT[0] <= product <= POSSIBLE_PRODUCT[1]
    ):
        power = float(source.metadata["objective_power"])
        return f"a spacing of {spacing} is impossible for a {power:g}x objective. {advice}"
    return None


def _volume_problem(source: Source) -> str | None:
    spacing = source.spacing
    if spacing is None:
        return (
            "the file does not say how large a voxel is. Supply it in millimetres as planes, rows, columns, for "
            "example --volume-spacing 1 0.7 0.7"
        )
    if spacing.unit != "mm":
        return f"spacing is in {spacing.unit}, and a volume wants millimetres"
    if not all(FINEST_MM <= v <= COARSEST_MM for v in spacing.values):
        return (
            f"a spacing of {spacing} is outside {FINEST_MM:g} to {COARSEST_MM:g} mm/px. If you know better, pass the "
            "true value, for example --volume-spacing 1 0.7 0.7"
        )
    return None


def _product(source: Source) -> float | None:
    """Magnification times spacing in micrometres, where both are known."""
    try:
        power = float(source.metadata["objective_power"])
    except (KeyError, ValueError):
        return None
    return power * source.spacing.mean if source.spacing is not None and power > 0 else None
