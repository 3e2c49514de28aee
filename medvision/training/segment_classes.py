"""Which class the values of label images mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.models.segmentation import SegmentContract
from medvision.training.segment_config import IGNORED, SegmentDataConfig

Labels = npt.NDArray[np.uint8]


def class_values(config: SegmentDataConfig, contract: SegmentContract) -> dict[int, int]:
    """The class of each value in the labels.

    Raises:
        UsageError: if the configuration names other classes than the contract, or a value twice.
    """
    if config.values is None:
        table = {k: k for k in range(len(contract.classes))}
    else:
        if set(config.values) != set(contract.classes):
            raise UsageError(
                f"data.values names {', '.join(config.values)}, and the classes are {', '.join(contract.classes)}"
            )
        table = {value: contract.classes.index(name) for name, value in config.values.items()}
    if len(table) < len(contract.classes) or config.ignore in table:
        raise UsageError("data.values: each class needs a value of its own, and so do ignored pixels")
    return table if config.ignore is None else {**table, config.ignore: IGNORED}


def classes_of(
    found: npt.NDArray[Any], table: Mapping[int, int], contract: SegmentContract, path: Path
) -> Labels:
    """The classes of the values `found` in the labels of `path`, or `IGNORED`, by what each value means.

    Raises:
        UsageError: for a value that is of no class.
    """
    truth = np.full(found.shape, IGNORED, np.uint8)
    for value in np.unique(found).tolist():
        if value not in table:
            known = ", ".join(f"{v} {contract.classes[k]}" for v, k in table.items() if k != IGNORED)
            raise UsageError(
                f"{path}: holds the value {value}, which is of no class ({known}); `data: {{values: ...}}` "
                "names what values mean, `ignore` one that does not count"
            )
        truth[found == value] = table[value]
    return truth
