"""Training classes by the taxonomy of diseases that the labels are of, from the numbers of training images.

The recursive partition of Esteva et al. (Nature 2017): the network learns fine classes of a bounded size, and coarser
ones are summed afterwards.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medvision.core.errors import UsageError
from medvision.core.taxonomy import Taxonomy, partition, read_taxonomy
from medvision.models.class_tree import ClassTree
from medvision.training.classify_config import TaxonomyConfig
from medvision.training.images import LabelledImages
from medvision.training.images_config import ImagesConfig
from medvision.training.images_load import split_images
from medvision.training.images_proof import SplitProof, prove_split


@dataclass(frozen=True, eq=False)
class Parted:
    """Images by their training classes, and the tree that these are nodes of.

    `left_out` counts, by label, the images that are of no training class: those labelled with a node that was split,
    and those of a disease without a training image.
    """

    images: LabelledImages
    tree: ClassTree
    left_out: dict[str, int]


def load_parted(config: ImagesConfig, how: TaxonomyConfig) -> tuple[Parted, SplitProof]:
    """The images of a configuration by training classes, and the proof that their split leaks nothing.

    A disease may be on one side only, as long as its training class has training images.

    Raises:
        UnreadableSourceError: as `load_images`.
        UsageError: as `load_images`, `read_taxonomy` and `part`.
    """
    taxonomy = read_taxonomy(how.file)
    images, report = split_images(config, every_class=False)
    parted = part(images, taxonomy, how.max_class_size, how.file)
    return parted, prove_split(parted.images, report)


def part(images: LabelledImages, taxonomy: Taxonomy, max_class_size: int, file: Path) -> Parted:
    """Images with training classes in place of their labels, from the counts of those to train on.

    Args:
        images: split; their classes are nodes of the tree, in upper or lower case.
        taxonomy: the tree.
        max_class_size: the number of training images that a class of several nodes stays below.
        file: of the taxonomy, for messages.

    Raises:
        UsageError: if a label is no node, there is nothing to train on, or only one class comes of it.
    """
    known = [taxonomy.find(name, f"{file}: label of the images") for name in images.classes]
    finer = tuple(known[label] for label in images.labels)
    counts = Counter(name for name, side in zip(finer, images.splits or (), strict=True) if side == "train")
    classes = tuple(one.name for one in partition(taxonomy, counts, max_class_size).classes)
    if len(classes) < 2:
        raise UsageError(
            f"{file}: {counts.total()} training images make one class, {classes[0]!r}, as none may have "
            f"{max_class_size} of several diseases; take a smaller max_class_size"
        )
    holders = {name: taxonomy.holder(name, classes) for name in set(finer)}
    place = {name: number for number, name in enumerate(classes)}
    kept = [i for i, name in enumerate(finer) if holders[name] is not None]
    left_out = Counter(name for name in finer if holders[name] is None)
    said = (
        f"{len(classes)} by partition of {file.name}, each a single disease or below {max_class_size} images"
    )
    if left_out:
        said += f"; in none, and left out: {', '.join(f'{name} {n}' for name, n in sorted(left_out.items()))}"
    taken = images.take(kept)
    made = replace(
        taken,
        classes=classes,
        labels=np.array([place[str(holders[finer[i]])] for i in kept], np.int64),
        finer=tuple(finer[i] for i in kept),
        provenance={**images.provenance, "training classes": said},
    )
    tree = ClassTree(
        nodes=tuple(taxonomy.parents.items()),
        images=dict(sorted(counts.items())),
        max_class_size=max_class_size,
    )
    return Parted(made, tree, dict(left_out))
