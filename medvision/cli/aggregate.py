"""`medvision aggregate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medvision.cli.console import print_made, print_outcome, slide_progress
from medvision.core.errors import UsageError
from medvision.pipelines.aggregate_config import AggregateConfig
from medvision.store.records import SlideOutcome


def aggregate(
    slides: list[Path] | None = None,
    /,
    *,
    out: Path,
    cohort: Path | None = None,
    split: str | None = None,
    config: Annotated[AggregateConfig, Parameter(name="*")],
) -> int:
    """Judge slides as a whole by a trained aggregator: attention MIL or CNN-LSTM over their feature tables.

    Example: medvision aggregate slide1.svs slide2.svs --model models/abmil --out results

    Each slide gets a folder with report.html, report.pdf, result.json and, where the aggregator has attention,
    attention.ome.tiff. predictions.csv lists every slide's probabilities.

    Parameters
    ----------
    slides
        Slide files.
    out
        Output folder; made when absent.
    cohort
        Manifest (CSV) of slides, beside or instead of slide files; folders are called after its slide_id.
    split
        Only the slides of this split of the cohort.
    """
    from medvision.pipelines.aggregate import PREDICTIONS, aggregate_slides, prepare_judge
    from medvision.pipelines.features import cohort_jobs, jobs_of
    from medvision.pipelines.run import finish_run

    jobs = jobs_of(slides or []) + ([] if cohort is None else cohort_jobs(cohort, split))
    if not jobs:
        raise UsageError(
            "no slide was given; example: medvision aggregate slide.svs --model DIR --out results"
        )
    outcomes: list[SlideOutcome] = []
    try:
        with slide_progress() as progress:
            judge = prepare_judge(config, progress.on_windows)
            for outcome in aggregate_slides(jobs, out, judge, progress.on_plan):
                print_outcome(outcome)
                outcomes.append(outcome)
    finally:
        # An interrupted run lists what it has finished.
        if outcomes:
            print_made("report", finish_run(out, outcomes))
    print_made("predictions", out / PREDICTIONS)
    return 0 if all(outcome.ok for outcome in outcomes) else 1
