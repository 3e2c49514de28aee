"""The truth about slides: outlines (ASAP XML, GeoJSON) or masks, and which slides are normal."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import AnnotationError, UsageError
from medvision.core.geometry import Box
from medvision.ops.rasterise import Polygon
from medvision.sources.annotations import camelyon_polygons, read_annotations
from medvision.sources.areas import learn_tumour
from medvision.sources.base import Source

Mask = npt.NDArray[np.bool_]

MANIFEST = "reference.csv"
_OUTLINES = (".xml", ".geojson")
_MASK_ENDING = "_mask"
_HEADS = ("slide", "image", "name", "case", "file", "filename", "id")
"""First cells of a header line of the manifest."""
LABELS = {
    "tumor": True,
    "tumour": True,
    "positive": True,
    "1": True,
    "normal": False,
    "negative": False,
    "0": False,
}
_STRIP = 1024


@dataclass(frozen=True, eq=False)
class SlideTruth:
    """The truth about one slide: outlines in level-0 pixels, or the path of a mask, or neither if it is normal."""

    slide: str
    positive: tuple[Polygon, ...] = ()
    excluded: tuple[Polygon, ...] = ()
    mask: Path | None = None

    @property
    def tumour(self) -> bool:
        """Whether the slide holds any annotated tumour."""
        return bool(self.positive) or self.mask is not None


def read_truth(folder: Path, slides: Iterable[str], exclude: Collection[str] = ()) -> dict[str, SlideTruth]:
    """The truth about every slide that `folder` or `slides` names, by case-folded name.

    `SLIDE.xml` or `SLIDE.geojson` hold outlines, `SLIDE_mask.tif` (or .tiff, .png) a mask with the value 255, 2 (where
    1 is tissue) or 1 on tumour; outlines are preferred. A slide is normal if its outlines or mask are empty, if
    `reference.csv` (slide, label) says so, or if it has no file and its name starts with "normal", as in CAMELYON16.
    Slides of `exclude` (without regard to case) are not read.

    Raises:
        UsageError: if the truth of a slide is unknown or contradicts the manifest, or two files or lines of the
            manifest speak of one slide (names are compared without regard to case), or a name to exclude is unknown.
        AnnotationError: if a file cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of reference annotations")
    labels = _read_manifest(folder / MANIFEST)
    files = _files(folder)
    names = {name.casefold(): name for name in [*files, *labels, *slides]}
    if absent := sorted(name for name in exclude if name.casefold() not in names):
        raise UsageError(f"{folder}: slides to exclude are neither there nor predicted: {', '.join(absent)}")
    left_out = {name.casefold() for name in exclude}
    by_key = {name.casefold(): path for name, path in files.items()}
    label_of = {name.casefold(): label for name, label in labels.items()}
    truth, unknown = {}, []
    for key, name in sorted(names.items()):
        label = label_of.get(key)
        if key in left_out:
            continue
        if key in by_key:
            truth[key] = _read_file(name, by_key[key])
        elif label is False or (label is None and key.startswith("normal")):
            truth[key] = SlideTruth(name)
        else:
            unknown.append(name)
            continue
        if label is not None and label != truth[key].tumour:
            told, drawn = ("tumour", "none") if label else ("normal", "tumour")
            raise UsageError(f"{folder / MANIFEST}: calls {name!r} {told}, but {by_key[key]} shows {drawn}")
    if unknown:
        raise UsageError(
            f"{folder}: holds no truth for {', '.join(unknown)}. A slide needs SLIDE.xml, SLIDE.geojson or "
            f"SLIDE_mask.tif; a normal one an empty SLIDE.xml, a line in {MANIFEST}, or a name that starts with normal"
        )
    return truth


