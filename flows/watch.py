"""A watched folder: which slides or images have arrived whole, and which of them were taken already.

A scanner or a network copy writes for minutes, and nothing says when it is done. A slide is therefore taken when its
files have been the same for a while, in two looks at least. What was taken is remembered beside the results, so that a
restart takes nothing twice; a slide whose size or time has changed since is a new one. An image is always one file.

Nothing here knows Prefect.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import Field, ValidationError

from medvision.core.errors import StoreError
from medvision.pipelines.batch_plan import ids_in
from medvision.pipelines.work import SLIDES, Work
from medvision.store.cohort import CohortSlide, write_cohort
from medvision.store.files import atomic_write
from medvision.store.records import Record
from medvision.store.store import CONTROL

_TEMPORARY = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", "~")
_WITH_FOLDER = (".vms", ".vmu")
"""Indices of slides whose other files lie beside them, under names of their own."""

Fingerprint = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One file, or a set of files of a slide that only mean something together."""

    key: str
    """Path below the watched folder, by which it is remembered."""
    slides: tuple[Path, ...]
    """What may be opened: one file, or the instances of a folder of DICOM."""
    fingerprint: Fingerprint
    """Name, size, times of change and blocks on disk of every file: a copy under way alters one of them."""

    @property
    def digest(self) -> str:
        """Stands for the files' names, sizes and times of modification."""
        told = [(name, size, modified) for name, size, modified, *_ in self.fingerprint]
        return hashlib.sha256(repr(told).encode("utf-8", "surrogateescape")).hexdigest()


class Sent(Record):
    """A manifest that was handed to Prefect, or is about to be."""

    manifest: str
    run: UUID | None = None
    attempt: int = 1
    interrupted: bool = False
    """Whether it ran when the serving process was told to stop."""

    @property
    def key(self) -> str:
        """Under this key Prefect makes one run, however often it is asked."""
        return f"{self.manifest} {self.attempt}"


class Memory(Record):
    """What a watch remembers: digests of the slides it has taken, and manifests that have not come to an end."""

    taken: dict[str, str] = Field(default_factory=dict)
    sent: tuple[Sent, ...] = ()


@dataclass
class Watcher:
    """Looks at a folder from time to time. `skip` is not looked into, as it may hold results."""

    folder: Path
    patterns: Sequence[str]
    settle_s: float
    skip: Path
    one_file: bool = False
    """Whether each file is taken by itself, and none is part of a slide."""
    _since: dict[str, tuple[Fingerprint, float]] = field(default_factory=dict)

    def look(self, now: float, taken: dict[str, str]) -> list[Arrival]:
        """What has been the same for `settle_s` seconds and is not in `taken`; `now` is any clock that only rises.

        An arrival is returned at every look until it is in `taken`.

        Raises:
            OSError: if the folder cannot be listed.
        """
        ready, since = [], {}
        for arrival in arrivals(self.folder, self.patterns, self.skip, self.one_file):
            if taken.get(arrival.key) == arrival.digest:
                continue
            before = self._since.get(arrival.key)
            if before is None or before[0] != arrival.fingerprint:
                since[arrival.key] = (arrival.fingerprint, now)
                continue
            since[arrival.key] = before
            if now - before[1] >= self.settle_s:
                ready.append(arrival)
        self._since = since
        return ready


