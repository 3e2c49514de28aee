"""From a configuration to images that may be learnt from: read, grouped, split, checked, without copies, and proven."""

from __future__ import annotations

from dataclasses import replace

from medvision.core.errors import UsageError
from medvision.training.images import LabelledImages
from medvision.training.images_config import ImagesConfig
from medvision.training.images_duplicates import settle_duplicates
from medvision.training.images_groups import grouped
from medvision.training.images_proof import SplitProof, check_groups, prove_split
from medvision.training.images_read import read_class_folders, read_medmnist, read_table
from medvision.training.images_split import new_split, validation_from_train


def load_images(config: ImagesConfig) -> tuple[LabelledImages, SplitProof]:
    """The images of a configuration, and the proof that its split leaks nothing.

    Every image is read, so that one that cannot be is found here and not in the middle of a training.

    Raises:
        UnreadableSourceError: if an image or archive is damaged or not one.
        UsageError: if the set is not as the configuration says, nothing says whose an image is, the set is not split
            and no split is asked for, a group or (with `duplicates: refuse`) a copy lies on two sides.
    """
    images = grouped(read_images(config), config.group, config.group_pattern)
    if config.split.fractions is not None:
        images = new_split(images, {str(k): v for k, v in config.split.fractions.items()}, config.split.seed)
    elif images.splits is None:
        raise UsageError(
            f"the {len(images)} images are not split; say how by `split: {{fractions: {{train: 0.8, test: 0.2}}}}`, by "
            "sub-folders called train, validation and test, or by `columns: {split: NAME}` of a CSV"
        )
    else:
        images = replace(images, provenance={**images.provenance, "split": "given with the data"})
        check_groups(images)
        if config.split.validation_from_train is not None:
            images = validation_from_train(images, config.split.validation_from_train, config.split.seed)
    check_groups(images)
    images, report = settle_duplicates(images, config.near_bits, config.duplicates)
    return images, prove_split(images, report)


def read_images(config: ImagesConfig) -> LabelledImages:
    """The images of a configuration as they are, neither grouped by name nor split anew.

    Raises:
        UnreadableSourceError: if an archive is damaged or not one.
        UsageError: as the readers in `images_read`.
    """
    if config.folder is not None:
        return read_class_folders(
            config.folder, config.classes, config.leave_out, config.window, config.class_patterns
        )
    if config.csv is not None:
        return read_table(
            config.csv,
            config.columns,
            config.image_folders,
            config.suffix,
            config.classes,
            config.leave_out,
            config.window,
        )
    if config.npz is None:
        raise UsageError("name one of folder, csv and npz")
    return read_medmnist(config.npz, config.classes, config.leave_out)
