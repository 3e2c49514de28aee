"""From candidates to what a reader is told of them: side, size, pictures, and quality measures of the scan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from medvision.core.geometry import Box, Spacing
from medvision.models.nodules.run import LUNG_SPACING_MM, Lungs
from medvision.ops.candidates import Candidates
from medvision.ops.lungs import LungSettings, lungs_apart
from medvision.ops.nodule_size import NoduleSize, measure_nodule, reach_mm, size_band
from medvision.ops.window import HU_WINDOWS
from medvision.report.planes import VIEWS, Plane, lettered, plane_of
from medvision.sources.base import Values, VolumeSource
from medvision.sources.resample import read_at
from medvision.sources.spacing import require_spacing
from medvision.store.files import atomic_write
from medvision.store.records import QcMeasure
from medvision.store.scan_records import Finding, LungInfo, Millimetres, Side

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

CROP_MM = 50.0
CROP_PX = 320
PROJECTION_PX = 720
FRONTAL, LATERAL = "frontal.jpg", "lateral.jpg"
GEOJSON = "findings.geojson"

_SIDE_MM = 0.6
"""Of the voxels in which sizes are measured."""
_LARGEST_MM = 60.0
"""A box beyond it is measured as if it were as large."""
_CROSS = "#ffe27a"
_LETTER_PX = 20
_CORES_MM = (6.0, 10.0, 15.0, 20.0)

MOST_STEP_MM = 2.5
LEAST_LUNG_ML = 1000.0
MOST_CUT = 0.1


@dataclass(frozen=True, eq=False)
class Sides:
    """The lungs apart, as masks of `LUNG_SPACING_MM`: by side where there are two, else nothing by side."""

    info: LungInfo
    masks: dict[Side, Mask]

    def of(self, point_mm: Floats) -> Side | None:
        """The side of the lung nearest to a point in mm from the scan's corner, array order."""
        apart = {
            side: float((((np.argwhere(mask) + 0.5) * LUNG_SPACING_MM - point_mm) ** 2).sum(axis=1).min())
            for side, mask in self.masks.items()
        }
        return min(apart, key=lambda side: apart[side], default=None)


def tell_sides(lungs: Lungs) -> Sides:
    """The lungs of an upright scan by side: columns grow to the patient's left."""
    millilitres = LUNG_SPACING_MM**3 / 1000
    parts: list[Mask] = []
    for core_mm in _CORES_MM:  # lungs that touch at the mediastinum have one core until it is sought deeper
        parts = lungs_apart(lungs.inside, (LUNG_SPACING_MM,) * 3, LungSettings(core_mm=core_mm))
        if len(parts) != 1:
            break
    whole = round(float(lungs.inside.sum()) * millilitres, 1)
    if len(parts) != 2:
        return Sides(LungInfo(count=len(parts), volume_ml=whole), {})
    first, second = sorted(parts, key=lambda part: float(np.argwhere(part)[:, 2].mean()))
    masks: dict[Side, Mask] = {"right": first, "left": second}
    by_side = {side: round(float(mask.sum()) * millilitres, 1) for side, mask in masks.items()}
    return Sides(LungInfo(count=2, volume_ml=whole, by_side_ml=by_side), masks)


def scan_checks(source: VolumeSource, lungs: Lungs, found: LungInfo) -> tuple[QcMeasure, ...]:
    """What can be known of a scan's fitness: distance of planes, lungs, and whether they are all there."""
    planes, row, column = require_spacing(source, "mm").values
    areas = lungs.inside.sum(axis=(1, 2))
    most = max(1, int(areas.max(initial=0)))
    cut = {
        "bottom": float(areas[:2].max(initial=0)) / most,
        "top": float(areas[-2:].max(initial=0)) / most,
    }
    return (
        QcMeasure(
            name="distance of planes",
            value=round(planes, 4),
            unit="mm",
            ok=planes <= MOST_STEP_MM,
            limit=f"at most {MOST_STEP_MM:g}",
            meaning="Thick slices hide small nodules; LUNA16 holds scans of up to 2.5 mm. Steps are even: a series "
            "with gaps is refused when it is opened.",
        ),
        QcMeasure(
            name="pixel",
            value=round(max(row, column), 4),
            unit="mm",
            ok=max(row, column) <= 1.0,
            limit="at most 1",
            meaning="Side of a pixel in the plane.",
        ),
        QcMeasure(
            name="lungs found",
            value=found.count,
            unit="",
            ok=found.count == 2,
            limit="2",
            meaning="Lungs that were told apart. One may be two that hang together; then sides are not told.",
        ),
        QcMeasure(
            name="lung volume",
            value=found.volume_ml,
            unit="ml",
            ok=found.volume_ml >= LEAST_LUNG_ML,
            limit=f"at least {LEAST_LUNG_ML:,.0f}",
            meaning="Air and vessels inside the lungs. Less: a part of the lungs, or another part of the body.",
        ),
        *(
            QcMeasure(
                name=f"lungs cut at the {end}",
                value=round(share, 4),
                unit="",
                ok=share <= MOST_CUT,
                limit=f"at most {MOST_CUT:g}",
                meaning=f"Lung area in the scan's {'lowest' if end == 'bottom' else 'uppermost'} planes, as a share of "
                "the largest: the scan may end inside the lungs.",
            )
            for end, share in cut.items()
        ),
    )


