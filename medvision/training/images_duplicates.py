"""Copies of one image in a labelled set: on both sides of a split they would be learnt from and tested on.

Exact copies have equal pixels; near ones have perceptual hashes that differ in few bits. An image without contrast, as
a blank one, is no evidence of anything and is counted apart.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from medvision.core.errors import UsageError
from medvision.ops.perceptual import BITS, LEAST_CONTRAST, Bits, near_pairs, perceptual_hash
from medvision.training.images import SPLITS, LabelledImages, pixel_digest
from medvision.training.images_config import Policy

_CHUNK = 64
_THREADS = 4
_EXAMPLES = 5

CHOICES = (
    "`duplicates: drop` leaves the copies out of training (and out of validation, where they are in test), "
    "`duplicates: keep` keeps and reports them, a smaller `near_bits` calls fewer images alike"
)


@dataclass(frozen=True, slots=True)
class Copies:
    """Images with a copy: how many, how many of them with one of another class, and a few, in words."""

    images: int
    other_class: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DuplicateReport:
    """What was found before anything was dropped, and `dropped`: images left out of each split.

    `found` has the keys "exact within", "exact across", "near within" and "near across" (splits). An image may count
    under several. `flat` images were compared with none.
    """

    near_bits: int
    policy: Policy
    found: Mapping[str, Copies]
    flat: int
    dropped: Mapping[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The report as lines of text."""
        told = [
            f"Copies: equal pixels (exact), or hashes that differ in at most {self.near_bits} of {BITS} bits (near)."
        ]
        for what, copies in self.found.items():
            told.append(
                f"  {what} splits: {copies.images} images, {copies.other_class} with a copy of another class"
            )
            told += [f"    {example}" for example in copies.examples]
        told.append(f"  without contrast, compared with none: {self.flat} images")
        left = ", ".join(f"{count} of {name}" for name, count in self.dropped.items() if count) or "none"
        told.append(f"  policy {self.policy}; images left out: {left}")
        return told


def settle_duplicates(
    images: LabelledImages, near_bits: int, policy: Policy
) -> tuple[LabelledImages, DuplicateReport]:
    """The images without what `policy` drops, and what was found. Every image is read once.

    With "drop", an image goes that has a copy on a side that comes later in `SPLITS`: none is then on two sides.

    Raises:
        UnreadableSourceError: if an image cannot be read.
        UsageError: if there are copies across splits and the policy is "refuse", with examples.
    """
    alike = _alike(images, near_bits)
    report = _report(images, alike, near_bits, policy)
    across = [report.found[f"{kind} across"] for kind in ("exact", "near")]
    if policy == "refuse" and any(copies.images for copies in across):
        raise UsageError(
            f"{across[0].images} images have an exact copy in another split and {across[1].images} a near one: "
            f"{'; '.join([*across[0].examples, *across[1].examples][:_EXAMPLES])}. Choices: {CHOICES}"
        )
    if policy != "drop":
        return images, report
    rank = {name: n for n, name in enumerate(SPLITS)}
    own = [rank[name] for name in images.splits or ()]
    last = {cell: max((rank[split] for split, _ in alike.kinds[cell]), default=-1) for cell in alike.kinds}
    gone = {
        i
        for i, cell in enumerate(alike.cell_of)
        if cell >= 0 and max(last[c] for c in (cell, *alike.neighbours.get(cell, ()))) > own[i]
    }
    dropped = Counter((images.splits or ())[i] for i in gone)
    kept = images.take([i for i in range(len(images)) if i not in gone])
    return kept, DuplicateReport(
        near_bits,
        policy,
        report.found,
        report.flat,
        {name: dropped[name] for name in SPLITS if dropped[name]},
    )


@dataclass(frozen=True, eq=False)
class _Alike:
    """Cells of images with equal pixels (-1: an image without contrast), and the distances of cells that look alike.

    `kinds` counts a cell's images by split and label; `members` are its first few images.
    """

    cell_of: list[int]
    members: dict[int, list[int]]
    kinds: dict[int, Counter[tuple[str, int]]]
    neighbours: dict[int, dict[int, int]]


