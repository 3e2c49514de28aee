"""Parameters of training nodule networks. Light on purpose: the command line reads it for its help."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from medvision.training.config_file import Strict, read_yaml_config


class NoduleScansConfig(Strict):
    """Scans in LUNA16's layout: a folder of scans per fold, and tables of findings. Paths start from `folder`."""

    folder: Path = Field(description="Holds the folds, as subset0 ... subset9, and the tables.")
    annotations: Path = Field(Path("annotations.csv"), description="The nodules.")
    excluded: Path = Field(
        Path("annotations_excluded.csv"), description="Findings that count neither way: never learnt from."
    )
    validation: tuple[str, ...] = Field(
        min_length=1, description="Folds to choose weights and temperature on."
    )
    held_out: tuple[str, ...] = Field(min_length=1, description="Folds that nothing is learnt or chosen on.")
    train: tuple[str, ...] | None = Field(None, description="Folds to learn from; by default all the others.")

    @model_validator(mode="after")
    def _folds_are_apart(self) -> NoduleScansConfig:
        named = [*self.validation, *self.held_out, *(self.train or ())]
        if twice := sorted({fold for fold in named if named.count(fold) > 1}):
            raise ValueError(f"fold {twice[0]!r} is named twice; each is for one use")
        return self


class NoduleAugmentation(Strict):
    """How windows are changed. All are turned by quarters and mirrored along each axis."""

    scale: float = Field(
        0.15, ge=0, lt=1, description="Sizes in the plane change by a factor of up to 1 + this."
    )
    shift_hu: float = Field(20.0, ge=0, description="Added to all values of a window, at most.")
    noise_hu: float = Field(15.0, ge=0, description="Largest standard deviation of noise.")


class _NoduleTraining(Strict):
    """What both trainings are told."""

    name: str = Field(description="Of the model.")
    version: str = "1"
    scans: NoduleScansConfig
    architecture: str
    contract: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of the network's contract in place of its own: spacing_mm, window, hu, options, ...",
    )
    steps: int = Field(600, ge=1)
    batch_size: int = Field(8, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    average: float = Field(0.98, ge=0, lt=1, description="Decay per step of the averaged weights.")
    check_every: int = Field(100, ge=1, description="Steps between validations and checkpoints.")
    patience: int | None = Field(None, ge=1, description="Checks without a better score after which to stop.")
    augmentation: NoduleAugmentation = NoduleAugmentation.model_validate({})
    seed: int = Field(0, ge=0)
    most_candidates: int = Field(100, ge=1, description="Of a scan, that are written: the most certain.")
    licence: str = "not stated"
    data_statement: str = Field("not stated", description="What it was trained on, for the card.")
    limits: str = Field("not stated", description="What it is not for and where it errs, for the card.")


class TrainNodulesConfig(_NoduleTraining):
    """Everything that determines a trained detector of candidates."""

    architecture: str = "faster-rcnn-vgg-slim"
    crop_px: int = Field(
        128, ge=64, description="Rows and columns of the windows learnt from; slices are the contract's."
    )
    nodule_share: float = Field(0.6, gt=0, le=1, description="Share of windows that show a nodule.")
    smallest_px: float = Field(
        2.0, gt=0, description="Sections of a nodule of fewer pixels across are not asked for."
    )
    validation_scans: int | None = Field(
        None, ge=1, description="At each check the first of the validation scans; by default all."
    )
    false_positives: float = Field(
        8.0, gt=0, description="Per scan, at which the sensitivity is the validation score."
    )
    candidates_for: tuple[Literal["train", "validation", "held_out"], ...] = Field(
        ("train", "validation", "held_out"), description="Parts whose candidates are written."
    )


class TrainNoduleFprConfig(_NoduleTraining):
    """Everything that determines a trained reduction of false positives."""

    architecture: str = "nodule-cnn3d-slim"
    candidates: Path = Field(description="CSV of the detector's candidates in all parts, as LUNA16 has them.")
    batch_size: int = Field(24, ge=2)
    nodule_share: float = Field(0.5, gt=0, lt=1, description="Share of cubes that show a nodule.")
    jitter: float = Field(
        0.25, ge=0, lt=0.5, description="Of a nodule's diameter, by which cubes miss its centre at most."
    )
    random_negatives: int = Field(
        20, ge=0, description="Places in the lungs of each scan, beside candidates."
    )
    rounds: int = Field(
        2,
        ge=1,
        description="Each after the first draws half of its negatives from the last one's worst errors.",
    )
    hardest: float = Field(0.2, gt=0, le=1, description="Share of the negatives that are the worst errors.")
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    turns: Literal[1, 4, 8, 16] = Field(
        8, description="Orientations averaged over for the candidates written."
    )


def read_nodules_config(path: Path, data: Path | None = None) -> TrainNodulesConfig:
    """The configuration in a YAML file; `data` stands in place of the folder of its scans.

    Raises:
        UsageError: if the file is absent, not YAML, or has a wrong or unknown field, which is named.
    """
    return read_yaml_config(path, TrainNodulesConfig, scans=_in_folder(path, data))


def read_nodule_fpr_config(
    path: Path, data: Path | None = None, candidates: Path | None = None
) -> TrainNoduleFprConfig:
    """The configuration in a YAML file; `data` and `candidates` stand in place of its own.

    Raises:
        UsageError: if the file is absent, not YAML, or has a wrong or unknown field, which is named.
    """
    return read_yaml_config(path, TrainNoduleFprConfig, scans=_in_folder(path, data), candidates=candidates)


def _in_folder(path: Path, data: Path | None) -> object:
    """The `scans` of a file in another folder; None leaves them as they are."""
    if data is None:
        return None
    given = read_yaml_config(path, _ScansAlone).scans
    return {**given, "folder": data} if isinstance(given, dict) else given


class _ScansAlone(Strict, extra="ignore"):
    scans: object = Field(default_factory=dict)
