"""Splits in which no group lies on two sides, with about the same mix of classes on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.training.images import SPLITS, LabelledImages


def new_split(
    images: LabelledImages, fractions: Mapping[str, float], seed: int, *, every_class: bool = True
) -> LabelledImages:
    """The images with a new split by whole groups; `fractions` are shares of the images, of each class alike.

    The outcome depends on the groups, their labels and the seed, not on the order of the images. Without `every_class`
    a class of too few groups is on as many sides as it has groups, first of all on the largest.

    Raises:
        UsageError: if the images have no groups, or with `every_class` a class has too few to be on every side.
    """
    sides = [name for name in SPLITS if name in fractions]
    shares = np.array([fractions[name] for name in sides])
    names, counts = _group_counts(images)
    side_of = dict(zip(names, _assigned(counts, shares / shares.sum(), seed), strict=True))
    splits = tuple(sides[side_of[group]] for group in images.groups or ())
    if every_class:
        _check_classes(images, splits, sides)
    said = ", ".join(f"{name} {fractions[name]:g}" for name in sides)
    given = "" if images.splits is None else "; the split of the data was set aside"
    made = f"made from groups, by class, seed {seed}: {said}{given}"
    return replace(images, splits=splits, provenance={**images.provenance, "split": made})


def validation_from_train(
    images: LabelledImages, share: float, seed: int, *, every_class: bool = True
) -> LabelledImages:
    """The images with `share` of those to train on, by whole groups, set apart to validate on.

    Raises:
        UsageError: if there are validation images already, or as `new_split`.
    """
    if images.splits is None or "train" not in images.splits:
        raise UsageError("validation_from_train needs images whose split is given, some of them for training")
    if "validation" in images.splits:
        raise UsageError("validation_from_train, but the data has validation images; leave it out")
    train = [i for i, name in enumerate(images.splits) if name == "train"]
    shares = {"train": 1 - share, "validation": share}
    parted = new_split(images.take(train), shares, seed, every_class=every_class).splits
    splits = list(images.splits)
    for index, name in zip(train, parted or (), strict=True):
        splits[index] = name
    made = f"given; {share:g} of the training groups made validation, by class, seed {seed}"
    return replace(images, splits=tuple(splits), provenance={**images.provenance, "split": made})


def _group_counts(images: LabelledImages) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Names of the groups, sorted, and their images of each class `(groups, classes)`."""
    if images.groups is None:
        raise UsageError("images without groups cannot be split: whose they are is not known")
    names, of_image = np.unique(np.array(images.groups), return_inverse=True)
    counts = np.zeros((len(names), len(images.classes)), np.int64)
    np.add.at(counts, (of_image, images.labels), 1)
    return [str(name) for name in names], counts


def _assigned(
    counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], seed: int
) -> npt.NDArray[np.int64]:
    """A side for each group, from its images of each class `(groups, classes)` and the share of each side.

    Groups are taken largest first, equal ones in drawn order; each goes where it fills the share of its classes least,
    so that groups of every size end up on every side. The last groups of a class go to the sides that still lack it.
    """
    total = np.maximum(counts.sum(axis=0), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    filled = np.zeros((len(shares), counts.shape[1]))
    left = (counts > 0).sum(axis=0)
    sides = np.zeros(len(counts), np.int64)
    for group in order:
        own = counts[group]
        cost = (((filled + own) / total) * (own / total)).sum(axis=1) / shares
        lacking = (filled == 0) & (own > 0)
        urgent = (lacking & (left <= lacking.sum(axis=0))).any(axis=1)
        if urgent.any():
            cost[~urgent] = np.inf
        side = int(np.argmin(cost))
        filled[side] += own
        left -= own > 0
        sides[group] = side
    return sides


def _check_classes(images: LabelledImages, splits: tuple[str, ...], sides: list[str]) -> None:
    there = set(zip(splits, images.labels.tolist(), strict=True))
    for label, name in enumerate(images.classes):
        missing = [side for side in sides if (side, label) not in there]
        if missing:
            groups = {g for g, of in zip(images.groups or (), images.labels, strict=True) if of == label}
            raise UsageError(
                f"class {name!r} is in {len(groups)} group(s), too few for {', '.join(sides)}: none for "
                f"{', '.join(missing)}. Split into fewer sides, or leave the class out"
            )
