"""Parameters of a study of transfer: from which weights to which images, with how many of them, how often.

Light on purpose: the command line reads it for its help.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, model_validator

from medvision.training.classify_config import Stage, TrainClassifyConfig, placed_below
from medvision.training.config_file import Strict, read_yaml_config

_STUDY_SETS = ("weights", "stages", "limit_per_class", "seed", "data", "check_every")
"""Fields of a target that the study sets."""


class Arm(Strict):
    """A way of training that is compared with the others; the first is what they are compared with."""

    name: str
    pretrained: bool = Field(description="Whether it starts from the transfer's weights or from random ones.")
    stages: tuple[Stage, ...] = Field(min_length=1)

    @property
    def steps(self) -> int:
        """Of all its stages."""
        return sum(stage.steps for stage in self.stages)


class Transfer(Strict):
    """From where to where: a file of weights, or a classifier that is trained first, and the images to learn."""

    name: str
    weights: Path | None = Field(None, description="File to start from; or say `source`.")
    source: TrainClassifyConfig | None = Field(
        None, description="A training of the same trunk, done first, whose weights are the start."
    )
    target: TrainClassifyConfig = Field(
        description="A training as `medvision train classify` takes it, without weights, stages, seed and limit."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Transfer:
        if (self.weights is None) == (self.source is None):
            raise ValueError("name one of `weights` and `source` to start from")
        if self.source is not None and self.source.trunk != self.target.trunk:
            raise ValueError(
                f"the source trains {self.source.trunk} and the target {self.target.trunk}; one trunk goes from one to "
                "the other"
            )
        said = [name for name in _STUDY_SETS if name in self.target.model_fields_set]
        if said:
            raise ValueError(f"target: {', '.join(said)} is set by the study; leave it out")
        return self


class TransferConfig(Strict):
    """A study: every arm, on so many images of each class, with every seed, for each transfer."""

    name: str = "transfer"
    data: Path = Field(Path(), description="Folder in which the paths below lie.")
    transfers: tuple[Transfer, ...] = Field(min_length=1)
    arms: tuple[Arm, ...] = Field(min_length=2)
    images_per_class: tuple[int, ...] = Field(min_length=1, description="Training images of each class.")
    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=3, description="Each draws its own images and weights, the same for every arm."
    )
    draws: int = Field(1000, ge=100, description="Of the bootstrap over seeds and test images.")

    @model_validator(mode="after")
    def _is_fair(self) -> TransferConfig:
        steps = {arm.name: arm.steps for arm in self.arms}
        if len(set(steps.values())) > 1:
            said = ", ".join(f"{name} {count}" for name, count in steps.items())
            raise ValueError(f"every arm learns for the same number of steps; they have {said}")
        if self.arms[0].pretrained or not any(arm.pretrained for arm in self.arms):
            raise ValueError(
                "the first arm starts from random weights, and at least one other is `pretrained: true`"
            )
        for what, names in (
            ("arms", [arm.name for arm in self.arms]),
            ("transfers", [one.name for one in self.transfers]),
            ("images_per_class", list(self.images_per_class)),
            ("seeds", list(self.seeds)),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: one is there twice, of {names}")
        for text in (*(arm.name for arm in self.arms), *(one.name for one in self.transfers)):
            if not re.fullmatch(r"\w[\w .-]*", text):
                raise ValueError(f"{text!r} becomes a folder's name: letters, digits, spaces, - and . only")
        if min(self.images_per_class) < 1:
            raise ValueError("images_per_class: at least 1")
        return self


def read_transfer_config(path: Path, data: Path | None = None) -> TransferConfig:
    """The study in a YAML file, with its paths below its `data`, or the one that is given here.

    Raises:
        UsageError: if the file is absent, not YAML, or has a wrong or unknown field, which is named.
    """
    config = read_yaml_config(path, TransferConfig, data=data)
    base = config.data
    return config.model_copy(
        update={
            "transfers": tuple(
                one.model_copy(
                    update={
                        "weights": None if one.weights is None else base / one.weights,
                        "source": None if one.source is None else placed_below(one.source, base),
                        "target": placed_below(one.target, base),
                    }
                )
                for one in config.transfers
            )
        }
    )
