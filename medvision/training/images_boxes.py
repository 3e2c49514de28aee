"""Labelled images cut out of pictures of many things, such as single cells out of a photograph of blood."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medvision.core.errors import AnnotationError, SourceTooLargeError, UsageError
from medvision.core.geometry import Box
from medvision.sources.boxes import BoxedPicture, read_voc
from medvision.sources.still import Window, read_still
from medvision.training.images import ImageArrays, LabelledImages, Pixels
from medvision.training.images_groups import shown
from medvision.training.images_read import check_left_out, classes_in_order

MAX_CUT_BYTES = 2**33
"""Most bytes that the images cut out of one set may take in memory."""

_LISTS = {"train": "train", "val": "validation", "test": "test"}


def read_voc_boxes(
    folder: Path,
    classes: Sequence[str] | None = None,
    leave_out: Sequence[str] = (),
    window: Window = None,
    margin: float = 0.0,
) -> LabelledImages:
    """What lies in the boxes of a set laid out as PASCAL VOC, an image each; the picture is its group.

    `folder` holds `Annotations/*.xml` and the pictures in `JPEGImages`. Where it has `ImageSets/Main/train.txt`,
    `val.txt` or `test.txt`, these are the split. Each box is widened by `margin` of its height and width on every side
    and cut at the picture's edge. All of it is held in memory.

    Raises:
        AnnotationError: if a file of boxes cannot be read, or lies about its picture's size.
        SourceTooLargeError: if the images take more than `MAX_CUT_BYTES`.
        UnreadableSourceError: if a picture is damaged.
        UsageError: if a folder, a box or a picture is absent, a picture is on no side of the given split or on two, or
            a class too many or too few.
    """
    files = sorted((folder / "Annotations").glob("*.xml"))
    if not files:
        raise UsageError(
            f"{folder}: no Annotations/*.xml; a detection set laid out as PASCAL VOC holds Annotations and JPEGImages"
        )
    pictures = [(file, read_voc(file)) for file in files]
    there = [one.name for _, picture in pictures for one in picture.boxes]
    if not there:
        raise UsageError(f"{folder}: no box in any of {len(files)} files of Annotations")
    check_left_out(str(folder), set(there), leave_out)
    order, said = classes_in_order([n for n in there if n not in leave_out], classes, leave_out, str(folder))
    side_of = _sides(folder, [file.stem for file in files])
    cut: list[Pixels] = []
    names: list[str] = []
    labels: list[int] = []
    groups: list[str] = []
    for file, picture in pictures:
        wanted = [(n, one) for n, one in enumerate(picture.boxes, start=1) if one.name not in leave_out]
        pixels = _pixels(folder, file, picture, window) if wanted else None
        for number, one in wanted:
            assert pixels is not None, "a picture of which something is wanted was read"
            cut.append(_cut(pixels, one.box, margin, f"{file}: object {number} ({one.name})"))
            names.append(f"{picture.filename} {number}")
            labels.append(order.index(one.name))
            groups.append(file.stem)
        if sum(part.nbytes for part in cut) > MAX_CUT_BYTES:
            raise SourceTooLargeError(
                f"{folder}: what lies in the boxes takes more than {MAX_CUT_BYTES:,} bytes"
            )
    places = np.stack([np.arange(len(cut)), np.zeros(len(cut), np.int64)], axis=1)
    return LabelledImages(
        store=ImageArrays(tuple(part[None] for part in cut), places),
        names=tuple(names),
        labels=np.array(labels, np.int64),
        classes=order,
        groups=tuple(groups),
        grouped_by="the picture that it was cut out of; patients are unknown",
        splits=None if side_of is None else tuple(side_of[group] for group in groups),
        provenance={
            "source": f"boxes of {len(set(groups))} pictures of {folder.name}, widened by {margin:g} on every side",
            "class order": said,
        },
    )


def _pixels(folder: Path, file: Path, picture: BoxedPicture, window: Window) -> Pixels:
    path = folder / "JPEGImages" / Path(picture.filename).name
    if not path.is_file():
        raise UsageError(f"{file}: no picture {path.name!r} in {path.parent}")
    pixels = read_still(path, window).pixels
    if picture.shape not in (None, pixels.shape[:2]):
        raise AnnotationError(
            f"{file}: drawn on {picture.shape} rows and columns; {path.name} has {pixels.shape[:2]}, upright"
        )
    return pixels


def _cut(pixels: Pixels, box: Box, margin: float, where: str) -> Pixels:
    wider = [round(margin * length) for length in box.shape]
    picture = Box((0, 0), pixels.shape[:2])
    if not box.intersect(picture).size:
        raise AnnotationError(f"{where}: lies outside of the picture of {pixels.shape[:2]} rows and columns")
    start, stop = (
        tuple(at + sign * more for at, more in zip(ends, wider, strict=True))
        for ends, sign in ((box.start, -1), (box.stop, 1))
    )
    found: Pixels = np.ascontiguousarray(pixels[Box(start, stop).intersect(picture).slices()])
    return found


def _sides(folder: Path, stems: Sequence[str]) -> dict[str, str] | None:
    """The side of each picture, by the set's own lists; None where there are none."""
    lists = {name: folder / "ImageSets" / "Main" / f"{name}.txt" for name in _LISTS}
    lists = {name: path for name, path in lists.items() if path.is_file()}
    if not lists:
        return None
    found: dict[str, str] = {}
    for name, path in lists.items():
        for stem in path.read_text(encoding="utf-8-sig").split():
            if found.setdefault(stem, _LISTS[name]) != _LISTS[name]:
                raise UsageError(f"{path}: {stem!r} is on two sides, {found[stem]} too")
    missing = [stem for stem in stems if stem not in found]
    if missing:
        there = ", ".join(path.name for path in lists.values())
        raise UsageError(
            f"{folder}: {len(missing)} pictures are in none of ImageSets/Main/{there}: {shown(missing)}"
        )
    return found
