"""Results known by what they were made from, each a folder that is published whole or not at all.

Layout below a store's root (the output folder of a run):

    NAME/                 a published entry; NAME/manifest.json says what it was made from and the digest of each file
    NAME.set-aside-N/     what was at NAME before and cannot be made again: another source's entry, a person's files
    .medvision/locks/     one lock per entry: of two runs on one output, one makes the entry and the other finds it
    .medvision/partial/   entries in the making; whoever holds an entry's lock may remove what a dead process left
    .medvision/scratch/   progress of unfinished work, NAME~KEY, kept through a crash until that name is published
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from medvision.core.errors import StoreError, UsageError
from medvision.store.files import remove_tree, set_aside_path, sync, sync_tree
from medvision.store.manifest import ResultSpec as ResultSpec
from medvision.store.manifest import mismatch, read_manifest, record_changes, seal, unlisted, verify

CONTROL = ".medvision"

Make = Callable[[Path], None]
"""Writes all files of an entry into the folder that it is given, whose name is temporary and must not be kept."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@dataclass(frozen=True, slots=True)
class Entry:
    """A published result. `made` is False where a whole one of the same spec was there already."""

    folder: Path
    key: str
    made: bool
    set_aside: str = ""
    """What is now called so was at `folder` before, and could not be made again."""


