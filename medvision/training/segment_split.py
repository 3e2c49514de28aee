"""Which images a segmentation network learns from, is chosen on, and is measured on: folds by whole cases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from medvision.core.errors import UsageError
from medvision.store.files import atomic_write
from medvision.training.segment_config import SegmentSplitConfig
from medvision.training.segment_data import SegmentImages

Part = Literal["train", "validation", "held_out"]
PARTS: tuple[Part, ...] = ("train", "validation", "held_out")
Split = Mapping[Part, tuple[str, ...]]
"""Names of the images in each part."""


def deal_folds(images: SegmentImages, config: SegmentSplitConfig) -> tuple[tuple[str, ...], ...]:
    """Names of the images of each fold: whole cases, dealt so that folds are as large as each other.

    Raises:
        UsageError: if there are fewer cases than folds.
    """
    cases = _by_case(images, [image.name for image in images.images])
    if len(cases) < config.folds:
        raise UsageError(f"{len(cases)} cases cannot be split into {config.folds} folds")
    folds: list[list[str]] = [[] for _ in range(config.folds)]
    for case in _drawn(cases, [config.seed]):
        min(folds, key=len).extend(cases[case])
    return tuple(tuple(sorted(fold)) for fold in folds)


def part_of(images: SegmentImages, split: str) -> tuple[str, ...]:
    """Names of the slides that lie in a split of their table.

    Raises:
        UsageError: if none does, with the splits that there are.
    """
    found = tuple(image.name for image in images.images if image.pair.part == split)
    if not found:
        there = sorted({image.pair.part for image in images.images if image.pair.part})
        raise UsageError(
            f"split.held_out: nothing lies in {split!r}; splits: {', '.join(there) or 'none, as of a table of slides'}"
        )
    return found


def split_of(
    images: SegmentImages, config: SegmentSplitConfig, held_out: Sequence[str], number: int
) -> Split:
    """The three parts where `held_out` is held out, as run `number`; nothing is in two of them.

    Raises:
        UsageError: if a part would be empty, or an image has the content of one in another part.
    """
    others = [image.name for image in images.images if image.name not in set(held_out)]
    cases = _by_case(images, others)
    wanted = max(1, round(config.validation * len(others)))
    validation: list[str] = []
    for case in _drawn(cases, [config.seed, number, 1]):
        if len(validation) < wanted:
            validation += cases[case]
    train = [name for name in others if name not in set(validation)]
    if not train:
        raise UsageError(
            f"{len(cases)} cases leave none to learn from beside those held out and to validate on"
        )
    split: dict[Part, tuple[str, ...]] = {
        "train": tuple(train),
        "validation": tuple(sorted(validation)),
        "held_out": tuple(held_out),
    }
    owners: dict[str, tuple[str, Part]] = {}
    for part in PARTS:
        for image in images.named(split[part]):
            first, where = owners.setdefault(image.content, (image.name, part))
            if where != part:
                raise UsageError(
                    f"{image.pair.image}: has the content of {first}; one is {where}, the other {part}. Give both one "
                    "case by `data: {case: ...}`, or leave one out"
                )
    return split


def proof_of(images: SegmentImages, split: Split) -> str:
    """How the images are split, in words. What it says was checked by `split_of`."""
    said = []
    for part in PARTS:
        names = split[part]
        cases = len({image.pair.case for image in images.named(names)})
        said.append(f"{part.replace('_', ' ')} {len(names)} images of {cases} cases")
    return "; ".join(said) + "; no case and no content in two parts"


def write_split(images: SegmentImages, splits: Mapping[str, Split], path: Path) -> None:
    """The parts of each run as JSON, with the images' cases and digests, and the proof in words."""
    said = {
        "layout": images.found.layout,
        "notes": list(images.found.notes),
        "images": {image.name: {"case": image.pair.case, "sha256": image.digest} for image in images.images},
        "runs": {
            run: {"proof": proof_of(images, split), **{part: list(split[part]) for part in PARTS}}
            for run, split in splits.items()
        },
    }
    atomic_write(path, (json.dumps(said, indent=1) + "\n").encode())


def _by_case(images: SegmentImages, names: Sequence[str]) -> dict[str, list[str]]:
    cases: dict[str, list[str]] = {}
    for image in images.named(names):
        cases.setdefault(image.pair.case, []).append(image.name)
    return cases


def _drawn(cases: Mapping[str, list[str]], seed: list[int]) -> list[str]:
    """The cases in drawn order, large ones first, so that folds come out even."""
    order = np.random.default_rng(seed).permutation(len(cases))
    drawn = [sorted(cases)[k] for k in order]
    largest = max((len(names) for names in cases.values()), default=0)
    return drawn if largest == 1 else sorted(drawn, key=lambda case: -len(cases[case]))
