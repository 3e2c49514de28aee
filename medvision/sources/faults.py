"""What can go wrong with a file, and the one way each reader deals with it.

A reader that meets bytes which are not its kind raises `DeclinedError`, and `open_source` asks the next one. Whatever a
decoding library raises on damaged bytes becomes one of this package's errors here.
"""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from medvision.core.errors import (
    MedvisionError,
    PixelsMissingError,
    SourceTooLargeError,
    UnreadableSourceError,
    WindowUnreadableError,
)
from medvision.core.geometry import Box

T = TypeVar("T")

MAX_SIDE = 2**20
"""Longest side of a source in pixels; 26 cm at 0.25 µm, about four times the longest glass slide."""
MAX_TILE_PIXELS = 2**24
"""Most pixels in one native tile (4096 x 4096)."""
MAX_FLAT_PIXELS = 2**27
"""Most pixels of anything that must be decoded whole: a PNG, a JPEG, one compressed strip of a TIFF."""
MAX_SEGMENTS = 2**24
"""Most tiles or strips in one level."""

# Decoders raise all of these on damaged bytes; zlib and struct errors have no builtin above them.
LIBRARY_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

_warnings_lock = threading.Lock()  # what is caught of warnings is one list for the whole process


class TileMissingError(ValueError):
    """A tile of zero bytes, met by a reader whose format has none by design."""


class DeclinedError(UnreadableSourceError):
    """This reader leaves the file to others. `recognised`: it knows the kind, so that its reason is worth telling."""

    def __init__(self, reason: str, *, recognised: bool = False) -> None:
        super().__init__(reason)
        self.recognised = recognised


@contextmanager
def declining(also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what a library raises while a file is opened into `DeclinedError`; our own errors pass unchanged."""
    try:
        yield
    except MedvisionError:
        raise
    except (*LIBRARY_ERRORS, *also) as error:
        raise DeclinedError(reason_of(error), recognised=True) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without a library's warnings on odd files: what matters of them is an error here. One thread at a time."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def reason_of(error: BaseException) -> str:
    """One line on an error of a library, never empty."""
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__


def read_twice(
    path: Path,
    box: Box,
    level: int,
    read: Callable[[], T],
    again: Callable[[], T],
    also: tuple[type[Exception], ...] = (),
) -> T:
    """`read()`; if the library fails, `again()`, which reopens the file first; then the window is unreadable.

    Raises:
        WindowUnreadableError: naming the file, the level, the box and the library's reason; `PixelsMissingError`
            where a tile is empty rather than damaged.
    """
    try:
        return read()
    except (*LIBRARY_ERRORS, *also):
        pass  # a second look at a reopened file decides
    try:
        return again()
    except (*LIBRARY_ERRORS, *also) as error:
        kind = PixelsMissingError if isinstance(error, TileMissingError) else WindowUnreadableError
        raise kind(f"{path}: {place_of(box, level)} cannot be decoded: {reason_of(error)}") from error


def place_of(box: Box, level: int) -> str:
    """A box in words: of a level's rows and columns, or of a volume's planes, rows and columns."""
    names = ("planes", "rows", "columns")[-len(box.start) :]
    spans = [f"{name} {a}-{b}" for name, a, b in zip(names, box.start, box.stop, strict=True)]
    return ", ".join(spans if len(names) == 3 else [f"level {level}", *spans])


def check_shape(what: str, shape: tuple[int, ...]) -> None:
    """Refuse a level whose sides are not positive or exceed `MAX_SIDE`."""
    if any(n < 1 for n in shape):
        raise UnreadableSourceError(f"{what} claims {_size(shape)}: an empty image")
    if any(n > MAX_SIDE for n in shape):
        raise SourceTooLargeError(f"{what} claims {_size(shape)}; the limit is {MAX_SIDE:,} px a side")


def check_pixels(what: str, shape: tuple[int, ...], limit: int) -> None:
    """Refuse something that must be decoded in one piece and has more than `limit` pixels."""
    if shape[0] * shape[1] > limit:
        raise SourceTooLargeError(
            f"{what} claims {_size(shape)}, which must be decoded in one piece; the limit is {limit:,} px. "
            "Convert it to a tiled TIFF"
        )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape) + " px (rows x columns)"
