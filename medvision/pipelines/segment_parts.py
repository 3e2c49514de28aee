"""The parts of a label image: what hangs together, or objects that were told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medvision.ops.banded import Part, connected_parts
from medvision.ops.outlines import Polygon, outline_cells

Bytes = npt.NDArray[np.uint8]
Objects = npt.NDArray[np.int32]

BAND = 512
"""Rows that are looked at together."""


@dataclass(eq=False)
class LabelImage:
    """`labels` `(*shape)`, 0 the background, and how `sure` each is: its probability in 255ths, 0 where unread.

    Both may lie in files. `sure` is None where a method gives no probabilities. `objects` numbers objects from 1, where
    touching ones were told apart. `step` is the side of a pixel in pixels of the file, `pixel` its size in µm2 or mm3,
    None without a spacing.
    """

    labels: Bytes
    sure: Bytes | None
    step: tuple[float, ...]
    pixel: float | None
    objects: Objects | None = None

    @property
    def confidence(self) -> float | None:
        """Mean probability of what each pixel was labelled."""
        if self.sure is None:
            return None
        total = sum(int(self.sure[k : k + BAND].sum(dtype=np.int64)) for k in range(0, len(self.sure), BAND))
        return round(total / 255 / self.sure.size, 6)


def areas_of(image: LabelImage) -> Iterator[tuple[Part, tuple[Polygon, ...]]]:
    """Parts of an image of two axes with their outlines, one after the other; an object may be in several pieces."""
    if image.objects is None:
        sure = image.sure
        bands = (
            image.labels[k : k + BAND] if sure is None else (image.labels[k : k + BAND], sure[k : k + BAND])
            for k in range(0, len(image.labels), BAND)
        )
        for part in connected_parts(bands):
            yield part, (part.polygon,)
        return
    from scipy import ndimage

    boxes = ndimage.find_objects(image.objects)
    for number, box in enumerate(boxes, start=1):
        if box is None:
            continue
        inside = image.objects[box] == number
        corner = np.array([side.start for side in box])
        pieces = tuple(one.moved(offset=(corner[0], corner[1])) for one in outline_cells(inside))
        rows, columns = np.nonzero(inside)
        first = (int(rows[0] + corner[0]), int(columns[0] + corner[1]))
        value = float("nan") if image.sure is None else float(image.sure[box][inside].mean())
        part = Part(
            number=number,
            label=int(image.labels[first]),
            pixels=len(rows),
            first=first,
            centroid=(float(rows.mean() + corner[0] + 0.5), float(columns.mean() + corner[1] + 0.5)),
            bbox=((box[0].start, box[1].start), (box[0].stop, box[1].stop)),
            value=value,
            polygon=pieces[0],
        )
        yield part, pieces


def erase(image: LabelImage, part: Part) -> None:
    """Make background of a part of two axes that is over."""
    from scipy import ndimage

    (top, left), (bottom, right) = part.bbox
    box = (slice(top, bottom), slice(left, right))
    row, column = part.first[0] - top, part.first[1] - left
    if image.objects is not None:
        gone = image.objects[box] == image.objects[part.first]
        image.objects[box][gone] = 0
    else:
        found, _ = ndimage.label(image.labels[box] == part.label)
        gone = found == found[row, column]
    image.labels[box][gone] = 0


@dataclass(frozen=True, eq=False)
class Lump:
    """A part of three axes: its label, its box and where it is inside that."""

    label: int
    box: tuple[slice, ...]
    inside: npt.NDArray[np.bool_]


def lumps_of(image: LabelImage) -> Iterator[Lump]:
    """Parts of a volume, class after class, or object after object."""
    from scipy import ndimage

    if image.objects is not None:
        for number, box in enumerate(ndimage.find_objects(image.objects), start=1):
            if box is not None:
                inside = image.objects[box] == number
                yield Lump(int(image.labels[box][inside][0]), box, inside)
        return
    for label in np.unique(image.labels).tolist():
        if label:
            found, _ = ndimage.label(image.labels == label)
            for one, box in enumerate(ndimage.find_objects(found), start=1):
                yield Lump(label, box, found[box] == one)