class ResultStore:
    """Results below `root`, one folder each.

    A symbolic link where an entry or the control folder should be is refused, unless `follow_symlinks`. `wait_s` is how
    long to wait for another process that is making the same entry; negative: as long as it takes.
    """

    def __init__(self, root: Path, *, follow_symlinks: bool = False, wait_s: float = -1) -> None:
        self.root = Path(root)
        self.follow_symlinks = follow_symlinks
        self.wait_s = wait_s

    def get_or_make(
        self, spec: ResultSpec, make: Make, *, name: str | None = None, of_run: Collection[str] = ()
    ) -> Entry:
        """The entry for `spec`: the one that is there if it is whole and was made from the same, else a new one.

        `name` is the entry's folder (see `safe_name`), by default the start of its key. Files listed in `of_run` name
        the run that made them (times, run id) and differ between equal runs: their digests are kept in a manifest of
        their own, so that `manifest.json` repeats byte for byte.

        An old entry of the same source is replaced. One of another source (the file was changed) is kept as
        `NAME.set-aside-N`, and so is whatever the store did not write; the entry says so. Names of several files of one
        file name are kept apart before they come here, by `medvision.store.names`.

        Raises:
            StoreError: if the entry cannot be written whole (disk full), if its folder holds another job's result, or
                that of a slide of another name and content, or if a symbolic link stands in the way. Whatever was
                published before is untouched.
        """
        folder, set_aside = self.folder(name or spec.key[:32]), ""
        with self.lock(folder.name):
            self._remove_partial(folder.name)
            if mismatch(folder, spec):
                _refuse_other(folder, spec)
                set_aside = self._publish(folder, spec, make, of_run)
                made = True
            else:
                made = False
            self._remove_scratch(folder.name, spec, stale=made)
        return Entry(folder, spec.key, made, set_aside)

    def find(self, spec: ResultSpec, *, name: str | None = None) -> Entry | None:
        """The entry for `spec` if a whole one is there; nothing is made or written."""
        folder = self.folder(name or spec.key[:32])
        return None if mismatch(folder, spec) else Entry(folder, spec.key, made=False)

    def scratch(self, spec: ResultSpec, name: str | None = None) -> Path:
        """A folder for progress on `spec` that outlives a crash; `name` is the entry's, as in `get_or_make`.

        It goes when the entry is published, and so does all progress that was made under that name with other settings
        or other code.
        """
        folder = self._scratch_path(spec, name)
        with _explained(folder):
            self._control("scratch")
            folder.mkdir(exist_ok=True)
        return folder

    def folder(self, name: str) -> Path:
        """Path of the entry called `name`, which need not exist.

        Raises:
            UsageError: if `name` is no single path component.
            StoreError: if a symbolic link stands there.
        """
        if name in ("", ".", "..", CONTROL) or Path(name).name != name or "\0" in name:
            raise UsageError(f"{name!r} cannot name a result folder; see medvision.store.safe_name")
        folder = self._not_linked(self.root / name)
        return folder.resolve() if self.follow_symlinks else folder

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock of the entry called `name`; wait for whoever has it.

        Raises:
            StoreError: if it is not free within `wait_s` seconds.
        """
        with _explained(self.root / name):
            lock = FileLock(self._control("locks") / f"{name}.lock")
            try:
                lock.acquire(timeout=self.wait_s)
            except Timeout as error:
                raise StoreError(f"{self.root / name} is being written by another process") from error
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def rewriting(self, name: str, files: Collection[str]) -> Iterator[Path]:
        """Rewrite `files` that name their run, such as a report that is lost or out of date; digests follow at the end.

        Should the process die half-way, `verify` tells, and the entry is made again when next asked for.

        Raises:
            StoreError: if any other file is not as it was recorded.
        """
        folder = self.folder(name)
        with self.lock(name):
            problems = verify(folder, except_for=files)
            if problems:
                raise StoreError(f"{folder} is not a whole result: {'; '.join(problems)}")
            yield folder
            with _explained(folder):
                record_changes(folder)

    def clean(self) -> list[Path]:
        """Remove what dead processes left unfinished, of any entry that nobody is making; say what was removed."""
        removed: list[Path] = []
        with _explained(self.root):
            left = sorted(self._control("partial").iterdir())
        for path in left:
            alone = ResultStore(self.root, follow_symlinks=self.follow_symlinks, wait_s=0)
            with contextlib.suppress(StoreError), alone.lock(_entry_of(path)):
                remove_tree(path)
                removed.append(path)
        return removed

    def _publish(self, folder: Path, spec: ResultSpec, make: Make, of_run: Collection[str]) -> str:
        """Put a new entry in place; returns the name of what was set aside for it, if anything was."""
        with _explained(folder):
            partial = self._partial_path(folder.name)
            partial.mkdir()
        try:
            try:
                make(partial)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    raise StoreError(f"{folder}: could not be written: {error.strerror}") from error
                raise
            with _explained(folder):
                seal(partial, spec, of_run)
                sync_tree(partial)
                set_aside = self._make_way(folder, spec)
                partial.rename(folder)
                sync(folder.parent)
                self._remove_partial(folder.name)
            return set_aside
        finally:
            with contextlib.suppress(OSError):
                remove_tree(partial)

    def _make_way(self, folder: Path, spec: ResultSpec) -> str:
        """Take the old entry away: removed if it is the store's own work on the same source, else kept under the name
        that is returned.
        """
        if not folder.exists():
            return ""
        held = read_manifest(folder)
        same_source = held is not None and held.spec.source == spec.source
        if same_source and not unlisted(folder):
            folder.rename(self._partial_path(folder.name))
            return ""
        aside = set_aside_path(folder)
        folder.rename(aside)
        return aside.name

    def _partial_path(self, name: str) -> Path:
        return self._control("partial") / f"{name}~{secrets.token_hex(4)}"

    def _remove_partial(self, name: str) -> None:
        with _explained(self.root / name):
            for path in self._control("partial").iterdir():
                if _entry_of(path) == name:
                    remove_tree(path)

    def _scratch_path(self, spec: ResultSpec, name: str | None) -> Path:
        return self.root / CONTROL / "scratch" / f"{name or spec.key[:32]}~{spec.key[:32]}"

    def _remove_scratch(self, name: str, spec: ResultSpec, *, stale: bool) -> None:
        """Remove progress on `spec`; if `stale`, all of the entry's name, which nobody can continue any more."""
        done = (self._scratch_path(spec, name), self._scratch_path(spec, None))
        with _explained(self.root / name):
            for path in self._control("scratch").iterdir():
                if path in done or (stale and _entry_of(path) == name):
                    remove_tree(path)

    def _control(self, part: str) -> Path:
        self._not_linked(self.root / CONTROL)
        folder = self._not_linked(self.root / CONTROL / part)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _not_linked(self, path: Path) -> Path:
        if path.is_symlink() and not self.follow_symlinks:
            raise StoreError(f"{path} is a symbolic link, and links are not followed in an output folder")
        return path


def publish_folder(folder: Path, spec: ResultSpec, make: Make, *, of_run: Collection[str] = ()) -> Entry:
    """`ResultStore.get_or_make` for the entry at `folder`: its parent is the store's root."""
    return ResultStore(folder.parent).get_or_make(spec, make, name=folder.name, of_run=of_run)


def _refuse_other(folder: Path, spec: ResultSpec) -> None:
    """Refuse to replace what belongs to another slide: a name that two slides share would lose the first one's."""
    held = read_manifest(folder)
    if held is None:
        return
    other = held.spec.name != spec.name and held.spec.source != spec.source
    if held.spec.kind != spec.kind or other:
        raise StoreError(
            f"{folder} holds a result of {held.spec.name!r} ({held.spec.kind}), not of {spec.name!r} ({spec.kind}): "
            "analyse them in one run, which names them apart, or give another output folder"
        )


def _entry_of(partial: Path) -> str:
    return partial.name.rpartition("~")[0] or partial.name


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn a failure of the file system into a `StoreError` that names the result."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: could not be written: {error.strerror or error}") from error
