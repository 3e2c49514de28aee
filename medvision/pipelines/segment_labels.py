"""From probabilities to a label image, its connected parts, and the files and figures made of them."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.geometry import Spacing
from medvision.core.results import FloatArray
from medvision.core.world import WorldFrame
from medvision.ops.banded import Part, connected_parts
from medvision.ops.label_colours import class_colour, hex_colour
from medvision.sources.annotations import Annotation, write_geojson
from medvision.store.segment_records import ClassTotal, PartInfo

Bytes = npt.NDArray[np.uint8]

OUTLINES, PARTS = "segments.geojson", "parts.csv"
SHOWN_PARTS = 20
BAND = 512
"""Rows that are looked at together."""

_PLACE_2D = ("row", "column", "top", "left", "bottom", "right")
_PARTS_2D = ("part", "class", "pixels", "area_um2", *_PLACE_2D, "probability")
_PLACE_3D = ("plane", "row", "column", "x_mm", "y_mm", "z_mm")
_BOX_3D = ("first_plane", "first_row", "first_column", "end_plane", "end_row", "end_column")
_PARTS_3D = ("part", "class", "voxels", "volume_mm3", *_PLACE_3D, *_BOX_3D, "probability")


@dataclass(eq=False)
class LabelImage:
    """`labels` `(*shape)`, 0 the background, and how `sure` each is: its probability in 255ths, 0 where unread.

    Both may lie in files. `step` is the side of a pixel in pixels of the file, `pixel` its size in µm2 or mm3, None
    without a spacing.
    """

    labels: Bytes
    sure: Bytes
    step: tuple[float, ...]
    pixel: float | None

    @property
    def confidence(self) -> float:
        """Mean probability of what each pixel was labelled."""
        total = sum(int(self.sure[k : k + BAND].sum(dtype=np.int64)) for k in range(0, len(self.sure), BAND))
        return total / 255 / self.sure.size


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


def fill_holes(labels: Bytes) -> None:
    """Give background that a class surrounds to that class, class after class, in place."""
    from scipy import ndimage

    for label in np.unique(labels).tolist():
        if label:
            labels[ndimage.binary_fill_holes(labels == label) & (labels == 0)] = label


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
    bands = (
        (image.labels[k : k + BAND], image.sure[k : k + BAND]) for k in range(0, len(image.labels), BAND)
    )
    for part in connected_parts(bands):
        if part.pixels * pixel < minimum:
            _erase(image.labels, part)
            tally.removed += 1
            continue
        number += 1
        name, probability = tally.classes[part.label], round(part.value / 255, 4)
        area = None if image.pixel is None else round(part.pixels * pixel, 4)
        centre = (round(part.centroid[0] * down, 2), round(part.centroid[1] * across, 2))
        tally.add(
            part.label,
            PartInfo(
                id=number,
                name=name,
                pixels=part.pixels,
                area_um2=area,
                centroid=centre,
                probability=probability,
            ),
        )
        (top, left), (bottom, right) = part.bbox
        box = (top * down, left * across, bottom * down, right * across)
        table.writerow(
            (
                number,
                name,
                part.pixels,
                "" if area is None else f"{area:.10g}",
                *centre,
                *(f"{edge:.10g}" for edge in box),
                f"{probability:.4f}",
            )
        )
        polygon = part.polygon.moved(image.step if len(image.step) == 2 else (1.0, 1.0))
        measurements = {"pixels": float(part.pixels), "mean_probability": probability}
        yield Annotation(
            name=f"{name} {number}",
            group=name,
            kind="polygon",
            points=polygon.exterior.round(2),
            holes=tuple(hole.round(2) for hole in polygon.holes),
            color=class_colour(part.label),
            measurements=measurements if area is None else {"area_um2": area, **measurements},
        )


def _erase(labels: Bytes, part: Part) -> None:
    from scipy import ndimage

    (top, left), (bottom, right) = part.bbox
    box = labels[top:bottom, left:right]
    found, _ = ndimage.label(box == part.label)
    box[found == found[part.first[0] - top, part.first[1] - left]] = 0


def write_volumes(
    image: LabelImage, classes: tuple[str, ...], minimum: float, frame: WorldFrame, folder: Path
) -> Tally:
    """Table of the parts of a label image of three axes; parts below `minimum` mm3 become background there."""
    from scipy import ndimage

    tally = Tally(classes, image.pixel, 3)
    voxel = 1.0 if image.pixel is None else image.pixel
    number = 0
    with (folder / PARTS).open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(_PARTS_3D)
        for label in range(1, len(classes)):
            found, count = ndimage.label(image.labels == label)
            sizes = np.bincount(found.ravel(), minlength=count + 1)
            for one, box in enumerate(ndimage.find_objects(found), start=1):
                inside = found[box] == one
                if sizes[one] * voxel < minimum:
                    image.labels[box][inside] = 0
                    tally.removed += 1
                    continue
                number += 1
                start = [part.start for part in box]
                at = np.argwhere(inside).mean(axis=0) + start + 0.5
                probability = round(float(image.sure[box][inside].mean()) / 255, 4)
                volume = None if image.pixel is None else round(float(sizes[one]) * voxel, 4)
                plane, row, column = (round(float(v), 2) for v in at)
                part = PartInfo(
                    id=number,
                    name=classes[label],
                    pixels=int(sizes[one]),
                    volume_mm3=volume,
                    centroid=(plane, row, column),
                    probability=probability,
                )
                tally.add(label, part)
                world = [f"{v:.2f}" for v in frame.to_world(at)]
                table.writerow(
                    (
                        number,
                        part.name,
                        part.pixels,
                        "" if volume is None else f"{volume:.10g}",
                        *part.centroid,
                        *world,
                        *start,
                        *(edge.stop for edge in box),
                        f"{probability:.4f}",
                    )
                )
    return tally


def pixel_size(spacing: Spacing | None, step: tuple[float, ...]) -> float | None:
    """Area or volume of a pixel of `step` pixels of the file."""
    if spacing is None:
        return None
    return float(np.prod([side * by for side, by in zip(spacing.values, step, strict=True)]))
