"""Whose an image is, from its file's name. Nothing is guessed: a wrong guess would leak patients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from medvision.core.errors import UsageError
from medvision.training.images import LabelledImages

PRESETS = {
    # CNV-1016042-1.jpeg: class, patient, number. One patient may have images of several classes. The X-rays in a later
    # release of the same publication are named alike.
    "kermany-oct": r"^[A-Z]+-(?P<patient>\d+)-\d+$",
    # person123_bacteria_45, person5_virus_9; NORMAL2-IM-0042-0001, IM-0115-0001-0002. A number of a person is taken for
    # the same person wherever it occurs; IM and NORMAL2-IM count apart.
    "kermany-chest": r"^(?P<patient>person\d+|(?:NORMAL\d*-)?IM-\d+)(?:[_-].*)?$",
}
"""Patterns for the names, without their endings, of known data sets (Kermany et al. 2018)."""

IMAGE = "image"
CHOICES = (
    "`columns: {group: NAME}` of a CSV; `group: kermany-oct` or `kermany-chest` for names of these sets; "
    "`group_pattern` with one named group; or `group: image` to say that each image counts by itself"
)
"""The ways to say whose an image is, in words for a person."""

_SHOWN = 3


def by_names(images: LabelledImages, pattern: str, what: str) -> LabelledImages:
    """The images with groups from their files' names (without folder and ending), in which `pattern` is searched.

    Raises:
        UsageError: if a name does not have it, with examples.
    """
    wanted = re.compile(pattern)
    found = [wanted.search(PurePosixPath(name).stem) for name in images.names]
    missing = [name for name, match in zip(images.names, found, strict=True) if match is None]
    (key,) = wanted.groupindex
    groups = tuple(match.group(key) or "" for match in found if match is not None)
    empty = [] if missing else [name for name, group in zip(images.names, groups, strict=True) if not group]
    if missing or empty:
        bad = missing or empty
        raise UsageError(
            f"{len(bad)} of {len(images)} names do not say whose the image is by {what} ({pattern}): {shown(bad)}. "
            f"Choices: {CHOICES}"
        )
    return replace(images, groups=groups, grouped_by=f"{key} in the file's name, by {what} ({pattern})")


def each_its_own(images: LabelledImages) -> LabelledImages:
    """The images as groups of one: patients are unknown, and said to be so."""
    return replace(
        images,
        groups=images.names,
        grouped_by="image: each counts by itself, patients are unknown",
    )


def grouped(images: LabelledImages, group: str | None, pattern: str | None) -> LabelledImages:
    """The images with groups: those that they have, or by `pattern`, or by the way named `group`.

    Raises:
        UsageError: if nothing says whose the images are, or a name does not have the pattern.
    """
    if pattern is not None:
        return by_names(images, pattern, "group_pattern")
    if group == IMAGE:
        return each_its_own(images)
    if group is not None:
        return by_names(images, PRESETS[group], group)
    if images.groups is None:
        raise UsageError(
            f"nothing says which of the {len(images)} images are of one patient, so that a patient could be learnt "
            f"from and tested on: {shown(images.names)}. Choices: {CHOICES}"
        )
    return images


def shown(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
