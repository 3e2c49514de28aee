"""Parameters of a synthetic cohort. Light on purpose: the command line reads it for its help."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from medvision.synthetic.recipe import ARTEFACTS, SCANNERS, STAINS, Metastases
from medvision.training.config_file import Strict, read_yaml_config


class GroupConfig(Strict):
    """Slides that are made alike. Lists are gone through in order, each group one step later; ranges are drawn from."""

    split: str = Field(min_length=1, description="Side of the split: train, test, or any other name.")
    count: int = Field(ge=1)
    metastases: Metastases = "none"
    shape_px: tuple[int, int] = Field(description="Rows and columns.")
    spacing_um: float = Field(0.25, gt=0)
    stains: tuple[str, ...] = Field(tuple(STAINS), min_length=1)
    scanners: tuple[str, ...] = Field(tuple(SCANNERS), min_length=1)
    artefacts: tuple[tuple[str, ...], ...] = Field(((),), min_length=1, description="Of each slide in turn.")
    strength: tuple[float, float] = Field((0.8, 1.2), description="Range of the amount of dye.")
    mimicry: tuple[float, float] = Field(
        (0.0, 0.0), description="Range of how like tumour benign cells look."
    )

    @model_validator(mode="after")
    def _known(self) -> GroupConfig:
        artefacts = [name for names in self.artefacts for name in names]
        for what, chosen, known in (
            ("stain", self.stains, STAINS),
            ("scanner", self.scanners, SCANNERS),
            ("artefact", artefacts, ARTEFACTS),
        ):
            unknown = [name for name in chosen if name not in known]
            if unknown:
                raise ValueError(f"{what} {unknown[0]!r} unknown; known: {', '.join(known)}")
        for what, (low, high) in (("strength", self.strength), ("mimicry", self.mimicry)):
            if not 0 <= low <= high:
                raise ValueError(f"{what} from {low} to {high} is no range")
        return self


class CohortConfig(Strict):
    """A cohort of synthetic slides with truth, patients and splits."""

    name: str
    seed: int = 0
    slides_per_patient: int = Field(2, ge=1, description="Patients lie in one split each.")
    groups: tuple[GroupConfig, ...] = Field(min_length=1)


def read_cohort_config(path: Path) -> CohortConfig:
    """The configuration in a YAML file.

    Raises:
        UsageError: if the file is absent, not YAML, or has a wrong or unknown field, which is named.
    """
    return read_yaml_config(path, CohortConfig)
