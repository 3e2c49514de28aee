"""Reading one medical image as pixels for a classifier: a photograph, an X-ray, a B-scan, whatever file it came in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medvision.core.errors import MedvisionError, SourceTooLargeError, UnreadableSourceError, UsageError
from medvision.sources.faults import LIBRARY_ERRORS, reason_of
from medvision.sources.opening import check_file
from medvision.sources.still_dicom import look_at_dicom, read_dicom
from medvision.sources.still_image import StillImage, Window, check_window
from medvision.sources.still_picture import look_at_picture, read_picture
from medvision.sources.still_tiff import look_at_tiff, read_tiff

__all__ = ["STILL_SUFFIXES", "StillImage", "Window", "look_at_still", "read_still"]

STILL_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".dicom")
"""Endings by which a folder's images are told from its other files. Each file's kind is then told by its content."""

MAX_FILE_BYTES = 2**30
"""Largest file that is read: it is held in memory whole."""

_NO_FRAMES = "frame {} of a file that is not DICOM; only DICOM frames can be named"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_still(path: str | Path, window: Window = None, frame: int | None = None) -> StillImage:
    """One image, upright, as uint8 grey `(rows, columns)` or RGB `(rows, columns, 3)`, and how it came about.

    PNG, JPEG, BMP, WebP, TIFF and DICOM, told by content. Grey of at most 8 bits is shown as stored; colour of more is
    scaled from its full range. Palettes are looked up, and what is transparent is laid over white.

    `window` is how grey of more than 8 bits is shown, and grey DICOM of any; see `Window`. It is in rescaled values.
    Without it a DICOM file's own VOI LUT or first window applies (PS3.3 C.11.2); another file has none, and nothing is
    guessed. `frame` names one, from 0, of a DICOM file that holds several.

    Raises:
        UnreadableSourceError: if the file is absent, damaged, of an unknown kind, in an encoding that no installed
            decoder knows, or holds several images and no frame is named.
        SourceTooLargeError: if it claims or holds more than the limits.
        UsageError: if a window is needed and neither given nor in the file, or it or `frame` is out of range.
    """
    path = Path(path)
    check_window(window)
    with _checked(path):
        data = path.read_bytes()
        return _read(data, hashlib.sha256(data).hexdigest(), window, frame)


def look_at_still(path: str | Path, frame: int | None = None) -> None:
    """Read as much of an image as tells whether `read_still` could begin: its kind and its size, no pixels.

    Raises:
        MedvisionError: as `read_still`, but for what only the pixels or a window can tell.
    """
    path = Path(path)
    with _checked(path), path.open("rb") as stream:
        head = stream.read(132)
        stream.seek(0)
        if head[128:] == b"DICM":
            look_at_dicom(stream, frame)
        elif frame not in (None, 0):
            raise UsageError(_NO_FRAMES.format(frame))
        elif head[:4] in _TIFF:
            look_at_tiff(stream)
        else:
            look_at_picture(stream)


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """A file that is there and not too large; whatever goes wrong with it is one of our errors, with its name."""
    check_file(path)
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise SourceTooLargeError(f"holds {size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
        yield
    except MedvisionError as error:
        raise type(error)(f"{path}: {error}") from error
    except LIBRARY_ERRORS as error:
        raise UnreadableSourceError(f"{path}: damaged or unsupported ({reason_of(error)})") from error


def _read(data: bytes, digest: str, window: Window, frame: int | None) -> StillImage:
    if data[128:132] == b"DICM":
        return read_dicom(data, digest, window, frame)
    if frame not in (None, 0):
        raise UsageError(_NO_FRAMES.format(frame))
    if data[:4] in _TIFF:
        return read_tiff(data, digest, window)
    return read_picture(data, digest, window)
