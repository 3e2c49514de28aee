"""From a probability raster to what a pathologist reads: regions, measures, pictures, and the record of them all."""

from __future__ import annotations

import csv
import logging
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from medvision.core.errors import MedvisionError, WindowUnreadableError, is_transient
from medvision.core.geometry import Box
from medvision.core.results import FloatArray, Raster
from medvision.engine.contract import PatchModel
from medvision.engine.engine import RunStats
from medvision.models.slide_forest import SlideForest
from medvision.models.turns import SPREAD
from medvision.ops.components import RegionShape, find_regions, slide_score
from medvision.ops.heatmap_features import heatmap_features
from medvision.ops.nms import peaks, radius_in_cells
from medvision.ops.outlines import Points, Polygon
from medvision.ops.overlay import cells_to_pixels, colour_table, colourise
from medvision.ops.quality import assess, blur
from medvision.ops.tissue import Tissue
from medvision.pipelines.heatmap import Overview, sample_windows, spacing_of
from medvision.sources.annotations import Annotation, write_geojson
from medvision.sources.base import Source
from medvision.sources.resample import read_at
from medvision.sources.write import write_raster
from medvision.store.pseudonyms import without_name
from medvision.store.records import (
    HeatmapInfo,
    ModelInfo,
    QcMeasure,
    Region,
    SlideInfo,
    SlideOutcome,
    TissueInfo,
)

HEATMAP = "heatmap.ome.tiff"
GEOJSON = "regions.geojson"
DETECTIONS = "detections.csv"
THUMBNAIL_SIDE = 1400
CROPS = 6
SHARPNESS_UM = 1.0
CROP_UM = 256.0
CROP_PX = 512
_POSITIVE_COLOUR = (200, 0, 0)


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviation of the scores over orientations of the windows: mean over the read cells, and the largest."""

    mean: float
    largest: float

    def sentence(self, turns: int) -> str:
        """What a reader needs to know of it."""
        return (
            f"Scores are means over {turns} orientations of each window, whose standard deviation is {self.mean:.3f} "
            f"on average and {self.largest:.3f} at most; it tells how much the network minds orientation, no more."
        )


@dataclass(frozen=True, eq=False)
class SlideFindings:
    """What the raster says, in the terms of the record."""

    probability: float | None
    score_rule: str
    regions: tuple[Region, ...]
    heatmap: HeatmapInfo
    spread: Spread | None = None


def failed_outcome(
    slide: Path,
    name: str,
    error: Exception,
    seconds: float,
    alias: str | None = None,
    called: str | None = None,
) -> SlideOutcome:
    """A slide that failed, with its reason. What nobody foresaw is logged with its trace.

    `alias` stands for the slide's name and path wherever they occur; without it, its records say `called`.
    """

    def nameless(words: str) -> str:
        return words if alias is None else without_name(words, slide, alias)

    foreseen = isinstance(error, (MedvisionError, OSError, MemoryError))
    if not foreseen:
        trace = "".join(traceback.format_exception(error))
        logging.getLogger(__name__).error("%s", nameless(f"{slide}: unexpected error\n{trace}"))
    said = str(error) or type(error).__name__
    return SlideOutcome(
        slide=str(slide) if alias is None else alias,
        name=name,
        called=alias or called or "",
        status="failed",
        reason=nameless(said if foreseen else f"unexpected {type(error).__name__}: {error}"),
        transient=is_transient(error),
        seconds=round(seconds, 3),
    )


def describe_slide(source: Source, name: str) -> SlideInfo:
    """The slide as it was read, by the name that it is to have in its record."""
    spacing = source.spacing
    rows, columns = source.levels[0].shape
    return SlideInfo(
        name=name,
        digest=source.id,
        reader=source.reader,
        reader_reason=source.why,
        vendor=source.vendor,
        shape=(rows, columns),
        levels=len(source.levels),
        spacing_um=None if spacing is None else (spacing.values[0], spacing.values[1]),
        spacing_origin=None if spacing is None else spacing.origin,
        metadata=dict(source.metadata),
    )


def describe_model(model: PatchModel) -> ModelInfo:
    """The model that scores the windows."""
    return ModelInfo(
        name=model.name,
        version=model.version,
        digest=model.digest,
        classes=model.classes,
        positive=model.positive or model.classes[-1],
        window_px=(model.window[0], model.window[1]),
        spacing_um=spacing_of(model),
        calibration=model.calibration,
        card=model.card,
    )


def describe_tissue(tissue: Tissue, overview: Overview) -> TissueInfo:
    """Area and share of the tissue, with all that made the mask."""
    pixel_mm2 = (overview.spacing_um / 1000) ** 2
    return TissueInfo(
        area_mm2=round(float(tissue.mask.sum()) * pixel_mm2, 4),
        share=round(float(tissue.mask.mean()), 6),
        method=tissue.method,
        thresholds={name: round(float(value), 6) for name, value in tissue.thresholds.items()},
    )


def measure_quality(source: Source, tissue: Tissue, overview: Overview) -> tuple[QcMeasure, ...]:
    """The overview's measures, and sharpness on windows at 1 µm/px."""
    measures = list(assess(overview.image, tissue, overview.spacing_um))
    # Sharpness is judged at 1 µm/px; a slide that is coarser cannot show it.
    if source.spacing is not None and source.spacing.mean <= SHARPNESS_UM:
        windows = sample_windows(source, tissue, overview, SHARPNESS_UM)
        if len(windows):
            measures.append(blur(windows, SHARPNESS_UM))
    return tuple(QcMeasure(**asdict(measure)) for measure in measures)


