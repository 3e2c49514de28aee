"""Readers of labelled sets: a folder per class, a CSV file, a MedMNIST archive. All give `LabelledImages`."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medvision.core.errors import UsageError
from medvision.core.one_hot import the_one
from medvision.sources.image_archive import read_image_archive
from medvision.sources.still import STILL_SUFFIXES, Window
from medvision.training.images import SPLITS, ImageArrays, ImageFiles, LabelledImages, split_name
from medvision.training.images_config import ColumnsConfig
from medvision.training.images_groups import shown

_ONE_CLASS = (
    "a classifier learns one class of each image: leave such rows out, or name one finding as `label`"
)
_EMPTY_GROUP = "; `columns: {group_if_empty: image}` takes each such image for a group by itself"


def read_class_folders(
    folder: Path,
    classes: Sequence[str] | None = None,
    leave_out: Sequence[str] = (),
    window: Window = None,
    class_patterns: Mapping[str, str] | None = None,
) -> LabelledImages:
    """Images in `folder/CLASS/`, or in `folder/SPLIT/CLASS/` where all sub-folders have names of splits.

    Files whose ending is none of an image's are passed over and counted in the provenance; hidden ones are not counted.
    A file in whose name one of `class_patterns` (regular expressions by class) is found is of that class instead.

    Raises:
        UsageError: if there is no such folder, no image, an image deeper down, a class too many or too few, or two of
            the patterns in one name.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of images; it should hold one sub-folder per class")
    inner = _folders(folder)
    split = bool(inner) and all(split_name(path.name) for path in inner)
    sides: list[tuple[str | None, Path]] = (
        [(split_name(p.name), p) for p in inner] if split else [(None, folder)]
    )
    check_left_out(str(folder), {place.name for _, root in sides for place in _folders(root)}, leave_out)
    found: list[tuple[Path, str, str | None]] = []
    others = 0
    for side, root in sides:
        for place in _folders(root):
            if place.name in leave_out:
                continue
            files, ignored = _images(place)
            others += ignored
            found += [(path, _named_class(path, class_patterns or {}) or place.name, side) for path in files]
    if not found:
        raise UsageError(
            f"{folder}: no images ({', '.join(STILL_SUFFIXES)}) in sub-folders named after their classes"
        )
    order, said = classes_in_order([name for _, name, _ in found], classes, leave_out, str(folder))
    return LabelledImages(
        store=ImageFiles(tuple(path for path, _, _ in found), window),
        names=tuple(path.relative_to(folder).as_posix() for path, _, _ in found),
        labels=np.array([order.index(name) for _, name, _ in found], np.int64),
        classes=order,
        groups=None,
        grouped_by="",
        splits=tuple(side or "" for _, _, side in found) if split else None,
        provenance={
            "source": f"folder {folder.name}, one sub-folder per {'split and class' if split else 'class'}",
            "class order": said,
            **({"classes by name": _patterns_said(class_patterns)} if class_patterns else {}),
            "other files passed over": str(others),
        },
    )


def read_table(
    path: Path,
    columns: ColumnsConfig,
    image_folders: Sequence[Path] = (),
    suffix: str = "",
    classes: Sequence[str] | None = None,
    leave_out: Sequence[str] = (),
    window: Window = None,
    group_csv: Path | None = None,
) -> LabelledImages:
    """Images that a CSV file lists, one a row, in its order; other columns are passed over.

    Raises:
        UsageError: if it, or `group_csv`, cannot be read, lacks a column, or has no row; an empty cell, an unknown
            split, a file that is absent or listed twice, an image of no class or of several; or a class too many or
            too few; names line and value.
    """
    listed = _listed(path, columns, group_csv)
    check_left_out(str(path), {cells["label"] for _, cells in listed}, leave_out)
    rows = [row for row in listed if row[1]["label"] not in leave_out]
    if not rows:
        raise UsageError(f"{path}: lists no image")
    folders = tuple(image_folders) or (path.parent,)
    files, seen = [], dict[Path, int]()
    for line, cells in rows:
        file = _existing(f"{path}, line {line}", cells["path"] + suffix, folders)
        if file in seen:
            raise UsageError(
                f"{path}, line {line}: {cells['path']!r} for the second time (as in line {seen[file]})"
            )
        seen[file] = line
        files.append(file)
    splits = None
    if columns.split is not None:
        splits = tuple(_split(f"{path}, line {line}", cells["split"]) for line, cells in rows)
    order, said = classes_in_order([cells["label"] for _, cells in rows], classes, leave_out, str(path))
    return LabelledImages(
        store=ImageFiles(tuple(files), window),
        names=tuple(cells["path"] + suffix for _, cells in rows),
        labels=np.array([order.index(cells["label"]) for _, cells in rows], np.int64),
        classes=order,
        groups=None if columns.group is None else tuple(cells["group"] for _, cells in rows),
        grouped_by="" if columns.group is None else f"column {columns.group} of {(group_csv or path).name}",
        splits=splits,
        provenance={"source": f"table {path.name}", "class order": said},
    )


