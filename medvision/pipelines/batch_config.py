"""What a batch is asked for: which slides, into which folder, how they are analysed, and by how many workers.

This module is light on purpose, as `medvision batch --help` and the schedules need it and no deep-learning library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medvision.pipelines.config import AnalyzeConfig, Count, Positive
from medvision.store.records import Record
from medvision.training.config_file import read_yaml_config, validated

PATTERNS = ("*.svs", "*.tif", "*.tiff", "*.ndpi", "*.mrxs", "*.scn", "*.bif", "*.vms", "*.svslide", "*.dcm")
"""What is taken from a folder unless other patterns are given; upper and lower case are the same."""

_MOST = 1e6
"""Of GB and of seconds: more is a slip of the keyboard, and more than the system can count."""

Runner = Literal["thread", "process", "dask"]


class BatchOptions(Record):
    """How a batch is run. None of these changes a result."""

    pattern: Annotated[
        tuple[str, ...],
        Field(description="File names to take from a folder and the folders below it, such as '*.svs'."),
    ] = PATTERNS
    runner: Annotated[
        Runner,
        Field(
            description=(
                "thread: this process, the next slide opened while the device computes. process: --workers processes "
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
                "File with a secret of 16 bytes or more: slides are then called by a keyed hash of their slide_id, and "
                "no file name is written or printed."
            )
        ),
    ] = None
    trust: Annotated[
        bool,
        Field(
            description=(
                "Read slides in this process, rather than in one of their own with limits on memory and time."
            )
        ),
    ] = False
    memory_limit: Annotated[
        Positive,
        Field(le=_MOST, description="GB of memory that reading one slide may take, unless --trust."),
    ] = 8.0
    time_limit: Annotated[
        Positive,
        Field(le=_MOST, description="Seconds that reading one window may take, unless --trust."),
    ] = 60.0
    attempts: Annotated[
        Count,
        Field(description="How often a slide is tried whose worker was lost, or whose file server failed."),
    ] = 3

    @field_validator("pattern", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class BatchRequest(Record):
    """One batch: everything that the flow is told. Prefect stores it, so that it holds paths and settings only."""

    slides: Path
    """A manifest (`slide_id,path,...`, see `medvision.store.cohort`) or a folder."""
    out: Path
    analyze: AnalyzeConfig = AnalyzeConfig()
    options: BatchOptions = BatchOptions()

    @model_validator(mode="after")
    def _address_needs_dask(self) -> BatchRequest:
        if self.options.address is not None and self.options.runner != "dask":
            raise ValueError(
                f"address {self.options.address} is for the dask runner, not {self.options.runner}"
            )
        return self


class _Flat(BatchOptions, AnalyzeConfig):
    """All parameters side by side, as a file names them."""


def read_batch_config(slides: Path, out: Path, config: Path | None, given: Mapping[str, Any]) -> BatchRequest:
    """A request from a YAML file (a mapping of the names of `AnalyzeConfig` and `BatchOptions`); `given` comes first.

    Paths in the file are taken from the current folder, as those on the command line are.

    Raises:
        UsageError: if the file cannot be read, or a name or a value in it is wrong, which is named.
    """
    flat = validated(dict(given), _Flat) if config is None else read_yaml_config(config, _Flat, **given)
    chosen = {name: getattr(flat, name) for name in flat.model_fields_set}
    request = {
        "slides": slides,
        "out": out,
        "analyze": {name: value for name, value in chosen.items() if name in AnalyzeConfig.model_fields},
        "options": {name: value for name, value in chosen.items() if name in BatchOptions.model_fields},
    }
    return validated(request, BatchRequest, "" if config is None else f"{config}: ")
