"""Slides with outlines or masks as segmentation networks learn from them: which a table names, and what is on them.

A slide is held at the network's spacing, and so is its truth: neither ever exists at the size of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import AnnotationError, UsageError
from medvision.core.geometry import Box, Spacing
from medvision.engine.heatmap import locate_tissue, read_overview
from medvision.models.segmentation import SegmentContract
from medvision.ops.rasterise import rasterise
from medvision.sources.annotations import AREAS, Annotation, read_annotations
from medvision.sources.areas import MASKS, mask_values, open_mask
from medvision.sources.base import Source, Values
from medvision.sources.opening import open_source
from medvision.sources.resample import Reading, extent_at
from medvision.sources.spacing import require_spacing
from medvision.store.cohort import CohortSlide, read_cohort
from medvision.training.segment_classes import Labels, class_values, classes_of
from medvision.training.segment_config import IGNORED, SegmentDataConfig
from medvision.training.segment_files import Found, Pair, few, name_case

MOST_PIXELS = 1 << 26
"""Pixels of a slide at the network's spacing beyond which it is not held in memory."""

Sides = tuple[float, float]
"""Rows and columns of the file to a pixel of the network."""


@dataclass(frozen=True, eq=False)
class SlideRead:
    """A slide at the network's spacing: `values` `(rows, columns, 3)` and `truth` `(rows, columns)`, classes or
    `IGNORED`; `full` and `spacing` are those of the file."""

    values: Values
    truth: Labels
    full: tuple[int, ...]
    spacing: Spacing


def find_slides(config: SegmentDataConfig) -> Found:
    """The slides of a table; its patients are the cases unless `case` finds them in the names.

    Raises:
        UsageError: if the table cannot be read or lists no slide that is used, a patient lies in two of its splits, or
            a file that `label_suffix` asks for is absent.
    """
    cohort = read_cohort(config.folder)
    names = [slide.slide_id for slide in cohort.slides]
    if unknown := sorted(set(config.leave_out) - set(names)):
        raise UsageError(f"{config.folder}: has no slide {unknown[0]!r} to leave out; {few(names)}")
    notes = [cohort.check_disjoint()]
    slides = [slide for slide in cohort.slides if slide.slide_id not in config.leave_out]
    if not slides:
        raise UsageError(f"{config.folder}: every slide is left out")
    pairs = [_pair(slide, config) for slide in slides]
    if without := [pair.name for pair in pairs if pair.labels is None]:
        notes.append(f"{len(without)} slides have no annotation, and hold nothing of it ({few(without)})")
    if config.leave_out:
        notes.append(f"{len(config.leave_out)} left out as asked")
    return Found(tuple(pairs), "slides", tuple(notes))


def read_slide(pair: Pair, config: SegmentDataConfig, contract: SegmentContract) -> SlideRead:
    """A slide and its truth at the network's spacing.

    Raises:
        UsageError: if the network does not look at slides, the slide is too large for it, or a group or a value of the
            annotation is of no class.
        SpacingError: if the spacing of the slide is not known.
        UnreadableSourceError, AnnotationError: if a file cannot be read, or a mask is of another shape than its slide.
    """
    if contract.axes != "yx" or contract.channels != 3 or contract.spacing is None:
        raise UsageError(
            f"{config.folder}: slides are learnt from by networks of images with 3 channels and a `spacing` in µm"
        )
    if contract.intensity == "source":
        raise UsageError(f"{config.folder}: slides have a fixed range of values; leave `intensity` as it is")
    wanted = Spacing(contract.spacing, contract.unit, "supplied")
    source = open_source(pair.image)
    try:
        if pair.spacing_um is not None:
            source.spacing = Spacing((pair.spacing_um, pair.spacing_um), "um", "supplied")
        if source.axes != "yx" or source.channels != 3:
            raise UsageError(f"{pair.image}: is no slide in colours")
        native = require_spacing(source)
        extent = extent_at(source, wanted)
        if math.prod(extent) > MOST_PIXELS:
            raise UsageError(
                f"{pair.image}: {math.prod(extent):,} pixels at {wanted}; {MOST_PIXELS:,} are held at most, so give "
                "the contract a coarser spacing"
            )
        values = Reading.of(source, wanted).read(Box((0, 0), extent))
        sides = (wanted.values[0] / native.values[0], wanted.values[1] / native.values[1])
        full = source.levels[0].shape
        truth = _annotated(pair, config, contract, (full[0], full[1]), (extent[0], extent[1]), sides)
        if config.tissue is not None:
            tissue = _class(config.tissue, contract, "data.tissue")
            truth[(truth == 0) & _tissue(source, truth.shape, wanted)] = tissue
        return SlideRead(values, truth, full, native)
    finally:
        source.close()