def _alike(images: LabelledImages, near_bits: int) -> _Alike:
    starts = range(0, len(images), _CHUNK)
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        parts = list(threads.map(lambda first: _prints(images, first), starts))
    cells: dict[str, int] = {}
    cell_of: list[int] = []
    hashes: list[Bits] = []
    members: dict[int, list[int]] = defaultdict(list)
    kinds: dict[int, Counter[tuple[str, int]]] = defaultdict(Counter)
    splits = images.splits or ("",) * len(images)
    for i, (digest, bits, contrast) in enumerate(one for part in parts for one in part):
        if contrast < LEAST_CONTRAST:
            cell_of.append(-1)
            continue
        cell = cells.setdefault(digest, len(cells))
        if cell == len(hashes):
            hashes.append(bits)
        cell_of.append(cell)
        if len(members[cell]) < _CHUNK:
            members[cell].append(i)
        kinds[cell][splits[i], int(images.labels[i])] += 1
    neighbours: dict[int, dict[int, int]] = defaultdict(dict)
    if hashes:
        for a, b, distance in near_pairs(np.stack(hashes), near_bits):
            neighbours[a][b] = neighbours[b][a] = distance
    return _Alike(cell_of, dict(members), dict(kinds), dict(neighbours))


def _prints(images: LabelledImages, first: int) -> list[tuple[str, Bits, float]]:
    """Digest of the pixels, hash and contrast of a few images."""
    found = []
    for index in range(first, min(first + _CHUNK, len(images))):
        pixels = images.read(index)
        found.append((pixel_digest(pixels), *perceptual_hash(pixels)))
    return found


def _report(images: LabelledImages, alike: _Alike, near_bits: int, policy: Policy) -> DuplicateReport:
    splits = images.splits or ("",) * len(images)
    counts: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for i, cell in enumerate(alike.cell_of):
        if cell < 0:
            continue
        mine = (splits[i], int(images.labels[i]))
        near = {kind for c in alike.neighbours.get(cell, ()) for kind in alike.kinds[c]}
        same = {kind for kind, n in alike.kinds[cell].items() if n > (kind == mine)}
        for what, kinds in (("exact", same), ("near", near)):
            for where, there in (("within", True), ("across", False)):
                labels = [label for split, label in kinds if (split == mine[0]) == there]
                counts[f"{what} {where}"] += bool(labels)
                other[f"{what} {where}"] += any(label != mine[1] for label in labels)
    found = {
        key: Copies(counts[key], other[key], tuple(examples))
        for key, examples in _examples(images, alike, splits).items()
    }
    return DuplicateReport(near_bits, policy, found, alike.cell_of.count(-1))


def _examples(images: LabelledImages, alike: _Alike, splits: tuple[str, ...]) -> dict[str, list[str]]:
    """A few pairs of each kind in words; across splits, those of other classes are as good as any."""
    told: dict[str, list[str]] = {f"{k} {w}": [] for k in ("exact", "near") for w in ("within", "across")}

    def tell(what: str, i: int, j: int, sign: str) -> None:
        kept = told[f"{what} {'within' if splits[i] == splits[j] else 'across'}"]
        if len(kept) < _EXAMPLES:
            kept.append(f"{_called(images, i)} {sign} {_called(images, j)}")

    for members in alike.members.values():
        for i, j in pairwise(sorted(members, key=lambda m: splits[m])):
            tell("exact", i, j, "=")
    for a, near in alike.neighbours.items():
        for b, distance in near.items():
            if a < b:
                for i in _one_of_each_split(alike.members[a], splits):
                    for j in _one_of_each_split(alike.members[b], splits):
                        tell("near", i, j, f"~ ({distance} bits)")
    return told


def _one_of_each_split(members: list[int], splits: tuple[str, ...]) -> list[int]:
    return list({splits[m]: m for m in reversed(members)}.values())


def _called(images: LabelledImages, index: int) -> str:
    side = images.splits[index] if images.splits else "no split"
    return f"{images.names[index]} ({side}, {images.classes[images.labels[index]]})"
