"""Pictures of a segmentation for its page: what was looked at, and the classes' colours to be laid over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from medvision.core.geometry import Box
from medvision.ops.label_colours import paint_labels
from medvision.report.planes import VIEWS, View, lettered, plane_of
from medvision.sources.base import Pixels, VolumeSource

SIDE = 1400
SMALLEST = 640
"""Side to which small images are enlarged, by a whole factor, so that edges of classes can be seen."""
PLANE = 640

Labels = npt.NDArray[np.uint8]
Objects = npt.NDArray[np.int32]


def write_overlay(
    base: Pixels, labels: Labels, folder: Path, objects: Objects | None = None
) -> dict[str, str]:
    """`thumbnail` of an image or an overview, uint8 grey or RGB, and `heatmap`, the classes over it, of one size.

    Touching `objects` have edges between them.
    """
    rows, columns = base.shape[:2]
    longest = max(rows, columns)
    factor = SIDE / longest if longest > SIDE else max(1, SMALLEST // longest)
    size = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    thumbnail = cv2.resize(base, size, interpolation=how) if factor != 1 else base
    names = {"thumbnail": "thumbnail.jpg", "heatmap": "classes.png"}
    Image.fromarray(thumbnail).save(folder / names["thumbnail"], quality=92, optimize=True)
    picks = [_nearest(n, m) for n, m in zip(labels.shape, (size[1], size[0]), strict=True)]
    shown = np.asarray(labels[picks[0]][:, picks[1]])
    apart = None if objects is None else objects[np.ix_(*picks)]
    Image.fromarray(paint_labels(shown, 2, apart)).save(folder / names["heatmap"], optimize=True)
    return names


def write_planes(
    volume: VolumeSource,
    labels: Labels,
    at: tuple[float, float, float],
    window: tuple[float, float],
    folder: Path,
    objects: Objects | None = None,
) -> tuple[dict[str, str], dict[str, float]]:
    """The three planes through the voxel point `at`, and the classes over each; names, and widths in mm."""
    names: dict[str, str] = {}
    widths: dict[str, float] = {}
    for view in VIEWS:
        plane = plane_of(volume, view, at, window, PLANE)
        picture = lettered(plane)
        names[view], names[f"{view}-classes"] = f"{view}.jpg", f"{view}-classes.png"
        picture.save(folder / names[view], quality=92, optimize=True)
        shown = _plane_labels(labels, view, at)
        picks = [_nearest(n, m) for n, m in zip(shown.shape, (picture.height, picture.width), strict=True)]
        apart = None if objects is None else _plane_labels(objects, view, at)[np.ix_(*picks)]
        painted = paint_labels(shown[np.ix_(*picks)], 2, apart)
        Image.fromarray(painted).save(folder / names[f"{view}-classes"], optimize=True)
        widths[view] = round(picture.width * plane.side_mm, 3)
    names["thumbnail"], names["heatmap"] = names["axial"], names["axial-classes"]
    return names, widths


def _plane_labels(labels: npt.NDArray[Any], view: View, at: tuple[float, float, float]) -> npt.NDArray[Any]:
    """The plane that `plane_of` shows."""
    through = VIEWS.index(view)
    index = min(int(at[through]), labels.shape[through] - 1)
    box = Box(
        tuple(index if k == through else 0 for k in range(3)),
        tuple(index + 1 if k == through else n for k, n in enumerate(labels.shape)),
    )
    plane = labels[box.slices()].squeeze(axis=through)
    return plane if view == "axial" else plane[::-1]


def _nearest(full: int, wanted: int) -> npt.NDArray[np.int64]:
    return np.minimum(((np.arange(wanted) + 0.5) * full / wanted).astype(np.int64), full - 1)
