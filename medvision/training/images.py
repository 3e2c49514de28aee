"""Labelled images for a classifier: what each shows, whose it is, on which side of a split it lies, and its pixels.

However a set is stored, it becomes one `LabelledImages`. Files are read one at a time when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from medvision.core.digest import digest_file, digest_json
from medvision.core.errors import UnreadableSourceError, UsageError
from medvision.sources.still import Window, read_still

Pixels = npt.NDArray[np.uint8]

SPLITS = ("train", "validation", "test")
"""The sides of a split, in the order in which they may give way to each other: what is tested on never does."""

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class ImageStore(Protocol):
    """Where pixels are: `n` images by number. Reading is safe from several threads and processes."""

    def __len__(self) -> int: ...

    @property
    def reading(self) -> Mapping[str, str]:
        """What else than the content determines the pixels, such as a window."""

    def read(self, index: int) -> Pixels:
        """One image, uint8 grey `(rows, columns)` or RGB `(rows, columns, 3)`."""

    def digest(self, index: int) -> str:
        """SHA-256 of what is stored of one image."""

    def take(self, indices: Sequence[int]) -> ImageStore:
        """The images of these numbers, in this order."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images in files, read at each asking and kept nowhere."""

    paths: tuple[Path, ...]
    window: Window = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def reading(self) -> Mapping[str, str]:
        """The window that was given."""
        return {"window": str(self.window)}

    def read(self, index: int) -> Pixels:
        """See `ImageStore`.

        Raises:
            UnreadableSourceError: if the file is damaged or not an image.
            UsageError: if it has more than 8 bits and there is no window.
        """
        return read_still(self.paths[index], self.window).pixels

    def digest(self, index: int) -> str:
        """SHA-256 of the file.

        Raises:
            UnreadableSourceError: if it is there no more.
        """
        try:
            return digest_file(self.paths[index])
        except OSError as error:
            raise UnreadableSourceError(f"{self.paths[index]}: {error.strerror}") from error

    def take(self, indices: Sequence[int]) -> ImageFiles:
        """See `ImageStore`."""
        return replace(self, paths=tuple(self.paths[i] for i in indices))


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """Images in memory: parts `(m, rows, columns)` or `(m, rows, columns, 3)`, and (part, place) of each image."""

    parts: tuple[Pixels, ...]
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def reading(self) -> Mapping[str, str]:
        """Nothing: the arrays hold pixels."""
        return {}

    def read(self, index: int) -> Pixels:
        """See `ImageStore`. A view that must not be written to."""
        part, place = self.places[index]
        pixels: Pixels = self.parts[part][place]
        return pixels

    def digest(self, index: int) -> str:
        """SHA-256 of the shape and the pixels."""
        return pixel_digest(self.read(index))

    def take(self, indices: Sequence[int]) -> ImageArrays:
        """See `ImageStore`. The arrays are shared, not copied."""
        return replace(self, places=self.places[np.asarray(indices, np.int64)])


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """`n` images with what is known of them. `names` say in words which image is meant, such as a path below the set.

    `labels` int64 `(n,)` count in `classes`. `groups` name the patient (or lesion) of each image, None where nothing
    says; `grouped_by` says what a group is. `splits` are of `SPLITS`, None where the set is not split. `provenance`
    says where all this came from. `finer` are the labels of the data where the classes were made of them (diseases).
    """

    store: ImageStore
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None
    grouped_by: str
    splits: tuple[str, ...] | None
    provenance: Mapping[str, str]
    finer: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Pixels:
        """Pixels of one image, uint8 grey `(rows, columns)` or RGB `(rows, columns, 3)`. See `ImageStore.read`."""
        return self.store.read(index)

    def take(self, indices: Sequence[int]) -> LabelledImages:
        """The images of these numbers, in this order."""
        return replace(
            self,
            store=self.store.take(indices),
            names=tuple(self.names[i] for i in indices),
            labels=self.labels[np.asarray(indices, np.int64)],
            groups=None if self.groups is None else tuple(self.groups[i] for i in indices),
            splits=None if self.splits is None else tuple(self.splits[i] for i in indices),
            finer=None if self.finer is None else tuple(self.finer[i] for i in indices),
        )

    def of(self, split: str) -> LabelledImages:
        """The images of one side of the split.

        Raises:
            UsageError: if there are none.
        """
        found = [i for i, name in enumerate(self.splits or ()) if name == split]
        if not found:
            there = ", ".join(sorted(set(self.splits or ()))) or "none"
            raise UsageError(f"no image is in split {split!r}; splits: {there}")
        return self.take(found)

    def counts(self) -> dict[str, int]:
        """Images of each class, in the order of the classes."""
        found = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, found, strict=True)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over content, label, group and split of each image, in order, the classes and the way of reading.

        Names of files, folders and groups do not matter. Every file is read for it.
        """
        none = (None,) * len(self)
        numbers: dict[str, int] = {}
        groups = [numbers.setdefault(group, len(numbers)) for group in self.groups or ()]
        facts = zip(self.labels.tolist(), groups or none, self.splits or none, strict=True)
        rows = [[self.store.digest(i), *row] for i, row in enumerate(facts)]
        return digest_json({"classes": self.classes, "reading": dict(self.store.reading), "images": rows})


def pixel_digest(pixels: Pixels) -> str:
    """SHA-256 of an image's shape and pixels."""
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def split_name(name: str) -> str | None:
    """The one of `SPLITS` that a name means, such as "val" or "Training"; None where it means none."""
    return _SPLIT_NAMES.get(name.strip().lower())