def read_mask(path: Path, wanted: float, shape: tuple[int, int] | None) -> tuple[Mask, tuple[float, float]]:
    """The tumour mask near a downsample, with the downsample it has, (row, column), relative to the slide's level 0.

    The nearest level is taken whole; from a mask without a level so coarse every k-th pixel. `shape` is that of the
    slide, where known: a mask may be stored at a coarser resolution than the slide.
    """
    from medvision.sources import open_source

    source = open_source(path)
    try:
        base = source.levels[0].shape
        ratio = (1.0, 1.0) if shape is None else (shape[0] / base[0], shape[1] / base[1])
        if abs(math.log(ratio[0] / ratio[1])) > 0.02:
            raise AnnotationError(f"{path}: mask of {base} pixels for a slide of {shape}: not of one shape")
        sizes = [max(level.downsample) * ratio[0] for level in source.levels]
        level = min(range(len(sizes)), key=lambda i: abs(math.log(sizes[i] / wanted)))
        step = max(1, round(wanted / sizes[level]))
        values = _read_level(source, level, step)
        # Learnt from all pixels: among every k-th one a small tumour of 2 may be absent, and its tissue of 1 is none.
        least, most, _ = learn_tumour(source)
        scale = source.levels[level].downsample
        mask = np.asarray((values >= least) & (values <= most))
        return mask, (scale[0] * ratio[0] * step, scale[1] * ratio[1] * step)
    finally:
        source.close()


def _read_level(source: Source, level: int, step: int) -> npt.NDArray[np.uint8]:
    """Every `step`-th pixel of a level, read in strips."""
    rows, columns = source.levels[level].shape
    strips = []
    height = max(step, _STRIP // step * step)
    for top in range(0, rows, height):
        strip = source.read(Box((top, 0), (min(rows, top + height), columns)), level)[..., 0]
        strips.append(strip[step // 2 :: step, step // 2 :: step])
    return np.concatenate(strips)


def _read_file(name: str, path: Path) -> SlideTruth:
    if path.stat().st_size == 0:
        return SlideTruth(name)
    if path.suffix.lower() not in _OUTLINES:
        return SlideTruth(name, mask=path if _shows_tumour(path) else None)
    try:
        positive, excluded = camelyon_polygons(read_annotations(path))
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    return SlideTruth(name, tuple(positive), tuple(excluded))


def _shows_tumour(path: Path) -> bool:
    from medvision.sources import open_source

    source = open_source(path)
    try:
        return not learn_tumour(source)[2]
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from error
    finally:
        source.close()


def _files(folder: Path) -> dict[str, Path]:
    """Truth file of each slide: outlines before masks."""
    masks: dict[str, Path] = {}
    outlines: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem, ending = path.stem, path.suffix.lower()
        if ending in _OUTLINES:
            found, name = outlines, stem
        elif stem.lower().endswith(_MASK_ENDING) and ending in (".tif", ".tiff", ".png"):
            found, name = masks, stem[: -len(_MASK_ENDING)]
        else:
            continue
        twin = next((other for other in found if other.casefold() == name.casefold()), None)
        if twin is not None:
            raise UsageError(
                f"{folder}: {found[twin].name} and {path.name} are of one slide; remove one of them"
            )
        found[name] = path
    drawn = {name.casefold() for name in outlines}
    return outlines | {name: path for name, path in masks.items() if name.casefold() not in drawn}


def _read_manifest(path: Path) -> dict[str, bool]:
    labels: dict[str, bool] = {}
    if not path.exists():
        return labels
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV: {error}") from error
    for number, row in enumerate(rows, 1):
        name, label = (cell.strip() for cell in (*row, "", "")[:2])
        if name and label.lower() in LABELS:
            slide = Path(name).stem if name.lower().endswith((".tif", ".svs")) else name
            if slide.casefold() in {known.casefold() for known in labels}:
                raise UsageError(f"{path}, line {number}: slide {slide!r} for the second time")
            labels[slide] = LABELS[label.lower()]
        elif name and not (number == 1 and name.lower() in _HEADS):
            raise UsageError(
                f"{path}, line {number}: label {label!r} of {name!r}; known: {', '.join(LABELS)}"
            )
    return labels
