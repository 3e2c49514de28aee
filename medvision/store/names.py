"""What files are called in an output folder, run after run: two of them share neither a folder nor a name there.

`OUT/.medvision/names.json` remembers which file has which name, by the digest of its absolute path. A file has its name
for good; another file of that file name in a later run gets one of its own, just as within one run.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from medvision.core.digest import digest_file
from medvision.core.errors import StoreError
from medvision.store.files import atomic_write, name_apart, safe_names
from medvision.store.manifest import read_manifest
from medvision.store.records import Record, as_text
from medvision.store.store import CONTROL, ResultStore

_BOOK = "names.json"
"""Also the name of its lock, which no slide's folder can have."""


@dataclass(frozen=True, slots=True)
class Named:
    """A file of an output folder."""

    path: Path
    name: str
    """Its folder below the output folder."""
    called: str
    """What its records, pages and tables call it: its file name, with as much of its path as tells it apart."""


class _Names(Record):
    """The content of `names.json`: `(name, called)` by the digest of the file's absolute path."""

    schema_version: int = 1
    files: dict[str, tuple[str, str]] = Field(default_factory=dict)


def names_in(out: Path, paths: Sequence[Path], called: Sequence[str] | None = None) -> list[Named]:
    """What `paths` would be called in the output folder `out`, which need not exist; see `claim_names`."""
    return _Naming(out, _read(out).files).give(paths, called)


def claim_names(out: Path, paths: Sequence[Path], called: Sequence[str] | None = None) -> list[Named]:
    """What `paths` are called in the output folder `out`, from now on.

    A file that had a name there keeps it. So does one that lies elsewhere now, if it is the very content of the result
    of that name. Any other gets that of `safe_names`, and is called as in `called`, by default by its file name; where
    another file has that already, something is added that tells the two apart.

    Raises:
        StoreError: if the names cannot be read or written.
    """
    with ResultStore(out).lock(_BOOK):
        naming = _Naming(out, dict(_read(out).files))
        named = naming.give(paths, called)
        _write(out, naming.files)
    return named


def enter_names(out: Path, named: Sequence[Named]) -> None:
    """Remember names that were given otherwise, such as by a manifest; who had one of them before has none any more.

    Raises:
        StoreError: if the names cannot be read or written.
    """
    with ResultStore(out).lock(_BOOK):
        taken = {one.name.casefold() for one in named}
        files = {key: held for key, held in _read(out).files.items() if held[0].casefold() not in taken}
        _write(out, files | {_key(one.path): (one.name, one.called) for one in named})


def told_apart(called: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """What files are called, each the end of its path; where two are called alike, with more of their paths.

    A file that is listed twice is called the same twice.
    """
    whole = [path.absolute() for path in paths]
    shown = [as_text(one) for one in called]
    while True:
        owners = Counter(one for one, _ in set(zip(shown, whole, strict=True)))
        longer = [
            one if owners[one] == 1 else _longer(one, path) for one, path in zip(shown, whole, strict=True)
        ]
        if longer == shown:
            return shown
        shown = longer


@dataclass
class _Naming:
    """Names being given: `files` holds those of earlier runs and, in the end, those of this one."""

    out: Path
    files: dict[str, tuple[str, str]]
    given: dict[str, str] = field(default_factory=dict)
    """Of this run: by name, without regard to case, whose it is."""

    def give(self, paths: Sequence[Path], called: Sequence[str] | None) -> list[Named]:
        """The names, of which none is given to two files."""
        wanted = told_apart(called or [path.name for path in paths], paths)
        names = safe_names(paths)
        holders = {name.casefold(): key for key, (name, _) in self.files.items()}
        taken = {shown: key for key, (_, shown) in self.files.items()}
        keys = [_key(path) for path in paths]
        self.given = {self.files[key][0].casefold(): key for key in keys if key in self.files}
        return [
            Named(path, *self._of(path, key, name, shown, holders, taken))
            for path, key, name, shown in zip(paths, keys, names, wanted, strict=True)
        ]

    def _of(
        self, path: Path, key: str, name: str, shown: str, holders: dict[str, str], taken: dict[str, str]
    ) -> tuple[str, str]:
        if key in self.files:
            return self.files[key]
        holder = holders.get(name.casefold())
        if holder is not None:
            held = self.files[holder]
            if self.given.setdefault(held[0].casefold(), key) == key and self._holds(held[0], path):
                return held
            name = name_apart(name, path)
        while taken.setdefault(shown, key) != key:
            longer = _longer(shown, path.absolute())
            if longer == shown:
                break
            shown = longer
        self.given[name.casefold()] = key
        self.files[key] = (name, shown)
        return name, shown

    def _holds(self, name: str, path: Path) -> bool:
        """Whether the result called `name` is of the bytes of the file at `path`: it was moved, or is a copy."""
        manifest = read_manifest(self.out / name)
        try:
            return manifest is not None and path.is_file() and digest_file(path) == manifest.spec.source
        except OSError:
            return False


def _longer(shown: str, path: Path) -> str:
    """The end of an absolute path with one part more than `shown`; all of it at most."""
    parts = len(Path(shown).parts) + 1
    return as_text(path.as_posix() if parts >= len(path.parts) else "/".join(path.parts[-parts:]))


def _key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.absolute())).hexdigest()


def _read(out: Path) -> _Names:
    path = out / CONTROL / _BOOK
    try:
        return _Names.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return _Names()
    except (OSError, ValidationError) as error:
        raise StoreError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); without it, files of one name in several "
            "folders are not told apart: remove it to go on all the same"
        ) from error


def _write(out: Path, files: dict[str, tuple[str, str]]) -> None:
    atomic_write(out / CONTROL / _BOOK, _Names(files=files).model_dump_json().encode() + b"\n")
