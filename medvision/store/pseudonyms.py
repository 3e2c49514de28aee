"""Names for slides that say nothing about a patient, and the same each time for those who hold the key.

A file name can hold a patient's name, a date of birth or an accession number. A keyed hash (HMAC-SHA256, RFC 2104) of a
slide's or image's id replaces it: without the key, nobody can try likely names until one fits, as they could with a
plain hash.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path

from medvision.core.errors import UsageError
from medvision.store.records import ItemKind

LEAST_BYTES = 16
_LEAST_NAME = 4
"""Characters of a file's name below which it is no name, and would eat parts of a sentence."""
_QUOTED_FILE = re.compile(r"'[^'\n]*\.\w{1,6}'")
_DIGITS = 16


class Pseudonyms:
    """Pseudonyms by one key: `slide-`, `image-` or `scan-`, and 16 hexadecimal digits: two meet once in 10^19 pairs."""

    def __init__(self, key: bytes) -> None:
        if len(key) < LEAST_BYTES:
            raise UsageError(f"a key of {len(key)} bytes can be guessed; it needs {LEAST_BYTES} or more")
        self._key = key

    def of(self, item_id: str, item: ItemKind = "slide") -> str:
        """The pseudonym of a slide, an image or a scan."""
        return f"{item}-{self._digest(item, item_id)}"

    @property
    def fingerprint(self) -> str:
        """What tells two keys apart without giving either away."""
        return self._digest("fingerprint", "")

    def _digest(self, purpose: str, text: str) -> str:
        # surrogateescape: a file name is bytes, and need not be valid UTF-8.
        message = f"medvision {purpose}\0{text}".encode(errors="surrogateescape")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:_DIGITS]


def read_key(path: Path) -> Pseudonyms:
    """Pseudonyms by the key in a file; line ends at its end do not count.

    Raises:
        UsageError: if it cannot be read, is shorter than 16 bytes, or can be read by other users of the machine.
    """
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            key = stream.read(4096).rstrip(b"\r\n")
    except OSError as error:
        raise UsageError(
            f"{path}: the pseudonym key cannot be read ({error.strerror}); "
            "`medvision pseudonyms --new-key FILE` makes one"
        ) from error
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"{path}: others can read the pseudonym key (mode {mode & 0o777:o}); chmod 600 it")
    try:
        return Pseudonyms(key)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def write_key(path: Path) -> Path:
    """Make a file with a new random key that its owner alone can read.

    Raises:
        UsageError: if something is there already, or it cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UsageError(f"{path}: no key was made ({error.strerror})") from error
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(32) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return path


def without_name(text: str, path: Path, alias: str) -> str:
    """`text` with the slide's path, its folder and every form of its name replaced: `alias` stands for the slide.

    Names of the files beside it, or in it where it is the folder of a series, and names of files in quotes become `…`:
    a scan may be spread over several files, and the one that is damaged is named.
    """
    whole = {str(path), str(path.absolute()), str(path.resolve())}
    folders = {str(Path(one).parent) for one in whole} - {"/", "."}
    for found in sorted(whole, key=len, reverse=True):
        text = text.replace(found, alias)
    for found in sorted(folders, key=len, reverse=True):
        text = text.replace(found, "…")
    for found in (path.name, path.stem):
        if found.isdecimal() and len(found) < 4:
            continue  # no name, and it would eat the figures of a sentence
        text = re.sub(rf"(?<!\w){re.escape(found)}(?!\w)", lambda _: alias, text)
    for found in _beside(path):
        if found in text:
            text = re.sub(rf"(?<!\w){re.escape(found)}(?!\w)", "…", text)
    return _QUOTED_FILE.sub("'…'", text)


def _beside(path: Path) -> list[str]:
    """Names of the files in a folder, or in that of a file, the longest first."""
    try:
        with os.scandir(path if path.is_dir() else path.parent) as entries:
            names = [entry.name for entry in entries if len(entry.name) >= _LEAST_NAME]
    except (OSError, ValueError):
        return []
    return sorted(names, key=len, reverse=True)
