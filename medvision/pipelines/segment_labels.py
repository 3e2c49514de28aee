"""From probabilities to a label image, and from its parts to tables, outlines and totals."""

from __future__ import annotations

import csv
import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.geometry import Spacing
from medvision.core.results import FloatArray
from medvision.core.world import WorldFrame
from medvision.ops.label_colours import class_colour, hex_colour
from medvision.pipelines.segment_parts import Bytes, LabelImage, areas_of, erase, lumps_of
from medvision.sources.annotations import Annotation, write_geojson
from medvision.store.segment_records import ClassTotal, PartInfo

OUTLINES, PARTS = "segments.geojson", "parts.csv"
SHOWN_PARTS = 20

_PLACE_2D = ("row", "column", "top", "left", "bottom", "right")
_PARTS_2D = ("part", "class", "pixels", "area_um2", *_PLACE_2D, "probability")
_PLACE_3D = ("plane", "row", "column", "x_mm", "y_mm", "z_mm")
_BOX_3D = ("first_plane", "first_row", "first_column", "end_plane", "end_row", "end_column")
_PARTS_3D = ("part", "class", "voxels", "volume_mm3", *_PLACE_3D, *_BOX_3D, "probability")


@dataclass(eq=False)
class Tally:
    """What was found, while parts go by."""

    classes: tuple[str, ...]
    pixel: float | None
    axes: int
    pixels: npt.NDArray[np.int64] = field(init=False)
    parts: npt.NDArray[np.int64] = field(init=False)
    largest: npt.NDArray[np.int64] = field(init=False)
    removed: int = 0
    _heap: list[tuple[int, int, PartInfo]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pixels, self.parts, self.largest = (np.zeros(len(self.classes), np.int64) for _ in range(3))

    def add(self, label: int, part: PartInfo) -> None:
        """Count a part."""
        self.pixels[label] += part.pixels
        self.parts[label] += 1
        self.largest[label] = max(int(self.largest[label]), part.pixels)
        push = heapq.heappush if len(self._heap) < SHOWN_PARTS else heapq.heappushpop
        push(self._heap, (part.pixels, -part.id, part))

    @property
    def listed(self) -> tuple[PartInfo, ...]:
        """The largest parts."""
        return tuple(part for _, _, part in sorted(self._heap, key=lambda one: (-one[0], -one[1])))

    def totals(self, whole: int) -> tuple[ClassTotal, ...]:
        """Of each class but the background; `whole` is the number of all pixels."""
        return tuple(
            ClassTotal(
                name=name,
                label=label,
                colour=hex_colour(class_colour(label)),
                pixels=int(self.pixels[label]),
                share=round(float(self.pixels[label]) / whole, 6),
                area_mm2=self._size(label, 1e6) if self.axes == 2 else None,
                volume_ml=self._size(label, 1e3) if self.axes == 3 else None,
                parts=int(self.parts[label]),
                largest=int(self.largest[label]),
            )
            for label, name in enumerate(self.classes)
            if label
        )

    def _size(self, label: int, divisor: float) -> float | None:
        return None if self.pixel is None else round(float(self.pixels[label]) * self.pixel / divisor, 6)


def decide(probabilities: FloatArray, threshold: float | None) -> tuple[Bytes, Bytes]:
    """Labels, and how sure they are, of `(classes, *shape)`; background where nothing was read.

    The most probable class, or, with a threshold, the most probable but the background where it reaches that.
    """
    read = ~np.isnan(probabilities[0])
    if threshold is None:
        labels = probabilities.argmax(axis=0)
    else:
        labels = probabilities[1:].argmax(axis=0) + 1
        best = np.take_along_axis(probabilities, labels[None], axis=0)[0]
        labels = np.where(best >= threshold, labels, 0)
    labels = np.where(read, labels, 0)
    sure = np.nan_to_num(np.take_along_axis(probabilities, labels[None], axis=0)[0])
    return labels.astype(np.uint8), np.rint(sure * 255).clip(0, 255).astype(np.uint8)


def write_areas(image: LabelImage, classes: tuple[str, ...], minimum: float, folder: Path) -> Tally:
    """Outlines and table of the parts of a label image of two axes; parts below `minimum` become background there.

    `minimum` is in the unit of `image.pixel`, in pixels without one. Parts are written as they are found, and none is
    kept, so that memory does not grow with their number.
    """
    tally = Tally(classes, image.pixel, 2)
    with (folder / PARTS).open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(_PARTS_2D)
        write_geojson(folder / OUTLINES, _areas(image, minimum, tally, table))
    return tally


def _areas(image: LabelImage, minimum: float, tally: Tally, table: Any) -> Iterator[Annotation]:
    pixel = 1.0 if image.pixel is None else image.pixel
    down, across = image.step
    number = 0
    for part, pieces in areas_of(image):
        if part.pixels * pixel < minimum:
            erase(image, part)
            tally.removed += 1
            continue
        number += 1
        probability = None if math.isnan(part.value) else round(part.value / 255, 4)
        info = PartInfo(
            id=number,
            name=tally.classes[part.label],
            pixels=part.pixels,
            area_um2=None if image.pixel is None else round(part.pixels * pixel, 4),
            centroid=(round(part.centroid[0] * down, 2), round(part.centroid[1] * across, 2)),
            probability=probability,
        )
        tally.add(part.label, info)
        (top, left), (bottom, right) = part.bbox
        box = (top * down, left * across, bottom * down, right * across)
        table.writerow(
            (
                number,
                info.name,
                part.pixels,
                _said(info.area_um2),
                *info.centroid,
                *map(_said, box),
                _said(probability),
            )
        )
        measurements = {"area_um2": info.area_um2, "pixels": part.pixels, "mean_probability": probability}
        known = {name: float(value) for name, value in measurements.items() if value is not None}
        for piece in pieces:
            polygon = piece.moved((down, across))
            yield Annotation(
                name=f"{info.name} {number}",
                group=info.name,
                kind="polygon",
                points=polygon.exterior.round(2),
                holes=tuple(hole.round(2) for hole in polygon.holes),
                color=class_colour(part.label),
                measurements=known,
            )


def write_volumes(
    image: LabelImage, classes: tuple[str, ...], minimum: float, frame: WorldFrame, folder: Path
) -> Tally:
    """Table of the parts of a label image of three axes; parts below `minimum` mm3 become background there."""
    tally = Tally(classes, image.pixel, 3)
    voxel = 1.0 if image.pixel is None else image.pixel
    number = 0
    with (folder / PARTS).open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(_PARTS_3D)
        for one in lumps_of(image):
            count = int(one.inside.sum())
            if count * voxel < minimum:
                for values in (image.labels, image.objects):
                    if values is not None:
                        values[one.box][one.inside] = 0
                tally.removed += 1
                continue
            number += 1
            start = [side.start for side in one.box]
            at = np.argwhere(one.inside).mean(axis=0) + start + 0.5
            plane, row, column = (round(float(v), 2) for v in at)
            sure = None if image.sure is None else float(image.sure[one.box][one.inside].mean()) / 255
            info = PartInfo(
                id=number,
                name=classes[one.label],
                pixels=count,
                volume_mm3=None if image.pixel is None else round(count * voxel, 4),
                centroid=(plane, row, column),
                probability=None if sure is None else round(sure, 4),
            )
            tally.add(one.label, info)
            table.writerow(
                (
                    number,
                    info.name,
                    count,
                    _said(info.volume_mm3),
                    *info.centroid,
                    *(f"{v:.2f}" for v in frame.to_world(at)),
                    *start,
                    *(side.stop for side in one.box),
                    _said(info.probability),
                )
            )
    return tally


def pixel_size(spacing: Spacing | None, step: tuple[float, ...]) -> float | None:
    """Area or volume of a pixel of `step` pixels of the file."""
    if spacing is None:
        return None
    return float(np.prod([side * by for side, by in zip(spacing.values, step, strict=True)]))


def _said(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"
