"""From a configuration to images that may be learnt from: read, grouped, split, checked, without copies, and proven."""

from __future__ import annotations

from dataclasses import replace

from medvision.core.errors import UsageError
from medvision.training.images import LabelledImages
from medvision.training.images_boxes import read_voc_boxes
from medvision.training.images_config import ImagesConfig
from medvision.training.images_duplicates import DuplicateReport, settle_duplicates
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
    images, report = split_images(config)
    return images, prove_split(images, report)


def split_images(config: ImagesConfig, *, every_class: bool = True) -> tuple[LabelledImages, DuplicateReport]:
    """The images of a configuration with their split, without copies across it, and not yet proven.

    Args:
        config: which images.
        every_class: whether a new split must have images of each class on every side.

    Raises:
        UnreadableSourceError: as `load_images`.
        UsageError: as `load_images`.
    """
    images = grouped(read_images(config), config.group, config.group_pattern)
    split = config.split
    if split.fractions is not None:
        shares = {str(side): share for side, share in split.fractions.items()}
        images = new_split(images, shares, split.seed, every_class=every_class)
    elif images.splits is None:
        raise UsageError(
            f"the {len(images)} images are not split; say how by `split: {{fractions: {{train: 0.8, test: 0.2}}}}`, by "
            "sub-folders called train, validation and test, or by `columns: {split: NAME}` of a CSV"
        )
    else:
        images = replace(images, provenance={**images.provenance, "split": "given with the data"})
        check_groups(images)
        if split.validation_from_train is not None:
            images = validation_from_train(
                images, split.validation_from_train, split.seed, every_class=every_class
            )
    check_groups(images)
    return settle_duplicates(images, config.near_bits, config.duplicates)


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
            config.group_csv,
        )
    if config.voc is not None:
        return read_voc_boxes(config.voc, config.classes, config.leave_out, config.window, config.box_margin)
    if config.npz is None:
        raise UsageError("name one of folder, csv, npz and voc")
    return read_medmnist(config.npz, config.classes, config.leave_out)
