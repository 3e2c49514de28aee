"""Images and their labels in folders: which file belongs to which, in every layout that is taken as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvision.core.errors import UsageError
from medvision.sources.label_map import LABEL_SUFFIXES
from medvision.sources.still import STILL_SUFFIXES
from medvision.training.segment_config import SegmentDataConfig

IMAGES = ("image", "images", "imagesTr")
LABELS = ("label", "labels", "labelsTr", "mask", "masks")
MASKS = "masks"
_SUFFIXES = tuple(sorted({*LABEL_SUFFIXES, *STILL_SUFFIXES}, key=len, reverse=True))
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its labels: a file, or the folder of an image with one mask for each object. `case` is the patient
    or slide. Of a table of slides, `labels` is None where nothing is annotated, `part` is the table's split, and
    `spacing_um` what it says in place of the file."""

    name: str
    case: str
    image: Path
    labels: Path | None
    part: str = ""
    spacing_um: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The pairs by name, how they lay, and what was passed over, in words."""

    pairs: tuple[Pair, ...]
    layout: str
    notes: tuple[str, ...]


def find_pairs(config: SegmentDataConfig) -> Found:
    """The images with labels below a folder.

    Raises:
        UsageError: if it is absent, of no known layout, has two files of one name, no pair, or a name without a case.
    """
    folder = _entered(config.folder)
    layout = config.layout if config.layout != "auto" else _layout(folder, config)
    found, notes = _objects(folder) if layout == "objects" else _pairs(folder, config)
    if unknown := sorted(set(config.leave_out) - set(found)):
        raise UsageError(f"{folder}: has no image {unknown[0]!r} to leave out; {few(sorted(found))}")
    kept = {name: files for name, files in found.items() if name not in config.leave_out}
    if not kept:
        raise UsageError(f"{folder}: no image has labels{''.join(f'; {note}' for note in notes)}")
    pairs = tuple(Pair(name, name_case(name, config), *kept[name]) for name in sorted(kept, key=_natural))
    if config.leave_out:
        notes.append(f"{len(config.leave_out)} left out as asked")
    return Found(pairs, layout, tuple(notes))


def _entered(folder: Path) -> Path:
    """The folder, or the first below it that holds more than one folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of images and labels, or table of slides (CSV)")
    while True:
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if len(inside) != 1 or not inside[0].is_dir():
            return folder
        folder = inside[0]


def _layout(folder: Path, config: SegmentDataConfig) -> str:
    if config.images is not None or _named(folder, IMAGES):
        return "pairs"
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if any(_named(path, IMAGES) and (path / MASKS).is_dir() for path in inner):
        return "objects"
    raise UsageError(
        f"{folder}: neither a folder of images ({', '.join(IMAGES)}) beside one of labels ({', '.join(LABELS)}), nor a "
        f"folder for each image with images/ and {MASKS}/; `data: {{images: ..., labels: ...}}` names others"
    )


def _pairs(folder: Path, config: SegmentDataConfig) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    images = _files(_side(folder, config.images, IMAGES, "images"))
    labels = _files(_side(folder, config.labels, LABELS, "labels"))
    end = config.label_suffix
    of_image = {name[: len(name) - len(end)]: path for name, path in labels.items() if name.endswith(end)}
    both = {name: (path, of_image[name]) for name, path in images.items() if name in of_image}
    notes = []
    if alone := sorted(set(images) - set(both)):
        notes.append(f"{len(alone)} images without labels passed over ({few(alone)})")
    if alone := sorted(set(labels) - {name + end for name in both}):
        notes.append(f"{len(alone)} labels without an image passed over ({few(alone)})")
    return both, notes


def _objects(folder: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    found, empty = {}, []
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        where = _named(place, IMAGES)
        images = list(_files(where).values()) if where is not None else []
        if len(images) > 1:
            raise UsageError(f"{where}: holds {len(images)} images; a folder of one image holds one")
        if images and (place / MASKS).is_dir():
            found[place.name] = (images[0], place)
        else:
            empty.append(place.name)
    return found, [f"{len(empty)} folders without image or masks passed over ({few(empty)})"] if empty else []


def _side(folder: Path, name: str | None, known: tuple[str, ...], what: str) -> Path:
    place = folder / name if name is not None else _named(folder, known)
    if place is None or not place.is_dir():
        there = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())) or "none"
        raise UsageError(f"{folder}: no folder {name or ' or '.join(known)} of {what}; there: {there}")
    return place


def _named(folder: Path, known: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in known if (folder / name).is_dir()), None)


def _files(folder: Path) -> dict[str, Path]:
    """Image files of a folder by their names without ending. Hidden ones, such as macOS's `._NAME`, are none."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((e for e in _SUFFIXES if path.name.lower().endswith(e)), None)
        if path.name.startswith(".") or not path.is_file() or ending is None:
            continue
        name = path.name[: -len(ending)]
        if name in found:
            raise UsageError(
                f"{folder}: {found[name].name} and {path.name} have one name; remove one of them"
            )
        found[name] = path
    return found


def name_case(name: str, config: SegmentDataConfig) -> str:
    """What the configuration's expression finds in a name; without one, the name.

    Raises:
        UsageError: if it finds nothing.
    """
    if config.case is None:
        return name
    match = re.search(config.case, name)
    if match is None or not match.group(1):
        raise UsageError(f"{config.folder}: the name {name!r} has no case by {config.case!r}")
    return match.group(1)


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in names by their size: 2 before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def few(names: Sequence[str]) -> str:
    """Some of the names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