def interpret(
    raster: Raster, stats: RunStats, model: PatchModel, source: Source, threshold: float, folder: Path
) -> SlideFindings:
    """Find the regions and the slide's score, and write the raster, the outlines and the detections into `folder`."""
    positive = model.positive or model.classes[-1]
    probability = raster.channel(positive)
    cell_um = raster.spacing.mean
    score, rule = slide_score(probability)
    # A region counts by the rule that judges the slide, so that a slide is positive exactly when it has one.
    shapes = [shape for shape in find_regions(probability, threshold, cell_um) if shape.score >= threshold]
    frame = _frame(raster, source)
    regions = tuple(frame.region(shape) for shape in shapes)
    write_raster(folder / HEATMAP, raster)
    write_geojson(folder / GEOJSON, [part for shape in shapes for part in frame.outlines(shape, positive)])
    _write_detections(folder, [(region.score, region.peak) for region in regions])
    heatmap = HeatmapInfo(
        file=HEATMAP,
        stride_um=round(cell_um, 6),
        shape=(raster.values.shape[0], raster.values.shape[1]),
        windows=stats.windows,
        unread=len(stats.unread),
    )
    spread = None
    of_cells = frame.spread
    if of_cells is not None and not np.isnan(of_cells).all():
        spread = Spread(float(np.nanmean(of_cells)), float(np.nanmax(of_cells)))
    return SlideFindings(None if score is None else round(score, 6), rule, regions, heatmap, spread)


def _write_detections(folder: Path, found: Iterable[tuple[float, tuple[float, float]]]) -> None:
    """Probabilities with their level-0 (row, column) in CAMELYON's form: probability, x, y."""
    with (folder / DETECTIONS).open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(("probability", "x", "y"))
        for probability, (row, column) in found:
            rows.writerow((f"{probability:.6f}", f"{column:.1f}", f"{row:.1f}"))


def write_peaks(raster: Raster, model: PatchModel, source: Source, folder: Path) -> None:
    """Detections by non-maximum suppression, the published radius kept on the glass, in place of the regions' peaks."""
    frame = _frame(raster, source)
    probability = raster.channel(model.positive or model.classes[-1])
    found = peaks(probability, radius_cells=radius_in_cells(raster.spacing.mean))
    _write_detections(folder, [(peak.probability, frame.place(peak.position)) for peak in found])


def judge(forest: SlideForest, findings: SlideFindings, raster: Raster, model: PatchModel) -> SlideFindings:
    """`findings` with the slide's probability by a slide model instead of the map's highest neighbourhood."""
    if findings.probability is None:
        return findings
    values = raster.channel(model.positive or model.classes[-1])
    probability = forest.probability(heatmap_features(values, raster.spacing.mean))
    return replace(findings, probability=round(probability, 6), score_rule=forest.rule)


