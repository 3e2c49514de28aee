"""Analyse slides as one Prefect flow, one task per slide, around the same library call as a plain run.

Prefect schedules, retries and shows; what was done, and whether it is whole, is the result store's business. Tasks are
named by a slide's number in the list: file names can name a patient, and Prefect keeps what it is told.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from medvision.core.errors import UsageError
from medvision.pipelines.analyze import analyze_slide, check_config
from medvision.pipelines.config import AnalyzeConfig
from medvision.store.files import safe_names
from medvision.store.records import SlideOutcome

RETRIES = 2
RETRY_DELAYS_S = [5.0, 30.0]

_TWO_IN_TURN = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=2))
"""The device computes one slide at a time; the second task opens the next, or writes the last, meanwhile."""


class SlideFailed(Exception):
    """Raised in a task to have Prefect show the slide as failed; the outcome has the reason."""

    def __init__(self, outcome: SlideOutcome) -> None:
        super().__init__("the slide failed; its outcome has the reason")
        self.outcome = outcome


def is_worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a task failed by what may pass, such as a file server that did not answer; never for a corrupt slide."""
    return isinstance(state.data, SlideFailed) and state.data.outcome.transient


@task(
    task_run_name="slide {number}",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=is_worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def analyze_one(
    number: int,  # noqa: ARG001 - names the task
    slide: Path,
    name: str,
    out: Path,
    config: AnalyzeConfig,
) -> dict[str, Any]:
    """Analyse slide `number` of the list; returns its outcome as JSON values."""
    outcome = analyze_slide(slide, out, config, name)
    if outcome.status == "failed":
        raise SlideFailed(outcome)
    return outcome.model_dump(mode="json")


@flow(name="analyze", task_runner=_TWO_IN_TURN, persist_result=False)
def analyze(slides: list[Path] | Path, out: Path, config: AnalyzeConfig) -> State[list[dict[str, Any]]]:
    """Analyse `slides`, a list or the path of a manifest (see `read_slides`), into folders below `out`.

    Every slide is tried. The flow ends as Failed if any slide failed; its data are the outcomes as JSON values, in the
    order of the slides, either way. Prefect stores the flow's parameters: give a manifest where the list is long or the
    file names must not be kept.

    Raises:
        MedvisionError: before the first slide, if the manifest cannot be read or the model cannot be had.
    """
    paths = read_slides(slides) if isinstance(slides, Path) else slides
    check_config(config)
    names = safe_names(paths)
    futures = [
        analyze_one.submit(number, slide, name, out, config)
        for number, (slide, name) in enumerate(zip(paths, names, strict=True), start=1)
    ]
    outcomes = [_outcome(*made) for made in zip(futures, paths, names, strict=True)]
    create_table_artifact(
        _table(outcomes), key="analyze", description="What became of each slide of the list"
    )
    data = [outcome.model_dump(mode="json") for outcome in outcomes]
    failed = sum(not outcome.ok for outcome in outcomes)
    if failed:
        return Failed(message=f"{failed} of {len(outcomes)} slides failed", data=data)
    return Completed(message=f"{len(outcomes)} slides analysed", data=data)


def read_slides(manifest: Path) -> list[Path]:
    """Slide paths from a file: a JSON list (`*.json`), or text with one path per line, `#` opening a comment line.

    A relative path is taken from the manifest's folder.

    Raises:
        UsageError: if the file cannot be read or names no slide.
    """
    try:
        text = manifest.read_text(encoding="utf-8")
        if manifest.suffix == ".json":
            entries = json.loads(text)
        else:
            lines = (line.strip() for line in text.splitlines())
            entries = [line for line in lines if line and not line.startswith("#")]
    except (OSError, ValueError) as error:
        raise UsageError(f"{manifest} is not a readable list of slides: {error}") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
        raise UsageError(f"{manifest} names no slide: expected a JSON list of paths, or one path per line")
    return [manifest.parent / entry for entry in entries]


def _outcome(future: PrefectFuture[dict[str, Any]], slide: Path, name: str) -> SlideOutcome:
    """The outcome that a task returned or raised; an error that nobody foresaw is a failed slide, too."""
    result: object = future.result(raise_on_failure=False)
    if isinstance(result, SlideFailed):
        return result.outcome
    if isinstance(result, BaseException):
        reason = f"unexpected {type(result).__name__}: {result}"
        return SlideOutcome(slide=str(slide), name=name, status="failed", reason=reason)
    return SlideOutcome.model_validate(result)


def _table(outcomes: Sequence[SlideOutcome]) -> list[dict[str, Any]]:
    columns = ("status", "label", "probability", "regions", "windows", "unread", "seconds")
    return [
        {"slide": number, **outcome.model_dump(mode="json", include=set(columns))}
        for number, outcome in enumerate(outcomes, start=1)
    ]