def describe_finding(
    number: int, source: VolumeSource, candidates: Candidates, index: int, score: float, sides: Sides
) -> Finding:
    """One candidate as a finding: its place, side and size."""
    frame, spacing = source.frame, np.array(require_spacing(source, "mm").values)
    assert frame is not None, "a scan with a spacing has a frame"
    centre, guess_mm = candidates.centres[index], float(candidates.diameters_mm[index])
    size = _size(source, centre * spacing, guess_mm)
    diameter_mm = round(guess_mm, 1) if size is None else size.diameter_mm
    return Finding(
        id=number,
        world=_triple(frame.to_world(centre), 3),
        voxel=_triple(centre, 3),
        side=sides.of(centre * spacing),
        score=round(score, 6),
        detector_score=round(float(candidates.scores[index]), 6),
        detector_mm=round(guess_mm, 1),
        size_from="detector" if size is None else "segmentation",
        diameter_mm=diameter_mm,
        long_mm=None if size is None else size.long_mm,
        short_mm=None if size is None else size.short_mm,
        volume_mm3=None if size is None else size.volume_mm3,
        mean_hu=None if size is None else size.mean_hu,
        size_band=size_band(diameter_mm),
    )


def with_crops(finding: Finding, source: VolumeSource, folder: Path) -> Finding:
    """The finding with pictures of the planes through it, written into `folder`: lung window, letters, a cross."""
    wide_mm = max(CROP_MM, round(2 * finding.diameter_mm))
    names = {}
    for view in VIEWS:
        plane = plane_of(source, view, finding.voxel, HU_WINDOWS["lung"], CROP_PX, wide_mm / 2)
        names[view] = f"finding-{finding.id}-{view}.jpg"
        image = _crossed(plane, finding.diameter_mm / wide_mm)
        image.save(folder / names[view], quality=90, optimize=True)
    return finding.model_copy(update={"crops": names, "crop_mm": wide_mm})


def write_projections(coarse: Values, folder: Path) -> dict[str, str]:
    """The scan as seen from the front and from the left, like a radiograph: means along the way; returns the names."""
    dense = np.clip(coarse.astype(np.float32), -1000, 1000) + 1000
    for name, axis in ((FRONTAL, 1), (LATERAL, 2)):
        seen = dense.mean(axis=axis)[::-1]
        low, high = np.percentile(seen, (1, 99.5))
        grey = np.clip((seen - low) * (255 / max(float(high - low), 1e-6)), 0, 255).astype(np.uint8)
        factor = PROJECTION_PX / max(grey.shape)
        size = (max(1, round(grey.shape[1] * factor)), max(1, round(grey.shape[0] * factor)))
        image = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / name, quality=90, optimize=True)
    return {"thumbnail": FRONTAL, "frontal": FRONTAL, "lateral": LATERAL}


def write_findings(findings: tuple[Finding, ...], series: str, folder: Path) -> None:
    """`findings.geojson`: points in LPS millimetres (x, y, z), which is said in the file; in no system of the Earth."""
    features: list[dict[str, Any]] = [
        {
            "type": "Feature",
            "id": one.id,
            "geometry": {"type": "Point", "coordinates": list(one.world)},
            "properties": one.model_dump(mode="json", exclude={"id", "world", "crops", "crop_mm"}),
        }
        for one in findings
    ]
    content = {
        "type": "FeatureCollection",
        "notice": "Research use only: not for diagnosis.",
        "coordinates": "LPS millimetres (x, y, z) in the patient",
        "series": series,
        "features": features,
    }
    atomic_write(folder / GEOJSON, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _size(source: VolumeSource, centre_mm: Floats, guess_mm: float) -> NoduleSize | None:
    guess_mm = min(guess_mm, _LARGEST_MM)
    half = int(np.ceil((reach_mm(guess_mm) + 2 * _SIDE_MM) / _SIDE_MM))
    middle = np.floor(centre_mm / _SIDE_MM).astype(int)
    box = Box(tuple(int(m - half) for m in middle), tuple(int(m + half + 1) for m in middle))
    cube = read_at(source, box, Spacing((_SIDE_MM,) * 3, "mm", "supplied"))[..., 0]
    return measure_nodule(cube, _SIDE_MM, guess_mm)


def _crossed(plane: Plane, share: float) -> Image.Image:
    """The plane with its letters, and a cross that leaves open what it points at: `share` of the width."""
    image = lettered(plane, _LETTER_PX)
    draw = ImageDraw.Draw(image)
    width, height = image.size
    y, x = plane.mark[0] * height, plane.mark[1] * width
    gap, length = share * width / 2 + 10, 26
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        draw.line(
            (x + dx * gap, y + dy * gap, x + dx * (gap + length), y + dy * (gap + length)), _CROSS, width=2
        )
    return image


def _triple(values: Floats, digits: int) -> Millimetres:
    first, second, third = (round(float(value), digits) for value in values)
    return first, second, third
