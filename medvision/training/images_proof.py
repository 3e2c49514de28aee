"""The proof that a split leaks nothing: what lies on each side, and how much of it on two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from medvision.core.errors import UsageError
from medvision.store.files import atomic_write
from medvision.training.images import SPLITS, LabelledImages
from medvision.training.images_duplicates import DuplicateReport
from medvision.training.images_groups import CHOICES, IMAGE

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class SplitCount:
    """What lies on one side: images, groups, and images of each class."""

    images: int
    groups: int
    classes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SplitProof:
    """Counts of each split, and the groups that each two of them share: 0, or there would be no proof.

    `groups_known` is False where each image counts as its own group, so that the split says nothing about patients.
    `digest` is that of the images as they are used.
    """

    digest: str
    grouped_by: str
    groups_known: bool
    splits: Mapping[str, SplitCount]
    shared_groups: Mapping[str, int]
    duplicates: DuplicateReport
    provenance: Mapping[str, str]

    def lines(self) -> list[str]:
        """The proof as lines of text."""
        told = [f"Images: {self.digest}"]
        told += [f"{key.capitalize()}: {value}" for key, value in self.provenance.items()]
        told.append(f"Group: {self.grouped_by}")
        for name, side in self.splits.items():
            classes = ", ".join(f"{label} {count}" for label, count in side.classes.items())
            told.append(f"  {name}: {side.images} images, {side.groups} groups ({classes})")
        told += [f"  groups in both {pair}: {count}" for pair, count in self.shared_groups.items()]
        if not self.groups_known:
            told.append("  Patients are unknown: images of one patient may lie on two sides.")
        return told + self.duplicates.lines()

    def as_json(self) -> dict[str, Any]:
        """The proof as JSON holds it."""
        return asdict(self)


def check_groups(images: LabelledImages) -> dict[str, int]:
    """The number of groups that each two splits share: 0 each, or there is an error.

    Raises:
        UsageError: if the images are not split or have none to train on, groups are not known, or a group lies in two
            splits; names examples.
    """
    if images.groups is None or images.splits is None:
        raise UsageError("images without groups or without a split prove nothing")
    if "train" not in images.splits or len(set(images.splits)) < 2:
        raise UsageError(
            f"a split has images to train on and others; there are only {', '.join(set(images.splits))}"
        )
    groups: dict[str, dict[str, str]] = {}  # by split, the groups in it and the first image of each
    for name, group, split in zip(images.names, images.groups, images.splits, strict=True):
        groups.setdefault(split, {}).setdefault(group, name)
    pairs = list(combinations([name for name in SPLITS if name in groups], 2))
    shared = {pair: groups[pair[0]].keys() & groups[pair[1]].keys() for pair in pairs}
    torn = [(group, a, b) for (a, b), both in shared.items() for group in sorted(both)]
    if torn:
        examples = "; ".join(
            f"{group!r} ({a}: {groups[a][group]}, {b}: {groups[b][group]})"
            for group, a, b in torn[:_EXAMPLES]
        )
        count = len({group for group, *_ in torn})
        raise UsageError(
            f"{count} of {len(set(images.groups))} groups lie in more than one split, so that what is measured on one "
            f"would be known from the other: {examples}. Groups are by {images.grouped_by}. Choices: a new split by "
            f"`split: {{fractions: ...}}`; another group by {CHOICES}"
        )
    return {f"{a} and {b}": len(both) for (a, b), both in shared.items()}


def prove_split(images: LabelledImages, duplicates: DuplicateReport) -> SplitProof:
    """The proof for images as they are to be used, after `settle_duplicates`.

    Raises:
        UsageError: as `check_groups`, or if a class has no image to train on.
    """
    shared = check_groups(images)
    counted = {}
    for name in (name for name in SPLITS if name in (images.splits or ())):
        side = images.of(name)
        counted[name] = SplitCount(len(side), len(set(side.groups or ())), side.counts())
    empty = [label for label, count in counted["train"].classes.items() if not count]
    if empty:
        raise UsageError(f"class {', '.join(map(repr, empty))} has no image to train on")
    return SplitProof(
        digest=images.digest,
        grouped_by=images.grouped_by,
        groups_known=not images.grouped_by.startswith(f"{IMAGE}:"),
        splits=counted,
        shared_groups=shared,
        duplicates=duplicates,
        provenance=dict(images.provenance),
    )


def write_proof(proof: SplitProof, folder: Path) -> tuple[Path, Path]:
    """Write the proof as `split.json` and `split.txt` into a folder that exists.

    Raises:
        StoreError: if they cannot be written.
    """
    data, text = folder / "split.json", folder / "split.txt"
    atomic_write(data, json.dumps(proof.as_json(), indent=1, ensure_ascii=False).encode() + b"\n")
    atomic_write(text, ("\n".join(proof.lines()) + "\n").encode())
    return data, text