def write_pictures(
    overview: Overview, tissue: Tissue, raster: Raster | None, positive: str, folder: Path
) -> tuple[dict[str, str], float]:
    """The thumbnail, the tissue mask and the coloured heatmap, all of one size; returns their names and the spacing."""
    rows, columns = overview.image.shape[:2]
    factor = min(1.0, THUMBNAIL_SIDE / max(rows, columns))
    shape = (max(1, round(rows * factor)), max(1, round(columns * factor)))
    spacing_um = overview.spacing_um * rows / shape[0]
    size = (shape[1], shape[0])
    thumbnail = cv2.resize(overview.image, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(tissue.mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
    names = {"thumbnail": "thumbnail.jpg", "tissue": "tissue.png"}
    Image.fromarray(thumbnail).save(folder / names["thumbnail"], quality=90, optimize=True)
    Image.fromarray(mask).save(folder / names["tissue"], optimize=True)
    if raster is not None:
        cell_um = raster.spacing.values[:2]
        pixels_per_cell = (cell_um[0] / spacing_um, cell_um[1] / spacing_um)
        heat = colourise(cells_to_pixels(raster.channel(positive), shape, pixels_per_cell))
        names["heatmap"] = "heatmap.png"
        # The legend's colours go with the map, so that a report rendered by a later version stays true.
        names["colours"] = "colours.png"
        Image.fromarray(colour_table()[None]).save(folder / names["colours"], optimize=True)
        Image.fromarray(heat).save(folder / names["heatmap"], optimize=True)
    return names, round(spacing_um, 6)


def write_crops(source: Source, regions: tuple[Region, ...], folder: Path) -> tuple[Region, ...]:
    """A high-power picture around the peak of each of the first regions; returns the regions with its name."""
    base = source.spacing
    assert base is not None, "the overview has already required a spacing"
    spacing_um = max(CROP_UM / CROP_PX, base.mean)
    side = round(CROP_UM / spacing_um)
    done = []
    for region in regions:
        if region.id > CROPS:
            done.append(region)
            continue
        centre = [p * s / spacing_um for p, s in zip(region.peak, base.values, strict=True)]
        box = Box.at((round(centre[0] - side / 2), round(centre[1] - side / 2)), (side, side))
        name = f"region-{region.id:02d}.jpg"
        try:
            Image.fromarray(read_at(source, box, spacing_um)).save(folder / name, quality=92)
        except WindowUnreadableError:
            done.append(region)
            continue
        update = {"crop": name, "crop_spacing_um": spacing_um, "crop_width_um": side * spacing_um}
        done.append(region.model_copy(update=update))
    return tuple(done)


def _frame(raster: Raster, source: Source) -> _Frame:
    base, cell_um = source.spacing, raster.spacing.mean
    assert base is not None, "the overview has already required a spacing"
    of_cells = raster.channel(SPREAD) if SPREAD in raster.channels else None
    scale = (cell_um / base.values[0], cell_um / base.values[1])
    return _Frame(scale, source.levels[0].shape, base.values, of_cells)


@dataclass(frozen=True, slots=True)
class _Frame:
    """From heatmap cells to level-0 pixels, clipped to the slide: the last cells may reach beyond its edge."""

    scale: tuple[float, float]
    shape: tuple[int, ...]
    spacing_um: tuple[float, ...]
    spread: FloatArray | None = None
    """Of every cell, where it is known."""

    def spread_at(self, cell: tuple[float, float]) -> float | None:
        """The spread of the cell that holds a position in cells."""
        return None if self.spread is None else round(float(self.spread[int(cell[0]), int(cell[1])]), 6)

    def place(self, cell: tuple[float, float]) -> tuple[float, float]:
        """A position in cells as (row, column) in level-0 pixels."""
        row, column = (round(min(c * s, n), 2) for c, s, n in zip(cell, self.scale, self.shape, strict=True))
        return row, column

    def polygons(self, shape: RegionShape) -> list[Polygon]:
        """Outlines in level-0 pixels."""
        scale, limit = np.array(self.scale, np.float64), np.array(self.shape, np.float64)

        def clipped(ring: Points) -> Points:
            placed: Points = np.minimum(ring * scale, limit).round(2)
            return placed

        return [
            Polygon(clipped(polygon.exterior), tuple(clipped(hole) for hole in polygon.holes))
            for polygon in shape.outline
        ]

    def area_um2(self, shape: RegionShape) -> float:
        """Area inside the outlines."""
        pixels = sum(polygon.area for polygon in self.polygons(shape))
        return pixels * self.spacing_um[0] * self.spacing_um[1]

    def region(self, shape: RegionShape) -> Region:
        """The record of a region."""
        (top, left), (bottom, right) = shape.bbox
        return Region(
            id=shape.label,
            centroid=self.place(shape.centroid),
            peak=self.place(shape.peak),
            bbox=(*self.place((top, left)), *self.place((bottom, right))),
            area_mm2=round(self.area_um2(shape) / 1e6, 6),
            length_mm=round(shape.major_axis_um / 1000, 6),
            max_probability=round(shape.maximum, 6),
            mean_probability=round(shape.mean, 6),
            score=round(shape.score, 6),
            spread=self.spread_at(shape.peak),
        )

    def outlines(self, shape: RegionShape, positive: str) -> list[Annotation]:
        """The region's polygons, all with its name and measurements: together one feature of the GeoJSON."""
        measurements = {
            "area_um2": round(self.area_um2(shape), 3),
            "length_um": round(shape.major_axis_um, 3),
            "mean_probability": round(shape.mean, 6),
            "max_probability": round(shape.maximum, 6),
            "score": round(shape.score, 6),
        }
        if (spread := self.spread_at(shape.peak)) is not None:
            measurements["spread_at_peak"] = spread
        return [
            Annotation(
                name=f"region {shape.label}",
                group=positive,
                kind="polygon",
                points=polygon.exterior,
                holes=polygon.holes,
                color=_POSITIVE_COLOUR,
                measurements=measurements,
            )
            for polygon in self.polygons(shape)
        ]
