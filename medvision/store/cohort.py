"""A cohort: which slides there are, whose they are, what is known of them, and on which side of a split they lie.

It is a CSV file of the columns `slide_id,path,label,patient,split,annotation,spacing`, in any order, of which only the
first two are required. Paths start from the file's folder. A manifest of images may call the first one `image_id` or
`image`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medvision.core.errors import UsageError
from medvision.store.files import atomic_write
from medvision.store.records import ItemKind

COLUMNS = ("slide_id", "path", "label", "patient", "split", "annotation", "spacing")
_REQUIRED = ("slide_id", "path")
_OTHERS = ("image_id", "image", "scan_id", "scan", "case_id", "case")
"""What the table of some images' labels calls their ids."""


@dataclass(frozen=True, slots=True)
class CohortSlide:
    """One slide. `label` is "normal", "tumor" or any class; None of the optional facts is guessed where absent.

    `annotation` holds outlines (ASAP XML, GeoJSON, NCRF JSON) or is a mask image. `spacing_um` is the side of a level-0
    pixel where the file does not say it, or says it wrongly.
    """

    slide_id: str
    path: Path
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    annotation: Path | None = None
    spacing_um: float | None = None


@dataclass(frozen=True, slots=True)
class Cohort:
    """The slides of a manifest, in its order."""

    source: Path
    slides: tuple[CohortSlide, ...]

    def of(self, split: str) -> tuple[CohortSlide, ...]:
        """The slides of one split.

        Raises:
            UsageError: if no slide is in it, with the splits that there are.
        """
        found = tuple(slide for slide in self.slides if slide.split == split)
        if not found:
            there = ", ".join(sorted({s.split for s in self.slides if s.split})) or "none"
            raise UsageError(f"{self.source}: no slide is in split {split!r}; splits: {there}")
        return found

    def check_disjoint(self) -> str:
        """A sentence that says that no patient, and no file, lies in two splits.

        A slide without patient counts as a patient of its own.

        Raises:
            UsageError: if a patient or a file does, naming it.
        """
        for what, key in (("patient", _patient), ("file", _file)):
            sides: dict[str, set[str]] = {}
            for slide in self.slides:
                if slide.split is not None:
                    sides.setdefault(key(slide), set()).add(slide.split)
            torn = [name for name, splits in sides.items() if len(splits) > 1]
            if torn:
                splits = ", ".join(sorted(sides[torn[0]]))
                raise UsageError(
                    f"{self.source}: {what} {torn[0]!r} lies in more than one split ({splits}); "
                    "what is measured on one would be known from the other"
                )
        return "patients in more than one split: 0"


def read_cohort(path: Path, *, all_there: bool = True, item: ItemKind = "slide") -> Cohort:
    """Read a manifest. Unless `all_there`, a slide whose file is absent is listed like the others.

    `item` is what is listed, in words; the column of ids may be called after images whatever it is.

    Raises:
        UsageError: if it cannot be read, lacks a column, has an unknown one, no slide, a slide twice, an empty
            `slide_id` or `path`, a NUL, a file that is absent, or a spacing that is no positive number; names line and
            value.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            header = [
                "slide_id" if name.strip() in _OTHERS else name.strip() for name in reader.fieldnames or ()
            ]
            _check_header(path, header, item)
            reader.fieldnames = header
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a CSV table ({error})") from error
    slides = [_slide(path, number, row, all_there, item) for number, row in rows if any(_filled(row))]
    if not slides:
        raise UsageError(f"{path}: the manifest lists no {item}")
    _check_twins(path, slides, item)
    return Cohort(path, tuple(slides))


def write_cohort(path: Path, slides: Iterable[CohortSlide]) -> Path:
    """Write a manifest that `read_cohort` reads; paths below its folder are written relative to it."""
    lines = [COLUMNS]
    for s in slides:
        spacing = "" if s.spacing_um is None else f"{s.spacing_um:g}"
        lines.append(
            (
                s.slide_id,
                _relative(s.path, path.parent),
                s.label or "",
                s.patient or "",
                s.split or "",
                "" if s.annotation is None else _relative(s.annotation, path.parent),
                spacing,
            )
        )
    atomic_write(path, "".join(_line(cells) for cells in lines).encode())
    return path


def _patient(slide: CohortSlide) -> str:
    return f"(slide {slide.slide_id})" if slide.patient is None else slide.patient


def _file(slide: CohortSlide) -> str:
    return str(slide.path.resolve())


def _check_header(path: Path, header: list[str], item: ItemKind) -> None:
    missing = [name for name in _REQUIRED if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    twice = sorted({name for name in header if header.count(name) > 1})
    for what, names in (("no column", missing), ("unknown column", unknown), ("twice the column", twice)):
        if names:
            columns = ", ".join(COLUMNS).replace("slide_id", f"{item}_id")
            named = ", ".join(map(repr, names)).replace("slide_id", f"{item}_id")
            raise UsageError(f"{path}: {what} {named}; columns: {columns}")


def _filled(row: dict[str, str]) -> list[str]:
    return [value for value in row.values() if isinstance(value, str) and value.strip()]


def _slide(path: Path, number: int, row: dict[str, str], all_there: bool, item: ItemKind) -> CohortSlide:
    where = f"{path}, line {number}"
    if None in row or None in row.values():
        raise UsageError(f"{where}: has more or fewer cells than the {len(row)} columns of the header")
    cells = {name: value.strip() for name, value in row.items()}
    for name, value in cells.items():
        if "\0" in value:
            raise UsageError(f"{where}: {name} {value!r} has a NUL in it")
    for name in _REQUIRED:
        if not cells[name]:
            raise UsageError(f"{where}: {name.replace('slide', item)} is empty")
    where += f", {item} {cells['slide_id']!r}"
    annotation = cells.get("annotation")
    return CohortSlide(
        cells["slide_id"],
        _existing(path, cells["path"], where) if all_there else path.parent / cells["path"],
        cells.get("label") or None,
        cells.get("patient") or None,
        cells.get("split") or None,
        _existing(path, annotation, where) if annotation else None,
        _spacing(cells.get("spacing"), where),
    )


def _existing(manifest: Path, value: str, where: str) -> Path:
    found = manifest.parent / value
    if not found.exists():
        raise UsageError(f"{where}: no such file {value!r}, sought from {manifest.parent}")
    return found


def _spacing(value: str | None, where: str) -> float | None:
    if not value:
        return None
    try:
        spacing = float(value)
    except ValueError:
        spacing = math.nan
    if not (math.isfinite(spacing) and spacing > 0):
        raise UsageError(f"{where}: spacing {value!r} is no positive number of µm per pixel")
    return spacing


def _check_twins(path: Path, slides: list[CohortSlide], item: ItemKind) -> None:
    """Names are compared without regard to case: results lie in folders of these names."""
    seen: dict[str, str] = {}
    for slide in slides:
        key = slide.slide_id.casefold()
        if key in seen:
            raise UsageError(f"{path}: {item} {slide.slide_id!r} for the second time (as {seen[key]!r})")
        seen[key] = slide.slide_id


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _line(cells: Iterable[str]) -> str:
    from io import StringIO

    stream = StringIO()
    csv.writer(stream, lineterminator="\n").writerow(cells)
    return stream.getvalue()
