"""Labels of a DICOM segmentation, on the grid of the series that it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import SourceTooLargeError, UnreadableSourceError
from medvision.core.world import WorldFrame, from_matrix
from medvision.sources.faults import quiet

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
MAX_VOXELS = 1 << 29


def read_dicom_segmentation(path: Path) -> tuple[npt.NDArray[np.uint8], WorldFrame, str]:
    """Labels `(planes, rows, columns)`, upright, where they lie, and where the axes of the file lead, in words.

    A label is the number of its segment. Slices of the series without a frame hold none. Which there are is known from
    the instances that the file refers to; where it refers to none, its slices are those from the first frame's to the
    last's.

    Raises:
        UnreadableSourceError: if it is no segmentation of binary segments of one straight stack, or two of them share
            a pixel.
        SourceTooLargeError: if it claims more voxels than the limit.
    """
    import pydicom

    with quiet():
        made = pydicom.dcmread(path)
    if made.get("SOPClassUID") != SEGMENTATION:
        raise UnreadableSourceError("a DICOM file, but no segmentation")
    if (kind := made.get("SegmentationType")) != "BINARY":
        raise UnreadableSourceError(f"a segmentation of type {kind!r}; read are BINARY ones")
    frames = list(made.PerFrameFunctionalGroupsSequence)
    shape = (int(made.Rows), int(made.Columns))
    ways = _vector(_shared(made, frames[0], "PlaneOrientationSequence").ImageOrientationPatient)
    along_row, along_column = ways[:3], ways[3:]
    normal = np.cross(along_row, along_column)
    places = np.array(
        [_vector(_shared(made, one, "PlanePositionSequence").ImagePositionPatient) for one in frames]
    )
    measures = _shared(made, frames[0], "PixelMeasuresSequence")
    slices, count, step = _slices(made, frames, places @ normal, measures)
    if count * shape[0] * shape[1] > MAX_VOXELS:
        raise SourceTooLargeError(f"{count} x {shape[0]} x {shape[1]} are more than {MAX_VOXELS:,} voxels")
    labels = np.zeros((count, *shape), np.uint8)
    for number, pixels, one in zip(slices, made.pixel_array.reshape(-1, *shape), frames, strict=True):
        segment = int(_shared(made, one, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        inside = pixels > 0
        if not 1 <= segment <= 255:
            raise UnreadableSourceError(f"segment number {segment}; labels are 1 to 255")
        if (labels[number][inside] > 0).any():
            raise UnreadableSourceError("two segments share a pixel, and a pixel has one label")
        labels[number][inside] = segment
    rows, columns = (float(side) for side in measures.PixelSpacing)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([along_row * columns, along_column * rows, normal * step], axis=1)
    matrix[:3, 3] = places[0] - slices[0] * step * normal
    stored = from_matrix(matrix)
    order, flips = stored.upright()
    upright = np.flip(labels.transpose(order), tuple(axis for axis, flip in enumerate(flips) if flip))
    axes = f"{stored.letters[::-1]} (x y z)"
    return np.ascontiguousarray(upright), stored.rearranged(labels.shape, order, flips), axes


def _slices(
    made: Any, frames: list[Any], heights: npt.NDArray[np.float64], measures: Any
) -> tuple[list[int], int, float]:
    """The slice of each frame, how many there are, and the way in mm from one to the next along the normal."""
    gap = float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0)
    known = _referenced(made)
    at = [known.get(_source(one), -1) for one in frames]
    if known and min(at) >= 0:
        step = _step(np.array(at), heights, gap)
        count = len(known)
    else:
        if gap <= 0:
            raise UnreadableSourceError("does not say how far apart its slices are")
        at = np.rint((heights - heights.min()) / gap).astype(int).tolist()
        step, count = gap, max(at) + 1
    off = np.abs(heights - heights[0] - (np.array(at) - at[0]) * step).max()
    if step == 0 or off > 0.1 * abs(step):
        raise UnreadableSourceError("its frames are no straight, evenly spaced stack")
    return at, count, step


def _step(at: npt.NDArray[np.int64], heights: npt.NDArray[np.float64], gap: float) -> float:
    """From the two slices that lie farthest apart; where all frames are of one, what the file says."""
    low, high = int(at.argmin()), int(at.argmax())
    if at[low] == at[high]:
        return gap
    return float((heights[high] - heights[low]) / (at[high] - at[low]))


def _referenced(made: Any) -> dict[str, int]:
    """The place of each instance of the series in the order in which the file lists them."""
    series = made.get("ReferencedSeriesSequence") or []
    if len(series) != 1:
        return {}
    listed = series[0].get("ReferencedInstanceSequence") or []
    return {str(one.ReferencedSOPInstanceUID): number for number, one in enumerate(listed)}


def _source(frame: Any) -> str:
    """The instance that a frame is of; empty where it does not say one."""
    found = [
        str(image.ReferencedSOPInstanceUID)
        for one in frame.get("DerivationImageSequence") or []
        for image in one.get("SourceImageSequence") or []
    ]
    return found[0] if len(found) == 1 else ""


def _shared(made: Any, frame: Any, name: str) -> Any:
    """A functional group, of all frames or of this one."""
    for holder in (made.SharedFunctionalGroupsSequence[0], frame):
        if name in holder:
            return holder[name][0]
    raise UnreadableSourceError(f"lacks its {name}")


def _vector(values: Any) -> npt.NDArray[np.float64]:
    return np.array([float(value) for value in values])
