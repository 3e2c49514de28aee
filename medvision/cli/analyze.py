"""`medvision analyze`."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medvision.cli.console import errors, print_made, print_outcome, slide_progress
from medvision.core.errors import MedvisionError
from medvision.pipelines.config import AnalyzeConfig
from medvision.store.records import SlideOutcome


def analyze(
    slides: list[Path],
    /,
    *,
    out: Path,
    config: Annotated[AnalyzeConfig, Parameter(name="*")] = AnalyzeConfig(),  # noqa: B008 - frozen
    flow: bool = False,
) -> int:
    """Analyse slides: heatmap, lesion regions, score and report for each.

    Example: medvision analyze slide1.svs slide2.svs --out results

    Each slide gets a folder with report.html, report.pdf, heatmap.ome.tiff, regions.geojson (for QuPath) and
    result.json. A slide whose result is already there, made from the same content, model and parameters, is kept.

    Parameters
    ----------
    slides
        Slide files.
    out
        Output folder; made when absent.
    flow
        Run as a Prefect flow, one task per slide, on Prefect's embedded server.
    """
    if not slides:
        raise MedvisionError("no slide was given; example: medvision analyze slide.svs --out results")
    # The deep-learning library takes longest to load: it begins while the slides are looked at.
    threading.Thread(target=importlib.import_module, args=("torch",), daemon=True).start()
    if not _any_readable(slides, config):
        return 2
    from medvision.pipelines.run import finish_run

    outcomes: list[SlideOutcome] = []
    try:
        for outcome in (_through_prefect if flow else _here)(slides, out, config):
            print_outcome(outcome)
            outcomes.append(outcome)
    finally:
        # An interrupted run lists what it has finished.
        if outcomes:
            print_made("report", finish_run(out, outcomes))
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _here(slides: list[Path], out: Path, config: AnalyzeConfig) -> Iterator[SlideOutcome]:
    from medvision.pipelines.analyze import analyze_slides

    with slide_progress() as progress:
        yield from analyze_slides(slides, out, config, progress.on_plan, progress.on_windows)


def _through_prefect(slides: list[Path], out: Path, config: AnalyzeConfig) -> Iterator[SlideOutcome]:
    from flows.local import run_analyze

    yield from run_analyze(slides, out, config)


def _any_readable(slides: list[Path], config: AnalyzeConfig) -> bool:
    """Whether anything can be analysed at all; if not, every reason has been printed."""
    from medvision.sources import open_source
    from medvision.sources.spacing import require_spacing

    reasons = []
    for slide in slides:
        try:
            source = open_source(slide, config.slide_spacing)
            try:
                require_spacing(source)
            finally:
                source.close()
        except (MedvisionError, OSError) as error:
            reasons.append(str(error))
    if len(reasons) < len(slides):
        return True
    for reason in reasons:
        errors.print(f"medvision: error: {reason}", markup=False, soft_wrap=True)
    return False
