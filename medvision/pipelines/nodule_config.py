"""Parameters of searching scans for lung nodules: one home for each default, as `pipelines.config` is for slides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from medvision.pipelines.config import Count, Positive, Scalar
from medvision.store.records import Record


def _number(given: object) -> object:
    """The number that a word of the command line is: of a literal, pydantic takes no text for a number."""
    return int(given) if isinstance(given, str) and given.isdecimal() else given


Turns = Annotated[Literal[1, 4, 8, 16], BeforeValidator(_number)]


def _says(words: str) -> object:
    """Help text of a field."""
    return Field(description=words)


class NoduleOptions(Record):
    """Parameters of a search, but for the models and the device."""

    threshold: Annotated[
        float, Field(ge=0, le=1, description="Score from which on a candidate is listed as a finding.")
    ] = 0.5
    candidates: Annotated[Count, _says("Most candidates that are kept of a scan, the most certain.")] = 100
    pictured: Annotated[Count, _says("Most findings that get pictures in the report.")] = 20
    turns: Annotated[
        Turns, _says("Orientations of each cube over which the reduction's probability is averaged.")
    ] = 1
    margin_mm: Annotated[
        float, Field(ge=0, le=100, description="Candidates lie in the lungs, or this near to them, in mm.")
    ] = 6.0
    without_lungs: Annotated[
        bool,
        _says(
            "Search a scan whole in which no lungs are found, such as a crop. Without this it is rejected."
        ),
    ] = False
    volume_spacing: Annotated[
        tuple[Positive, Positive, Positive] | None,
        _says("Spacing of planes, rows and columns in mm, in place of what the file states."),
    ] = None
    dicom_sr: Annotated[
        bool,
        _says(
            "Write the findings in a DICOM series as a structured report of its study, too: it names the patient as "
            "the series does. Needs highdicom."
        ),
    ] = True
    checkpoint_seconds: Annotated[
        Positive, _says("Seconds between two saves of a scan's progress: as much is lost by a crash.")
    ] = 20.0


class NoduleConfig(NoduleOptions):
    """Parameters of a search."""

    detector: Annotated[
        Path, _says("Weights of a detector of nodules, with their contract (`medvision train nodules`).")
    ]
    reduction: Annotated[
        Path | None,
        _says(
            "Weights of a network against false positives (`medvision train nodule-fpr`). Without it the detector's "
            "scores stand."
        ),
    ] = None
    device: Annotated[str, _says("auto, cpu, cuda, cuda:1, ... or mps.")] = "auto"
    batch_size: Annotated[Count, _says("Windows per batch; halved by itself when memory runs out.")] = 8

    def findings_fields(self) -> dict[str, Scalar]:
        """The parameters that change a result. What the models' files hold is known by their digests, beside these."""
        files, how = {"detector", "reduction"}, {"device", "batch_size", "checkpoint_seconds", "dicom_sr"}
        fields = self.model_dump(exclude={"volume_spacing", *files, *how})
        spacing = self.volume_spacing
        fields["volume_spacing"] = None if spacing is None else " ".join(f"{side:g}" for side in spacing)
        return fields