def _pair(slide: CohortSlide, config: SegmentDataConfig) -> Pair:
    case = slide.patient or slide.slide_id if config.case is None else name_case(slide.slide_id, config)
    return Pair(
        slide.slide_id, case, slide.path, _labels_of(slide, config), slide.split or "", slide.spacing_um
    )


def _labels_of(slide: CohortSlide, config: SegmentDataConfig) -> Path | None:
    """The annotation, or the file beside it that `label_suffix` names."""
    if slide.annotation is None or not config.label_suffix:
        return slide.annotation
    start = slide.slide_id + config.label_suffix
    beside = sorted(slide.annotation.parent.glob("*"))
    found = [path for path in beside if path.name.startswith(f"{start}.") and path.is_file()]
    if len(found) != 1:
        there = f"{len(found)} files" if found else "no file"
        raise UsageError(
            f"{slide.annotation.parent}: {there} {start}.* with the labels of {slide.slide_id!r}"
        )
    return found[0]


def _annotated(
    pair: Pair,
    config: SegmentDataConfig,
    contract: SegmentContract,
    full: tuple[int, int],
    extent: tuple[int, int],
    sides: Sides,
) -> Labels:
    """What is annotated; the first class where nothing is. An empty file annotates nothing."""
    path = pair.labels
    if path is None or path.stat().st_size == 0:
        return np.zeros(extent, np.uint8)
    if path.suffix.lower() in MASKS:
        return _masked(path, config, contract, full, extent, sides)
    try:
        drawn = [one for one in read_annotations(path) if one.kind in AREAS]
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    return _painted(drawn, _groups(path, drawn, config, contract), extent, sides)


def _masked(
    path: Path,
    config: SegmentDataConfig,
    contract: SegmentContract,
    full: tuple[int, int],
    extent: tuple[int, int],
    sides: Sides,
) -> Labels:
    source, ratio = open_mask(path, full)
    try:
        found = mask_values(source, ratio, Box((0, 0), extent), sides)
    finally:
        source.close()
    return classes_of(found, class_values(config, contract), contract, path)


def _painted(
    drawn: list[Annotation], groups: Mapping[str, int], extent: tuple[int, int], sides: Sides
) -> Labels:
    """Areas as labels, smaller ones over larger ones: a tumour lies over its tissue, and what it spares over it."""
    truth = np.zeros(extent, np.uint8)
    for one in sorted(drawn, key=lambda one: -_area(one)):
        low = np.floor(one.points.min(axis=0) / sides).astype(int)
        high = np.ceil(one.points.max(axis=0) / sides).astype(int) + 1
        box = Box(
            (max(0, int(low[0])), max(0, int(low[1]))),
            (min(extent[0], int(high[0])), min(extent[1], int(high[1]))),
        )
        if all(start < stop for start, stop in zip(box.start, box.stop, strict=True)):
            inside = rasterise([(one.points, one.holes)], box, sides)
            truth[box.slices()][inside] = groups[one.group]
    return truth


def _groups(
    path: Path, drawn: list[Annotation], config: SegmentDataConfig, contract: SegmentContract
) -> dict[str, int]:
    """The class of each group that occurs."""
    if config.groups is None:
        named = {name.casefold(): k for k, name in enumerate(contract.classes)}
        table = {one.group: named.get(one.group.casefold()) for one in drawn}
    else:
        known = {
            group: IGNORED if name is None else _class(name, contract, "data.groups")
            for group, name in config.groups.items()
        }
        table = {one.group: known.get(one.group) for one in drawn}
    found = {group: label for group, label in table.items() if label is not None}
    if unknown := sorted(set(table) - set(found)):
        raise UsageError(
            f"{path}: areas of the group {unknown[0]!r}, which is of no class ({', '.join(contract.classes)}); "
            "`data: {groups: {GROUP: CLASS}}` names what groups mean, null what does not count"
        )
    return found


def _class(name: str, contract: SegmentContract, what: str) -> int:
    if name not in contract.classes:
        raise UsageError(f"{what}: {name!r} is none of {', '.join(contract.classes)}")
    return contract.classes.index(name)


def _area(one: Annotation) -> float:
    rows, columns = one.points[:, 0], one.points[:, 1]
    return abs(float(rows @ np.roll(columns, 1) - columns @ np.roll(rows, 1))) / 2


def _tissue(source: Source, extent: tuple[int, ...], wanted: Spacing) -> npt.NDArray[np.bool_]:
    """Tissue by the thresholds of colour, under the centre of each pixel of the network."""
    overview = read_overview(source)
    mask = locate_tissue(overview).mask
    at = [
        np.minimum(((np.arange(n) + 0.5) * side / overview.spacing_um).astype(np.int64), most - 1)
        for n, side, most in zip(extent, wanted.values, mask.shape, strict=True)
    ]
    found: npt.NDArray[np.bool_] = mask[np.ix_(*at)]
    return found
