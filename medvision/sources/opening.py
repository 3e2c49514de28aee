"""Opening a path: the reader is chosen by the file's content, never by its name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from medvision.core.errors import UnreadableSourceError
from medvision.sources.base import READERS, VOLUMES, Opener, Source
from medvision.sources.faults import DeclinedError, reason_of
from medvision.sources.spacing import supplied, volume_spacing_refused

READABLE = (
    "whole-slide images (SVS, TIFF, OME-TIFF, QPTIFF, NDPI, MRXS, SCN, BIF, VMS, DICOM), pictures (PNG, JPEG, WebP, "
    "BMP, JPEG 2000), and volumes (DICOM series of CT, MR or PET by their folder or a file, NIfTI, MetaImage, NRRD)"
)
"""The kinds of file that can be read, in words for a person."""

_LAST = ("tiff", "openslide", "image")
"""The general readers, tried in this order after all others: MRXS begins with a JPEG, so pictures come last."""

_FOLDERS = ("dicom-series",)
"""Volume readers that open a folder."""


def open_source(path: str | Path, spacing_um: float | tuple[float, float] | None = None) -> Source:
    """Open a slide, picture or volume with the first reader that knows its content; `why` says which and why.

    `spacing_um` is the side of a level-0 pixel in micrometres, one number or (row, column); it replaces what the file
    states, and the spacing's origin is then "supplied". A volume's is supplied by `open_volume`. A folder is
    opened where it holds one DICOM series.

    Raises:
        UnreadableSourceError: if the path is absent, a folder without a series, damaged or of an unknown kind.
        SourceTooLargeError: if the file claims dimensions beyond the limits.
        UsageError: if `spacing_um` is not positive, or given for a volume.
    """
    path = Path(path)
    given = None if spacing_um is None else supplied(spacing_um)
    folder = _is_folder(path)
    if not folder:
        check_file(path)
    reasons: list[str] = []
    cause: DeclinedError | None = None
    for name, opener in _openers(folder):
        try:
            source = opener(path)
        except DeclinedError as error:
            if error.recognised:
                reasons.append(f"{name}: {error}")
                cause = cause or error
            continue
        except UnreadableSourceError as error:
            # The reader knows the kind and what is wrong with it; a more general one would only guess.
            also = "".join(f"; {reason}" for reason in reasons)
            raise type(error)(f"{path}: {error}{also}") from error
        if given is not None:
            if source.axes != "yx":
                source.close()
                raise volume_spacing_refused(path, spacing_um)
            source.spacing = given
        if reasons:
            source.why = _nameless(f"{source.why} ({'; '.join(reasons)})", path)
        return source
    if folder:
        check_file(path)
    if reasons:
        raise UnreadableSourceError(f"{path}: damaged or unsupported ({'; '.join(reasons)})") from cause
    raise UnreadableSourceError(f"{path}: {_kind_of(path)}. Readable are {READABLE}")


def _kind_of(path: Path) -> str:
    with path.open("rb") as stream:
        dicom = stream.read(132)[128:] == b"DICM"
    return (
        "a DICOM file, but not a whole-slide image nor a slice of a CT, MR or PET"
        if dicom
        else "not an image of a known kind"
    )


def _nameless(text: str, path: Path) -> str:
    """A library's words without the file's name, which may name a patient: `why` goes into reports."""
    return text.replace(str(path), "the file").replace(path.name, "the file")


def check_file(path: Path) -> None:
    """Raise `UnreadableSourceError` unless `path` is a regular file of at least one byte that may be read."""
    try:
        if path.is_dir():
            raise UnreadableSourceError(
                f"{path}: is a folder, and not one of a DICOM series; name a file. Readable are {READABLE}"
            )
        if not path.exists():
            raise UnreadableSourceError(f"{path}: no such file")
        if not path.is_file():
            raise UnreadableSourceError(f"{path}: is not a regular file")
        if path.stat().st_size == 0:
            raise UnreadableSourceError(f"{path}: is empty (0 bytes)")
        path.open("rb").close()
    except (OSError, RuntimeError, ValueError) as error:  # symlink loop, no permission, a NUL in the name
        if isinstance(error, UnreadableSourceError):
            raise
        raise UnreadableSourceError(f"{path}: {reason_of(error)}") from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _openers(folder: bool) -> Iterator[tuple[str, Opener]]:
    _load_readers()
    for name in VOLUMES:
        if name in _FOLDERS or not folder:
            yield name, VOLUMES[name]
    if folder:
        return
    for name in [*(n for n in READERS if n not in _LAST), *_LAST]:
        yield name, READERS[name]


@cache
def _load_readers() -> None:
    """Import every module of this package called `*_reader`: a new format is one such file."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module.name.endswith("_reader"):
            importlib.import_module(f"{package}.{module.name}")