def arrivals(folder: Path, patterns: Sequence[str], skip: Path, one_file: bool = False) -> Iterator[Arrival]:
    """All slides below `folder` that could be whole, in order of their path; or, with `one_file`, all files.

    Left out are links, hidden and temporary names, names that are no text, folders in which something temporary lies
    where the folder is one set, and MRXS files whose folder is not there yet.

    Raises:
        OSError: if `folder` itself cannot be listed.
    """
    for top, folders, names in os.walk(folder, onerror=_only_below(folder)):
        here = Path(top)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and here / n != skip)
        plain = sorted(n for n in names if _is_plain(here / n))
        slides = [
            n for n in plain if not _is_temporary(n) and any(fnmatch(n.lower(), p.lower()) for p in patterns)
        ]
        if one_file:
            for name in slides:
                yield from _arrival(folder, here / name, (here / name,), [here / name])
            continue
        instances = [here / n for n in slides if n.lower().endswith(".dcm")]
        whole = not any(map(_is_temporary, names))
        for name in slides:
            slide = here / name
            if name.lower().endswith(".mrxs"):
                yield from _arrival(folder, slide, (slide,), _below(slide.with_suffix("")))
            elif name.lower().endswith(_WITH_FOLDER):
                if whole:
                    yield from _arrival(folder, slide, (slide,), [here / n for n in plain])
            elif not name.lower().endswith(".dcm"):
                yield from _arrival(folder, slide, (slide,), [slide])
        if instances and whole:
            yield from _arrival(folder, here, tuple(instances), [here / n for n in plain])


def _only_below(folder: Path) -> Callable[[OSError], None]:
    def on_error(error: OSError) -> None:
        """A folder that goes away, or may not be read, hides no other; the watched one itself must be there."""
        if error.filename == str(folder):
            raise error

    return on_error


def _is_plain(path: Path) -> bool:
    try:
        path.name.encode()
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, UnicodeEncodeError):
        return False


def _is_temporary(name: str) -> bool:
    return name.startswith((".", "~")) or name.lower().endswith(_TEMPORARY)


def _below(folder: Path) -> list[Path]:
    """Files of the folder of an MRXS slide; none where it is absent, linked or still being filled."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    files = sorted(path for path in folder.rglob("*") if _is_plain(path))
    return [] if any(_is_temporary(path.name) for path in files) else files


def _arrival(folder: Path, of: Path, slides: tuple[Path, ...], files: Sequence[Path]) -> Iterator[Arrival]:
    """The arrival, unless files have gone meanwhile or are empty: nothing that can be read is."""
    found = []
    try:
        for path in {*slides, *files}:
            s = path.lstat()
            if s.st_size == 0 and path in slides:
                return
            found.append(
                (path.relative_to(folder).as_posix(), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_blocks)
            )
    except OSError:
        return
    if files:
        yield Arrival(of.relative_to(folder).as_posix(), slides, tuple(sorted(found)))


def one_of_each_series(instances: Sequence[Path]) -> list[Path]:
    """Of the DICOM instances of a folder, the first of each series: it stands for the slide."""
    from medvision.sources.parts import files_of

    left, first = sorted(instances), []
    while left:
        first.append(left[0])
        series = set(files_of(left[0], "dicom"))
        left = [path for path in left[1:] if path not in series]
    return first


def files_to_take(arrived: Iterable[Arrival]) -> list[Path]:
    """The files to work on: of each arrival one, but of a folder of DICOM one of each series."""
    found = []
    for arrival in arrived:
        dicom = len(arrival.slides) > 1
        found += one_of_each_series(arrival.slides) if dicom else list(arrival.slides)
    return found


def control_folder(out: Path, schedule: str) -> Path:
    """Where the watch of a schedule keeps its manifests and its memory, below the output folder."""
    return out / CONTROL / "watch" / schedule


def write_manifest(control: Path, folder: Path, files: Sequence[Path], work: Work[Any] = SLIDES) -> Path:
    """A manifest of just these files, named by the time: Prefect keeps its name, and none of the files'."""
    stem = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    path, number = control / f"{stem}.csv", 1
    while path.exists():
        number += 1
        path = control / f"{stem}-{number}.csv"
    ids = ids_in(folder, files, work)
    return write_cohort(path, [CohortSlide(name, file) for name, file in zip(ids, files, strict=True)])


def read_memory(control: Path) -> Memory:
    """What the watch remembers; nothing where it has not begun.

    Raises:
        StoreError: if the file cannot be read: without it all slides would be taken again.
    """
    path = control / "taken.json"
    try:
        return Memory.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Memory()
    except (OSError, ValidationError) as error:
        raise StoreError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); remove it to have every slide taken again"
        ) from error


def write_memory(control: Path, memory: Memory) -> None:
    """Remember."""
    atomic_write(control / "taken.json", memory.model_dump_json().encode())
