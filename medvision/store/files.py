"""Files that appear whole or not at all, and folder names that are safe whatever a slide is called."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medvision.core.errors import StoreError, UsageError

MAX_NAME_BYTES = 120
"""Longest folder name made here, well under the 255 bytes of common file systems, to leave room for suffixes."""

THUMBNAILS = "thumbnails"
"""Folder of pictures beside the page of a large run: no slide's folder is called so."""

_KEPT = frozenset(" -_+=@,.()")
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", *(f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10)), THUMBNAILS}
)
_SET_ASIDE = ".set-aside-"
_TAKEN_ENDINGS = (
    ".html",
    ".json",
    ".jsonl",
    ".csv",
    ".xml",
    ".pdf",
    ".log",
    ".lock",
    ".sqlite",
    ".db",
    ".parquet",
)


def safe_name(slide: Path | str) -> str:
    """Folder name for a slide: the stem of its file name where that is harmless, else a cleaned one with a digest.

    The name is one path component, has no control or format characters, neither starts nor ends with a dot or space,
    does not start with a hyphen, is at most `MAX_NAME_BYTES` long in UTF-8 and is no device name of any system, nor the
    name of a file or folder that a run writes. Where cleaning altered anything, the first 8 hexadecimal digits of the
    file name's SHA-256 follow, so that distinct names stay distinct. The outcome depends on the file name alone: two
    files of one stem share it, see `safe_names`.
    """
    name = Path(slide).name
    stem = Path(name).stem
    clean = "".join(c if c.isalnum() or c in _KEPT else "_" for c in unicodedata.normalize("NFC", stem))
    clean = clean.strip(". ").lstrip("-")
    too_long = len(os.fsencode(clean)) > MAX_NAME_BYTES
    taken = clean.lower().split(".")[0] in _RESERVED or clean.lower().endswith(_TAKEN_ENDINGS)
    if clean and clean == stem and not too_long and not taken:
        return clean
    return _with_digest(clean.replace(".", "_") if taken else clean, os.fsencode(name))


def safe_names(slides: Sequence[Path | str]) -> list[str]:
    """`safe_name` of each slide of a run, made distinct where two would share one folder.

    Names that differ only in case, or only in the file's ending or folder, get the digest of the slide's absolute path.
    The order of the slides plays no part. A slide that is listed twice has one name. Across the runs into one output
    folder, `medvision.store.names` keeps names apart.
    """
    paths = [Path(slide).absolute() for slide in slides]
    names = [safe_name(path) for path in paths]
    owners = Counter(safe_name(path).casefold() for path in set(paths))
    return [
        name if owners[name.casefold()] == 1 else name_apart(name, path)
        for name, path in zip(names, paths, strict=True)
    ]


def name_apart(name: str, slide: Path) -> str:
    """A folder name for a slide that would share `name` with another: with the digest of the slide's absolute path."""
    return _with_digest(name, os.fsencode(slide.absolute()))


def make_output(out: Path) -> Path:
    """Make the output folder `out` where it is absent, and prove that files can be made in it; returns it.

    To be called before any work, so that nobody waits for results that have nowhere to go.

    Raises:
        UsageError: if `out` or something above it is a file, or nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".partial-", dir=out):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        above = next((path for path in (out, *out.parents) if os.path.lexists(path)), out)
        raise UsageError(
            f"{out} cannot be an output folder: {above} is there and is not a folder; name another"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{out} cannot be an output folder: it cannot be written to ({reason})") from error
    return out


def set_aside_path(folder: Path) -> Path:
    """The first free name `NAME.set-aside-N` for what must make way and must not be lost."""
    number = 1
    while os.path.lexists(aside := folder.with_name(f"{folder.name}{_SET_ASIDE}{number}")):
        number += 1
    return aside


def is_set_aside(folder: Path) -> bool:
    """Whether a folder's name says that it was set aside, so that it is no current result."""
    stem, found, number = folder.name.rpartition(_SET_ASIDE)
    return bool(stem and found) and number.isdecimal()


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old bytes or the new ones, never a part, even after a power cut.

    A symbolic link at `path` is replaced, not followed.

    Raises:
        StoreError: if it cannot be written whole; what was there before is untouched.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fchmod(stream.fileno(), 0o666 & ~current_umask())
                os.fsync(stream.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: could not be written: {error.strerror or error}") from error


def sync(path: Path) -> None:
    """Have the system put a file's bytes, or a folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """`sync` every file and folder below `folder`, and `folder` itself last."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all below it; absent is fine. Symbolic links are removed, never followed."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def current_umask() -> int:
    """The process's file creation mask, from /proc where there is one: `os.umask` cannot read it without setting it."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022


def _with_digest(name: str, identity: bytes) -> str:
    digest = hashlib.sha256(identity).hexdigest()[:8]
    kept = os.fsencode(name)[: MAX_NAME_BYTES - 9].decode(errors="ignore").strip(". ")
    return f"{kept}-{digest}" if kept else f"slide-{digest}"
