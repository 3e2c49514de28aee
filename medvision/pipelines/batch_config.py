"""What a batch is asked for: which slides, images, scans or cases, into which folder, what is done, by whom.

This module is light on purpose, as `medvision batch --help` and the schedules need it and no deep-learning library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, field_validator, model_validator

from medvision.pipelines.config import AnalyzeConfig, Count, Positive
from medvision.pipelines.image_config import ImageConfig
from medvision.pipelines.nodule_config import NoduleConfig
from medvision.pipelines.segment_config import SegmentConfig
from medvision.pipelines.work import SLIDES, WORKS, Config, Work
from medvision.store.records import Record
from medvision.training.config_file import read_yaml_config, validated

_MOST = 1e6
"""Of GB and of seconds: more is a slip of the keyboard, and more than the system can count."""

Runner = Literal["thread", "process", "dask"]


class BatchOptions(Record):
    """How a batch is run. None of these changes a result."""

    pattern: Annotated[
        tuple[str, ...] | None,
        Field(
            description=(
                "File names to take from a folder and the folders below it, such as '*.svs'. Default: every format "
                "that is read."
            )
        ),
    ] = None
    runner: Annotated[
        Runner,
        Field(
            description=(
                "thread: this process, the next file opened while the device computes. process: --workers processes "
                "on this machine. dask: the workers of a Dask cluster, at --address or started here."
            )
        ),
    ] = "thread"
    workers: Annotated[
        Count,
        Field(
            description=(
                "Processes or Dask workers, which share the cores; with GPUs, up to two for each. With --address, how "
                "many of the workers there are on one host."
            )
        ),
    ] = 1
    address: Annotated[
        str | None, Field(description="Dask scheduler, such as tcp://node1:8786, for --runner dask.")
    ] = None
    pseudonym_key: Annotated[
        Path | None,
        Field(
            description=(
                "File with a secret of 16 bytes or more: slides and images are then called by a keyed hash of their "
                "id, and no file name is written or printed."
            )
        ),
    ] = None
    trust: Annotated[
        bool,
        Field(
            description=(
                "Read files in this process, rather than in one of their own with limits on memory and time."
            )
        ),
    ] = False
    memory_limit: Annotated[
        Positive,
        Field(le=_MOST, description="GB of memory that reading one file may take, unless --trust."),
    ] = 8.0
    time_limit: Annotated[
        Positive,
        Field(
            le=_MOST, description="Seconds that reading one window, or one image, may take, unless --trust."
        ),
    ] = 60.0
    attempts: Annotated[
        Count,
        Field(description="How often an item is tried whose worker was lost, or whose file server failed."),
    ] = 3

    @field_validator("pattern", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class BatchRequest(Record):
    """One batch: everything that the flow is told. Prefect stores it, so that it holds paths and settings only.

    It is of `slides`, which are analysed, of `images`, which are classified, of `scans`, which are searched for
    nodules, or of `cases`, which are segmented, whatever they are: one of them is given, each a manifest (see
    `medvision.store.cohort`) or a folder, with the parameters of that work alone.
    """

    slides: Path | None = None
    images: Path | None = None
    scans: Path | None = None
    cases: Path | None = None
    out: Path
    analyze: AnalyzeConfig | None = None
    """Of slides; the defaults where it is not given."""
    classify: ImageConfig | None = None
    """Of images."""
    nodules: NoduleConfig | None = None
    """Of scans."""
    segment: SegmentConfig | None = None
    """Of cases."""
    options: BatchOptions = BatchOptions()

    @model_validator(mode="after")
    def _of_one_kind(self) -> BatchRequest:
        given = [work.inputs for work in WORKS if getattr(self, work.inputs) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"a batch is of slides, images, scans or cases: give one of them, not {found}")
        for other in WORKS:
            if other is not self.work and getattr(self, other.parameters) is not None:
                raise ValueError(
                    f"{other.parameters!r} is for {other.inputs}, and the batch is of {self.work.inputs}"
                )
        if self.images is not None and self.classify is None:
            raise ValueError("classify: images need it, with the model at least")
        if self.scans is not None and self.nodules is None:
            raise ValueError("nodules: scans need it, with the detector at least")
        if self.cases is not None and self.segment is None:
            raise ValueError("segment: cases need it, with the model or the method at least")
        return self

    @model_validator(mode="after")
    def _address_needs_dask(self) -> BatchRequest:
        if self.options.address is not None and self.options.runner != "dask":
            raise ValueError(
                f"address {self.options.address} is for the dask runner, not {self.options.runner}"
            )
        return self

    @property
    def work(self) -> Work[Any]:
        """What is done to each item."""
        return next(work for work in WORKS if getattr(self, work.inputs) is not None)

    @property
    def config(self) -> Config:
        """The parameters of the work."""
        given: Config | None = getattr(self, self.work.parameters)
        return AnalyzeConfig() if given is None else given

    @property
    def inputs(self) -> Path:
        """The manifest or the folder."""
        found: Path = getattr(self, self.work.inputs)
        return found

    @property
    def patterns(self) -> tuple[str, ...]:
        """What is taken from a folder."""
        return self.options.pattern or self.work.patterns

    def over(self, inputs: Path) -> BatchRequest:
        """The same over other slides, images, scans or cases."""
        return self.model_copy(update={self.work.inputs: inputs})

    def with_absolute_paths(self) -> BatchRequest:
        """The same for a process that was started in another folder."""
        config = self.config
        named = {name: getattr(config, name) for name in self.work.paths}
        key = self.options.pseudonym_key
        return self.model_copy(
            update={
                self.work.inputs: self.inputs.absolute(),
                "out": self.out.absolute(),
                self.work.parameters: config.model_copy(
                    update={name: path and path.absolute() for name, path in named.items()}
                ),
                "options": self.options.model_copy(update={"pseudonym_key": key and key.absolute()}),
            }
        )


def read_batch_config(
    inputs: Path, out: Path, config: Path | None, given: Mapping[str, Any], work: Work[Any] = SLIDES
) -> BatchRequest:
    """A request from a YAML file: a mapping of the names of the work's parameters and of `BatchOptions`, side by side.

    What is `given` comes first. Paths in the file are taken from the current folder, as those on the command line are.

    Raises:
        UsageError: if the file cannot be read, or a name or a value in it is wrong, which is named.
    """
    side_by_side = create_model("Flat", __base__=(BatchOptions, work.config))
    flat = (
        validated(dict(given), side_by_side)
        if config is None
        else read_yaml_config(config, side_by_side, **given)
    )
    chosen = {name: getattr(flat, name) for name in flat.model_fields_set}
    request = {
        work.inputs: inputs,
        "out": out,
        work.parameters: {name: value for name, value in chosen.items() if name in work.config.model_fields},
        "options": {name: value for name, value in chosen.items() if name in BatchOptions.model_fields},
    }
    return validated(request, BatchRequest, "" if config is None else f"{config}: ")