def read_medmnist(
    path: Path, classes: Sequence[str] | None = None, leave_out: Sequence[str] = ()
) -> LabelledImages:
    """The images of a MedMNIST archive, whose labels count in `classes`; without names the classes are called 0, 1, ...

    Raises:
        UnreadableSourceError: if it is absent or damaged, or does not hold images with one class each.
        UsageError: if a split's name means none, it holds no image, or there are more labels than classes.
    """
    parts = read_image_archive(path)
    splits = [_split(str(path), part.name) for part in parts]
    values = np.concatenate([part.labels for part in parts])
    if not len(values):
        raise UsageError(f"{path}: holds no image")
    if classes is not None and int(values.max()) >= len(classes):
        raise UsageError(
            f"{path}: labels go up to {int(values.max())}, but `classes` names {len(classes)}: {list(classes)}"
        )
    names = tuple(classes) if classes is not None else tuple(str(n) for n in range(int(values.max()) + 1))
    check_left_out(str(path), set(names), leave_out)
    kept = [name for name in names if name not in leave_out]
    label_of = np.array([kept.index(name) if name in kept else -1 for name in names], np.int64)
    labels = label_of[values]
    wanted = np.flatnonzero(labels >= 0)
    sizes = [len(part.labels) for part in parts]
    of_part = np.repeat(np.arange(len(parts)), sizes)
    within = np.concatenate([np.arange(size) for size in sizes])
    return LabelledImages(
        store=ImageArrays(tuple(p.images for p in parts), np.stack([of_part, within], axis=1)[wanted]),
        names=tuple(f"{parts[of_part[i]].name}/{within[i]}" for i in wanted),
        labels=labels[wanted],
        classes=tuple(kept),
        groups=None,
        grouped_by="",
        splits=tuple(splits[of_part[i]] for i in wanted),
        provenance={
            "source": f"archive {path.name} in the form of MedMNIST",
            "class order": "as the labels count" + ("" if classes is None else ", names given"),
        },
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> tuple[list[Path], int]:
    """The images of one class, in order of name, and how many other files lie there."""
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    deeper = [p for p in inside if p.is_dir()]
    if deeper:
        raise UsageError(
            f"{deeper[0]}: a folder within the folder of class {folder.name!r}; images lie in CLASS/ or, with "
            f"sub-folders called {', '.join(SPLITS)}, in SPLIT/CLASS/"
        )
    files = [p for p in inside if p.suffix.lower() in STILL_SUFFIXES]
    return files, len(inside) - len(files)


def _named_class(path: Path, patterns: Mapping[str, str]) -> str | None:
    """The class whose pattern the file's name has; None where it has none."""
    found = [name for name, pattern in patterns.items() if re.search(pattern, path.stem)]
    if len(found) > 1:
        raise UsageError(f"{path}: the name has the patterns of two classes, {' and '.join(found)}")
    return found[0] if found else None


def _patterns_said(patterns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} where the file's name has {pattern}" for name, pattern in patterns.items())


def check_left_out(where: str, there: set[str], leave_out: Sequence[str]) -> None:
    """Refuse a class to leave out that is not there."""
    unknown = sorted(set(leave_out) - there)
    if unknown:
        raise UsageError(
            f"{where}: no class {unknown[0]!r} to leave out; there are {', '.join(sorted(there))}"
        )


def classes_in_order(
    there: Sequence[str], wanted: Sequence[str] | None, leave_out: Sequence[str], where: str
) -> tuple[tuple[str, ...], str]:
    """The classes in their order, and how that came about."""
    found = sorted(set(there))
    if wanted is None:
        if len(found) < 2:
            raise UsageError(f"{where}: one class only, {found[0]!r}; a classifier needs two")
        return tuple(found), "sorted by name"
    twice = sorted({name for name in wanted if list(wanted).count(name) > 1} | (set(wanted) & set(leave_out)))
    absent = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    for what, names in (("named twice", twice), ("without images", absent), ("in neither list", extra)):
        if names:
            raise UsageError(
                f"{where}: class {shown(names)} {what}; there are {', '.join(found)}. `classes` names those to learn "
                "in order, `leave_out` the others"
            )
    return tuple(wanted), "as given"


def _listed(path: Path, columns: ColumnsConfig, group_csv: Path | None) -> list[tuple[int, dict[str, str]]]:
    """Line number and path, label and, where columns say them, group and split of each row."""
    names = {"path": columns.path, "split": columns.split}
    names |= {f"one_hot.{name}": name for name in columns.one_hot} or {"label": columns.label}
    names |= {} if group_csv is not None else {"group": columns.group}
    found = []
    groups = {} if group_csv is None else _groups(group_csv, columns)
    for line, cells in _rows(path, {key: name for key, name in names.items() if name is not None}):
        where = f"{path}, line {line}"
        row: dict[str, str] = {key: cells[key] for key in ("path", "split", "group") if key in cells}
        row["label"] = _label(where, cells, columns)
        if group_csv is not None:
            if cells["path"] not in groups:
                raise UsageError(f"{where}: {group_csv.name} says nothing of {cells['path']!r}")
            row["group"] = groups[cells["path"]]
        if "group" in row and not row["group"] and columns.group_if_empty == "image":
            row["group"] = f"image {row['path']}"
        for key, value in row.items():
            if not value:
                way_out = _EMPTY_GROUP if key == "group" else ""
                raise UsageError(f"{where}: {getattr(columns, key)} is empty{way_out}")
        found.append((line, row))
    return found


def _label(where: str, cells: Mapping[str, str], columns: ColumnsConfig) -> str:
    """The one class of an image."""
    if columns.one_hot:
        try:
            return the_one(
                {name: cells[f"one_hot.{name}"] for name in columns.one_hot}, f"{where}: {cells['path']!r}"
            )
        except UsageError as error:
            raise UsageError(f"{error}; {_ONE_CLASS}") from error
    if "|" in cells["label"]:
        several = " and ".join(cells["label"].split("|"))
        raise UsageError(
            f"{where}: column {columns.label} gives {cells['path']!r} several classes, {several}; {_ONE_CLASS}"
        )
    return cells["label"]


def _groups(path: Path, columns: ColumnsConfig) -> dict[str, str]:
    """The group of each image that a second table names."""
    found: dict[str, str] = {}
    for line, cells in _rows(path, {"path": columns.path, "group": str(columns.group)}):
        if found.setdefault(cells["path"], cells["group"]) != cells["group"]:
            raise UsageError(f"{path}, line {line}: another group for {cells['path']!r}")
    return found


def _rows(path: Path, names: Mapping[str, str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and the wanted cells of each row, by the keys of `names`, whose values are the columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            missing = [f"{name!r} (columns.{key})" for key, name in names.items() if name not in header]
            if missing:
                raise UsageError(
                    f"{path}: no column {', '.join(missing)}; columns: {', '.join(header) or 'none'}"
                )
            reader.fieldnames = header
            return [
                (reader.line_num, {key: (row[name] or "").strip() for key, name in names.items()})
                for row in reader
            ]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV file in UTF-8 ({error})") from error


def _existing(where: str, name: str, folders: Sequence[Path]) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"{where}: no such file {name!r}, sought in {', '.join(map(str, folders))}")


def _split(where: str, name: str) -> str:
    found = split_name(name)
    if found is None:
        raise UsageError(f"{where}: split {name!r} is none of {', '.join(SPLITS)} (val)")
    return found
